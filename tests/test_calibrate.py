"""Scales from the data: what the noise was made with is found again, wherever the search begins."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmark import DetectorNoise, make_interactions, predicted_again
from experiments.benchmark.detector import CROP_PX
from fitting.calibrate import BOUNDS, FEWEST_FRAMES, calibrate, kernel_shrinkage
from fitting.metrics import mpjpe
from fitting.predictions import TwoHandPredictions
from fitting.prepare import prepare
from fitting.refine import refine
from fitting.strategy import StrategyError, load_strategy, override
from objectives.likelihoods import parameter_items
from objectives.problem import posed_joints
from objectives.robust import KERNELS, robust_weight
from objectives.total import make_priors

TRUE_KEYPOINTS = 2.0 / (CROP_PX / 2)
"""Crop units of the detector's two pixels."""
PREDICTED = tuple(term for term in BOUNDS if term.startswith("predicted_"))


@pytest.fixture(scope="session")
def truths(hands):
    """Eight true frames of interacting hands."""
    return make_interactions(hands, frames=8, seed=11)[0]


@pytest.fixture(scope="session")
def joints_only():
    """The preset's first stage."""
    strategy = load_strategy("map")
    terms = tuple(t for t in strategy.report_likelihoods if t != "collision")
    return replace(strategy, stages=strategy.stages[:1], report_likelihoods=terms)


def noisy_copies(hands, truths, *, copies, **noise):
    """True frames, each `copies` times, and what a regressor and a detector say of every copy."""
    truth = TwoHandPredictions.concatenate([truths] * copies)
    return truth, predicted_again(hands, truth, detector=DetectorNoise(**noise), seed=3)


def regressor_errors(hands, truth, predictions):
    """Root mean square of what the predicted terms see of the regressor's errors."""
    at_truth = jax.tree.map(jnp.asarray, prepare(hands, truth).params)
    observations = jax.tree.map(jnp.asarray, prepare(hands, predictions).observations)
    priors = make_priors(hands, "bone_aligned")
    parts = (observations, priors.joint_limits, priors.pose_prior)
    items = {term: parameter_items(term, at_truth, *parts) for term in PREDICTED}
    return {term: float(jnp.sqrt(jnp.mean(i.residual**2))) for term, i in items.items()}


def scaled_by(strategy, factor):
    """The scales to begin with: the strategy's, all of them off by a factor."""
    return {term: factor * strategy.scales[term] for term in BOUNDS if term in strategy.scales}


@pytest.fixture(scope="session")
def frames(hands, truths):
    """Truth and predictions of 32 frames, joints 5 mm off."""
    return noisy_copies(hands, truths, copies=4, joint_noise_mm=5.0)


@pytest.mark.parametrize(
    ("kernel", "coordinates"),
    # Single draws near zero rule the mean of the absolute kernel's squared weights: in one and two
    # dimensions it is infinite.
    [(k, d) for k in KERNELS for d in (1, 2, 3) if k != "absolute" or d == 3],
)
def test_kernel_shrinkage_is_that_of_drawn_noise(kernel, coordinates):
    noise = np.random.default_rng(0).normal(size=(400_000, coordinates))
    length = np.linalg.norm(noise, axis=-1)
    weight = np.asarray(robust_weight(jnp.asarray(length, jnp.float32), kernel, jnp.float32(3)))
    drawn = np.sum(weight**2 * length**2) / np.sum(weight**2) / coordinates
    assert kernel_shrinkage(kernel, 3.0, coordinates) == pytest.approx(drawn, rel=0.02)


@pytest.mark.parametrize(
    ("kernel", "factor"), [("geman_mcclure", 3.0), ("geman_mcclure", 1 / 3), ("squared", 3.0)]
)
def test_finds_the_scales_from_either_side(hands, frames, joints_only, kernel, factor):
    truth, predictions = frames
    strategy = override(
        joints_only, [f"kernels.{term}={kernel}" for term in ("joints_3d", "keypoints_2d")]
    )
    found = calibrate(hands, predictions, strategy, start=scaled_by(strategy, factor))
    assert found.scales["joints_3d"] == pytest.approx(0.005, rel=0.1)
    assert found.scales["keypoints_2d"] == pytest.approx(TRUE_KEYPOINTS, rel=0.1)
    # One scale stands for the camera's size and place, which err differently: a wider margin.
    for term, error in regressor_errors(hands, truth, predictions).items():
        margin = 2.0 if term == "predicted_camera" else 1.35
        assert error / margin < found.scales[term] < error * margin, term
    assert set(found.errors) == set(found.scales) == set(found.before)


def test_a_fit_is_as_good_as_with_the_true_scales(hands, frames, joints_only):
    truth, predictions = frames
    found = calibrate(hands, predictions, joints_only, start=scaled_by(joints_only, 3.0))
    known = {"joints_3d": 0.005, "keypoints_2d": TRUE_KEYPOINTS}

    def error(strategy):
        result = refine(hands, predictions, strategy, devices=jax.devices()[:1])
        prepared = prepare(hands, result.predictions)
        params = jax.tree.map(jnp.asarray, prepared.params)
        joints = posed_joints(hands, params, jnp.asarray(prepared.observations.left_anchor))
        return mpjpe(joints, truth.joints_3d[..., :3], truth.hand_valid).mean()

    estimated = found.applied_to(joints_only)
    oracle = replace(joints_only, scales=joints_only.scales | known)
    assert error(estimated) < 1.03 * error(oracle)
    assert error(estimated) < 1.03 * error(replace(estimated, scales=estimated.scales | known))


def test_outliers_do_not_pass_for_noise(hands, truths, joints_only):
    _, predictions = noisy_copies(hands, truths, copies=4, joint_noise_mm=5.0, outliers=0.1)
    found = calibrate(hands, predictions, joints_only)
    assert found.scales["joints_3d"] == pytest.approx(0.005, rel=0.2)
    assert found.scales["keypoints_2d"] == pytest.approx(TRUE_KEYPOINTS, rel=0.2)


def test_exact_joints_drive_no_scale_away(hands, truths, joints_only):
    truth, predictions = noisy_copies(hands, truths, copies=4, joint_noise_mm=0.0)
    found = calibrate(hands, predictions, joints_only)
    assert found.scales["joints_3d"] == BOUNDS["joints_3d"][0]
    assert any(note.startswith("joints_3d: at the least value") for note in found.notes)
    for term, error in regressor_errors(hands, truth, predictions).items():
        assert error / 2 < found.scales[term] < error * 2, term


def test_few_frames_estimate_nothing(hands, frames, joints_only):
    few = frames[1].frames(slice(0, FEWEST_FRAMES - 1))
    found = calibrate(hands, few, joints_only)
    assert found.applied_to(joints_only) == joints_only
    assert found.rounds == 0 and found.errors == {}
    assert "31 valid frames are too few" in found.notes[0]
    assert "kept" in found.table()


def test_a_term_without_data_keeps_its_scale(hands, frames, joints_only):
    keypoints = frames[1].keypoints_2d.copy()
    keypoints[..., 2] = 0.0
    without = replace(frames[1], keypoints_2d=keypoints)
    found = calibrate(hands, without, joints_only, start={"keypoints_2d": 0.3})
    assert found.scales["keypoints_2d"] == joints_only.scales["keypoints_2d"]
    # Without keypoints some of the regressor's error, which is not Gaussian, passes for noise.
    assert found.scales["joints_3d"] == pytest.approx(0.005, rel=0.15)
    assert any(note.startswith("keypoints_2d: the file has nothing") for note in found.notes)


def test_joints_alone_still_tell_their_noise(hands, frames, joints_only):
    joints = TwoHandPredictions(hand_valid=frames[1].hand_valid, joints_3d=frames[1].joints_3d)
    found = calibrate(hands, joints, joints_only)
    assert found.scales["joints_3d"] == pytest.approx(0.005, rel=0.15)
    assert all(found.scales[term] == joints_only.scales[term] for term in PREDICTED)
    assert sum("nothing to hold it against" in note for note in found.notes) == 1 + len(PREDICTED)


def test_the_sample_is_seeded_and_frames_that_are_skipped_are_not_in_it(hands, frames, joints_only):
    broken = frames[1].hand_pose.copy()
    broken[0] = np.nan
    predictions = TwoHandPredictions.concatenate([frames[1], replace(frames[1], hand_pose=broken)])
    first, again = (
        calibrate(hands, predictions, joints_only, sample=32, seed=4, rounds=2) for _ in range(2)
    )
    assert first == again
    assert first.frames == 32
    assert any("still changed" in note for note in first.notes)
    assert calibrate(hands, predictions, joints_only, rounds=1).frames == 63


def test_the_table_speaks_in_units(hands, frames, joints_only):
    table = calibrate(hands, frames[1], joints_only).table()
    assert "estimated from 32 frames" in table
    for words in (("joints_3d", "mm"), ("keypoints_2d", "px of 224"), ("predicted_pose", "deg")):
        assert any(all(word in line for word in words) for line in table.splitlines())


def test_a_strategy_of_weights_has_nothing_to_estimate(hands, frames):
    with pytest.raises(StrategyError, match="no scales that could be estimated"):
        calibrate(hands, frames[1], load_strategy("ihmr"))
