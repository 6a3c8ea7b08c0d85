"""Gradients: right against central differences, finite where geometry degenerates."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mano_jax.model import PosedHands
from objectives.problem import TwoHandParams
from tests.objective_cases import (
    CAMERAS,
    FIELDS,
    FRAMES,
    NAMES,
    all_energies,
    as_dtype,
    evaluate,
    gradients,
    make_frames,
    make_model,
    values_and_gradients,
)

_STEP = 1e-6


def _perturbations(params: TwoHandParams, field: str) -> TwoHandParams:
    """Every coordinate of one field moved up, then down; leading axis (2 * coordinates)."""
    value = getattr(params, field)
    coordinates = value[0].size
    steps = _STEP * np.eye(coordinates).reshape(coordinates, 1, *value.shape[1:])
    moved = np.concatenate([value + steps, value - steps])
    tiled = jax.tree.map(lambda x: np.broadcast_to(x, (2 * coordinates, *x.shape)), params)
    return replace(tiled, **{field: moved})


@pytest.fixture(scope="module", params=CAMERAS)
def both_gradients(request) -> tuple[np.ndarray, dict, dict]:
    """Energies, and per field the differentiated and the measured gradients (terms, frames, n)."""
    params, observations = make_frames(request.param)
    with jax.enable_x64(True):
        model, seen = make_model(np.float64), as_dtype(observations)
        values, gradient = values_and_gradients(model, as_dtype(params), seen)
        fields = [_perturbations(params, field) for field in FIELDS]
        every = jax.tree.map(lambda *leaves: np.concatenate(leaves), *fields)
        # Mapped one by one: a few hundred posed meshes at once would not fit a small cache.
        energies = jax.jit(
            lambda batch: jax.lax.map(lambda p: evaluate(model, p, seen), batch, batch_size=16)
        )(as_dtype(every))
        energies = np.asarray(energies)
    measured, start = {}, 0
    for field in FIELDS:
        n = getattr(params, field)[0].size
        up, down = energies[start : start + n], energies[start + n : start + 2 * n]
        measured[field] = np.moveaxis((up - down) / (2 * _STEP), 0, -1)
        start += 2 * n
    shape = (len(NAMES), FRAMES, -1)
    exact = {field: np.asarray(getattr(gradient, field)).reshape(shape) for field in FIELDS}
    return np.asarray(values), exact, measured


@pytest.mark.parametrize("term", range(len(NAMES)), ids=NAMES)
def test_gradients_equal_central_differences(both_gradients, term):
    values, exact, measured = both_gradients
    for field in FIELDS:
        for frame in range(FRAMES):
            a, b = exact[field][term, frame], measured[field][term, frame]
            # Where a term does not depend on a field, differences measure rounding only: a few
            # ulps of the energy over the step.
            rounding = 1e-8 * abs(values[term, frame])
            assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(b) + rounding, (field, frame)


def test_every_term_acts_on_the_parameters_it_should(both_gradients):
    _, exact, _ = both_gradients
    acts = {n: {f for f in FIELDS if np.any(exact[f][i])} for i, n in enumerate(NAMES)}
    placed = {"global_orient", "hand_pose", "betas", "relative_transl"}
    assert acts["keypoints_2d"] in (placed | {"weak_camera"}, placed | {"root_transl"})
    assert acts["joints_3d"] == acts["vertices"] == placed
    assert acts["relative_translation"] == {"relative_transl"}
    assert acts["shape_difference"] == acts["shape_prior"] == {"betas"}
    assert all(acts[n] == {"hand_pose"} for n in NAMES if n.startswith(("limits", "pose")))


def _degenerate(params: TwoHandParams, observations, model) -> dict:
    rng = np.random.default_rng(7)
    axes = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, -2, 3]], float)
    axes = np.pi * axes / np.linalg.norm(axes, axis=-1, keepdims=True)
    rest = jax.tree.map(np.zeros_like, params)
    rest = replace(rest, root_transl=params.root_transl, weak_camera=params.weak_camera)
    half_turn = replace(
        params,
        global_orient=np.broadcast_to(axes[:, None], params.global_orient.shape),
        hand_pose=np.broadcast_to(axes[:, None, None], params.hand_pose.shape),
    )
    bone_y = np.asarray(model.limits["bone_aligned"].R_hand_bone)[..., :, 1] * [
        [[1.0, 1.0, 1.0]],
        [[1.0, -1.0, -1.0]],
    ]
    gimbal = replace(params, hand_pose=np.broadcast_to(0.5 * np.pi * bone_y, (FRAMES, 2, 15, 3)))
    opposite = replace(gimbal, hand_pose=-gimbal.hand_pose)
    depths = np.array([-0.5, -0.1, 0.0, 0.05, 1e-3])
    behind = replace(params, root_transl=np.stack([0 * depths, 0 * depths, depths], axis=-1))
    unseen = replace(
        observations,
        **{
            name: np.zeros_like(getattr(observations, name))
            for name in ("keypoints_2d_confidence", "joints_3d_confidence", "vertices_confidence")
        },
    )
    if unseen.views is not None:
        scale = np.zeros_like(unseen.views.pixel_scale)
        unseen = replace(unseen, views=replace(unseen.views, pixel_scale=scale))
    nobody = replace(unseen, hand_valid=np.zeros_like(unseen.hand_valid))
    far = replace(params, hand_pose=rng.normal(0.0, 20.0, params.hand_pose.shape))
    return {
        "rest": (rest, observations),
        "half turns": (half_turn, observations),
        "gimbal lock": (gimbal, observations),
        "opposite gimbal lock": (opposite, observations),
        "many turns": (far, observations),
        "behind the camera": (behind, observations),
        "no confidence": (params, unseen),
        "no hands": (params, nobody),
        "no hands at rest": (rest, nobody),
    }


@pytest.mark.parametrize("camera", ["weak", "two_views"])
def test_gradients_are_finite_where_geometry_degenerates(camera):
    model = make_model()
    for case, (params, observations) in _degenerate(*make_frames(camera), model).items():
        values, gradient = values_and_gradients(
            model, as_dtype(params, np.float32), as_dtype(observations, np.float32)
        )
        assert np.all(np.isfinite(values)), case
        for field in FIELDS:
            finite = np.isfinite(getattr(gradient, field)).reshape(len(NAMES), -1).all(axis=-1)
            assert finite.all(), (
                case,
                field,
                [n for n, ok in zip(NAMES, finite, strict=True) if not ok],
            )
        if case.startswith("no hands"):
            np.testing.assert_array_equal(values, 0.0)


def test_gradients_are_finite_where_all_points_coincide():
    params, observations = make_frames("weak")
    model = make_model()
    params, observations = as_dtype(params, np.float32), as_dtype(observations, np.float32)
    points = PosedHands(
        vertices=jnp.full_like(observations.vertices, 0.1),
        joints=jnp.full_like(observations.joints_3d, 0.1),
    )
    _, gradient = jax.jit(
        lambda posed: gradients(lambda h: all_energies(model, params, h, observations), posed)
    )(points)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))
