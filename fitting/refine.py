"""Refine two-hand predictions: the engine's one entry point.

    predictions -> prepare -> tiles of frames -> stages -> exact energies -> RefinedHands

Frames never touch each other. They run in tiles of a fixed size, each whole on one device, so
that a frame's result is the same to the bit whatever its batch, its position or its neighbours
(and with the solver `adam` whatever the number of devices).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from importlib import metadata
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float32, Shaped, UInt8
from tqdm import tqdm

from fitting.adam import StageShape, run_stage, stage_program
from fitting.batches import batches
from fitting.errors import InputError
from fitting.levenberg_marquardt import LMShape, lm_program, run_lm_stage
from fitting.posterior import Posterior, posterior
from fitting.predictions import TwoHandPredictions
from fitting.prepare import Prepared, prepare
from fitting.strategy import (
    STUCK,
    Stage,
    Strategy,
    load_strategy,
    selecting_by_energy,
    strategy_to_toml,
)
from mano_jax.model import AnyArray, Hands, PosedHands
from objectives.collision import depths
from objectives.collision_terms import search_collisions
from objectives.problem import Observations, TwoHandParams, posed_hands, posed_joints
from objectives.total import TERMS, Priors, make_priors, objective_energies

STATUS_NAMES: Final = ("refined", "kept_input", "skipped_invalid")
"""What became of a frame; `status` holds indices into it."""
REFINED, KEPT_INPUT, SKIPPED_INVALID = range(3)

TILE_SIZES: Final = {"cpu": 8}
"""Frames in a tile by backend. Results depend on it in the last bits, so it is a constant."""
ACCELERATOR_TILE_SIZE: Final = 128
"""Frames in a tile of every other backend."""


# Metres: hands whose joints are this far apart along an axis do not touch.
_SKIN = 0.03


@dataclass(frozen=True)
class RefinedHands:
    """What became of each of N frames, NumPy arrays, in the names of the canonical file."""

    predictions: TwoHandPredictions
    """The input with refined parameters; kept and skipped frames as they came."""
    transl: Float32[np.ndarray, "N 2 3"]
    """MANO's translation of each hand, metres: wrist - J0, with `root_transl` where that is
    known, else relative to the anchor wrist; zero for an absent hand, NaN where
    the frame was skipped."""
    status: UInt8[np.ndarray, "N"]
    """Index into `STATUS_NAMES`."""
    reason: Shaped[np.ndarray, "N"]
    """Why a frame was kept or skipped; empty where it was refined."""
    energy_before: Float32[np.ndarray, "N T"]
    """Weighted energy of each term at the start, evaluated exactly; NaN where skipped."""
    energy_after: Float32[np.ndarray, "N T"]
    """The same at the end; never a greater sum than before."""
    strategy: Strategy
    """How it was done, as it ran."""
    provenance: dict[str, Any]
    """Version, devices, hand model."""
    posterior: Posterior | None = None
    """How sure the fit is, where it was asked for."""

    @property
    def num_frames(self) -> int:
        """N."""
        return self.predictions.num_frames

    def count(self, status: int) -> int:
        """Number of frames with a status."""
        return int(np.sum(self.status == status))

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything under its canonical name, ready to be written.

        Mesh targets stay out: in a result `vertices` means the fitted mesh.
        """
        inputs = self.predictions.arrays()
        inputs.pop("vertices", None)
        return {
            **inputs,
            "transl": self.transl,
            "status": self.status,
            "status_names": np.array(STATUS_NAMES),
            "reason": self.reason,
            "energy_before": self.energy_before,
            "energy_after": self.energy_after,
            "energy_terms": np.array(list(TERMS)),
            "strategy": np.array(strategy_to_toml(self.strategy)),
            "provenance": np.array(json.dumps(self.provenance, sort_keys=True)),
            **(self.posterior.arrays() if self.posterior else {}),
        }


def refine(
    hands: Hands,
    predictions: TwoHandPredictions,
    strategy: Strategy | str = "map",
    *,
    # jaxlib ships no stubs, so pyright knows nothing of `jax.Device`; so in `tile_size`.
    devices: Sequence[jax.Device] | None = None,  # pyright: ignore[reportInvalidTypeForm]
    uncertainty: bool = False,
    progress: bool = False,
    provenance: Mapping[str, Any] | None = None,
) -> RefinedHands:
    """Refine every frame that can be refined, and account for the others.

    Args:
        hands: the hand model.
        predictions: what to start from and what to hold it against. Without parameters the start
            is made from the 3D joints, and every stage keeps its iterate of lowest energy.
        strategy: a strategy, or the name of a preset or `.toml` file.
        devices: where to run; all local devices unless told. With the solver `adam` results do not
            depend on it; with `lm` one device and several round differently.
        uncertainty: also tell the standard deviation of every parameter and joint; the strategy
            must report likelihoods.
        progress: show a progress bar.
        provenance: what else to record with the result.

    Raises:
        InputError: arrays that contradict each other or the hand model. A bad frame is no bad
            input: it is skipped, with its reason.
    """
    strategy = strategy if isinstance(strategy, Strategy) else load_strategy(strategy)
    prepared = prepare(hands, predictions)
    if prepared.initialised:
        strategy = selecting_by_energy(strategy)
    devices = devices or jax.local_devices()
    tile = tile_size(devices[0])
    mesh = Mesh(np.array(devices[: max(1, -(-predictions.num_frames // tile))]), ("frames",))
    replicated = NamedSharding(mesh, PartitionSpec())
    if strategy.angle_frame == "pose_samples" and hands.pose_samples is None:
        raise InputError(
            "angle_frame = pose_samples: the hand model has no pose samples (hands_coeffs); "
            "choose bone_aligned or axis_angle"
        )
    priors = make_priors(hands, strategy.angle_frame)
    hands, priors = jax.device_put((hands, priors), replicated)

    order = _near_first(hands, prepared)
    start, observations = jax.tree.map(
        lambda x: np.asarray(x)[order], (prepared.params, prepared.observations)
    )
    fit = partial(_fit, mesh, hands, priors, strategy, progress=progress)
    others = [stage for stage in strategy.stages if stage not in strategy.repairs]
    fitted = fit(start, observations, others)
    for stage in strategy.repairs:
        fitted = _started_anew(fit, stage, fitted, observations)
    back = np.argsort(order)
    fitted = jax.tree.map(lambda x: x[back], fitted)
    record = {**_provenance(mesh), **(provenance or {})}
    result = _account(hands, predictions, prepared, strategy, fitted, record)
    if not uncertainty:
        return result
    kept = jax.tree.map(
        lambda new, old: _where_frames(result.status == REFINED, new, old),
        fitted.params,
        prepared.params,
    )
    return replace(result, posterior=posterior(hands, prepared.observations, kept, strategy))


def tile_size(device: jax.Device) -> int:  # pyright: ignore[reportInvalidTypeForm]
    """Frames that run together on a device."""
    return TILE_SIZES.get(device.platform, ACCELERATOR_TILE_SIZE)


def pose_params(
    hands: Hands, params: TwoHandParams, left_anchor: AnyArray, *, chunk: int = 256
) -> PosedHands:
    """Both hands of many frames in the anchor frame, as NumPy arrays, a chunk at a time."""
    return _by_chunks(posed_hands, hands, params, left_anchor, chunk)


def _by_chunks(
    pose: Callable, hands: Hands, params: TwoHandParams, left_anchor: AnyArray, chunk: int
) -> Any:
    program = jax.jit(pose)
    parts = [
        jax.tree.map(lambda x, n=frames: np.asarray(x)[:n], program(hands, *part))
        for frames, part in batches((params, left_anchor), min(chunk, len(left_anchor)))
    ]
    return jax.tree.map(lambda *xs: np.concatenate(xs), *parts)


def _near_first(hands: Hands, prepared: Prepared) -> np.ndarray:
    """An order of the frames in which those whose hands may touch come together.

    A tile of frames whose hands are apart takes no surface at all, so it runs several times as
    fast. The order changes no result, so a guess from the joints is good enough.
    """
    joints = _by_chunks(
        posed_joints, hands, prepared.params, prepared.observations.left_anchor, 256
    )
    low, high = joints.min(axis=2), joints.max(axis=2)
    near = np.all(low[:, ::-1] - high < _SKIN, axis=(1, 2))
    both = prepared.observations.hand_valid.all(axis=1)
    return np.argsort(~(near & both), kind="stable")


def _without_hands_after(frames: int, observations: Observations) -> Observations:
    """Take the hands out of the copies that fill a batch: no collisions are searched there."""
    real = np.arange(len(observations.hand_valid)) < frames
    return replace(observations, hand_valid=observations.hand_valid & real[:, None])


def _fit(
    mesh: Mesh,
    hands: Hands,
    priors: Priors,
    strategy: Strategy,
    start: TwoHandParams,
    observations: Observations,
    stages: Sequence[Stage],
    *,
    progress: bool = False,
    what: str = "refining",
) -> "_Fitted":
    """Run stages on all frames, batch by batch."""
    batch_size = tile_size(mesh.devices.flat[0]) * mesh.size
    total = len(observations.hand_valid)
    outcomes = []
    with tqdm(total=total, unit="frame", disable=not progress, desc=what) as bar:
        for frames, batch in batches((start, observations), batch_size):
            params, given = batch[0], _without_hands_after(frames, batch[1])
            fitted = _fit_batch(mesh, hands, priors, params, given, strategy, stages)
            outcomes.append(jax.tree.map(lambda x, n=frames: np.asarray(x)[:n], fitted))
            bar.update(frames)
    return jax.tree.map(lambda *parts: np.concatenate(parts), *outcomes)


class _Fitted(NamedTuple):
    """Frames after some stages."""

    params: TwoHandParams
    before: np.ndarray
    """Each term's exact share of THE energy at the start, (frames, terms)."""
    after: np.ndarray
    """The same at the end."""
    deepest: np.ndarray
    """How deep the deepest vertex is at the end, metres; 0 where THE energy has no collisions."""


def _started_anew(
    fit: Callable[..., _Fitted], stage: Stage, fitted: _Fitted, observations: Observations
) -> _Fitted:
    """Stuck frames by a stage that begins with the hands apart, where that lowers THE energy.

    Fingers that have gone through each other push each other to both sides, and stay; which side
    is right shows when the hands come together anew from there.
    """
    stuck = np.flatnonzero(fitted.deepest > STUCK)
    if len(stuck) == 0:
        return fitted
    offsets = stage.restart_offset * np.concatenate([np.eye(3), -np.eye(3)]).astype(np.float32)
    frames, starts = len(stuck), len(offsets)
    again = np.repeat(stuck, starts)
    start, given = jax.tree.map(lambda x: np.asarray(x)[again], (fitted.params, observations))
    moved = start.relative_transl + np.tile(offsets, (frames, 1))
    start = replace(start, relative_transl=moved)
    flat = fit(start, given, (stage,), what=f"{stage.name}, {frames} stuck frames")
    tried = jax.tree.map(lambda x: x.reshape(frames, starts, *x.shape[1:]), flat)

    energy = tried.after.sum(axis=-1, dtype=np.float64)
    energy = np.where(np.isfinite(energy), energy, np.inf)
    best = energy.argmin(axis=1)
    lower = energy.min(axis=1) < fitted.after[stuck].sum(axis=1, dtype=np.float64)

    def put(old: np.ndarray, new: np.ndarray) -> np.ndarray:
        old = old.copy()
        old[stuck[lower]] = new[np.arange(frames), best][lower]
        return old

    return jax.tree.map(put, fitted, tried)._replace(before=fitted.before)


def _fit_batch(
    mesh: Mesh,
    hands: Hands,
    priors: Priors,
    start: TwoHandParams,
    observations: Observations,
    strategy: Strategy,
    stages: Sequence[Stage],
) -> _Fitted:
    """Run stages on a batch."""
    start, observations = jax.device_put(
        (start, observations), NamedSharding(mesh, PartitionSpec("frames"))
    )
    objective = strategy.objective(strategy.report_weights, strategy.report_likelihoods)
    evaluate = _evaluator(mesh)
    before, _ = evaluate(hands, priors, start, observations, objective)
    params = start
    for stage in stages:
        program = lm_program if stage.solver == "lm" else stage_program
        numbers, shape = program(strategy, stage)
        params = _stage_runner(mesh, shape)(hands, priors, params, observations, numbers)
    after, deepest = evaluate(hands, priors, params, observations, objective)
    return _Fitted(params, before, after, deepest)


@lru_cache(maxsize=32)
def _stage_runner(mesh: Mesh, shape: StageShape | LMShape) -> Callable:
    run = run_lm_stage if isinstance(shape, LMShape) else run_stage
    return _by_tiles(mesh, partial(run, shape=shape), shared_tail=1)


@lru_cache(maxsize=32)
def _evaluator(mesh: Mesh) -> Callable:
    """Each term's exact share of an objective, in the order of `TERMS`, and the deepest vertex."""

    def evaluate(hands, priors, params, observations, objective):
        found, deepest = None, jnp.zeros(len(observations.hand_valid), jnp.float32)
        if objective.uses_collision:
            # A band is searched by `culled`, whose answer is the same to the bit: every vertex near
            # the other hand against every face takes four times as long as a step of the solver.
            band = objective.band
            engine = "culled" if band else "exact"
            found = search_collisions(hands, params, observations, band=band, engine=engine)
            vertices = posed_hands(hands, params, observations.left_anchor).vertices
            deepest = jnp.max(depths(hands, vertices, found), axis=(-2, -1))
        _, weighted, scaled = objective_energies(
            hands, priors, params, observations, objective, found=found
        )
        none = jnp.zeros(len(observations.hand_valid), jnp.float32)
        shares = [
            objective.weights.get(term, 0.0) * weighted.get(term, none) + scaled.get(term, none)
            for term in TERMS
        ]
        return jnp.stack(shares, axis=-1), deepest

    return _by_tiles(mesh, evaluate, shared_tail=1)


def _by_tiles(mesh: Mesh, function: Callable, *, shared_tail: int = 0) -> Callable:
    """Run `function(hands, priors, params, observations, *shared)` on each device's own tile.

    `shard_map` and not automatic partitioning: every device runs the one-tile program, so a
    frame meets the very same instructions on one device as on eight.
    """
    everywhere, by_frame = PartitionSpec(), PartitionSpec("frames")
    specs = (everywhere, everywhere, by_frame, by_frame, *[everywhere] * shared_tail)
    return jax.jit(
        jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=by_frame, check_vma=False)
    )


def _account(
    hands: Hands,
    predictions: TwoHandPredictions,
    prepared: Prepared,
    strategy: Strategy,
    fitted: _Fitted,
    provenance: dict[str, Any],
) -> RefinedHands:
    """Decide each frame's status and put together the result."""
    params = fitted.params
    before, after = fitted.before.astype(np.float32), fitted.after.astype(np.float32)
    status, reason = _statuses(prepared.reasons, before, after)
    keep = status != REFINED
    after[keep] = before[keep]
    before[status == SKIPPED_INVALID] = after[status == SKIPPED_INVALID] = np.nan

    start = jax.tree.map(np.asarray, prepared.params)
    final = jax.tree.map(partial(_where_frames, ~keep), params, start)
    result = _merge(predictions, prepared, final, keep)
    left_anchor = np.asarray(prepared.observations.left_anchor)
    return RefinedHands(
        predictions=result,
        transl=_mano_transl(hands, result, final, left_anchor, status == SKIPPED_INVALID),
        status=status,
        reason=reason,
        energy_before=before,
        energy_after=after,
        strategy=strategy,
        provenance=provenance,
    )


def _where_frames(chosen: np.ndarray, when_true: np.ndarray, when_false: np.ndarray) -> np.ndarray:
    return np.where(chosen.reshape(-1, *[1] * (when_true.ndim - 1)), when_true, when_false)


def _statuses(reasons: np.ndarray, before: np.ndarray, after: np.ndarray):
    """A frame never gets worse: one whose summed energy rose goes back as it came."""
    start, end = before.sum(axis=-1, dtype=np.float64), after.sum(axis=-1, dtype=np.float64)
    status = np.full(len(reasons), REFINED, np.uint8)
    reason = np.full(len(reasons), "", dtype=object)
    for i, (given, a, b) in enumerate(zip(reasons, start, end, strict=True)):
        if given:
            status[i], reason[i] = SKIPPED_INVALID, given
        elif not (np.isfinite(a) and np.isfinite(b)):
            status[i] = KEPT_INPUT
            reason[i] = f"the energy at the {'end' if np.isfinite(a) else 'start'} is not finite"
        elif b > a:
            status[i] = KEPT_INPUT
            reason[i] = f"the energy would have risen from {a:.6g} to {b:.6g}"
        elif b == a:
            status[i], reason[i] = KEPT_INPUT, "no stage found a better iterate"
    return status, reason.astype(str)


def _merge(
    predictions: TwoHandPredictions, prepared: Prepared, final: TwoHandParams, keep: np.ndarray
) -> TwoHandPredictions:
    """Put refined parameters where the input had its own, leaving absent hands as they came.

    A camera or a root that was neither given nor found is not made up: it stays as it came.
    """
    valid = predictions.hand_valid
    values = {
        "global_orient": (final.global_orient, valid),
        "hand_pose": (final.hand_pose, valid),
        "betas": (final.betas, valid),
        "relative_transl": (final.relative_transl, valid.all(axis=1)),
    }
    if predictions.weak_camera is not None:
        values["weak_camera"] = (final.weak_camera, prepared.weak_camera_known)
    if predictions.K is not None and (
        prepared.root_known.any() or predictions.root_transl is not None
    ):
        values["root_transl"] = (final.root_transl, prepared.root_known)
    merged = {}
    for name, (new, present) in values.items():
        old = getattr(predictions, name)
        if old is None:
            old, use = np.zeros_like(new), present
        else:
            use = present & ~keep.reshape(-1, *[1] * (present.ndim - 1))
        merged[name] = np.where(use.reshape(*use.shape, *[1] * (new.ndim - use.ndim)), new, old)
    return replace(predictions, **merged)


def _mano_transl(
    hands: Hands,
    result: TwoHandPredictions,
    final: TwoHandParams,
    left_anchor: np.ndarray,
    skipped: np.ndarray,
) -> np.ndarray:
    """Each hand's wrist minus its J0, metres."""
    # Row by row in NumPy: a product's last bit must not depend on the number of frames.
    template, directions = np.asarray(hands.J_template), np.asarray(hands.J_shapedirs)
    j0 = template[:, 0] + (directions[:, 0] * final.betas[:, :, None]).sum(axis=-1)
    tau = final.relative_transl
    right = np.where(left_anchor[:, None], -tau, 0.0)
    left = np.where(left_anchor[:, None], 0.0, tau)
    wrists = np.stack([right, left], axis=1) + final.root_transl[:, None]
    transl = np.where(result.hand_valid[..., None], wrists - j0, 0.0)
    return np.where(skipped[:, None, None], np.nan, transl).astype(np.float32)


def _provenance(mesh: Mesh) -> dict[str, Any]:
    device = mesh.devices.flat[0]
    return {
        "manofit": metadata.version("manofit"),
        "jax": jax.__version__,
        "device": f"{mesh.size} x {device.device_kind}",
        "tile_size": tile_size(device),
    }
