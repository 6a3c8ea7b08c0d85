"""What became of each frame: the result of a fit, put together and accounted for."""

import json
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Shaped, UInt8

from fitting.fit_errors import FIT_ERRORS
from fitting.parameters import rest_wrists, wrists
from fitting.posterior import Posterior
from fitting.predictions import TwoHandPredictions
from fitting.prepare import Prepared
from fitting.strategy import Strategy, strategy_to_toml
from mano_jax.model import Hands
from objectives.problem import TwoHandParams
from objectives.total import TERMS

STATUS_NAMES: Final = ("refined", "kept_input", "skipped_invalid")
"""What became of a frame; `status` holds indices into it."""
REFINED, KEPT_INPUT, SKIPPED_INVALID = range(3)


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
    fit_error_before: Float32[np.ndarray, "N E"]
    """How far the start is from what was seen (`fitting.fit_errors.FIT_ERRORS`); NaN where there
    is nothing to measure, and where skipped."""
    fit_error_after: Float32[np.ndarray, "N E"]
    """The same at the end."""
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
        """Everything under its canonical name, ready to be written."""
        return {
            **self.arrays_by_frame(),
            "status_names": np.array(STATUS_NAMES),
            "energy_terms": np.array(list(TERMS)),
            "fit_error_names": np.array(list(FIT_ERRORS)),
            "strategy": np.array(strategy_to_toml(self.strategy)),
            "provenance": np.array(json.dumps(self.provenance, sort_keys=True)),
        }

    def arrays_by_frame(self) -> dict[str, np.ndarray]:
        """What has a row for each frame.

        Mesh targets stay out: in a result `vertices` means the fitted mesh.
        """
        inputs = self.predictions.arrays()
        inputs.pop("vertices", None)
        return {
            **inputs,
            "transl": self.transl,
            "status": self.status,
            "reason": self.reason,
            "energy_before": self.energy_before,
            "energy_after": self.energy_after,
            "fit_error_before": self.fit_error_before,
            "fit_error_after": self.fit_error_after,
            **(self.posterior.arrays() if self.posterior else {}),
        }

    def jax_arrays(self) -> dict[str, jax.Array]:
        """The numbers of `arrays_by_frame` as JAX arrays, without the texts."""
        numbers = self.arrays_by_frame().items()
        return {name: jnp.asarray(x) for name, x in numbers if x.dtype.kind in "biuf"}


class Fitted(NamedTuple):
    """Frames after some stages."""

    params: TwoHandParams
    before: np.ndarray
    """Each term's exact share of THE energy at the start, (frames, terms)."""
    after: np.ndarray
    """The same at the end."""
    errors_before: np.ndarray
    """How far the start is from what was seen, (frames, errors) in the order of `FIT_ERRORS`."""
    errors_after: np.ndarray
    """The same at the end."""


def account(
    hands: Hands,
    predictions: TwoHandPredictions,
    prepared: Prepared,
    strategy: Strategy,
    fitted: Fitted,
    provenance: dict[str, Any],
) -> RefinedHands:
    """Decide each frame's status and put together the result."""
    params = fitted.params
    before, after = fitted.before.astype(np.float32), fitted.after.astype(np.float32)
    status, reason = _statuses(prepared.reasons, before, after)
    keep = status != REFINED
    errors = fitted.errors_before.astype(np.float32), fitted.errors_after.astype(np.float32)
    for start, end in ((before, after), errors):
        end[keep] = start[keep]
        start[status == SKIPPED_INVALID] = end[status == SKIPPED_INVALID] = np.nan

    start = jax.tree.map(np.asarray, prepared.params)
    final = jax.tree.map(partial(where_frames, ~keep), params, start)
    result = _merge(predictions, prepared, final, keep)
    left_anchor = np.asarray(prepared.observations.left_anchor)
    return RefinedHands(
        predictions=result,
        transl=_mano_transl(hands, result, final, left_anchor, status == SKIPPED_INVALID),
        status=status,
        reason=reason,
        energy_before=before,
        energy_after=after,
        fit_error_before=errors[0],
        fit_error_after=errors[1],
        strategy=strategy,
        provenance=provenance,
    )


def where_frames(chosen: np.ndarray, when_true: np.ndarray, when_false: np.ndarray) -> np.ndarray:
    """Frame by frame one or the other."""
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
    if predictions.K is not None:
        values["root_transl"] = (final.root_transl, prepared.root_known)
    merged = {}
    for name, (new, present) in values.items():
        old = getattr(predictions, name)
        if old is None:
            # A root that is not known is no root at the camera.
            old, use = np.full_like(new, np.nan if name == "root_transl" else 0.0), present
        else:
            use = present & ~keep.reshape(-1, *[1] * (present.ndim - 1))
        merged[name] = np.where(use.reshape(*use.shape, *[1] * (new.ndim - use.ndim)), new, old)
    given = predictions.relative_transl_confidence
    if given is not None:
        # Where the hands are to each other is the fit's, where it was refined.
        merged["relative_transl_confidence"] = np.where(keep[:, None], given, 1.0)
    return replace(predictions, **merged)


def _mano_transl(
    hands: Hands,
    result: TwoHandPredictions,
    final: TwoHandParams,
    left_anchor: np.ndarray,
    skipped: np.ndarray,
) -> np.ndarray:
    """Each hand's wrist minus its J0, metres."""
    tau, root, betas = map(np.asarray, (final.relative_transl, final.root_transl, final.betas))
    placed = wrists(tau, root, left_anchor)
    transl = np.where(result.hand_valid[..., None], placed - rest_wrists(hands, betas), 0.0)
    return np.where(skipped[:, None, None], np.nan, transl).astype(np.float32)
