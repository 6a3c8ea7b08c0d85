"""Damped Gauss-Newton: it recovers, never gets worse, and keeps frames apart to the bit."""

import sys
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmark import DetectorNoise, make_interactions, observed_again
from experiments.benchmark.measure import posed
from fitting.evaluation import evaluate
from fitting.fit_errors import FIT_ERRORS, PENETRATION
from fitting.levenberg_marquardt import lm_program, run_lm_stage
from fitting.outcome import Fitted
from fitting.predictions import TwoHandPredictions
from fitting.prepare import prepare
from fitting.refine import REFINED, pose_params, refine
from fitting.strategy import Strategy, load_strategy, override, with_stages
from objectives.problem import Observations, TwoHandParams
from objectives.total import make_priors
from tests.objective_cases import FIELDS
from tests.test_refine import count_compilations

FRAMES = 8
NEGLIGIBLE = 1e6
"""A scale at which a term no longer counts."""


@pytest.fixture(scope="module")
def interactions(hands):
    """Truth and predictions of eight synthetic frames: one tile."""
    return make_interactions(hands, frames=FRAMES, seed=3)


@pytest.fixture(scope="module")
def fit(hands):
    """`refine` on one device: a program is compiled for each number of devices."""
    return partial(refine, hands, devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def mapped(fit, interactions):
    """All frames by the preset."""
    return fit(interactions[1], "map")


@pytest.fixture(scope="module")
def joints_only() -> Strategy:
    """The preset's first stage, which poses no surface."""
    preset = load_strategy("map")
    stage = preset.stages[0]
    return replace(preset, stages=(stage,), report_likelihoods=stage.likelihoods)


@pytest.fixture(scope="module")
def run(hands, joints_only):
    """That stage as the solver has it: parameters and observations in, parameters out.

    Settings change its numbers; they share a program, which is run once or twice: it is not
    worth optimising.
    """
    priors = make_priors(hands, "bone_aligned")
    shape = lm_program(joints_only, joints_only.stages[0])[1]
    program = jax.jit(
        partial(run_lm_stage, shape=shape),
        compiler_options={"xla_backend_optimization_level": 0},
    )

    def fitted(params: TwoHandParams, observations: Observations, *settings: str) -> TwoHandParams:
        strategy = override(joints_only, settings)
        numbers, _ = lm_program(strategy, strategy.stages[0])
        moved = program(hands, priors, params, observations, numbers)
        return jax.tree.map(np.asarray, moved)

    return fitted


@pytest.fixture(scope="module")
def problem(hands, interactions) -> tuple[TwoHandParams, Observations]:
    prepared = prepare(hands, interactions[1])
    return jax.tree.map(jnp.asarray, (prepared.params, prepared.observations))


@pytest.fixture(scope="module")
def plain(run, problem):
    """The frames after the stage, undisturbed."""
    return run(*problem)


def same(a, b, frame_a: int, frame_b: int) -> None:
    """Assert that two results of a frame agree to the bit."""
    for name in (*FIELDS[:4], "weak_camera"):
        x, y = getattr(a.predictions, name)[frame_a], getattr(b.predictions, name)[frame_b]
        np.testing.assert_array_equal(x, y, err_msg=f"{name} of {frame_a} and {frame_b}")
    for name in ("energy_before", "energy_after", "status"):
        np.testing.assert_array_equal(getattr(a, name)[frame_a], getattr(b, name)[frame_b])


def changed(a: TwoHandParams, b: TwoHandParams) -> np.ndarray:
    """Which frames differ in any bit."""
    fields = [(np.asarray(getattr(a, n)), np.asarray(getattr(b, n))) for n in FIELDS]
    return np.any(
        [~np.all((x == y).reshape(len(x), -1), axis=1) for x, y in fields],
        axis=0,
    )


def anchored_joints(hands, predictions) -> np.ndarray:
    params = prepare(hands, predictions).params
    left_anchor = jnp.zeros(predictions.num_frames, bool)
    return np.asarray(pose_params(hands, params, left_anchor).joints)


def test_joints_without_noise_are_recovered(hands, fit, interactions, joints_only):
    """From perturbed parameters, to a fifth of a millimetre."""
    truth, start = interactions
    others = [t for t in joints_only.stages[0].likelihoods if t != "joints_3d"]
    strategy = override(
        joints_only,
        [
            *(f"scales.{term}={NEGLIGIBLE}" for term in others),
            *("scales.joints_3d=1e-4", "knees.joints_3d=1e6", "joints.iterations=40"),
        ],
    )
    exact = replace(start, joints_3d=truth.joints_3d)
    target = anchored_joints(hands, truth)

    def error(predictions) -> np.ndarray:
        difference = anchored_joints(hands, predictions) - target
        difference = difference - difference.mean(axis=(1, 2), keepdims=True)
        return np.linalg.norm(difference, axis=-1).max(axis=(1, 2))

    assert np.all(error(start) > 0.005)
    assert np.all(error(fit(exact, strategy).predictions) < 0.0002)


def test_a_mesh_target_is_met(hands, fit, interactions):
    """From parameters that are off, by nothing but the mesh."""
    truth, start = interactions
    mesh = posed(hands, truth)[0]
    there = TwoHandPredictions(
        hand_valid=start.hand_valid,
        vertices=mesh.astype(np.float32),
        **{name: getattr(start, name) for name in ("global_orient", "hand_pose", "betas")},
        relative_transl=start.relative_transl,
    )
    stage = replace(
        load_strategy("map").stages[0], name="mesh", likelihoods=(), weights={"vertices": 1e6}
    )
    strategy = Strategy(
        name="mesh",
        description="vertices only",
        stages=(stage,),
        report_weights={"vertices": 1e6},
    )
    result = fit(there, strategy)
    moved = evaluate(hands, result.predictions, truth, metrics=("mpvpe", "mrrpe"))
    assert moved.column("mpvpe").max() < 0.1
    assert moved.column("mrrpe").max() < 0.1


def test_more_iterations_never_cost_more(fit, interactions, mapped):
    """At a fixed objective every accepted step falls: without annealing, frame by frame."""
    preset = load_strategy("map")
    contacts = override(with_stages(preset, ["contacts"]), ["contacts.anneal.collision=1"])
    energies = []
    for iterations in (1, 2, 4, 8):
        result = fit(interactions[1], override(contacts, [f"contacts.iterations={iterations}"]))
        assert not any("risen" in reason for reason in result.reason)
        energies.append(result.energy_after.sum(axis=1))
    # Reported energies come from a program of their own: a rounding either way.
    for before, after in zip([result.energy_before.sum(axis=1), *energies], energies, strict=False):
        assert np.all(after <= before * (1 + 1e-5))
    assert np.all(energies[-1] < 0.5 * result.energy_before.sum(axis=1))


def test_the_preset_on_synthetic_interactions(hands, interactions, mapped):
    truth, predictions = interactions
    metrics = ("mpjpe", "max_p")
    found = evaluate(hands, mapped.predictions, truth, before=predictions, metrics=metrics)
    assert found.column("mpjpe").mean() < 0.5 * found.column("mpjpe", before=True).mean()
    assert found.column("max_p", before=True).max() > 1
    assert found.column("max_p").max() < 0.1
    assert mapped.count(REFINED) == FRAMES
    assert np.all(mapped.energy_after.sum(axis=1) < mapped.energy_before.sum(axis=1))


def test_hands_that_are_stuck_come_free(hands, fit, interactions):
    """Fingers through each other: with the hands set apart first, the energy is much lower."""
    truth, predictions = interactions
    noisy = observed_again(truth, predictions, detector=DetectorNoise(joint_noise_mm=40.0), seed=3)
    preset = load_strategy("map")
    without = fit(noisy, with_stages(preset, ["joints", "contacts"]))
    repaired = fit(noisy, preset)
    depth, free = (
        evaluate(hands, r.predictions, truth, metrics=("max_p",)).column("max_p")
        for r in (without, repaired)
    )
    stuck = depth > 0.5
    assert 1 <= stuck.sum() < FRAMES
    assert np.all(free < 0.5)
    before, after = without.energy_after.sum(axis=1), repaired.energy_after.sum(axis=1)
    assert np.all(after[stuck] < before[stuck] - 100)
    # The others are not touched, and a stuck frame alone comes free in the same way.
    for name in ("global_orient", "hand_pose", "betas", "relative_transl"):
        found, expected = (getattr(r.predictions, name) for r in (repaired, without))
        np.testing.assert_array_equal(found[~stuck], expected[~stuck])
    row = int(np.flatnonzero(stuck)[0])
    alone = fit(noisy.frames([row]), preset)
    np.testing.assert_array_equal(alone.energy_after[0], repaired.energy_after[row])
    np.testing.assert_array_equal(
        alone.predictions.hand_pose[0], repaired.predictions.hand_pose[row]
    )


def test_a_repair_that_costs_more_is_refused(problem):
    """Two frames of three are stuck; beginning anew helps one of them, from its fourth start."""
    engine = sys.modules["fitting.refine"]
    params, observations = jax.tree.map(lambda x: np.asarray(x)[:3], problem)
    energy = np.full((3, 1), 5.0)
    errors = np.zeros((3, len(FIT_ERRORS)))
    errors[[0, 2], PENETRATION] = 1.0
    given = Fitted(params, energy, energy, errors, errors)
    offsets = []

    def anew(start, seen, what):
        count = len(start.betas)
        assert count == 2 * 6 and len(seen.hand_valid) == count
        offsets.append(start.relative_transl - np.repeat(params.relative_transl[[0, 2]], 6, axis=0))
        after = np.full((count, 1), np.nan)
        after[3], after[6:] = 4.0, 5.0
        none = np.zeros((count, len(FIT_ERRORS)))
        return Fitted(start, after, after, none, none)

    stage = load_strategy("map").repairs[0]
    found = engine._started_anew(anew, stage, given, observations)
    np.testing.assert_allclose(np.abs(offsets[0]).sum(axis=1), stage.restart_offset, rtol=1e-4)
    np.testing.assert_allclose(found.params.relative_transl[0] - params.relative_transl[0],
                               offsets[0][3])  # fmt: skip
    for name in FIELDS:
        old, new = getattr(params, name), getattr(found.params, name)
        np.testing.assert_array_equal(new[1:], old[1:])
    np.testing.assert_array_equal(found.after[:, 0], [4.0, 5.0, 5.0])
    np.testing.assert_array_equal(found.before, energy)
    np.testing.assert_array_equal(found.errors_before, errors)
    np.testing.assert_array_equal(found.errors_after[:, PENETRATION], [0.0, 0.0, 1.0])


def test_alone_and_shuffled_to_the_bit(fit, interactions, mapped):
    _, predictions = interactions
    same(fit(predictions.frames([5]), "map"), mapped, 0, 5)
    order = np.random.default_rng(1).permutation(FRAMES)
    shuffled = fit(predictions.frames(order), "map")
    for position, frame in enumerate(order):
        same(shuffled, mapped, position, frame)


def test_numbers_do_not_compile_anew(fit, interactions, mapped):
    """Scales, knees, annealing, the number of steps and their greatest size."""
    preset = load_strategy("map")
    settings = [
        *("scales.joints_3d=0.02", "scales.collision=0.001", "knees.keypoints_2d=2"),
        *("contacts.anneal.collision=5", "stages.iterations=3"),
        *("stages.step_sizes.shape=0.5", "joints.step_sizes={orientation=0.1}"),
    ]
    with count_compilations() as compilations:
        result = fit(interactions[1], override(preset, settings))
        assert not compilations
    assert np.any(result.energy_after != mapped.energy_after)


def paper_by_this_solver() -> Strategy:
    """`ihmr`'s stages, ten steps each."""
    paper = load_strategy("ihmr")
    stages = [
        replace(s, solver="lm", iterations=10, step_sizes=dict.fromkeys(s.step_sizes, 1.0))
        for s in paper.stages
    ]
    return replace(paper, stages=tuple(stages))


def test_the_published_energy_falls(fit, interactions):
    result = fit(interactions[1], paper_by_this_solver())
    before, after = result.energy_before.sum(axis=1), result.energy_after.sum(axis=1)
    assert np.all(after < before) and np.mean(after / before) < 0.6


@pytest.mark.parametrize(
    "strategy", [load_strategy("map"), paper_by_this_solver()], ids=["map", "ihmr"]
)
def test_stages_share_a_program(strategy):
    """Whatever their terms: what is traced has one structure, what is static one value."""
    programs = [lm_program(strategy, stage) for stage in strategy.stages]
    acting = [{*s.likelihoods, *(t for t, w in s.weights.items() if w)} for s in strategy.stages]
    assert len({frozenset(terms) for terms in acting}) > 1
    assert len({(jax.tree.structure(numbers), shape) for numbers, shape in programs}) == 1


def test_collisions_are_looked_for_where_they_act():
    strategy = paper_by_this_solver()
    judging = override(
        strategy, ["stages.weights.collision=0", "stages.acceptance.max_ratio={collision=1}"]
    )
    silent = override(judging, ["stages.acceptance.max_ratio={}"])
    for plan, looks in (
        (load_strategy("map"), [False, True, True, True]),
        (strategy, [True] * 4),
        (judging, [True] * 4),
        (silent, [False] * 4),
    ):
        numbers = [lm_program(plan, stage)[0] for stage in plan.stages]
        assert [bool(n.searching) for n in numbers] == looks


def test_terms_of_other_stages_do_nothing(fit, interactions, joints_only):
    """Contacts where the scale is infinite: the frames go through each other undisturbed."""
    preset = load_strategy("map")
    both = replace(preset, stages=(preset.stages[0], replace(preset.stages[1], iterations=1)))
    still = override(both, ["contacts.step_sizes={translation=0}"])
    still = replace(still, report_likelihoods=joints_only.report_likelihoods)
    alone, together = fit(interactions[1], joints_only), fit(interactions[1], still)
    for name in ("global_orient", "hand_pose", "betas", "relative_transl", "weak_camera"):
        found, expected = (getattr(r.predictions, name) for r in (together, alone))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3, err_msg=name)


def test_two_devices_to_the_bit(hands, fit, interactions, joints_only):
    """A tile each; frames that are alike have other shapes."""
    predictions = interactions[1].frames(np.arange(2 * FRAMES) % FRAMES)
    predictions = replace(
        predictions, betas=predictions.betas + np.linspace(0, 1, 16)[:, None, None]
    )
    one = fit(predictions, joints_only)
    two = refine(hands, predictions, joints_only, devices=jax.devices())
    assert two.provenance["device"].startswith("2 x")
    for frame in range(2 * FRAMES):
        same(two, one, frame, frame)


# ---- the solver itself --------------------------------------------------------------------------


def test_every_frame_moves_and_is_finite(problem, plain):
    assert changed(plain, problem[0]).all()
    assert all(np.all(np.isfinite(getattr(plain, name))) for name in FIELDS)


@pytest.mark.parametrize("name", ["hand_pose", "global_orient", "relative_transl"])
def test_a_start_that_is_no_number_comes_back_and_disturbs_nobody(run, problem, plain, name):
    params, observations = problem
    value = getattr(params, name)
    broken = replace(params, **{name: value.at[3].set(jnp.nan)})
    result = run(broken, observations)
    for field in FIELDS:
        x, y, before = (np.asarray(getattr(p, field)) for p in (result, plain, broken))
        np.testing.assert_array_equal(x[3], before[3], err_msg=field)
        np.testing.assert_array_equal(np.delete(x, 3, 0), np.delete(y, 3, 0), err_msg=field)


def test_a_frame_without_hands_is_not_touched(run, problem, plain):
    params, observations = problem
    valid = observations.hand_valid.at[2].set(False)
    moved = changed(run(params, replace(observations, hand_valid=valid)), params)
    assert np.flatnonzero(~moved).tolist() == [2]


@pytest.mark.parametrize(
    ("groups", "free"),
    [
        ("translation=0.03", {"relative_transl"}),
        ("orientation=0.6", {"global_orient"}),
        ("finger_pose=0.6, shape=2.0", {"hand_pose", "betas"}),
        ("camera=2.0", {"weak_camera"}),
    ],
)
def test_held_groups_stay_to_the_bit(run, problem, groups, free):
    params, observations = problem
    result = run(params, observations, "joints.step_sizes={" + groups + "}")
    for name in FIELDS:
        same = np.asarray(getattr(result, name)) == np.asarray(getattr(params, name))
        assert same.all() == (name not in free), name


def test_no_step_is_greater_than_allowed(run, problem):
    params, observations = problem
    sizes = "{translation=1e-3, orientation=0.01, finger_pose=0.01, shape=0.02, camera=0.05}"
    at = "joints.iterations=1", f"joints.step_sizes={sizes}"
    result = run(params, observations, *at)
    steps = {"relative_transl": 1e-3, "hand_pose": 0.01, "betas": 0.02, "weak_camera": 0.05}
    for name, size in steps.items():
        moved = np.abs(np.asarray(getattr(result, name)) - np.asarray(getattr(params, name)))
        assert 0.5 * size < moved.max() < 1.001 * size, name


def test_where_there_is_nothing_to_gain_nothing_moves(run, problem, plain):
    """A second run from where the first has come to rest."""
    _, observations = problem
    rest = run(jax.tree.map(jnp.asarray, plain), observations, "joints.iterations=60")
    again = run(jax.tree.map(jnp.asarray, rest), observations, "joints.iterations=60")
    for name in FIELDS:
        np.testing.assert_allclose(getattr(again, name), getattr(rest, name), atol=2e-3)
