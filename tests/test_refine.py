"""The engine's promises: never worse, every frame accounted for, the same to the bit."""

from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmark import make_interactions
from fitting.errors import InputError
from fitting.evaluation import evaluate
from fitting.fit_errors import PENETRATION
from fitting.refine import KEPT_INPUT, REFINED, SKIPPED_INVALID, refine, tile_size
from fitting.strategy import load_strategy, override
from mano_jax.model import pose_joints
from objectives.total import TERMS

PARAMETERS = ("global_orient", "hand_pose", "betas", "relative_transl")


@pytest.fixture(scope="session")
def short():
    """`ihmr` with twenty steps a stage."""
    return override(load_strategy("ihmr"), ["stages.iterations=21"])


@pytest.fixture(scope="session")
def interactions(hands):
    """Truth and predictions of five synthetic frames."""
    return make_interactions(hands, frames=5, seed=11)


@pytest.fixture(scope="session")
def crowd(interactions):
    """Sixty-four different frames made of the five, and a few faults."""
    _, predictions = interactions
    copies = predictions.frames(np.arange(64) % 5)
    rng = np.random.default_rng(0)
    moved = copies.relative_transl + rng.normal(0, 0.003, (64, 3)).astype(np.float32)
    return replace(copies, relative_transl=moved.astype(np.float32))


@pytest.fixture(scope="session")
def one_device(fit, crowd, short):
    """The crowd refined on one device."""
    return fit(crowd, short)


@pytest.fixture(scope="session")
def fit(hands):
    """`refine` on one device: a program is compiled for each number of devices."""
    return partial(refine, hands, devices=jax.devices()[:1])


def same(a, b, frame_a, frame_b):
    """Assert that two results of a frame agree to the bit."""
    for name in (*PARAMETERS, "weak_camera"):
        x, y = getattr(a.predictions, name)[frame_a], getattr(b.predictions, name)[frame_b]
        np.testing.assert_array_equal(x, y, err_msg=f"{name} of {frame_a} and {frame_b}")
    for name in ("energy_before", "energy_after", "status", "transl"):
        np.testing.assert_array_equal(getattr(a, name)[frame_a], getattr(b, name)[frame_b])


def test_fit_errors_are_those_of_the_hands_before_and_after(hands, one_device, interactions, crowd):
    """The deepest vertex is the metric MAX-P; a frame that was kept is as far off as before."""
    truth, given, found = (
        replace(p, frame_id=None)
        for p in (interactions[0].frames(np.arange(64) % 5), crowd, one_device.predictions)
    )
    measured = evaluate(hands, found, truth, before=given, metrics=["max_p"])
    for when, values in (
        ("before", one_device.fit_error_before),
        ("after", one_device.fit_error_after),
    ):
        deepest = values[:, PENETRATION]
        expected = measured.column("max_p", before=when == "before")
        np.testing.assert_allclose(deepest, expected, atol=2e-3)
    refined = one_device.status == REFINED
    np.testing.assert_array_equal(
        one_device.fit_error_before[~refined], one_device.fit_error_after[~refined]
    )


def test_energy_falls_and_never_rises(one_device):
    before, after = one_device.energy_before.sum(1), one_device.energy_after.sum(1)
    assert np.all(after <= before)
    assert one_device.count(REFINED) >= 60
    refined = one_device.status == REFINED
    assert np.mean(after[refined] / before[refined]) < 0.8


def test_alone_and_in_a_crowd_to_the_bit(fit, crowd, short, one_device):
    for frame in (0, 9, 63):
        same(fit(crowd.frames([frame]), short), one_device, 0, frame)


def test_position_and_batch_do_not_matter_to_the_bit(fit, crowd, short, one_device):
    order = np.random.default_rng(1).permutation(64)[:16]
    shuffled = fit(crowd.frames(order), short)
    for position, frame in enumerate(order):
        same(shuffled, one_device, position, frame)


def test_two_devices_to_the_bit(hands, crowd, short, one_device):
    assert len(jax.devices()) == 2
    spread = refine(hands, crowd.frames(slice(0, 24)), short, devices=jax.devices())
    assert spread.provenance["device"].startswith("2 x")
    for frame in range(24):
        same(spread, one_device, frame, frame)


def test_frames_apart_run_together_and_get_the_same(fit, crowd, short, one_device):
    """Whether a tile needs the surface at all changes nothing in its frames."""
    apart = np.array([0, 0, 0.5], np.float32)
    mixed = crowd.relative_transl.copy()
    mixed[1:16:2] += apart
    result = fit(replace(crowd, relative_transl=mixed).frames(slice(0, 16)), short)
    for frame in range(0, 16, 2):
        same(result, one_device, frame, frame)
    alone = fit(replace(crowd, relative_transl=mixed).frames(slice(1, 2)), short)
    same(alone, result, 0, 1)


def test_a_broken_neighbour_changes_nothing(fit, crowd, short, one_device):
    arrays = {name: getattr(crowd, name)[:8].copy() for name in PARAMETERS}
    arrays["global_orient"][3] = np.nan
    arrays["hand_pose"][3] = np.inf
    broken = replace(crowd.frames(slice(0, 8)), **arrays)
    result = fit(broken, short)
    assert result.status[3] == SKIPPED_INVALID and "not finite" in result.reason[3]
    assert np.isnan(result.energy_before[3]).all()
    for name in PARAMETERS:  # The frame comes back as it was, NaN included.
        np.testing.assert_array_equal(getattr(result.predictions, name)[3], arrays[name][3])
    for frame in (0, 1, 2, 4, 5, 6, 7):
        same(result, one_device, frame, frame)


def test_a_frame_that_would_get_worse_is_kept(fit, interactions, short):
    """Judged by an energy that the stages know nothing of, frames get worse, and are kept."""
    _, predictions = interactions
    result = fit(predictions, override(short, ["report_weights={shape_prior=1, joints_3d=1}"]))
    kept = result.status == KEPT_INPUT
    assert kept.any()
    assert all("would have risen" in reason for reason in result.reason[kept])
    assert np.all(result.energy_after.sum(1) <= result.energy_before.sum(1))
    np.testing.assert_array_equal(result.energy_before[kept], result.energy_after[kept])
    for name in PARAMETERS:
        x, y = getattr(result.predictions, name), getattr(predictions, name)
        np.testing.assert_array_equal(x[kept], y[kept])


def test_no_wild_step_ever_gives_a_number_that_is_not(fit, interactions, short):
    result = fit(interactions[1], override(short, ["stages.step_sizes.shape=1e30"]))
    assert all(np.isfinite(getattr(result.predictions, name)).all() for name in PARAMETERS)
    assert np.isfinite(result.energy_after).all()


def test_held_groups_stay_to_the_bit(fit, interactions, short):
    _, predictions = interactions
    only_shape = replace(short, stages=short.stages[-1:])
    result = fit(predictions, only_shape).predictions
    for name in ("global_orient", "hand_pose", "relative_transl", "weak_camera"):
        np.testing.assert_array_equal(getattr(result, name), getattr(predictions, name))
    assert np.any(result.betas != predictions.betas)


def test_one_handed_frames_keep_their_absent_hand(fit, interactions, short):
    _, predictions = interactions
    valid = predictions.hand_valid.copy()
    valid[0], valid[1] = [True, False], [False, True]
    tau = np.where(valid.all(1)[:, None], predictions.relative_transl, 0).astype(np.float32)
    # The weak camera refers to the anchor: the left wrist, where there is no right hand.
    camera = predictions.weak_camera.copy()
    camera[1, 1:] += predictions.relative_transl[1, :2]
    lone = replace(predictions, hand_valid=valid, relative_transl=tau, weak_camera=camera)
    result = fit(lone, short)
    for frame, absent in ((0, 1), (1, 0)):
        for name in ("global_orient", "hand_pose", "betas"):
            x, y = getattr(result.predictions, name), getattr(predictions, name)
            np.testing.assert_array_equal(x[frame, absent], y[frame, absent])
        moved = [
            np.any(getattr(result.predictions, n)[frame] != getattr(predictions, n)[frame])
            for n in ("global_orient", "hand_pose", "betas")
        ]
        assert any(moved)
        assert not result.predictions.relative_transl[frame].any()
        assert not result.transl[frame, absent].any()
        terms = list(TERMS)
        for two_hand_term in ("collision", "relative_translation", "shape_difference"):
            assert result.energy_after[frame, terms.index(two_hand_term)] == 0
    assert result.status[:2].tolist() == [REFINED, REFINED]


def test_one_handed_frames_mirror(fit, interactions, short):
    """A left hand is refined as the mirror image of a right one."""
    _, predictions = interactions
    valid = np.tile([True, False], (5, 1))
    zero = np.zeros((5, 3), np.float32)
    right = replace(predictions, hand_valid=valid, relative_transl=zero)
    flip = np.array([1, -1, -1], np.float32)

    def swapped(array, factors):
        return (np.asarray(array)[:, ::-1] * np.asarray(factors, np.float32)).copy()

    left = replace(
        right,
        hand_valid=valid[:, ::-1].copy(),
        global_orient=swapped(right.global_orient, flip),
        hand_pose=swapped(right.hand_pose, flip),
        betas=swapped(right.betas, 1),
        weak_camera=right.weak_camera * np.array([1, -1, 1], np.float32),
        keypoints_2d=swapped(right.keypoints_2d, [-1, 1, 1]),
        joints_3d=swapped(right.joints_3d, [-1, 1, 1, 1]),
    )
    a, b = (fit(p, short).predictions for p in (right, left))
    np.testing.assert_allclose(b.global_orient[:, 1], a.global_orient[:, 0] * flip, atol=1e-5)
    np.testing.assert_allclose(b.hand_pose[:, 1], a.hand_pose[:, 0] * flip, atol=1e-5)
    np.testing.assert_allclose(b.betas[:, 1], a.betas[:, 0], atol=1e-5)


def test_transl_puts_the_hands_where_they_are(hands, one_device):
    """MANO's translation reproduces the relative translation of the wrists."""
    p = one_device.predictions
    joints = jax.jit(pose_joints)(
        hands,
        global_orient=jnp.asarray(p.global_orient),
        hand_pose=jnp.asarray(p.hand_pose),
        betas=jnp.asarray(p.betas),
        transl=jnp.asarray(one_device.transl),
    )
    wrists = np.asarray(joints[..., 0, :])
    np.testing.assert_allclose(wrists[:, 1] - wrists[:, 0], p.relative_transl, atol=1e-6)
    np.testing.assert_allclose(wrists[:, 0], 0, atol=1e-6)


def test_result_names_and_shapes_are_canonical(one_device):
    arrays = one_device.arrays()
    assert arrays["energy_before"].shape == (64, len(TERMS))
    assert arrays["energy_terms"].tolist() == list(TERMS)
    assert arrays["status"].dtype == np.uint8
    assert arrays["status_names"].tolist() == ["refined", "kept_input", "skipped_invalid"]
    assert '"tile_size"' in str(arrays["provenance"]) and "[[stages]]" in str(arrays["strategy"])


def test_numbers_do_not_compile_anew(fit, interactions, short):
    """Neither weights nor step sizes nor the length of a stage."""
    _, predictions = interactions
    fit(predictions, short)
    changed = override(
        short,
        ["finger_pose.weights.collision=2", "shape.step_sizes.shape=0.02", "shape.iterations=11"],
    )
    with count_compilations() as compilations:
        fit(predictions, changed)
        assert not compilations
        # The counter counts: a program that nobody has compiled yet.
        jax.jit(lambda x: 3.25 * x - 1)(jnp.ones(7))
        assert compilations


@contextmanager
def count_compilations():
    """A list that grows with every program compiled inside the `with` block."""
    compilations, counting = [], [True]

    def listen(event: str, duration_secs: float, **_):
        if counting and event == "/jax/core/compile/backend_compile_duration":
            compilations.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield compilations
    # JAX has no public way to take a listener back.
    counting.clear()


def test_without_3d_joints_frames_are_refined_by_their_keypoints(fit, interactions, short):
    _, predictions = interactions
    flat = replace(predictions, joints_3d=None)
    result = fit(flat, short)
    assert result.count(REFINED) >= 4
    terms = list(TERMS)
    assert result.energy_after[:, terms.index("joints_3d")].max() == 0
    column = terms.index("keypoints_2d")
    assert result.energy_after[:, column].mean() < 0.9 * result.energy_before[:, column].mean()


def test_tiles_are_constants():
    assert tile_size(jax.devices()[0]) == 8


def test_the_full_method_on_synthetic_interactions(hands, fit):
    """The one full-length run, sixteen frames: penetration gone, error much lower."""
    truth, predictions = make_interactions(hands, frames=16, seed=1)
    result = fit(predictions, "ihmr")
    metrics = ("ave_p", "i_mpjpe", "mpvpe")
    found = evaluate(hands, result.predictions, truth, before=predictions, metrics=metrics)
    for key, share in zip(metrics, (0.1, 0.7, 0.7), strict=True):
        assert found.column(key).mean() < share * found.column(key, before=True).mean()
    assert np.all(result.energy_after.sum(1) <= result.energy_before.sum(1))


def test_mesh_targets_are_not_passed_off_as_the_fitted_mesh(fit, interactions, short):
    _, predictions = interactions
    targets = np.zeros((5, 2, 778, 3), np.float32)
    result = fit(replace(predictions, vertices=targets), short)
    assert "vertices" not in result.arrays()


def test_a_term_without_weight_spoils_nothing(fit, interactions, short):
    _, predictions = interactions
    absurd = np.full((5, 2, 778, 3), 1e30, np.float32)
    plain, beside = fit(predictions, short), fit(replace(predictions, vertices=absurd), short)
    usable = beside.status != SKIPPED_INVALID
    assert np.isfinite(beside.energy_after[usable]).all()
    np.testing.assert_array_equal(beside.energy_after[usable], plain.energy_after[usable])


def test_limits_from_pose_samples_need_them(hands, interactions, short):
    bare = replace(hands, pose_samples=None)
    with pytest.raises(InputError, match="pose samples"):
        refine(bare, interactions[1], override(short, ["angle_frame=pose_samples"]))
