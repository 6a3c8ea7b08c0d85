"""The table of metrics: what each is called, its unit, what it needs and how it is computed.

A metric's formula is in `fitting.metrics`; here it meets the files: which joints, meshes and
cameras of a result and of the truth it is given.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from fitting import metrics as m
from fitting import solids
from fitting.alignment import at_root, bone_scale
from fitting.checks import keypoints_seen
from fitting.posed_frames import Posed, camera_kind, project
from fitting.predictions import TwoHandPredictions
from mano_jax.joint_orders import index
from mano_jax.model import Hands
from objectives.collision import CollisionEngine, depths, search

MIAA_CROP_PX: Final = 256
"""Side of DIR's image: what a crop measures in pixels where the truth has a weak camera."""

PCK_MM: Final = 20.0
"""Threshold of the metric `pck`."""

_PARAMETERS = "parameters (global_orient, hand_pose and betas) or vertices"
NEEDS: Final[dict[str, str]] = {
    "mesh": f"{{file}} has no {_PARAMETERS}",
    "true_mesh": f"the truth has no {_PARAMETERS}",
    "keypoints": "it takes keypoints_2d in the truth and, there or in {file}, a camera of the same "
    "kind and number of views: weak_camera, or K and root_transl",
    "true_camera": "the truth has no camera: weak_camera, or K and root_transl",
    "own_cameras": "{file} and the truth have no cameras of the same kind: weak_camera, or K and "
    "root_transl",
    "sequence": "neither {file} nor the truth has sequence_id",
}
"""What a metric may need, and why it is left out of a file without that."""

MESHES: Final = ("mesh", "true_mesh")
"""What a metric needs that compares meshes."""

_WRIST, _MIDDLE = index("wrist"), index("middle1")


@dataclass(frozen=True)
class Pair:
    """A chunk of the result beside the same frames of the truth: what a metric reads."""

    hands: Hands
    predicted: Posed
    truth: Posed

    @cached_property
    def joint_valid(self) -> Bool[np.ndarray, "n 2 21"]:
        """Joints that both have."""
        return self.predicted.joint_seen & self.truth.joint_seen

    @cached_property
    def joint_hands(self) -> Bool[np.ndarray, "n 2"]:
        """Hands of which both have joints."""
        return np.any(self.joint_valid, axis=-1)

    @cached_property
    def mesh_hands(self) -> Bool[np.ndarray, "n 2"]:
        """Hands of which both have a mesh."""
        return self.predicted.mesh_valid & self.truth.mesh_valid

    @cached_property
    def joint_pairs(self) -> Bool[np.ndarray, "n 2"]:
        """Those of them whose place to each other is known."""
        known = self.predicted.joints_together & self.truth.joints_together
        return self.joint_hands & known[:, None]

    @cached_property
    def mesh_pairs(self) -> Bool[np.ndarray, "n 2"]:
        """Those of them whose place to each other is known."""
        known = self.predicted.mesh_together & self.truth.mesh_together
        return self.mesh_hands & known[:, None]

    @cached_property
    def collidable(self) -> Bool[np.ndarray, "n 2"]:
        """Hands of the result whose penetration counts; the truth says that there are two."""
        valid = self.predicted.mesh_valid & self.truth.file.hand_valid
        return valid & self.predicted.mesh_together[:, None]

    @cached_property
    def depths(self) -> Float[np.ndarray, "n 2 V"]:
        """Exact depth of each vertex in the other hand, metres."""
        return self._depths("culled")

    @cached_property
    def published_depths(self) -> Float[np.ndarray, "n 2 V"]:
        """The same as IHMR's released program reads it from its grid."""
        return self._depths("voxel_published")

    @property
    def joint_arguments(self) -> tuple[np.ndarray, ...]:
        """Joints hand by hand: predicted, true, and which count."""
        return self.predicted.joints, self.truth.joints, self.joint_hands, self.joint_valid

    @property
    def joint_pair_arguments(self) -> tuple[np.ndarray, ...]:
        """Joints of both hands in one frame."""
        return self.predicted.joints, self.truth.joints, self.joint_pairs, self.joint_valid

    @property
    def meshes(self) -> tuple[np.ndarray, np.ndarray]:
        """Vertices, predicted and true."""
        return self.predicted.mesh, self.truth.mesh

    @property
    def mesh_joints(self) -> tuple[np.ndarray, np.ndarray]:
        """The joints that belong to the meshes."""
        return self.predicted.mesh_joints, self.truth.mesh_joints

    @property
    def mesh_arguments(self) -> tuple[np.ndarray, ...]:
        """Meshes hand by hand: vertices, wrists, and which count."""
        return *self.meshes, *self.wrists, self.mesh_hands

    @property
    def mesh_pair_arguments(self) -> tuple[np.ndarray, ...]:
        """Meshes of both hands in one frame."""
        return *self.meshes, *self.wrists, self.mesh_pairs

    @property
    def wrists(self) -> tuple[np.ndarray, np.ndarray]:
        """The wrists that belong to the meshes."""
        return self.predicted.mesh_joints[:, :, _WRIST], self.truth.mesh_joints[:, :, _WRIST]

    def _depths(self, engine: CollisionEngine) -> np.ndarray:
        vertices = np.nan_to_num(self.predicted.mesh, posinf=0.0, neginf=0.0)
        both = jnp.asarray(self.collidable.all(-1))
        points = jnp.asarray(vertices, jnp.float32)
        return np.asarray(_depth_program(self.hands, points, both, engine=engine))


@dataclass(frozen=True)
class Metric:
    """One row of `METRICS`."""

    label: str
    """Its name in print."""
    unit: str
    """Its unit; `image` stands for px with `K`, for crop units with a weak camera."""
    compute: Callable[["Pair"], np.ndarray] | None
    """From a chunk of frames to one number a frame; None for the one that needs neighbours."""
    tolerance: float
    """A frame that is worse by more than this, in the metric's unit, was made worse."""
    needs: tuple[str, ...] = ()
    """What it takes beyond joints; see `NEEDS`."""
    both_hands: bool = False
    """Takes both hands, and their place to each other."""
    higher_is_better: bool = False
    """Else lower is."""
    default: bool = False
    """Measured unless told otherwise."""
    slow: bool = False
    """Takes tens of milliseconds a frame or more, where others take a few."""


def has_need(need: str, file: TwoHandPredictions, truth: TwoHandPredictions) -> bool:
    """Whether a result and a truth have what a metric needs, a key of `NEEDS`."""
    own, true = camera_kind(file), camera_kind(truth)
    if need == "mesh":
        return file.has_parameters or file.vertices is not None
    if need == "true_mesh":
        return truth.has_parameters or truth.vertices is not None
    if need == "true_camera":
        return true is not None
    if need == "own_cameras":
        return own is not None and own == true
    if need == "sequence":
        return truth.sequence_id is not None or file.sequence_id is not None
    keypoints = truth.keypoints_by_view()
    if keypoints is None or (own or true) is None:
        return False
    # Keypoints are in pixels if their file has K, else in crop coordinates.
    image = (
        "perspective" if truth.K is not None else "weak" if truth.weak_camera is not None else own
    )
    views = (file if own else truth).num_views
    return (own or true) == image and keypoints.shape[1] == views


_depth_program = jax.jit(
    lambda hands, vertices, both, engine: depths(
        hands, vertices, search(hands, vertices, both, engine=engine)
    ),
    static_argnames="engine",
)


def _aligned_joints(root: m.Root, *, scale: bool) -> Callable[[Pair], np.ndarray]:
    return lambda pair: m.aligned_mpjpe(*pair.joint_arguments, root=root, scale=scale)


def _aligned_vertices(root: m.Root, *, scale: bool) -> Callable[[Pair], np.ndarray]:
    return lambda pair: m.aligned_mpvpe(
        *pair.meshes, *pair.mesh_joints, pair.mesh_hands, root=root, scale=scale
    )


def _mrrpe(pair: Pair) -> np.ndarray:
    wrists, true_wrists = (x.joints[:, :, _WRIST] for x in (pair.predicted, pair.truth))
    return m.mrrpe(wrists, true_wrists, pair.joint_pairs, pair.joint_valid[:, :, _WRIST])


def _pck(pair: Pair) -> np.ndarray:
    return m.pck(*pair.joint_arguments, threshold_mm=PCK_MM)


def _error_2d(pair: Pair) -> np.ndarray:
    keypoints = pair.truth.file.keypoints_by_view()
    assert keypoints is not None, "needs keypoints"
    own, true = pair.predicted.file, pair.truth.file
    projected = project(
        pair.predicted.joints - pair.predicted.anchor, own if camera_kind(own) else true
    )
    if not camera_kind(own):
        # The true camera refers to the truth's anchor, which may be the other wrist.
        same = own.hand_valid[:, 0] == true.hand_valid[:, 0]
        projected = np.where(same.reshape(-1, *[1] * 4), projected, np.nan)
    seen = keypoints_seen(true) & pair.predicted.joint_seen[:, None]
    return m.error_2d(projected, keypoints[..., :2], seen)


def _miaa(pair: Pair) -> np.ndarray:
    wrists, true_wrists = pair.wrists
    scale = bone_scale(*pair.mesh_joints, (_WRIST, _MIDDLE))[..., None, None]
    moved = at_root(pair.predicted.mesh, wrists) * scale + true_wrists[:, :, None]
    return _image_distance(pair, moved - pair.truth.anchor, pair.truth.file)


def _miaa_own_camera(pair: Pair) -> np.ndarray:
    vertices = pair.predicted.mesh - pair.predicted.anchor
    return _image_distance(pair, vertices, pair.predicted.file)


def _image_distance(pair: Pair, vertices: np.ndarray, camera: TwoHandPredictions) -> np.ndarray:
    pixels = 1.0 if camera_kind(camera) == "perspective" else MIAA_CROP_PX / 2
    projected = pixels * project(vertices, camera)[:, 0]
    true = pixels * project(pair.truth.mesh - pair.truth.anchor, pair.truth.file)[:, 0]
    return m.miaa(projected, true, pair.mesh_hands)


def _interpenetration(*, voxels: bool) -> Callable[[Pair], np.ndarray]:
    pitch = solids.VOXEL_PITCH if voxels else solids.FINE_PITCH

    def compute(pair: Pair) -> np.ndarray:
        faces = solids.closed_faces(pair.hands)
        found = np.full(len(pair.collidable), np.nan)
        for i in np.flatnonzero(pair.collidable.all(-1)):
            right, left = (pair.predicted.mesh[i, h][faces[h]] for h in range(2))
            found[i] = solids.interpenetration_volume(right, left, pitch=pitch, voxels=voxels)
        return found

    return compute


def _iou(pair: Pair) -> np.ndarray:
    faces = solids.closed_faces(pair.hands)

    def one(hand: int, predicted: np.ndarray, truth: np.ndarray) -> float:
        return 100 * solids.overlap(predicted[faces[hand]], truth[faces[hand]]).iou

    return _over_hands(pair, one)


def _chamfer(pair: Pair) -> np.ndarray:
    faces = np.asarray(pair.hands.faces)

    def one(hand: int, predicted: np.ndarray, truth: np.ndarray) -> float:
        first, second = (jnp.asarray(x, jnp.float32) for x in (predicted, truth))
        return 1000 * float(solids.chamfer_l1(first, second, faces[hand]))

    return _over_hands(pair, one)


def _over_hands(
    pair: Pair, one: Callable[[int, np.ndarray, np.ndarray], float]
) -> Float[np.ndarray, "n"]:
    """Mean over a frame's hands, each aligned by the middle finger's base as in Im2Hands."""
    joints, true_joints = (x[:, :, _MIDDLE] for x in pair.mesh_joints)
    predicted, truth = at_root(pair.predicted.mesh, joints), at_root(pair.truth.mesh, true_joints)
    found = np.full(pair.mesh_hands.shape, np.nan)
    for i, hand in np.argwhere(pair.mesh_hands):
        found[i, hand] = one(int(hand), predicted[i, hand], truth[i, hand])
    count = pair.mesh_hands.sum(1)
    total = np.where(pair.mesh_hands, found, 0.0).sum(1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _joints(label: str, compute: Callable[[Pair], np.ndarray], **more: Any) -> Metric:
    return Metric(label, "mm", compute, 0.1, **more)


def _meshes(label: str, compute: Callable[[Pair], np.ndarray], **more: Any) -> Metric:
    return Metric(label, "mm", compute, 0.1, MESHES, **more)


def _collision(
    label: str, unit: str, tolerance: float, compute: Callable[[Pair], np.ndarray], **more: Any
) -> Metric:
    return Metric(label, unit, compute, tolerance, ("mesh",), both_hands=True, **more)


METRICS: Final[dict[str, Metric]] = {
    "mpjpe": _joints("MPJPE", lambda p: m.mpjpe(*p.joint_arguments), default=True),
    "mpvpe": _meshes("MPVPE", lambda p: m.mpvpe(*p.mesh_arguments), default=True),
    "pa_mpjpe": _joints("PA-MPJPE", lambda p: m.pa_mpjpe(*p.joint_arguments), default=True),
    "pa_mpvpe": _meshes("PA-MPVPE", lambda p: m.pa_mpvpe(*p.meshes, p.mesh_hands), default=True),
    "i_mpjpe": _joints(
        "I-MPJPE", lambda p: m.i_mpjpe(*p.joint_pair_arguments), both_hands=True, default=True
    ),
    "i_mpvpe": _meshes(
        "I-MPVPE", lambda p: m.i_mpvpe(*p.mesh_pair_arguments), both_hands=True, default=True
    ),
    "i_mpjpe_evaluator": _joints(
        "I-MPJPE (IHMR's evaluator)",
        lambda p: m.i_mpjpe_evaluator(*p.joint_pair_arguments),
        both_hands=True,
        default=True,
    ),
    "mrrpe": Metric("MRRPE", "mm", _mrrpe, 0.1, both_hands=True, default=True),
    "ave_p": _collision(
        "AVE-P", "mm", 0.01, lambda p: m.ave_p(p.depths, p.collidable), default=True
    ),
    "max_p": _collision(
        "MAX-P", "mm", 0.1, lambda p: m.max_p(p.depths, p.collidable), default=True
    ),
    "ave_p_published": _collision(
        "AVE-P (published grid)",
        "mm",
        0.01,
        lambda p: m.ave_p(p.published_depths, p.collidable),
        slow=True,
    ),
    "max_p_published": _collision(
        "MAX-P (published grid)",
        "mm",
        0.1,
        lambda p: m.max_p(p.published_depths, p.collidable),
        slow=True,
    ),
    "interpenetration_volume": _collision(
        "IV (0.5 cm voxels)", "cm3", 0.125, _interpenetration(voxels=True)
    ),
    "interpenetration_volume_fine": _collision(
        "IV (lines 1 mm apart)", "cm3", 0.01, _interpenetration(voxels=False)
    ),
    "iou": Metric("IoU", "%", _iou, 0.1, MESHES, higher_is_better=True, slow=True),
    "chamfer_l1": _meshes("Chamfer-L1", _chamfer, slow=True),
    "error_2d": Metric("2D error", "image", _error_2d, 0.001, ("keypoints",), default=True),
    "miaa": Metric("MIAA", "px", _miaa, 0.1, (*MESHES, "true_camera")),
    "miaa_own_camera": Metric(
        "MIAA (own camera)", "px", _miaa_own_camera, 0.1, (*MESHES, "own_cameras")
    ),
    "pck": Metric("PCK at 20 mm", "%", _pck, 0.1, higher_is_better=True),
    "auc": Metric(
        "AUC of PCK, 0 to 50 mm",
        "1",
        lambda p: m.auc(*p.joint_arguments),
        0.001,
        higher_is_better=True,
        default=True,
    ),
    "acceleration_error": Metric(
        "acceleration error", "mm/frame2", None, 0.1, ("sequence",), default=True
    ),
    "mpjpe_ws": _joints("MPJPE (DIR: wrist, scale)", _aligned_joints("wrist", scale=True)),
    "mpvpe_ws": _meshes("MPVPE (DIR: wrist, scale)", _aligned_vertices("wrist", scale=True)),
    "mpjpe_ms": _joints("MPJPE-MS (MCP, scale)", _aligned_joints("middle1", scale=True)),
    "mpvpe_ms": _meshes("MPVPE-MS (MCP, scale)", _aligned_vertices("middle1", scale=True)),
    "mpjpe_m": _joints("MPJPE-M (MCP)", _aligned_joints("middle1", scale=False)),
    "mpvpe_m": _meshes("MPVPE-M (MCP)", _aligned_vertices("middle1", scale=False)),
}
"""Every metric by its key; docs/metrics.md says where each comes from."""

DEFAULT_METRICS: Final = tuple(key for key, metric in METRICS.items() if metric.default)
"""What is measured unless told otherwise."""
