"""Both files of an evaluation, a chunk of frames at a time, as points that can be measured.

Where there is nothing, an absent hand or a joint that was not measured, points are NaN.
"""

from dataclasses import dataclass
from typing import Final, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial import KDTree

from fitting.checks import joints_seen
from fitting.predictions import TwoHandPredictions
from fitting.relative_translation import known_relative_transl
from mano_jax.cameras import invert_transform, project_perspective, project_weak, transform
from mano_jax.joint_orders import index
from mano_jax.model import Hands, PosedHands
from objectives.problem import TwoHandParams, posed_hands

CLOSE_MM: Final = 10.0
"""Hands whose true meshes have vertices this near to each other are close."""

CLOSE_JOINTS_MM: Final = 30.0
"""The same of joints, where the truth has no meshes."""

_WRIST = index("wrist")


@dataclass(frozen=True)
class Posed:
    """One file's chunk, in metres and in its anchor's frame; NaN where there is nothing."""

    file: TwoHandPredictions
    joints: Float[np.ndarray, "n 2 21 3"]
    joint_seen: Bool[np.ndarray, "n 2 21"]
    joints_together: Bool[np.ndarray, "n"]
    """Whether it is known where the two hands' joints are to each other."""
    vertices: Float[np.ndarray, "n 2 V 3"] | None
    mesh_joints: Float[np.ndarray, "n 2 21 3"]
    """The joints that belong to the vertices."""
    mesh_valid: Bool[np.ndarray, "n 2"]
    mesh_together: Bool[np.ndarray, "n"]

    @property
    def mesh(self) -> Float[np.ndarray, "n 2 V 3"]:
        """The vertices, which must be there."""
        assert self.vertices is not None, "a metric that reads meshes says that it needs them"
        return self.vertices

    @property
    def measurable(self) -> Bool[np.ndarray, "n 2"]:
        """Hands with a wrist to align by and, if the file has meshes, a finite one."""
        return self.joint_seen[:, :, _WRIST] & self.mesh_valid

    @property
    def together(self) -> Bool[np.ndarray, "n"]:
        """Whether it is known where the two hands are to each other."""
        return self.joints_together & self.mesh_together

    @property
    def anchor(self) -> Float[np.ndarray, "n 1 1 3"]:
        """The anchor wrist, which cameras refer to; NaN without it.

        Posed hands have it at the origin, but measured joints may have any.
        """
        right = self.file.hand_valid[:, :1, None, None]
        wrists = self.mesh_joints[:, :, None, _WRIST, :]
        return np.where(right, wrists[:, :1], wrists[:, 1:])


def pose_frames(hands: Hands, file: TwoHandPredictions, *, measured_joints: bool = False) -> Posed:
    """Joints and meshes of a chunk.

    Args:
        hands: the hand model.
        file: the chunk.
        measured_joints: `joints_3d` are the joints, even beside parameters: they are a truth's,
            while a result has the joints that it was fitted to there.
    """
    seen = joints_seen(file)
    measured = file.joints_with_confidence()
    if measured is None:
        measured = np.full((*seen.shape, 4), np.nan)
    joints = np.where(seen[..., None], measured[..., :3], np.nan).astype(np.float64)
    together = np.ones(len(seen), bool)
    if not file.has_parameters:
        valid = file.hand_valid & seen[..., _WRIST]
        vertices = file.vertices
        if vertices is not None:
            valid = valid & np.isfinite(vertices).all((-2, -1))
            vertices = np.where(valid[..., None, None], vertices, np.nan).astype(np.float64)
        return Posed(file, joints, seen, together, vertices, joints, valid, together)

    finite = [np.isfinite(x).reshape(*x.shape[:2], -1).all(-1) for x in file.parameters.values()]
    valid = file.hand_valid & np.all(finite, axis=0)
    tau = known_relative_transl(file)
    known = np.all(np.isfinite(tau), axis=-1)
    posed = _pose(hands, _params(file, valid, tau), jnp.asarray(~valid[:, 0] & valid[:, 1]))
    there = valid[..., None, None]
    posed_joints = np.where(there, np.asarray(posed.joints, np.float64), np.nan)
    vertices = np.where(there, np.asarray(posed.vertices, np.float64), np.nan)
    if file.joints_3d is None or not measured_joints:
        joints, seen = posed_joints, np.broadcast_to(valid[..., None], seen.shape)
        together = known
    return Posed(file, joints, seen, together, vertices, posed_joints, valid, known)


def camera_kind(file: TwoHandPredictions) -> Literal["weak", "perspective"] | None:
    """Which camera a file's hands can be projected by; perspective takes `K` and `root_transl`."""
    if file.weak_camera is not None:
        return "weak"
    return None if file.K is None or file.root_transl is None else "perspective"


def project(
    points: Float[np.ndarray, "n 2 P 3"], camera: TwoHandPredictions
) -> Float[np.ndarray, "n C 2 P 2"]:
    """Image coordinates of points relative to the anchor, by a file's cameras; NaN without one."""
    frames, _, count, _ = points.shape
    flat = jnp.asarray(points.reshape(frames, 2 * count, 3), jnp.float32)
    if camera.weak_camera is not None:
        sound = camera.weak_camera[:, :1] > 0
        weak = np.where(sound, camera.weak_camera, np.nan)
        image = project_weak(flat, jnp.asarray(weak, jnp.float32))[:, None]
    else:
        assert camera.K is not None and camera.root_transl is not None, "needs a camera"
        flat = flat + jnp.asarray(camera.root_transl)[:, None]
        flat = jnp.broadcast_to(flat[:, None], (frames, camera.num_views, 2 * count, 3))
        if camera.T_camera_world is not None and camera.num_views > 1:
            T = jnp.asarray(camera.T_camera_world)
            from_first = jnp.einsum(
                "ncij,njk->ncik", T, invert_transform(T[:, 0]), precision="highest"
            )
            flat = transform(from_first, flat)
        distortion = None if camera.distortion is None else jnp.asarray(camera.distortion)
        image = project_perspective(flat, jnp.asarray(camera.K), distortion)
    return np.asarray(image, np.float64).reshape(frames, -1, 2, count, 2)


def close_hands(truth: Posed) -> Bool[np.ndarray, "n"]:
    """Which frames have both hands near each other."""
    found = np.zeros(len(truth.mesh_together), bool)
    meshes = np.all(truth.mesh_valid, axis=1) & truth.mesh_together & (truth.vertices is not None)
    joints = np.all(np.any(truth.joint_seen, axis=-1), axis=1) & truth.joints_together & ~meshes
    for i in np.flatnonzero(meshes):
        found[i] = _within(truth.mesh[i, 0], truth.mesh[i, 1], CLOSE_MM / 1000)
    for i in np.flatnonzero(joints):
        right, left = (truth.joints[i, h][truth.joint_seen[i, h]] for h in range(2))
        found[i] = _within(right, left, CLOSE_JOINTS_MM / 1000)
    return found


def _params(file: TwoHandPredictions, valid: np.ndarray, tau: np.ndarray) -> TwoHandParams:
    """Finite parameters; zero where a hand is absent."""

    def floats(values: np.ndarray) -> jax.Array:
        return jnp.asarray(values, jnp.float32)

    both = valid.all(-1, keepdims=True) & np.isfinite(tau).all(-1, keepdims=True)
    nothing = floats(np.zeros((len(valid), 3)))
    return TwoHandParams(
        **{
            name: floats(np.where(valid.reshape(*valid.shape, *[1] * (x.ndim - 2)), x, 0.0))
            for name, x in file.parameters.items()
        },
        relative_transl=floats(np.where(both, tau, 0.0)),
        root_transl=nothing,
        weak_camera=nothing,
    )


@jax.jit
def _pose(hands: Hands, params: TwoHandParams, left_anchor: jax.Array) -> PosedHands:
    return posed_hands(hands, params, left_anchor)


def _within(a: np.ndarray, b: np.ndarray, distance: float) -> bool:
    """Whether any two points of two sets are as near as that."""
    near_b = np.all((a >= b.min(0) - distance) & (a <= b.max(0) + distance), axis=1)
    near_a = np.all((b >= a.min(0) - distance) & (b <= a.max(0) + distance), axis=1)
    if not near_a.any() or not near_b.any():
        return False
    nearest, _ = KDTree(b[near_a]).query(a[near_b], distance_upper_bound=distance)
    return bool(np.isfinite(nearest).any())
