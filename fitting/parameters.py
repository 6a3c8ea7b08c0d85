"""Parameter groups: what a stage may free, by the names that strategies use."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Final

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
