"""Scenes of two known hands, and what a perfect reader must find in a file made from one.

Hands are [right, left]; lengths metres, angles radians, camera axes x right, y down, z forward.
Nothing here shares code with the product: of the hand model only the arrays are read.
"""

import json
import pickle
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from mano_jax.model import HandModel, mirrored
from mano_jax.procedural import embedded_hand_model

SIDES = ("right", "left")
FLIP = np.array([-1.0, 1.0, 1.0])
M = np.diag(FLIP)
"""The mirror: R_left = M R_right M, points negate x."""
PARENT = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14)

# conventions.md section 4: x_there = x_mano[list]. The lists that lead back are never inverted
# from these in a test of a reader: a reader has its own.
MANO_TO_OP = [0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20]
MANO_TO_IH = [16, 15, 14, 13, 17, 3, 2, 1, 18, 6, 5, 4, 19, 12, 11, 10, 20, 9, 8, 7, 0]
S2H_TO_MANO = [0, 1, 2, 3, 5, 6, 7, 9, 10, 11, 13, 14, 15, 17, 18, 19, 20, 4, 8, 16, 12]
OP_TO_MANO = [0, 5, 6, 7, 9, 10, 11, 17, 18, 19, 13, 14, 15, 1, 2, 3, 4, 8, 12, 16, 20]
WRIST, INDEX1, MIDDLE1, MIDDLE2 = 0, 1, 4, 5
"""Positions in MANO's order."""

TIPS = {
    "A": ((744, 320, 443, 554, 671), (744, 320, 443, 554, 671)),
    "B": ((745, 317, 444, 556, 673), (745, 317, 445, 556, 673)),
    "B'": ((745, 317, 444, 556, 673), (745, 317, 444, 556, 673)),
    "B''": ((745, 317, 445, 556, 673), (745, 317, 445, 556, 673)),
    "C": ((744, 320, 443, 555, 672), (744, 320, 443, 555, 672)),
    "D": ((744, 333, 444, 555, 672), (744, 333, 444, 555, 672)),
}
"""Fingertip vertices, thumb to little finger, of the right and the left hand."""


# ---- posing


@lru_cache
def models() -> tuple[HandModel, HandModel]:
    right = embedded_hand_model()
    return right, mirrored(right)


def rotmat(axis_angle):
    """(..., 3) to (..., 3, 3)."""
    axis_angle = np.asarray(axis_angle, float)
    flat = Rotation.from_rotvec(axis_angle.reshape(-1, 3)).as_matrix()
    return flat.reshape(*axis_angle.shape, 3)


def rotvec(matrix):
    """(..., 3, 3) to (..., 3), of length pi at most."""
    matrix = np.asarray(matrix, float)
    return Rotation.from_matrix(matrix.reshape(-1, 3, 3)).as_rotvec().reshape(matrix.shape[:-1])


def rest_wrist(model, betas):
    """(N, 3): J0, the wrist before any translation."""
    shaped = model.v_template + np.einsum("vcs,ns->nvc", model.shapedirs, betas)
    return np.einsum("v,nvc->nc", model.J_regressor[0], shaped)


def pose_hand(model, global_orient, hand_pose, betas, tips):
    """Vertices (N, V, 3) and 21 joints (N, 21, 3) in MANO's frame, where the wrist stays at J0.

    Args:
        model: a HandModel, of which only the arrays are read.
        global_orient: (N, 3).
        hand_pose: (N, 15, 3), the mean pose included.
        betas: (N, S).
        tips: five vertex numbers.
    """
    shaped = model.v_template + np.einsum("vcs,ns->nvc", model.shapedirs, betas)
    rest = np.einsum("jv,nvc->njc", model.J_regressor, shaped)
    local = rotmat(np.concatenate([global_orient[:, None], hand_pose], axis=1))
    feature = (local[:, 1:] - np.eye(3)).reshape(len(local), -1)
    corrected = shaped + np.einsum("vcp,np->nvc", model.posedirs, feature)

    turned = [local[:, 0]]
    joints = [rest[:, 0]]
    for j in range(1, 16):
        up = PARENT[j]
        turned.append(turned[up] @ local[:, j])
        joints.append(joints[up] + np.einsum("nab,nb->na", turned[up], rest[:, j] - rest[:, up]))
    turned, joints = np.stack(turned, axis=1), np.stack(joints, axis=1)
    moved = joints - np.einsum("njab,njb->nja", turned, rest)
    blended = np.einsum("vj,njab->nvab", model.lbs_weights, turned)
    offset = np.einsum("vj,nja->nva", model.lbs_weights, moved)
    vertices = np.einsum("nvab,nvb->nva", blended, corrected) + offset
    return vertices, np.concatenate([joints, vertices[:, list(tips)]], axis=1)


def project(K, points):
    """Pixels (..., J, 2) of points (..., J, 3); K is (..., 3, 3)."""
    image = np.einsum("...ab,...jb->...ja", K, points)
    depth = np.where(image[..., 2:] == 0, np.nan, image[..., 2:])
    return image[..., :2] / depth


# ---- scenes


@dataclass(frozen=True)
class Scene:
    """N frames of known hands before a camera. What is absent holds zeros."""

    hand_valid: np.ndarray
    """(N, 2) bool."""
    global_orient: np.ndarray
    """(N, 2, 3), camera axes."""
    hand_pose: np.ndarray
    """(N, 2, 15, 3), the mean pose included."""
    betas: np.ndarray
    """(N, 2, 10), of correctly mirrored left hands."""
    wrist: np.ndarray
    """(N, 2, 3), camera frame."""
    K: np.ndarray
    """(N, 3, 3)."""
    image_size: tuple[int, int]
    """Width and height, pixels."""
    T_camera_world: np.ndarray
    """(4, 4) world to camera, for the formats in world axes."""
    seed: int

    @property
    def num_frames(self):
        return len(self.hand_valid)

    @property
    def both(self):
        """The frames that have both hands."""
        return np.flatnonzero(self.hand_valid.all(1))

    @property
    def some(self):
        """The frames that have a hand."""
        return np.flatnonzero(self.hand_valid.any(1))

    @property
    def every(self):
        return np.arange(self.num_frames)

    def having(self, side):
        return np.flatnonzero(self.hand_valid[:, SIDES.index(side)])

    @property
    def images(self):
        """(N,) names, whose sorted order is the frames' order."""
        return [f"images/frame_{12 + 7 * i:05d}.jpg" for i in range(self.num_frames)]

    @property
    def stems(self):
        return [Path(image).stem for image in self.images]

    def rng(self, salt=0):
        """For what a writer draws itself."""
        return np.random.default_rng([self.seed, salt])

    def local(self, tips="A", hand_models=None):
        """Vertices (N, 2, V, 3) and joints (N, 2, 21, 3) relative to each hand's own wrist."""
        found = [
            pose_hand(
                model,
                self.global_orient[:, h],
                self.hand_pose[:, h],
                self.betas[:, h],
                TIPS[tips][h],
            )
            for h, model in enumerate(hand_models or models())
        ]
        vertices, joints = (np.stack(both, axis=1) for both in zip(*found, strict=True))
        origin = joints[:, :, :1]
        there = self.hand_valid[..., None, None]
        return (vertices - origin) * there, (joints - origin) * there

    def rest_wrists(self, hand_models=None):
        """(N, 2, 3): J0 of both hands."""
        both = hand_models or models()
        return np.stack([rest_wrist(m, self.betas[:, h]) for h, m in enumerate(both)], axis=1)

    def joints(self, tips="A", hand_models=None):
        """(N, 2, 21, 3) camera frame."""
        return self.local(tips, hand_models)[1] + self.wrist[:, :, None]

    def vertices(self, hand_models=None):
        """(N, 2, V, 3) camera frame."""
        return self.local("A", hand_models)[0] + self.wrist[:, :, None]

    def pixels(self, points):
        """(N, 2, J, 2) of points (N, 2, J, 3); NaN where there is no hand."""
        points = np.where(self.hand_valid[..., None, None], points, np.nan)
        return project(self.K[:, None], points)

    def without_mean(self):
        """(N, 2, 45): the finger pose as files hold it that leave the mean out."""
        mean = np.stack([model.pose_mean for model in models()])
        return (self.hand_pose.reshape(-1, 2, 45) - mean) * self.hand_valid[..., None]

    def pca(self, number):
        """(N, 2, number) coefficients; the scene's poses must lie in the components' span."""
        found = np.zeros((self.num_frames, 2, number))
        for h, model in enumerate(models()):
            rows = model.pose_components[:number]
            pose = self.without_mean()[:, h]
            found[:, h] = np.linalg.lstsq(rows.T, pose.T, rcond=None)[0].T
            np.testing.assert_allclose(found[:, h] @ rows, pose, atol=1e-9)
        return found

    def in_world(self):
        """Global orientations (N, 2, 3) and wrists (N, 2, 3) in world axes."""
        R, t = self.T_camera_world[:3, :3], self.T_camera_world[:3, 3]
        there = self.hand_valid[..., None]
        return rotvec(R.T @ rotmat(self.global_orient)) * there, ((self.wrist - t) @ R) * there


PRESENCE = ((1, 1), (1, 1), (1, 0), (0, 1), (0, 0), (1, 1))
"""Both, both, right only, left only, none, both."""


def make_scene(
    seed=0,
    *,
    presence=PRESENCE,
    focal=(1500.0, 1500.0),
    depth=(0.4, 0.8),
    image_size=(1920, 1080),
    principal=(955.0, 546.0),
    components=None,
    zero_betas=False,
    shared_betas=False,
    constant_betas=False,
    varying_camera=False,
):
    """Draw a scene.

    Args:
        seed: of everything drawn.
        presence: a pair (right, left) a frame.
        focal: fx, fy, pixels.
        depth: range of the wrists' distances; ten times both this and the focal lengths is a
            telephoto lens, under which crop cameras tell the truth to a pixel.
        image_size: width, height.
        principal: principal point, off the image's centre.
        components: the finger poses lie in the span of so many principal components.
        zero_betas: average hands.
        shared_betas: the left hand has the right hand's betas.
        constant_betas: one person, so the same betas in all frames.
        varying_camera: every frame has its own K.
    """
    rng = np.random.default_rng(seed)
    valid = np.array(presence, bool)
    number = len(valid)
    pose = np.zeros((number, 2, 45))
    for h, model in enumerate(models()):
        if components is None:
            pose[:, h] = model.pose_mean + 0.15 * rng.normal(size=(number, 45))
        else:
            spread = np.minimum(0.6, 1.5 / np.arange(1, components + 1))
            coefficients = spread * rng.normal(size=(number, components))
            pose[:, h] = model.pose_mean + coefficients @ model.pose_components[:components]

    betas = rng.normal(size=(number, 2, 10)) * (0 if zero_betas else 1)
    if constant_betas:
        betas[:] = betas[0]
    if shared_betas:
        betas[:, 1] = betas[:, 0]

    K = np.zeros((number, 3, 3))
    K[:, 0, 0], K[:, 1, 1], K[:, 2, 2] = *focal, 1
    K[:, :2, 2] = principal
    if varying_camera:
        K[:, :2, 2] += rng.uniform(-20, 20, (number, 2))
        K[:, [0, 1], [0, 1]] *= rng.uniform(0.9, 1.1, (number, 1))

    # The anchor wrist well off the image's centre, the other one a few centimetres from it.
    z = rng.uniform(depth[0], depth[1], number)
    aside = rng.uniform([0.08, 0.05], [0.2, 0.12], (number, 2)) * rng.choice([-1, 1], (number, 2))
    xy = aside * image_size / K[:, [0, 1], [0, 1]] * z[:, None]
    anchor = np.concatenate([xy, z[:, None]], axis=1)
    tau = rng.uniform(0.02, 0.06, (number, 3)) * rng.choice([-1, 1], (number, 3))
    wrist = np.stack([anchor, np.where(valid[:, :1], anchor + tau, anchor)], axis=1)

    T = np.eye(4)
    T[:3, :3] = Rotation.random(rng=rng).as_matrix()
    T[:3, 3] = rng.normal(0, 0.5, 3)
    orient = Rotation.random(2 * number, rng=rng).as_rotvec().reshape(number, 2, 3)
    there = valid[..., None]
    return Scene(
        hand_valid=valid,
        global_orient=orient * there,
        hand_pose=pose.reshape(number, 2, 15, 3) * there[..., None],
        betas=betas * there,
        wrist=wrist * there,
        K=K,
        image_size=tuple(image_size),
        T_camera_world=T,
        seed=seed,
    )


def telephoto(seed=0, **options):
    """The same hands at the same size from ten times as far, so perspective hardly shows."""
    return make_scene(seed, focal=(15000.0, 15000.0), depth=(4.0, 8.0), **options)


# ---- what a perfect reader finds


@dataclass(frozen=True)
class Written:
    """A file and what a perfect reader must find in it; F frames, hands [right, left].

    What is absent or unknown is zero in parameters and positions, NaN in pixels.
    """

    path: Path
    """What to give to the reader."""
    scene_frames: np.ndarray
    """(F,) which frames of the scene the file has, in its order."""
    frame_id: list[str] | None
    """The frames' names as the file spells them (image path, file stem or key), or None: the
    file names none."""
    hand_valid: np.ndarray
    """(F, 2) bool: the hands a perfect reader finds."""
    global_orient: np.ndarray
    """(F, 2, 3) in the axes of `space`."""
    hand_pose: np.ndarray
    """(F, 2, 15, 3), the mean pose included."""
    betas: np.ndarray
    """(F, 2, 10); zeros for formats whose shape is none of MANO's."""
    params_known: bool
    """The file has pose parameters at all; False for joints and meshes."""
    betas_known: np.ndarray
    """(F, 2) bool: `betas` comes back exactly."""
    wrists: np.ndarray
    """(F, 2, 3) wrist positions in `space`."""
    space: str
    """What `wrists` are relative to: 'camera' (the source's own camera `K`), 'world', 'common'
    (one unknown offset for both hands, here the anchor wrist at zero), or 'own' (each hand's
    place is unknown; wrists are zero)."""
    root_exact: bool
    """The anchor's wrist comes back exactly from the file in `space`; False where it is a lift of
    a crop's weak camera (then `pixels` judge) or unknown."""
    relative_known: np.ndarray
    """(F, 3) bool: which components of `relative_transl` are in the file."""
    local_joints: np.ndarray
    """(F, 2, 21, 3) relative to the own wrist, MANO's order, fingertips of the set `tips`."""
    local_vertices: np.ndarray
    """(F, 2, 778, 3) relative to the own wrist."""
    tips: str
    """Fingertip set of `local_joints`, `keypoints` and `pixels`."""
    pixels: np.ndarray | None
    """(F, 2, 21, 2) of the joints by the source's own camera formula from the source's own
    numbers: full image, or the crop if `crop_pixels`."""
    crop_pixels: bool = False
    """The file does not say where its crop lies; pixels are the crop's."""
    keypoints: np.ndarray | None = None
    """(F, 2, 21, 2) pixels that the file itself lists, if it does."""
    confidence: np.ndarray | None = None
    """(F, 2, 21) of `keypoints`; 0 = missing. None: the file has none a joint."""
    K: np.ndarray | None = None
    """(F, 3, 3) of the source's own perspective camera, if it has one."""
    weak: np.ndarray | None = None
    """(F, 2, 3) s, tx, ty of u = s (X + t), X relative to the own wrist, u in [-1, 1] of `crop`."""
    crop: np.ndarray | None = None
    """(F, 2, 3) centre x, y and side of the square of `weak`, pixels."""
    scale: np.ndarray | None = None
    """(F, 2) lengths in the file per metre of `local_joints`, where that is not 1."""
    atol: float = 1e-6
    """What the file's precision allows in radians and metres."""
    lift_px: float = 1e-2
    """Agreement of a reader's reprojection (its camera, its hands) with `pixels` to ask for."""
    options: dict = field(default_factory=dict)
    """What the user must add: image_size, annotations, focal."""
    notes: dict[int, str] = field(default_factory=dict)
    """Frame of the file -> what a reader should tell: 'two right hands', 'two left hands',
    'two people'."""

    @property
    def joints(self):
        """(F, 2, 21, 3) in `space`; zeros for an absent hand."""
        return (self.local_joints + self.wrists[:, :, None]) * self.hand_valid[..., None, None]

    @property
    def vertices(self):
        """(F, 2, 778, 3) in `space`; zeros for an absent hand."""
        return (self.local_vertices + self.wrists[:, :, None]) * self.hand_valid[..., None, None]

    @property
    def root_transl(self):
        """(F, 3): the right wrist, in left-only frames the left one."""
        return np.where(self.hand_valid[:, :1], self.wrists[:, 0], self.wrists[:, 1])

    @property
    def relative_transl(self):
        """(F, 3): left wrist - right wrist where there are both, else zero."""
        both = self.hand_valid.all(1, keepdims=True)
        return (self.wrists[:, 1] - self.wrists[:, 0]) * both


def expected(path, scene, frames, *, hands=(0, 1), tips, **changes):
    """What a file with all there is to know about these frames would give back."""
    frames = np.asarray(frames, int)
    valid: np.ndarray = np.zeros((len(frames), 2), bool)
    valid[:, list(hands)] = scene.hand_valid[frames][:, list(hands)]
    vertices, joints = scene.local(tips)
    pixels = scene.pixels(joints + scene.wrist[:, :, None])[frames]
    here = valid[..., None]
    written = Written(
        path=path,
        scene_frames=frames,
        frame_id=None,
        hand_valid=valid,
        global_orient=scene.global_orient[frames] * here,
        hand_pose=scene.hand_pose[frames] * here[..., None],
        betas=scene.betas[frames] * here,
        params_known=True,
        betas_known=valid,
        wrists=scene.wrist[frames] * here,
        space="camera",
        root_exact=True,
        relative_known=known(valid, (True, True, True)),
        local_joints=joints[frames] * here[..., None],
        local_vertices=vertices[frames] * here[..., None],
        tips=tips,
        pixels=np.where(here[..., None], pixels, np.nan),
        K=scene.K[frames],
    )
    return replace(written, **changes)


def known(written_valid, xyz):
    """(F, 3) bool: these components where there are both hands."""
    return written_valid.all(1)[:, None] & np.array(xyz, bool)


# ---- cameras of crops


def square_round(pixels, *, factor=1.0, aside=(0.0, 0.0)):
    """Centre and side of a square round pixels (..., 2)."""
    flat = pixels.reshape(-1, 2)
    low, high = flat.min(0), flat.max(0)
    side = factor * (high - low).max()
    return (low + high) / 2 + side * np.asarray(aside), side


def fit_weak(points, u):
    """(s, dx, dy) of u = s X + d in least squares; points (J, 3), u (J, 2)."""
    X, mean = points[:, :2], u.mean(0)
    centred = X - X.mean(0)
    s = (centred * (u - mean)).sum() / (centred**2).sum()
    return np.array([s, *(mean - s * X.mean(0))])


CROP, CROP_FOCAL = 256.0, 5000.0


def hmr_translation(pred_cam):
    s, tx, ty = pred_cam
    return np.array([tx, ty, 2 * CROP_FOCAL / (CROP * s + 1e-9)])


def hmr_project(points, pred_cam):
    """HaMeR's crop camera: (J, 2) in [-0.5, 0.5] of the crop."""
    moved = points + hmr_translation(pred_cam)
    return CROP_FOCAL / CROP * moved[:, :2] / moved[:, 2:]


def fit_hmr(points, halves):
    """What a perfect network says: pred_cam that sees points (J, 3) at halves (J, 2)."""
    s, *d = fit_weak(points, 2 * halves)
    start = np.array([s, *(np.array(d) / s)])
    found = least_squares(lambda c: (hmr_project(points, c) - halves).ravel(), start, xtol=1e-15)
    return found.x


def hmr_lift(pred_cam, centre, side, focal, principal):
    """conventions.md section 5, and cam_crop_to_full: MANO's translation in the full image."""
    s, tx, ty = pred_cam
    tz = 2 * focal / (side * s + 1e-9)
    return np.array([*(np.array([tx, ty]) + (centre - principal) * tz / focal), tz])


# ---- files


def plain(thing: Any) -> Any:
    """Arrays to lists, for JSON."""
    if isinstance(thing, dict):
        return {str(key): plain(value) for key, value in thing.items()}
    if isinstance(thing, list | tuple):
        return [plain(value) for value in thing]
    return thing.tolist() if isinstance(thing, np.ndarray | np.generic) else thing


def cast(thing: Any, dtype) -> Any:
    """Every float array in a nest to one precision."""
    if isinstance(thing, dict):
        return {key: cast(value, dtype) for key, value in thing.items()}
    if isinstance(thing, list):
        return [cast(value, dtype) for value in thing]
    floats = isinstance(thing, np.ndarray) and np.issubdtype(thing.dtype, np.floating)
    return thing.astype(dtype) if floats else thing


def boxed(thing):
    """An object array of one entry, which NumPy cannot take apart."""
    box = np.empty((), object)
    box[()] = thing
    return box


def dump(path, thing: Any):
    """Write a nest of dictionaries, lists and arrays as the suffix says.

    .pkl: protocol 4; .npy: one object; .npz: an entry a key (`data` for what is no dictionary);
    .json: lists.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".pkl":
        path.write_bytes(pickle.dumps(thing, protocol=4))
    elif path.suffix == ".json":
        path.write_text(json.dumps(plain(thing)))
    elif path.suffix == ".npy":
        np.save(path, boxed(thing), allow_pickle=True)
    elif path.suffix == ".npz":
        entries = thing if isinstance(thing, dict) else {"data": thing}
        arrays = {k: v if isinstance(v, np.ndarray) else boxed(v) for k, v in entries.items()}
        np.savez(path, **arrays)  # pyright: ignore[reportArgumentType]
    else:
        raise ValueError(path)
    return path
