"""Parameter groups, by the names that strategies use, and where parameters put the two wrists."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Final

import numpy as np
from jaxtyping import Bool, Float

from mano_jax.model import Hands
from objectives.problem import TwoHandParams

PARAMETER_GROUPS: Final[dict[str, tuple[str, ...]]] = {
    # Where the hands are: tau, and the anchor wrist where a perspective camera sees it.
    "translation": ("relative_transl", "root_transl"),
    "orientation": ("global_orient",),
    "finger_pose": ("hand_pose",),
    "shape": ("betas",),
    "camera": ("weak_camera",),
}
"""Fields of `TwoHandParams` in each group."""


def step_size_of_fields(step_sizes: Mapping[str, float]) -> dict[str, float]:
    """Step size of every field of `TwoHandParams`; zero for the groups that are not named."""
    sizes = {field.name: 0.0 for field in fields(TwoHandParams)}
    for group, size in step_sizes.items():
        for name in PARAMETER_GROUPS[group]:
            sizes[name] = float(size)
    return sizes


def rest_wrists(hands: Hands, betas: Float[np.ndarray, "N 2 S"]) -> Float[np.ndarray, "N 2 3"]:
    """J0(betas): each hand's wrist at rest in MANO's frame, metres.

    MANO's translation of a hand is its wrist minus this.
    """
    # Row by row in NumPy: a product's last bit must not depend on the number of frames.
    template, directions = np.asarray(hands.J_template), np.asarray(hands.J_shapedirs)
    return template[:, 0] + (directions[:, 0] * betas[:, :, None]).sum(axis=-1)


def wrists(
    relative_transl: Float[np.ndarray, "N 3"],
    root_transl: Float[np.ndarray, "N 3"],
    left_anchor: Bool[np.ndarray, "N"],
) -> Float[np.ndarray, "N 2 3"]:
    """Both wrists, metres, in the frame that `root_transl` is told in.

    Args:
        relative_transl: left wrist minus right wrist.
        root_transl: the anchor wrist.
        left_anchor: the anchor is the left wrist, not the right one.
    """
    right = np.where(left_anchor[:, None], -relative_transl, 0.0)
    left = np.where(left_anchor[:, None], 0.0, relative_transl)
    return np.stack([right, left], axis=1) + root_transl[:, None]
