"""Gradients: right against central differences, finite where geometry degenerates."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from mano_jax.model import Hands, PosedHands
from objectives.problem import Observations, TwoHandParams, posed_hands
from tests.objective_cases import (
    CAMERAS,
    CASES,
    FIELDS,
    FRAMES,
    NAMES,
    Model,
    all_energies,
    as_dtype,
    make_frames,
    make_model,
    names,
    term_gradients,
    values_and_gradients,
)

_STEP = 1e-6


def _perturbations(params: TwoHandParams) -> TwoHandParams:
    """Every coordinate of every field moved up, then down; leading axis (2 * coordinates)."""
    start = {field: np.asarray(getattr(params, field)) for field in FIELDS}
    parts = {field: [] for field in FIELDS}
    for moved, value in start.items():
        n = value[0].size
        steps = _STEP * np.eye(n).reshape(n, 1, *value.shape[1:])
        for field in FIELDS:
            still = np.broadcast_to(start[field], (2 * n, *start[field].shape))
            shift = np.concatenate([steps, -steps]) if field == moved else 0.0
            parts[field].append(still + shift)
    return TwoHandParams(**{f: jnp.asarray(np.concatenate(parts[f])) for f in FIELDS})


@jax.jit
def _pose_many(hands: Hands, params: TwoHandParams, left_anchor: Array) -> PosedHands:
    # In portions: a thousand meshes at once would not fit a small machine's caches.
    return jax.lax.map(lambda p: posed_hands(hands, p, left_anchor), params, batch_size=25)


@jax.jit
def _energies_many(
    model: Model, params: TwoHandParams, posed: PosedHands, observations: Observations
) -> Array:
    return jax.vmap(lambda p, h: all_energies(model, p, h, observations))(params, posed)


@cache
def _posed_perturbations() -> tuple[TwoHandParams, PosedHands]:
    params, observations = make_frames("weak")
    with jax.enable_x64(True):
        moved = _perturbations(params)
        hands = make_model(np.float64).hands
        return moved, _pose_many(hands, moved, observations.left_anchor)


@cache
def _both_gradients(camera: str) -> tuple[np.ndarray, dict, dict]:
    """Energies, and per field the differentiated and the measured gradients (terms, frames, n)."""
    params, observations = make_frames(camera)
    with jax.enable_x64(True):
        model = make_model(np.float64)
        values, gradient = values_and_gradients(model, params, observations)
        energies = np.asarray(_energies_many(model, *_posed_perturbations(), observations))
    exact, measured, start = {}, {}, 0
    for field in FIELDS:
        n = getattr(params, field)[0].size
        up, down = energies[start : start + n], energies[start + n : start + 2 * n]
        measured[field] = np.moveaxis((up - down) / (2 * _STEP), 0, -1)
        exact[field] = np.asarray(getattr(gradient, field)).reshape(measured[field].shape)
        start += 2 * n
    return np.asarray(values), exact, measured


@pytest.mark.parametrize(("camera", "term"), CASES)
def test_gradients_equal_central_differences(camera, term):
    values, exact, measured = _both_gradients(camera)
    i = names(make_frames(camera)[1]).index(term)
    for field in FIELDS:
        for frame in range(FRAMES):
            a, b = exact[field][i, frame], measured[field][i, frame]
            # Where a term does not depend on a field, differences measure rounding only: a few
            # ulps of the energy over the step.
            rounding = 1e-8 * abs(values[i, frame])
            assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(b) + rounding, (field, frame)


@pytest.mark.parametrize("camera", CAMERAS)
def test_keypoints_act_on_their_own_camera(camera):
    _, exact, _ = _both_gradients(camera)
    own = "weak_camera" if camera == "weak" else "root_transl"
    acts = {field for field in FIELDS if np.any(exact[field][0])}
    assert acts == {"global_orient", "hand_pose", "betas", "relative_transl", own}


def test_every_term_acts_on_the_parameters_it_should():
    _, exact, _ = _both_gradients("weak")
    acts = {n: {f for f in FIELDS if np.any(exact[f][i])} for i, n in enumerate(NAMES)}
    placed = {"global_orient", "hand_pose", "betas", "relative_transl"}
    assert acts["joints_3d"] == acts["vertices"] == placed
    assert acts["relative_translation"] == {"relative_transl"}
    assert acts["shape_difference"] == acts["shape_prior"] == {"betas"}
    assert all(acts[n] == {"hand_pose"} for n in NAMES if n.startswith(("limits", "pose")))


def _degenerate(params: TwoHandParams, observations: Observations, model: Model) -> dict:
    """Frames by name, in float32, where an angle, a length or a count is zero or a half turn."""

    def like(field: str, values: np.ndarray) -> TwoHandParams:
        array = jnp.asarray(np.broadcast_to(values, getattr(params, field).shape), jnp.float32)
        return replace(params, **{field: array})

    rest = jax.tree.map(jnp.zeros_like, params)
    rest = replace(rest, root_transl=params.root_transl, weak_camera=params.weak_camera)
    axes = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, -2, 3]], float)
    axes = np.pi * axes / np.linalg.norm(axes, axis=-1, keepdims=True)
    half_turn = replace(
        like("hand_pose", axes[:, None, None]),
        global_orient=like("global_orient", axes[:, None]).global_orient,
    )
    # A quarter turn of azimuth, about the bone's y axis: the left hand's in the mirror.
    mirror = np.array([[[1.0, 1.0, 1.0]], [[1.0, -1.0, -1.0]]])
    azimuth = 0.5 * np.pi * np.asarray(model.limits["bone_aligned"].R_hand_bone)[..., 1] * mirror
    depths = np.array([-0.5, -0.1, 0.0, 0.05, 1e-3])[:, None] * [0.0, 0.0, 1.0]
    turns = np.random.default_rng(7).normal(0.0, 20.0, params.hand_pose.shape)
    confidences = [f for f in Observations.__dataclass_fields__ if f.endswith("_confidence")]
    given = {name: getattr(observations, name) for name in confidences}
    unseen = {name: jnp.zeros_like(value) for name, value in given.items() if value is not None}
    unseen = replace(observations, **unseen)
    if unseen.views is not None:
        scale = jnp.zeros_like(unseen.views.pixel_scale)
        unseen = replace(unseen, views=replace(unseen.views, pixel_scale=scale))
    nobody = replace(unseen, hand_valid=jnp.zeros_like(unseen.hand_valid))
    return {
        "rest": (rest, observations),
        "half turns": (half_turn, observations),
        "gimbal lock": (like("hand_pose", azimuth), observations),
        "opposite gimbal lock": (like("hand_pose", -azimuth), observations),
        "many turns": (like("hand_pose", turns), observations),
        "behind the camera": (like("root_transl", depths), observations),
        "no confidence": (params, unseen),
        "no hands": (params, nobody),
        "no hands at rest": (rest, nobody),
    }


@pytest.mark.parametrize("camera", ["weak", "two_views"])
def test_gradients_are_finite_where_geometry_degenerates(camera):
    model = make_model()
    start, seen = as_dtype(make_frames(camera), np.float32)
    for case, (params, observations) in _degenerate(start, seen, model).items():
        values, gradient = values_and_gradients(model, params, observations)
        assert np.all(np.isfinite(values)), case
        for field in FIELDS:
            finite = np.isfinite(getattr(gradient, field)).reshape(len(values), -1).all(axis=-1)
            assert finite.all(), (
                case,
                field,
                [n for n, ok in zip(names(observations), finite, strict=True) if not ok],
            )
        if case.startswith("no hands"):
            np.testing.assert_array_equal(values, 0.0)


def test_gradients_are_finite_where_all_points_coincide():
    params, observations = as_dtype(make_frames("weak"), np.float32)
    model = make_model()
    points = PosedHands(
        vertices=jnp.full_like(observations.vertices, 0.1),
        joints=jnp.full_like(observations.joints_3d, 0.1),
    )
    _, _, gradient = term_gradients(model, params, points, observations)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))
