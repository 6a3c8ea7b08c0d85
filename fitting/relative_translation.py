"""Where the left wrist is to the right one, as far as a file says it."""

import numpy as np
from jaxtyping import Float

from fitting.checks import joints_seen
from fitting.predictions import TwoHandPredictions
from mano_jax.joint_orders import index

_WRIST = index("wrist")


def known_relative_transl(file: TwoHandPredictions) -> Float[np.ndarray, "N 3"]:
    """Left wrist minus right wrist, metres, as a start and a picture take it; NaN where unknown.

    Coordinates without confidence come from the wrists of `joints_3d`, as all do without
    `relative_transl`, and are 0 where there are none: hands found in crops of their own are then
    at one depth, each on the ray on which its crop saw it.
    """
    return completed_relative_transl(file, measured_relative_transl(file))


def measured_relative_transl(file: TwoHandPredictions) -> Float[np.ndarray, "N 3"]:
    """The same from the wrists of `joints_3d` alone."""
    measured = file.joints_with_confidence()
    if measured is None:
        return np.full((file.num_frames, 3), np.nan)
    wrists = measured[:, :, _WRIST, :3].astype(np.float64)
    wrists = np.where(joints_seen(file)[:, :, _WRIST, None], wrists, np.nan)
    return wrists[:, 1] - wrists[:, 0]


def completed_relative_transl(
    file: TwoHandPredictions, found: Float[np.ndarray, "N 3"]
) -> Float[np.ndarray, "N 3"]:
    """The file's own where it knows it, else what was found, else 0."""
    if file.relative_transl is None:
        return found
    given, known = file.relative_transl, file.relative_transl_known()
    if np.all(known):
        return given
    tau = np.where(known, given, np.where(np.isfinite(found), found, 0.0))
    if file.K is None or file.root_transl is None:
        return tau
    # Another depth along the ray: x and y shrink or grow with it.
    root = file.root_transl.astype(np.float64)
    before, after = root[:, 2] + given[:, 2], root[:, 2] + tau[:, 2]
    moved = ~known[:, 2] & (before > 0) & (after > 0) & np.all(np.isfinite(root), axis=1)
    factor = np.where(moved, after, 1.0) / np.where(moved, before, 1.0)
    along = (root + given) * factor[:, None] - root
    return np.where(known & moved[:, None], along, tau)
