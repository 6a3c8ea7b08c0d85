"""Metrics against loops and against cases that can be worked out by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from fitting.metrics import ave_p, i_mpjpe, max_p, mpjpe, mpvpe

BOTH, RIGHT_ONLY, LEFT_ONLY, NONE = [True, True], [True, False], [False, True], [False, False]


@pytest.fixture
def joints():
    rng = np.random.default_rng(3)
    return rng.normal(0, 0.05, (2, 4, 2, 21, 3))


@pytest.fixture
def hand_valid():
    return np.array([BOTH, RIGHT_ONLY, LEFT_ONLY, NONE])


def test_mpjpe_against_loops(joints, hand_valid):
    predicted, truth = joints
    found = mpjpe(predicted, truth, hand_valid)
    for frame in range(4):
        errors = []
        for hand in range(2):
            if not hand_valid[frame, hand]:
                continue
            for joint in range(21):
                a = predicted[frame, hand, joint] - predicted[frame, hand, 0]
                b = truth[frame, hand, joint] - truth[frame, hand, 0]
                errors.append(1000 * np.sqrt(np.sum((a - b) ** 2)))
        if errors:
            assert found[frame] == pytest.approx(np.mean(errors))
        else:
            assert np.isnan(found[frame])


def test_i_mpjpe_against_loops(joints, hand_valid):
    predicted, truth = joints
    found = i_mpjpe(predicted, truth, hand_valid)
    errors = []
    for hand in range(2):
        for joint in range(21):
            a = predicted[0, hand, joint] - predicted[0, 0, 0]
            b = truth[0, hand, joint] - truth[0, 0, 0]
            errors.append(1000 * np.sqrt(np.sum((a - b) ** 2)))
    assert found[0] == pytest.approx(np.mean(errors))
    assert np.isnan(found[1:]).all()


def test_a_hand_that_is_moved_as_a_whole(joints):
    truth = joints[0, :1]
    moved = truth.copy()
    moved[:, 1] += [0.03, 0.0, 0.04]
    valid = np.array([BOTH])
    # Each hand by itself is right; the left one is 50 mm off, so half of the joints are.
    assert mpjpe(moved, truth, valid) == pytest.approx(0.0, abs=1e-9)
    assert i_mpjpe(moved, truth, valid) == pytest.approx(25.0)
    both_moved = truth + np.array([0.2, -0.1, 0.7])
    assert i_mpjpe(both_moved, truth, valid) == pytest.approx(0.0, abs=1e-9)


def test_missing_true_joints_do_not_count(joints):
    truth = joints[0, :1]
    predicted = truth.copy()
    predicted[0, 0, 5] += [0.021, 0.0, 0.0]
    valid, there = np.array([BOTH]), np.ones((1, 2, 21), bool)
    assert mpjpe(predicted, truth, valid, there) == pytest.approx(21 / 42)
    there[0, 1, 1:3] = False
    assert mpjpe(predicted, truth, valid, there) == pytest.approx(21 / 40)
    # Without its wrist a hand cannot be aligned.
    there[0, 1, 0] = False
    assert mpjpe(predicted, truth, valid, there) == pytest.approx(21 / 21)
    there[0, 0, 0] = False
    assert np.isnan(mpjpe(predicted, truth, valid, there)).all()


def test_interacting_error_needs_the_right_wrist(joints):
    there = np.ones((1, 2, 21), bool)
    there[0, 0, 0] = False
    valid = np.array([BOTH])
    assert np.isnan(i_mpjpe(joints[0, :1], joints[1, :1], valid, there)).all()


def test_absent_hands_may_hold_nan(joints):
    predicted, truth = joints[:, :1].copy()
    whole = mpjpe(predicted[:, :1].repeat(2, 1), truth[:, :1].repeat(2, 1), np.array([BOTH]))
    predicted[:, 1] = np.nan
    assert mpjpe(predicted, truth, np.array([RIGHT_ONLY])) == pytest.approx(whole)


def test_mpvpe_aligns_by_the_wrist_joint():
    rng = np.random.default_rng(0)
    truth, wrists = rng.normal(size=(3, 2, 30, 3)), rng.normal(size=(3, 2, 3))
    shift = rng.normal(size=(3, 2, 3))
    valid = np.array([BOTH, RIGHT_ONLY, LEFT_ONLY])
    moved = truth + shift[:, :, None]
    assert mpvpe(moved, truth, wrists + shift, wrists, valid) == pytest.approx(0.0, abs=1e-9)
    moved[:, :, 4] += [0.0, 0.006, 0.008]
    found = mpvpe(moved, truth, wrists + shift, wrists, valid)
    np.testing.assert_allclose(found, 10 / 30)


def test_penetration_counts_zeros_and_needs_both_hands():
    depths = np.zeros((3, 2, 778))
    depths[0, 0, 10], depths[0, 1, 700] = 0.004, 0.0118
    depths[1, 0, 3] = 0.5
    valid = np.array([BOTH, RIGHT_ONLY, BOTH])
    np.testing.assert_allclose(ave_p(depths, valid), [15.8 / 1556, np.nan, 0.0])
    np.testing.assert_allclose(max_p(depths, valid), [11.8, np.nan, 0.0])


def test_jax_arrays_are_welcome(joints, hand_valid):
    predicted, truth = joints.astype(np.float32)
    found = mpjpe(jnp.asarray(predicted), jnp.asarray(truth), jnp.asarray(hand_valid))
    np.testing.assert_allclose(found, mpjpe(predicted, truth, hand_valid), rtol=1e-6)
