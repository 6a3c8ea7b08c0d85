"""Tuning: what is searched, what is held out, what is kept of an interrupted search."""

import json
from dataclasses import replace

import numpy as np
import pytest

from experiments.benchmark import DetectorNoise, make_interactions
from experiments.cli import main
from experiments.tune import Goal, acting_numbers, tune
from fitting.canonical import write_predictions
from fitting.errors import InputError
from fitting.evaluation import evaluate
from fitting.evaluation_summary import Interval
from fitting.refine import refine
from fitting.strategy import load_strategy, override, strategy_to_toml
from tests.test_ablation import JOINTS

GOAL = Goal("mpjpe", {})
SLOW = override(JOINTS, ["all.step_sizes.finger_pose=1e-3", "all.step_sizes.orientation=3e-3"])
STEPS = ("all.step_sizes.finger_pose", "all.step_sizes.orientation")


@pytest.fixture(scope="module")
def frames(hands):
    truth, predictions = make_interactions(
        hands, frames=12, seed=4, detector=DetectorNoise(0.0, 0.0, 0.0)
    )
    return predictions, truth


def searched(hands, frames, **options):
    settings = {"numbers": STEPS, "against": (), "evaluations": 24, "seed": 1} | options
    return tune(hands, *frames, strategy=SLOW, goal=GOAL, **settings)


@pytest.fixture(scope="module")
def found(hands, frames, tmp_path_factory):
    journal = tmp_path_factory.mktemp("tune") / "evaluations.jsonl"
    return searched(hands, frames, journal=journal), journal


def test_better_steps_are_found(found):
    tuned, _ = found
    assert tuned.tuning["tuned"]["mpjpe"] < 0.9 * tuned.tuning["as it is"]["mpjpe"]
    assert tuned.frames == (6, 6)
    (stage,) = tuned.strategy.stages
    assert stage.step_sizes["finger_pose"] == pytest.approx(1e-3 * tuned.factors[STEPS[0]])
    assert "6 frames held out" in tuned.table()


def test_frames_held_out_are_the_others(hands, frames, found):
    """What is said of them is what a fit of the frames that took no part comes to."""
    tuned, _ = found
    predictions, truth = frames
    result = refine(hands, predictions, tuned.strategy)
    every = evaluate(hands, result.predictions, truth, metrics=("mpjpe",)).column("mpjpe")
    means = (tuned.tuning["tuned"]["mpjpe"], tuned.held_out["tuned"]["mpjpe"].mean)
    assert np.mean(means) == pytest.approx(every.mean(), rel=1e-5)
    record = tuned.record("synthetic")
    change = record["held out/tuned/mpjpe"] - record["held out/as it is/mpjpe"]
    assert record["tuned minus/as it is/mpjpe"] == pytest.approx(change)


def test_better_means_that_zero_is_outside(found):
    tuned, _ = found
    for low, high, better in ((-2.0, -0.1, True), (-2.0, 0.1, False), (0.1, 2.0, False)):
        one = replace(tuned, gain={"x": {"mpjpe": Interval((low + high) / 2, low, high)}})
        assert one.better_than("x") == better
        assert ("NOT surely better" in one.table()) != better


def test_an_interrupted_search_goes_on(hands, frames, found, tmp_path, monkeypatch):
    tuned, journal = found
    lines = journal.read_bytes().splitlines(keepends=True)
    again = tmp_path / "evaluations.jsonl"
    again.write_bytes(b"".join(lines[:7]) + lines[7][:20])
    assert searched(hands, frames, journal=again) == tuned
    assert again.read_bytes() == journal.read_bytes()
    # Another goal's evaluations are others, and another hand's.
    other = tune(
        hands,
        *frames,
        strategy=SLOW,
        goal=Goal("i_mpjpe", {}),
        numbers=STEPS,
        against=(),
        evaluations=2,
        journal=again,
    )
    assert "i_mpjpe" in other.tuning["tuned"]
    count = len(again.read_bytes().splitlines())
    assert count > len(lines)
    searched(hands, frames, journal=again, evaluations=2, hand_model="another")
    assert len(again.read_bytes().splitlines()) > count


def test_frames_of_one_video_are_not_parted(hands, frames):
    predictions, truth = frames
    # Videos of 7, 2, 2 and 1 frames: halves of six are not to be had.
    video = np.repeat(np.arange(4), [7, 2, 2, 1])
    truth = replace(truth, sequence_id=video)
    tuned = searched(hands, (predictions, truth), evaluations=2)
    assert set(tuned.frames) in ({9, 3}, {8, 4})
    with pytest.raises(InputError, match="1 videos .* cannot be split"):
        searched(hands, (predictions, replace(truth, sequence_id=np.zeros(12, int))))


def test_a_limit_ranks_before_the_goal():
    goal = Goal("mpjpe", {"ave_p": 0.01, "max_p": 0.0})

    def cost(mpjpe: float, ave_p: float, max_p: float) -> float:
        return goal.cost({"mpjpe": mpjpe, "ave_p": ave_p, "max_p": max_p})

    # However much worse: what keeps the limits comes first, then what is nearer to them.
    costs = [cost(1, 0.01, 0), cost(1e6, 0.01, 0), cost(0, 0.0101, 0), cost(0, 0.03, 0)]
    assert costs == sorted(costs) and len(set(costs)) == 4
    assert cost(1, 0, 1) > costs[-1]
    assert cost(np.nan, 0, 0) == cost(1, np.nan, 0) == np.inf
    more = Goal("pck", {})
    assert more.cost({"pck": 90.0}) < more.cost({"pck": 60.0})
    # Nothing to begin with is no reason to give up the limits.
    deep = Goal("ave_p", {"mpjpe": 6.0})
    assert deep.cost({"ave_p": 0.01, "mpjpe": 5.0}) < deep.cost({"ave_p": 0.0, "mpjpe": 6.1})


def test_limits_that_cannot_be_kept_are_told(hands, frames):
    with pytest.raises(InputError, match=r"no candidate kept the limits ave_p <= 0; at the start"):
        tune(
            hands,
            *frames,
            strategy=JOINTS,
            goal=Goal("mpjpe", {"ave_p": 0.0}),
            numbers=STEPS[:1],
            evaluations=2,
        )


def test_what_acts_may_change():
    numbers = acting_numbers(load_strategy("map"))
    assert "scales.joints_3d" in numbers and not any(n.startswith("stages") for n in numbers)
    assert "stages.weights.finger_twist" in acting_numbers(load_strategy("ihmr"))


@pytest.mark.parametrize(
    ("goal", "options", "message"),
    [
        (("mpje", {}), {}, "unknown metric 'mpje'"),
        (("mpjpe", {"pck": 0.5}), {}, "of pck more is better"),
        (("mpjpe", {}), {"held_out": 1.0}, "a share between 0 and 1"),
        (("mpjpe", {}), {"numbers": ("scales.joints_3d",)}, "no scales.joints_3d to multiply"),
    ],
)
def test_a_bad_question_is_refused(hands, frames, goal, options, message):
    with pytest.raises(InputError, match=message):
        tune(hands, *frames, strategy=JOINTS, goal=Goal(*goal), evaluations=2, **options)


def test_the_command_writes_a_strategy(frames, tmp_path, capsys):
    predictions, truth = frames
    write_predictions(tmp_path / "predictions.npz", predictions)
    write_predictions(tmp_path / "truth.npz", truth)
    (tmp_path / "joints.toml").write_text(strategy_to_toml(JOINTS))
    out = tmp_path / "new" / "better.toml"
    command = [
        *("tune", str(tmp_path / "predictions.npz"), "--truth", str(tmp_path / "truth.npz")),
        *("--out", str(out), "--strategy", str(tmp_path / "joints.toml"), "--number", STEPS[0]),
        *("--minimise", "mpjpe", "--limit", "ave_p=100", "--evaluations", "8"),
        *("--against", str(tmp_path / "joints.toml")),
    ]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert STEPS[0] in printed and f"--strategy {out}" in printed
    assert load_strategy(out).name == "better"
    assert json.loads((tmp_path / "new" / "better.json").read_text())["metrics"]
    assert main(command) == 2
    assert "--force" in capsys.readouterr().err
    wrong = [str(out.with_suffix(".json")) if word == str(out) else word for word in command]
    assert main(wrong) == 2
    assert ".toml" in capsys.readouterr().err
