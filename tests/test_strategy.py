"""Strategies: TOML in and out, settings, and errors that teach."""

import dataclasses

import pytest

from fitting.strategy import (
    DEFAULT_KNEE,
    Acceptance,
    Stage,
    Strategy,
    StrategyError,
    load_strategy,
    override,
    preset_names,
    strategy_from_toml,
    strategy_to_toml,
    with_stages,
)


def test_presets_are_the_papers_and_the_programs():
    assert preset_names() == ["ihmr", "ihmr-release", "map"]
    paper, release = load_strategy("ihmr"), load_strategy("ihmr-release")
    names = ["translation", "orientation", "finger_pose", "shape"]
    assert [s.name for s in paper.stages] == names
    assert [list(s.step_sizes.values()) for s in paper.stages] == [[1e-4], [1e-2], [1e-2], [1e-2]]
    assert [s.weights["collision"] for s in paper.stages] == [0.1, 1, 1, 1]
    assert [s.weights["finger_twist"] for s in paper.stages] == [0, 0, 1e5, 0]
    assert all(s.weights["joints_3d"] == 1000 and s.iterations == 301 for s in paper.stages)
    # The released program differs in two numbers only.
    assert [s.weights["keypoints_2d"] for s in paper.stages] == [10, 10, 10, 10]
    assert [s.weights["keypoints_2d"] for s in release.stages] == [100, 10, 10, 10]
    assert [s.weights["relative_translation"] for s in paper.stages] == [1000] * 4
    assert [s.weights["relative_translation"] for s in release.stages] == [1000, 100, 100, 100]
    # THE energy is the finger-pose row.
    for strategy in (paper, release):
        assert strategy.report_weights == strategy.stages[2].weights


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("ihmr", "finger_pose.weights.joint_limits=2.5"),
        ("ihmr-release", "finger_pose.weights.joint_limits=2.5"),
        ("map", "contacts.anneal.joints_3d=2.5"),
    ],
)
def test_toml_round_trip(name, setting, tmp_path):
    strategy = override(load_strategy(name), [setting])
    assert strategy != load_strategy(name)
    path = tmp_path / "mine.toml"
    path.write_text(strategy_to_toml(strategy))
    assert load_strategy(path) == strategy


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("finger_pose.weights.collision=2", lambda s: s.stages[2].weights["collision"] == 2.0),
        ("shape.step_sizes.finger_pose=0.01", lambda s: "finger_pose" in s.stages[3].step_sizes),
        ("stages.iterations=21", lambda s: all(stage.iterations == 21 for stage in s.stages)),
        ("translation.acceptance.every=5", lambda s: s.stages[0].acceptance.every == 5),
        (
            "shape.acceptance.select_by=['keypoints_2d']",
            lambda s: s.stages[3].acceptance.select_by == ("keypoints_2d",),
        ),
        ("report_weights.joint_limits=3", lambda s: s.report_weights.get("joint_limits") == 3),
        ("angle_frame=axis_angle", lambda s: s.angle_frame == "axis_angle"),
        ("name=mine", lambda s: s.name == "mine"),
    ],
)
def test_settings_reach_their_field_and_nothing_else(setting, value):
    before = load_strategy("ihmr")
    after = override(before, [setting])
    assert value(after)
    assert not value(before)
    assert before == load_strategy("ihmr")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("scales.joints_3d=0.02", lambda s: s.scales["joints_3d"] == 0.02),
        ("scales.joint_limits=0.1", lambda s: s.scales.get("joint_limits") == 0.1),
        ("kernels.joints_3d=huber", lambda s: s.kernels["joints_3d"] == "huber"),
        ("knees.pose_prior=4", lambda s: s.knees.get("pose_prior") == 4.0),
        ("contacts.anneal.collision=8", lambda s: s.stages[1].anneal["collision"] == 8.0),
        ("joints.likelihoods=['joints_3d']", lambda s: s.stages[0].likelihoods == ("joints_3d",)),
        ("stages.iterations=20", lambda s: [stage.iterations for stage in s.stages] == [20] * 4),
        ("report_likelihoods=['collision']", lambda s: s.report_likelihoods == ("collision",)),
        ("joints.weights.finger_twist=10", lambda s: s.stages[0].weights == {"finger_twist": 10}),
    ],
)
def test_settings_of_likelihoods_reach_their_field(setting, value):
    before = load_strategy("map")
    assert value(override(before, [setting]))
    assert not value(before)


def test_a_star_multiplies_what_is_there():
    paper = load_strategy("ihmr")
    doubled = override(paper, ["stages.weights.collision*=2", "shape.step_sizes.shape *= 0.5"])
    for before, after in zip(paper.stages, doubled.stages, strict=True):
        assert after.weights["collision"] == 2 * before.weights["collision"]
    assert doubled.stages[3].step_sizes == {"shape": 0.5 * paper.stages[3].step_sizes["shape"]}
    # A group that only one stage frees is multiplied there, and freed nowhere else.
    longer = override(paper, ["stages.step_sizes.translation*=3"])
    assert [set(s.step_sizes) for s in longer.stages] == [set(s.step_sizes) for s in paper.stages]


def test_stages_in_another_order():
    paper = load_strategy("ihmr")
    some = with_stages(paper, ["shape", "translation"])
    assert some.stages == (paper.stages[3], paper.stages[0])
    with pytest.raises(StrategyError, match="stages: unknown 'pose'; known: translation"):
        with_stages(paper, ["pose"])
    with pytest.raises(StrategyError, match="it has no stages"):
        with_stages(paper, [])


def test_an_objective_is_the_terms_in_order_with_their_numbers():
    """Kernels are squared and knees three unless the strategy says otherwise."""
    strategy = load_strategy("map")
    likelihoods = ("predicted_depth", "joints_3d", "collision")
    objective = strategy.objective({"finger_twist": 2.0}, likelihoods)
    assert objective.kernels == (
        ("collision", "pseudo_huber"),
        ("joints_3d", "geman_mcclure"),
        ("predicted_depth", "squared"),
    )
    assert {t: float(x) for t, x in objective.weights.items()} == {"finger_twist": 2.0}
    scales, knees = objective.scales.scale, objective.scales.knee
    assert scales.keys() == knees.keys() == set(likelihoods)
    assert float(scales["joints_3d"]) == pytest.approx(strategy.scales["joints_3d"])
    assert float(knees["joints_3d"]) == pytest.approx(strategy.knees["joints_3d"])
    assert float(knees["predicted_depth"]) == DEFAULT_KNEE == 3.0


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("scales.joint_3d=0.01", "scales: unknown 'joint_3d'; known: collision, keypoints_2d"),
        ("scales.finger_twist=1", "scales: unknown 'finger_twist'; known"),
        ("scales.joints_3d=-0.01", "scales.joints_3d: expected a finite number > 0, found -0.01"),
        ("scales.joints_3d=0", "scales.joints_3d: expected a finite number > 0, found 0"),
        ("scales.joints_3d=inf", "scales.joints_3d: expected a finite number > 0, found inf"),
        ("knees.joints_3d=0", "knees.joints_3d: expected a finite number > 0, found 0"),
        ("kernels.joints_3d=cauchy", "kernels.joints_3d: unknown 'cauchy'; known: squared"),
        ("joints.likelihoods=['joint_limits']", r"'joint_limits' has no scale: .*\(rad"),
        ("joints.likelihoods=['vertices']", "likelihoods: unknown 'vertices'; known"),
        ("report_likelihoods=['bone_scale']", r"report_likelihoods: 'bone_scale' has no scale"),
        ("report_likelihoods=[]", "it reports no energy: name terms in report_weights or"),
        ("joints.likelihoods=[]", "stage 'joints': no term acts: name some in weights or"),
        ("joints.weights.predicted_pose=1", "weights: unknown 'predicted_pose'; known"),
        ("report_weights.predicted_depth=1", "report_weights: unknown 'predicted_depth'; known"),
        ("joints.solver=adam", "iterations: expected a multiple of 10"),
        ("contacts.solver=adam", "anneal: only the solver 'lm' has it, this stage has 'adam'"),
        ("joints.anneal.collision=2", "stage 'joints': anneal: unknown 'collision'; known"),
        ("contacts.anneal.collision=0", "anneal.collision: expected a finite number > 0, found 0"),
        ("collision_engine=voxel", "collision_engine must be culled or exact, found voxel"),
        ("collision_engine=voxel_published", "must be culled or exact, found voxel_published"),
        ("joints.iterations=0", "iterations: expected at least 1, found 0"),
        ("joints.restart_offset=0.03", "repairs what the others leave: put it last"),
        ("repair.restart_offset=-1", "restart_offset: expected a finite number >= 0, found -1"),
        ("report_likelihoods=['joints_3d']", "which start was best, so it must see how deep"),
    ],
)
def test_bad_likelihoods_say_what_would_be_right(setting, message):
    with pytest.raises(StrategyError, match=message):
        override(load_strategy("map"), [setting])


def test_a_term_of_no_weight_is_none_that_the_solver_cannot_take():
    assert override(load_strategy("map"), ["joints.weights.vertices=0"])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("finger_pose.weights.colision=2", "unknown 'colision'; known: collision"),
        ("fingers.weights.collision=2", "'fingers' is none of translation, orientation"),
        ("finger_pose.step_sizes.fingers=1", "unknown 'fingers'; known: translation"),
        ("finger_pose.iteration=21", "no field 'iteration'; there are name"),
        ("stages.iterations=20", "a multiple of 10 .* plus one, .* found 20; 21 would do"),
        ("stages.iterations=1.5", "expected int, found 1.5"),
        ("stages.iterations=true", "expected int, found True"),
        ("finger_pose.weights.collision=-1", "expected a finite number >= 0, found -1.0"),
        ("finger_pose.weights.collision=nan", "expected a finite number >= 0, found nan"),
        ("finger_pose.weights.collision=high", "expected int or float, found 'high'"),
        ("finger_pose.solver=lbfgs", "unknown 'lbfgs'; known: adam"),
        ("angle_frame=world", "unknown 'world'; known: axis_angle"),
        ("finger_pose", "expected PATH=VALUE"),
        ("stages.weights.vertices*=2", "there is no weights.vertices to multiply"),
        ("stages.iterations.x*=2", "there is no iterations.x to multiply"),
        ("stages.acceptance.select_by*=2", "expected two numbers, found"),
        ("finger_pose.weights.collision*=high", "expected two numbers, found 'high'"),
        ("stages.iterations*=2.5", "iterations: expected int, found"),
        ("stages=3", "name a field of the stage"),
    ],
)
def test_bad_settings_say_what_would_be_right(setting, message):
    with pytest.raises(StrategyError, match=message):
        override(load_strategy("ihmr"), [setting])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "not valid TOML"),
        ("name = 'x'", "missing key 'description'"),
        ("nom = 'x'", "unknown key 'nom'; known: name"),
        ("name='x'\ndescription=''\nstages=[]\n[report_weights]\n", "it has no stages"),
    ],
)
def test_bad_files_are_refused(text, message):
    with pytest.raises(StrategyError, match=message):
        strategy_from_toml(text, origin="mine.toml")


def test_unknown_strategies_are_named(tmp_path):
    with pytest.raises(StrategyError, match="unknown strategy 'ihmrr': expected ihmr"):
        load_strategy("ihmrr")
    with pytest.raises(StrategyError, match="no strategy file"):
        load_strategy(tmp_path / "none.toml")


def test_every_field_is_annotated():
    """An attribute without an annotation would be a class constant that no file can set."""
    for kind in (Strategy, Stage, Acceptance):
        names = {f.name for f in dataclasses.fields(kind)}
        plain = {n for n in vars(kind) if not n.startswith("_") and not callable(vars(kind)[n])}
        assert {n for n in plain if not isinstance(vars(kind)[n], property)} <= names
