"""How wrong a benchmark's predictions are, by the published definitions and exactly.

The published figures are those of IHMR's released evaluator: MPJPE with each wrist aligned,
I-MPJPE with the mean and the standard deviation of all joints matched along each axis, AVE-P and
MAX-P read from its 32^3 grid with its alignment. The grid overstates penetration: it also reads
several millimetres between hands that only touch.
"""

from collections.abc import Callable
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from experiments.benchmark.pose import Frame, together
from fitting.metrics import ave_p, i_mpjpe, i_mpjpe_evaluator, max_p, mpjpe
from fitting.predictions import TwoHandPredictions
from mano_jax.model import Hands
from objectives.collision import depths, exact_depths, search

PUBLISHED: Final = {"MPJPE": 21.24, "I-MPJPE": 18.25, "AVE-P": 0.84, "MAX-P": 14.40}
"""IHMR's baseline on IH26M-Inter-Close, mm (Rong et al., 3DV 2021, supplement, Table 2)."""
_GRID_FRAMES = 64
"""The grid takes a quarter of a second a frame: more than so many are not worth a file's record."""
_CHUNK = 8
"""Frames measured at a time."""


def by_frame(
    hands: Hands, truth: TwoHandPredictions, predictions: TwoHandPredictions
) -> dict[str, dict[str, Float[np.ndarray, "N"]]]:
    """Errors of every prediction, mm, by the published definitions and exactly."""
    _, true_joints = posed(hands, truth)
    vertices, joints = posed(hands, predictions)
    valid = truth.hand_valid
    read = by_chunks(hands, vertices, _published_depths)
    depth = by_chunks(hands, vertices, exact_depths)
    aligned = mpjpe(joints, true_joints, valid)
    return {
        "published definitions": {
            "MPJPE": aligned,
            "I-MPJPE": i_mpjpe_evaluator(joints, true_joints, valid),
            "AVE-P": ave_p(read, valid),
            "MAX-P": max_p(read, valid),
        },
        "exact": {
            "MPJPE": aligned,
            "I-MPJPE": i_mpjpe(joints, true_joints, valid),
            "AVE-P": ave_p(depth, valid),
            "MAX-P": max_p(depth, valid),
        },
    }


def achieved(
    hands: Hands, truth: TwoHandPredictions, predictions: TwoHandPredictions
) -> dict[str, Any]:
    """Mean figures of a benchmark's first frames, mm, beside the published ones; rounded."""
    some = slice(0, min(_GRID_FRAMES, truth.num_frames))
    values = by_frame(hands, truth.frames(some), predictions.frames(some))
    depth = true_depths_mm(hands, truth)
    return {
        "frames_measured": some.stop,
        "published_baseline": PUBLISHED,
        **{
            group.replace(" ", "_"): {name: _rounded(x.mean()) for name, x in figures.items()}
            for group, figures in values.items()
        },
        "truth": {"AVE-P": _rounded(depth.mean()), "deepest vertex": _rounded(depth.max())},
    }


def true_depths_mm(hands: Hands, truth: TwoHandPredictions) -> Float[np.ndarray, "N 2 V"]:
    """Depth of every true vertex in the other hand, mm: what a truth should not have."""
    return 1000 * by_chunks(hands, posed(hands, truth)[0], exact_depths)


def posed(
    hands: Hands, predictions: TwoHandPredictions
) -> tuple[Float[np.ndarray, "N 2 V 3"], Float[np.ndarray, "N 2 21 3"]]:
    """Vertices and joints of every frame, origin at the right wrist, metres.

    `fitting.posed_frames` poses many frames by one program, whose float32 sums round otherwise by
    up to 3e-8 m: the committed figures are of the program here, which takes a frame at a time and
    also made the truth.
    """
    names = ("global_orient", "hand_pose", "betas", "relative_transl")
    arrays = predictions.arrays()
    frames = zip(*(arrays[name] for name in names), strict=True)
    vertices, joints = zip(*(together(hands, Frame(*parts)) for parts in frames), strict=True)
    return np.stack(vertices), np.stack(joints)


def by_chunks(
    hands: Hands, vertices: Float[np.ndarray, "N 2 V 3"], measure: Callable
) -> Float[np.ndarray, "N 2 V"]:
    """A measure of every vertex, some frames at a time so that memory stays small."""
    program = jax.jit(measure)
    found = []
    for first in range(0, len(vertices), _CHUNK):
        rows = np.minimum(np.arange(first, first + _CHUNK), len(vertices) - 1)
        part = jnp.asarray(vertices[rows], jnp.float32)
        found.append(np.asarray(program(hands, part, jnp.ones(_CHUNK, bool)), np.float64))
    return np.concatenate(found)[: len(vertices)]


def _published_depths(hands: Hands, vertices: jax.Array, active: jax.Array) -> jax.Array:
    found = search(hands, vertices, active, engine="voxel_published")
    return depths(hands, vertices, found)


def _rounded(value: float) -> float:
    """Four decimals: the last digits of a float32 sum differ between machines."""
    return round(float(value), 4)
