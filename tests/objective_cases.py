"""Every term of the objective, and frames to evaluate it on: shared by the `test_objectives_*`.

A new term is one line of `TERMS` (and one loop in `test_objectives_values.py`).
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from mano_jax.model import HandModel, Hands, PosedHands, two_hands
from mano_jax.rotations import mirror_axis_angle
from objectives import (
    fingers,
    joint_limits,
    keypoints,
    mesh_targets,
    pose_prior,
    relative_translation,
    shape,
)
from objectives.problem import Observations, PerspectiveViews, TwoHandParams, posed_hands
from objectives.robust import Kernel


class Model(NamedTuple):
    """The hands and the records that are made from them once."""

    hands: Hands
    limits: dict[str, joint_limits.JointLimits]
    prior: pose_prior.PosePrior


class Term(NamedTuple):
    """A term as functions of (model, params, posed, observations)."""

    energy: Callable[[Model, TwoHandParams, PosedHands, Observations], Array]
    residual: Callable[[Model, TwoHandParams, PosedHands, Observations], Array] | None = None
    kernel: Kernel = "squared"


def _limits(frame: str) -> Term:
    return Term(
        lambda m, p, h, o: joint_limits.joint_limit_energy(
            m.limits[frame], p.hand_pose, o.hand_valid
        )
    )


TERMS: dict[str, Term] = {
    "keypoints_2d": Term(
        lambda m, p, h, o: keypoints.keypoints_2d_energy(p, h.joints, o),
        lambda m, p, h, o: keypoints.keypoints_2d_residual(p, h.joints, o),
        "absolute",
    ),
    "joints_3d": Term(
        lambda m, p, h, o: keypoints.joints_3d_energy(h.joints, o),
        lambda m, p, h, o: keypoints.joints_3d_residual(h.joints, o),
    ),
    "relative_translation": Term(
        lambda m, p, h, o: relative_translation.relative_translation_energy(p, o),
        lambda m, p, h, o: relative_translation.relative_translation_residual(p, o),
    ),
    "shape_difference": Term(
        lambda m, p, h, o: shape.shape_difference_energy(p.betas, o.hand_valid),
        lambda m, p, h, o: shape.shape_difference_residual(p.betas, o.hand_valid),
    ),
    "finger_twist": Term(lambda m, p, h, o: fingers.finger_twist_energy(h.joints, o.hand_valid)),
    "limits_axis_angle": _limits("axis_angle"),
    "limits_bone_aligned": _limits("bone_aligned"),
    "limits_pose_samples": _limits("pose_samples"),
    "bone_scale": Term(
        lambda m, p, h, o: shape.bone_scale_energy(h.joints, o.hand_valid),
        lambda m, p, h, o: shape.bone_scale_residual(h.joints, o.hand_valid),
    ),
    "shape_prior": Term(
        lambda m, p, h, o: shape.shape_prior_energy(p.betas, o.hand_valid),
        lambda m, p, h, o: shape.shape_prior_residual(p.betas, o.hand_valid),
    ),
    "pose_prior": Term(
        lambda m, p, h, o: pose_prior.pose_prior_energy(m.prior, p.hand_pose, o.hand_valid),
        lambda m, p, h, o: pose_prior.pose_prior_residual(m.prior, p.hand_pose, o.hand_valid),
    ),
    "vertices": Term(
        lambda m, p, h, o: mesh_targets.vertices_energy(h.vertices, o),
        lambda m, p, h, o: mesh_targets.vertices_residual(h.vertices, o),
    ),
}
NAMES = tuple(TERMS)
CAMERAS = ("weak", "perspective", "two_views")
CAMERA_TERMS = ("keypoints_2d",)
"""Those that see the camera: the others are evaluated beside the weak one only."""
CASES = [(c, n) for c in CAMERAS for n in (NAMES if c == "weak" else CAMERA_TERMS)]
"""Every camera with its terms."""
FIELDS = tuple(TwoHandParams.__dataclass_fields__)
FRAMES = 5
WIDTH = 640.0
"""Of the perspective images, pixels."""


@cache
def embedded_right_model() -> HandModel:
    """The embedded right hand, straight from its file."""
    with np.load(str(files("mano_jax") / "data" / "embedded_hand.npz")) as data:
        array = {k: data[k].astype(np.float64) for k in data.files if k != "f"}
        faces = data["f"].astype(np.int64)
    samples = array["hands_coeffs"] @ array["hands_components"] + array["hands_mean"]
    return HandModel(
        side="right",
        v_template=array["v_template"],
        shapedirs=array["shapedirs"],
        posedirs=array["posedirs"],
        J_regressor=array["J_regressor"],
        lbs_weights=array["weights"],
        faces=faces,
        pose_mean=array["hands_mean"],
        pose_components=array["hands_components"],
        pose_samples=samples,
    )


@cache
def make_model(dtype: type = np.float32) -> Model:
    """Both embedded hands."""
    with jax.enable_x64(dtype == np.float64):
        hands = two_hands(embedded_right_model(), dtype=jnp.dtype(dtype))
        make = jax.jit(joint_limits.joint_limits, static_argnums=1)
        limits = {frame: make(hands, frame) for frame in joint_limits.ANGLE_FRAMES}
        return Model(hands, limits, pose_prior.pose_prior(hands))


@cache
def make_frames(camera: str) -> tuple[TwoHandParams, Observations]:
    """Five frames, in float64 (see `as_dtype`).

    0 everything seen; 1 joints, vertices and the anchor wrist missing; 2 only a right hand;
    3 only a left hand; 4 both hands, the left wrist missing. Poses break the joint limits, and no
    frame sits at a kink. Parameters are the same for every camera.
    """
    rng = np.random.default_rng(0)
    hand_valid = np.array([[1, 1], [1, 1], [1, 0], [0, 1], [1, 1]], bool)
    with jax.enable_x64(True):
        hands = make_model(np.float64).hands
        params = _random_params(rng, np.asarray(hands.pose_mean), hand_valid)
        bare = Observations(
            hand_valid=jnp.asarray(hand_valid),
            left_anchor=jnp.array([False, False, False, True, False]),
            views=None if camera == "weak" else _views(rng, 1 if camera == "perspective" else 2),
        )
        posed = pose(hands, params, bare.left_anchor)
        image = jax.jit(keypoints.project)(params, posed.joints, bare)
        noise_2d = 0.05 if camera == "weak" else 6.0
        joints_confidence = _confidence(rng, posed.joints.shape[:-1], hand_valid[:, :, None])
        # Wrists seen and unseen: frame 1 lacks the anchor's target, frame 4 the other one.
        joints_confidence[:, :, 0] = [[0.9, 0.4], [0.0, 0.7], [0.6, 0.0], [0.0, 0.5], [0.7, 0.0]]
        both = hand_valid[:, None, :, None]
        seen = {
            "keypoints_2d": image + noise_2d * rng.normal(size=image.shape),
            "keypoints_2d_confidence": _confidence(rng, image.shape[:-1], both),
            "joints_3d": posed.joints
            + 0.02 * rng.normal(size=posed.joints.shape)
            + rng.normal(size=3),
            "joints_3d_confidence": joints_confidence,
            "vertices": posed.vertices
            + 0.005 * rng.normal(size=posed.vertices.shape)
            + rng.normal(size=3),
            "vertices_confidence": _confidence(
                rng, posed.vertices.shape[:-1], hand_valid[:, :, None]
            ),
        }
        return params, replace(bare, **{name: jnp.asarray(x) for name, x in seen.items()})


def _random_params(
    rng: np.random.Generator, pose_mean: np.ndarray, hand_valid: np.ndarray
) -> TwoHandParams:
    """Two hands beside each other; an absent one holds zeros, and so does tau beside it."""
    there = hand_valid[:, :, None]
    tau = np.array([0.09, 0.02, -0.03]) + rng.normal(0.0, 0.03, (FRAMES, 3))
    pose = pose_mean + rng.normal(0.0, 0.3, (FRAMES, 2, 15, 3))
    root = np.array([0.05, -0.02, 0.6]) + rng.normal(0.0, 0.02, (FRAMES, 3))
    camera = np.array([5.0, 0.02, -0.03]) + rng.normal(0.0, 0.02, (FRAMES, 3))
    return TwoHandParams(
        global_orient=jnp.asarray(rng.normal(0.0, 0.7, (FRAMES, 2, 3)) * there),
        hand_pose=jnp.asarray(pose * there[..., None]),
        betas=jnp.asarray(rng.normal(0.0, 1.0, (FRAMES, 2, 10)) * there),
        relative_transl=jnp.asarray(tau * np.all(hand_valid, axis=1, keepdims=True)),
        root_transl=jnp.asarray(root),
        weak_camera=jnp.asarray(camera),
    )


def _confidence(rng: np.random.Generator, shape: tuple[int, ...], there: np.ndarray) -> np.ndarray:
    """Three in ten points missing from every frame but the first, and all of an absent hand."""
    kept = rng.uniform(size=shape) < 0.7
    kept[0] = True
    return rng.uniform(0.2, 1.0, shape) * (kept & there)


def _views(rng: np.random.Generator, count: int) -> PerspectiveViews:
    """One plain view, or two of which both distort and the second stands aside."""
    K = np.tile([[500.0, 3.0, 310.0], [0.0, 520.0, 250.0], [0.0, 0.0, 1.0]], (FRAMES, count, 1, 1))
    K[..., 0, 2] += rng.normal(0.0, 10.0, (FRAMES, count))
    T = np.tile(np.eye(4), (FRAMES, count, 1, 1))
    cosine, sine = np.cos(0.5), np.sin(0.5)
    T[:, 1:, :3, :3] = [[cosine, 0.0, sine], [0.0, 1.0, 0.0], [-sine, 0.0, cosine]]
    T[:, 1:, :3, 3] = [-0.3, 0.02, 0.1]
    coefficients = np.array([0.1, -0.05, 0.004, -0.003, 0.01, 0.02, -0.01, 0.003, *[2e-3] * 4])
    distortion = coefficients * rng.uniform(0.5, 1.0, (FRAMES, count, 12))
    return PerspectiveViews(
        K=jnp.asarray(K),
        distortion=jnp.asarray(distortion if count > 1 else distortion[..., :0]),
        T_view_camera=jnp.asarray(T),
        pixel_scale=jnp.asarray(rng.uniform(80.0, 120.0, (FRAMES, count))),
    )


def as_dtype(tree, dtype: type):
    """A record with its floats in the dtype asked for."""

    def cast(x: Array) -> Array:
        return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) and x.dtype != dtype else x

    return jax.tree.map(cast, tree)


def names(observations: Observations) -> tuple[str, ...]:
    """Terms that are evaluated on these frames."""
    return NAMES if observations.views is None else CAMERA_TERMS


def all_energies(
    model: Model, params: TwoHandParams, posed: PosedHands, observations: Observations
) -> Array:
    """The terms `names(observations)`, (terms, frames)."""
    terms = [TERMS[name] for name in names(observations)]
    return jnp.stack([term.energy(model, params, posed, observations) for term in terms])


def values_and_gradients(
    model: Model, params: TwoHandParams, observations: Observations
) -> tuple[Array, TwoHandParams]:
    """Energies (terms, frames), and their gradients: fields of shape (terms, frames, ...).

    The chain rule is cut at the posed hands, so that posing compiles once for all cameras.
    """
    posed = pose(model.hands, params, observations.left_anchor)
    values, direct, through = term_gradients(model, params, posed, observations)
    rest = _pull_pose(model.hands, params, observations.left_anchor, through)
    return values, jax.tree.map(jnp.add, direct, rest)


pose = jax.jit(posed_hands)


@jax.jit
def term_gradients(
    model: Model, params: TwoHandParams, posed: PosedHands, observations: Observations
) -> tuple[Array, TwoHandParams, PosedHands]:
    """Energies, and each term's gradient (a leading axis of terms) to parameters and points."""
    values, pull = jax.vjp(lambda p, h: all_energies(model, p, h, observations), params, posed)
    eye = jnp.eye(values.shape[0], dtype=values.dtype)
    cotangents = jnp.broadcast_to(eye[:, :, None], (*eye.shape, values.shape[1]))
    return values, *jax.vmap(pull)(cotangents)


@jax.jit
def _pull_pose(
    hands: Hands, params: TwoHandParams, left_anchor: Array, cotangents: PosedHands
) -> TwoHandParams:
    _, pull = jax.vjp(lambda p: posed_hands(hands, p, left_anchor), params)
    return jax.vmap(lambda cotangent: pull(cotangent)[0])(cotangents)


def mirrored_params(params: TwoHandParams) -> TwoHandParams:
    """The same two hands in a mirror: right becomes left."""
    flip = jnp.array([-1.0, 1.0, 1.0], params.betas.dtype)
    return TwoHandParams(
        global_orient=mirror_axis_angle(params.global_orient[..., ::-1, :]),
        hand_pose=mirror_axis_angle(params.hand_pose[..., ::-1, :, :]),
        betas=params.betas[..., ::-1, :],
        # Left minus right: the hands swap, and so does the sign, except along the mirrored axis.
        relative_transl=-params.relative_transl * flip,
        root_transl=params.root_transl * flip,
        weak_camera=params.weak_camera * jnp.array([1.0, -1.0, 1.0], flip.dtype),
    )


def mirrored_observations(o: Observations) -> Observations:
    """What is seen of the mirrored frame."""
    # `make_frames` gives targets of every kind.
    assert o.keypoints_2d is not None and o.keypoints_2d_confidence is not None
    assert o.joints_3d is not None and o.joints_3d_confidence is not None
    assert o.vertices is not None and o.vertices_confidence is not None
    dtype = o.joints_3d.dtype
    flip = jnp.array([-1.0, 1.0, 1.0], dtype)
    image = o.keypoints_2d[..., ::-1, :, :] * flip[:2]
    views = o.views
    if views is not None:
        image = image + jnp.array([WIDTH, 0.0], dtype)
        # u' = WIDTH - u: the skew and the principal point turn, and so does every distortion
        # coefficient that is odd in x (p2, s1, s2).
        K = views.K.at[..., 0, 1].multiply(-1.0)
        K = K.at[..., 0, 2].set(WIDTH - K[..., 0, 2])
        odd = jnp.array([1, 1, 1, -1, 1, 1, 1, 1, -1, -1, 1, 1], dtype)
        M = jnp.array([-1.0, 1.0, 1.0, 1.0], dtype)
        views = PerspectiveViews(
            K=K,
            distortion=views.distortion * odd[: views.distortion.shape[-1]],
            T_view_camera=views.T_view_camera * M[:, None] * M,
            pixel_scale=views.pixel_scale,
        )
    return Observations(
        hand_valid=o.hand_valid[..., ::-1],
        left_anchor=~o.left_anchor,
        keypoints_2d=image,
        keypoints_2d_confidence=o.keypoints_2d_confidence[..., ::-1, :],
        views=views,
        joints_3d=o.joints_3d[..., ::-1, :, :] * flip,
        joints_3d_confidence=o.joints_3d_confidence[..., ::-1, :],
        vertices=o.vertices[..., ::-1, :, :] * flip,
        vertices_confidence=o.vertices_confidence[..., ::-1, :],
    )
