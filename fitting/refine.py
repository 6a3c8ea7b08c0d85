"""Refine two-hand predictions: the engine's one entry point.

    predictions -> prepare -> tiles of frames -> stages -> exact energies -> RefinedHands

Frames never touch each other. They run in tiles of a fixed size (`fitting.tiles`), so that a
frame's result is the same to the bit whatever its batch, its position, its neighbours or the number
of devices. `fitting.driver` refines more frames than fit in memory.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from fitting.adam import StageShape, run_stage, stage_program
from fitting.batches import batches
from fitting.errors import InputError
from fitting.fit_errors import PENETRATION, fit_errors
from fitting.levenberg_marquardt import LMShape, lm_program, run_lm_stage
from fitting.outcome import (
    KEPT_INPUT,
    REFINED,
    SKIPPED_INVALID,
    STATUS_NAMES,
    Fitted,
    RefinedHands,
    account,
    where_frames,
)
from fitting.posterior import posterior
from fitting.predictions import TwoHandPredictions
from fitting.prepare import Prepared, prepare
from fitting.strategy import STUCK_MM, Stage, Strategy, load_strategy, selecting_by_energy
from fitting.tiles import CompiledOnce, Device, Devices, join, tile_size
from mano_jax.model import AnyArray, Hands, PosedHands
from objectives.collision import depths
from objectives.collision_terms import search_collisions
from objectives.problem import Observations, TwoHandParams, posed_hands, posed_joints
from objectives.total import TERMS, make_priors, objective_energies

__all__ = [
    "KEPT_INPUT",
    "REFINED",
    "SKIPPED_INVALID",
    "STATUS_NAMES",
    "RefinedHands",
    "Refiner",
    "pose_params",
    "refine",
    "tile_size",
]

# Metres: hands whose joints are this far apart along an axis do not touch.
_SKIN = 0.03


def refine(
    hands: Hands,
    predictions: TwoHandPredictions,
    strategy: Strategy | str = "map",
    *,
    devices: Sequence[Device] | None = None,
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
        devices: where to run; all local devices unless told. Results do not depend on it.
        uncertainty: also tell the standard deviation of every parameter and joint; the strategy
            must report likelihoods.
        progress: show a progress bar.
        provenance: what else to record with the result.

    Raises:
        InputError: arrays that contradict each other or the hand model. A bad frame is no bad
            input: it is skipped, with its reason.
    """
    refiner = Refiner(
        hands,
        strategy,
        has_parameters=predictions.has_parameters,
        devices=devices,
        uncertainty=uncertainty,
        provenance=provenance,
    )
    prepared = refiner.prepare(predictions)
    fitted = refiner.fit(prepared, progress=progress)
    return refiner.account(predictions, prepared, fitted)


class Refiner:
    """Refines one batch of frames after another by the same compiled programs.

    The three steps of a batch are methods of their own, so that one batch can be prepared and
    another accounted for while a third keeps the devices busy.
    """

    def __init__(
        self,
        hands: Hands,
        strategy: Strategy | str,
        *,
        has_parameters: bool,
        devices: Sequence[Device] | None = None,
        uncertainty: bool = False,
        provenance: Mapping[str, Any] | None = None,
    ):
        """Make everything ready that all batches share; see `refine` for the arguments.

        Args:
            hands: the hand model.
            strategy: a strategy, or its name.
            has_parameters: whether the frames come with predicted parameters.
            devices: where to run.
            uncertainty: also tell standard deviations.
            provenance: what else to record.

        Raises:
            InputError: the strategy needs what the hand model lacks.
        """
        strategy = strategy if isinstance(strategy, Strategy) else load_strategy(strategy)
        self.strategy = strategy if has_parameters else selecting_by_energy(strategy)
        if strategy.angle_frame == "pose_samples" and hands.pose_samples is None:
            raise InputError(
                "angle_frame = pose_samples: the hand model has no pose samples (hands_coeffs); "
                "choose bone_aligned or axis_angle"
            )
        self.hands = hands
        self.uncertainty = uncertainty
        priors = make_priors(hands, self.strategy.angle_frame)
        programs = [_program(self.strategy, stage) for stage in self.strategy.stages]
        self._shapes = [shape for _, shape in programs]
        objective = self.strategy.objective(
            self.strategy.report_weights, self.strategy.report_likelihoods
        )
        self.devices = Devices(devices, (hands, priors, objective, [n for n, _ in programs]))
        self.provenance = {**_provenance(self.devices), **(provenance or {})}

    def prepare(self, predictions: TwoHandPredictions) -> Prepared:
        """Check, complete and clean a batch: work of the host."""
        return prepare(self.hands, predictions)

    def fit(self, prepared: Prepared, *, progress: bool = False) -> Fitted:
        """Run the strategy's stages on a batch: work of the devices."""
        order = _near_first(self.hands, prepared)
        start, observations = jax.tree.map(
            lambda x: np.asarray(x)[order], (prepared.params, prepared.observations)
        )
        run = partial(self._run, progress=progress)
        stages = list(enumerate(self.strategy.stages))
        repairs = [i for i, stage in stages if stage.restart_offset > 0]
        fitted = run(start, observations, [i for i, _ in stages if i not in repairs])
        for i in repairs:
            stage = self.strategy.stages[i]
            fitted = _started_anew(partial(run, stages=[i]), stage, fitted, observations)
        back = np.argsort(order)
        return jax.tree.map(lambda x: x[back], fitted)

    def account(
        self, predictions: TwoHandPredictions, prepared: Prepared, fitted: Fitted
    ) -> RefinedHands:
        """Decide what became of each frame of a batch."""
        result = account(self.hands, predictions, prepared, self.strategy, fitted, self.provenance)
        if not self.uncertainty:
            return result
        final = _final_params(prepared, fitted, result)
        sure = posterior(self.hands, prepared.observations, final, self.strategy)
        return replace(result, posterior=sure)

    def meshes(
        self, prepared: Prepared, fitted: Fitted, result: RefinedHands
    ) -> dict[str, np.ndarray]:
        """`vertices` and `joints` of a result where `transl` puts them; NaN where skipped.

        An absent hand holds zeros.
        """
        final = _final_params(prepared, fitted, result)
        posed = pose_params(self.hands, final, prepared.observations.left_anchor, chunk=64)
        found = {"vertices": np.asarray(posed.vertices), "joints": np.asarray(posed.joints)}
        there = result.predictions.hand_valid[..., None, None]
        root = np.asarray(final.root_transl)[:, None, None]
        for name, points in found.items():
            found[name] = np.where(there, points + root, np.float32(0))
            found[name][result.status == SKIPPED_INVALID] = np.nan
        return found

    def _run(
        self,
        start: TwoHandParams,
        observations: Observations,
        stages: Sequence[int],
        *,
        progress: bool = False,
        what: str = "refining",
    ) -> Fitted:
        """Run stages, told by their numbers, on frames, tile by tile."""
        evaluate = _evaluator()
        programs = [(i, _stage_runner(self._shapes[i])) for i in stages]

        def fit_tile(shared: Any, tile: Any) -> Fitted:
            hands, priors, objective, numbers = shared
            params, given = tile
            before, errors_before = evaluate(hands, priors, params, given, objective)
            for i, program in programs:
                params = program(hands, priors, params, given, numbers[i])
            after, errors_after = evaluate(hands, priors, params, given, objective)
            return Fitted(params, before, after, errors_before, errors_after)

        total, parts = len(observations.hand_valid), []
        with tqdm(total=total, unit="frame", disable=not progress, desc=what) as bar:
            tiles = self.devices.map_tiles(
                fit_tile, (start, observations), emptied=_without_hands_after
            )
            for frames, fitted in tiles:
                parts.append(fitted)
                bar.update(frames)
        return join(parts)


def pose_params(
    hands: Hands, params: TwoHandParams, left_anchor: AnyArray, *, chunk: int = 256
) -> PosedHands:
    """Both hands of many frames in the anchor frame, as NumPy arrays, a chunk at a time."""
    return _by_chunks(posed_hands, hands, params, left_anchor, chunk)


def _final_params(prepared: Prepared, fitted: Fitted, result: RefinedHands) -> TwoHandParams:
    """A result's parameters as a solver has them: finite, with those of kept frames as given."""
    return jax.tree.map(
        partial(where_frames, result.status == REFINED), fitted.params, prepared.params
    )


def _by_chunks(
    pose: Callable, hands: Hands, params: TwoHandParams, left_anchor: AnyArray, chunk: int
) -> Any:
    program = jax.jit(pose)
    parts = [
        jax.tree.map(lambda x, n=frames: np.asarray(x)[:n], program(hands, *part))
        for frames, part in batches((params, left_anchor), chunk)
    ]
    return join(parts)


def _near_first(hands: Hands, prepared: Prepared) -> np.ndarray:
    """An order of the frames in which those whose hands may touch come together.

    A tile of frames whose hands are apart takes no surface at all, so it runs several times as
    fast. The order changes no result, so a guess from the joints is good enough.
    """
    joints = _by_chunks(posed_joints, hands, prepared.params, prepared.observations.left_anchor, 64)
    low, high = joints.min(axis=2), joints.max(axis=2)
    near = np.all(low[:, ::-1] - high < _SKIN, axis=(1, 2))
    both = prepared.observations.hand_valid.all(axis=1)
    return np.argsort(~(near & both), kind="stable")


def _without_hands_after(
    tile: tuple[TwoHandParams, Observations], frames: int
) -> tuple[TwoHandParams, Observations]:
    """Take the hands out of the copies that fill a tile: no collisions are searched there."""
    params, observations = tile
    real = np.arange(len(observations.hand_valid)) < frames
    return params, replace(observations, hand_valid=observations.hand_valid & real[:, None])


def _started_anew(
    run: Callable[..., Fitted], stage: Stage, fitted: Fitted, observations: Observations
) -> Fitted:
    """Stuck frames by a stage that begins with the hands apart, where that lowers THE energy.

    Fingers that have gone through each other push each other to both sides, and stay; which side
    is right shows when the hands come together anew from there.
    """
    stuck = np.flatnonzero(fitted.errors_after[:, PENETRATION] > STUCK_MM)
    if len(stuck) == 0:
        return fitted
    offsets = stage.restart_offset * np.concatenate([np.eye(3), -np.eye(3)]).astype(np.float32)
    frames, starts = len(stuck), len(offsets)
    again = np.repeat(stuck, starts)
    start, given = jax.tree.map(lambda x: np.asarray(x)[again], (fitted.params, observations))
    moved = start.relative_transl + np.tile(offsets, (frames, 1))
    start = replace(start, relative_transl=moved)
    flat = run(start, given, what=f"{stage.name}, {frames} stuck frames")
    tried = jax.tree.map(lambda x: x.reshape(frames, starts, *x.shape[1:]), flat)

    energy = tried.after.sum(axis=-1, dtype=np.float64)
    energy = np.where(np.isfinite(energy), energy, np.inf)
    best = energy.argmin(axis=1)
    lower = energy.min(axis=1) < fitted.after[stuck].sum(axis=1, dtype=np.float64)

    def put(old: np.ndarray, new: np.ndarray) -> np.ndarray:
        old = old.copy()
        old[stuck[lower]] = new[np.arange(frames), best][lower]
        return old

    return jax.tree.map(put, fitted, tried)._replace(
        before=fitted.before, errors_before=fitted.errors_before
    )


def _program(strategy: Strategy, stage: Stage) -> tuple[Any, StageShape | LMShape]:
    """A stage's numbers (traced) and its shape (static)."""
    return (lm_program if stage.solver == "lm" else stage_program)(strategy, stage)


@lru_cache(maxsize=32)
def _stage_runner(shape: StageShape | LMShape) -> Callable:
    run = run_lm_stage if isinstance(shape, LMShape) else run_stage
    return CompiledOnce(partial(run, shape=shape))


@lru_cache(maxsize=1)
def _evaluator() -> Callable:
    """Each term's exact share of an objective, in the order of `TERMS`, and the `fit_errors`."""

    def evaluate(hands, priors, params, observations, objective):
        found, deepest = None, jnp.full(len(observations.hand_valid), jnp.nan, jnp.float32)
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
        joints = posed_joints(hands, params, observations.left_anchor)
        return jnp.stack(shares, axis=-1), fit_errors(params, joints, observations, deepest)

    return CompiledOnce(evaluate)


def _provenance(devices: Devices) -> dict[str, Any]:
    first = devices.devices[0]
    return {
        "manofit": metadata.version("manofit"),
        "jax": jax.__version__,
        "device": f"{len(devices.devices)} x {first.device_kind}",
        "tile_size": devices.tile_size,
    }
