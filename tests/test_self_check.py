"""A wrong conversion does not pass, and the mistake is named."""

# Every conversion here has joints to compare with.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false
# pyright: reportArgumentType=false

from dataclasses import replace

import numpy as np
import pytest

from experiments.convert import convert_file
from experiments.input_options import InputOptions
from fitting.adapters import Conversion, Evidence, Reading, check_conversion, read_foreign
from fitting.adapters.wilor_mini import CONVENTIONS
from fitting.errors import InputError
from mano_jax.joint_orders import permutation
from tests.foreign import datasets, hamer, weak
from tests.foreign.scene import make_scene


@pytest.fixture(scope="module")
def right_one(tmp_path_factory, hands):
    """A conversion as it should be; the file has two hands in most frames."""
    path = tmp_path_factory.mktemp("mini") / "mini.pkl"
    written = hamer.write_wilor_mini(path, make_scene(3), decoys=False)
    return read_foreign(written.path, source="wilor_mini", reading=Reading(hands))[0]


@pytest.fixture(params=["embedded", "own"])
def model(request, hands):
    """The embedded hand, and one that is not quite it: treated as any genuine one."""
    if request.param == "embedded":
        return hands
    return replace(hands, v_template=hands.v_template * 1.00001)


def with_pose(conversion, change):
    p = conversion.predictions
    return replace(conversion, predictions=replace(p, **change(p)))


def with_joints(conversion, change):
    joints = change(conversion.evidence.joints)
    return replace(conversion, evidence=Evidence(joints=joints))


MISTAKES = {
    "lack the mean pose": lambda c, hands: with_pose(
        c, lambda p: {"hand_pose": p.hand_pose - np.asarray(hands.pose_mean)}
    ),
    "in the file's values already": lambda c, hands: with_pose(
        c, lambda p: {"hand_pose": p.hand_pose + np.asarray(hands.pose_mean)}
    ),
    "left hands are mirrored": lambda c, _: with_pose(
        c,
        lambda p: {
            name: np.stack([x[:, 0], x[:, 1] * [1, -1, -1]], axis=1)
            for name, x in (("global_orient", p.global_orient), ("hand_pose", p.hand_pose))
        },
    ),
    "exchanged": lambda c, _: with_joints(c, lambda joints: joints[:, ::-1]),
    "joints are mirrored": lambda c, _: with_joints(c, lambda joints: joints * [-1, 1, 1]),
    "OpenGL": lambda c, _: with_joints(c, lambda joints: joints * [1, -1, -1]),
    "in the order mano21": lambda c, _: with_joints(
        c, lambda joints: joints[:, :, permutation("openpose21", "mano21")]
    ),
}


def test_a_right_conversion_passes(right_one, model):
    check = check_conversion(right_one, CONVENTIONS, model)
    assert check.passed and len(check.figures) == 2
    assert "FAILED" not in str(check)


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_noticed_and_named(right_one, model, hands, words):
    wrong = MISTAKES[words](right_one, hands)
    check = check_conversion(wrong, CONVENTIONS, model)
    assert not check.passed
    assert words in check.cause, check


def test_millimetres_and_fingertips_are_named_with_the_genuine_hand(right_one, hands):
    genuine = replace(hands, v_template=hands.v_template * 1.00001)
    in_mm = with_joints(right_one, lambda joints: 1000 * joints)
    assert "millimetres" in check_conversion(in_mm, CONVENTIONS, genuine).cause
    other_tips = replace(CONVENTIONS, fingertips="interwild")
    assert "fingertips are those of smplx" in check_conversion(right_one, other_tips, genuine).cause


def test_a_wrong_camera_is_noticed(right_one, model):
    p = right_one.predictions
    K = p.K.copy()
    K[..., :2, 2] += 400
    check = check_conversion(replace(right_one, predictions=replace(p, K=K)), CONVENTIONS, model)
    assert not check.passed and "camera" in check.cause


def test_one_bad_hand_is_no_wrong_convention(hands, tmp_path):
    scene = make_scene(3, presence=((1, 1),) * 40)
    written = hamer.write_wilor_mini(tmp_path / "mini.pkl", scene, decoys=False)
    conversion = read_foreign(written.path, source="wilor_mini", reading=Reading(hands))[0]
    conversion.evidence.joints[7, 0] += np.random.default_rng(0).normal(0, 0.1, (21, 3))
    assert check_conversion(conversion, CONVENTIONS, hands).passed


def test_nothing_to_compare_is_said(hands, tmp_path):
    written = weak.write_interwild(tmp_path / "interwild", make_scene(3))
    conversion, taken = read_foreign(written.path, source="interwild", reading=Reading(hands))
    check = check_conversion(conversion, taken.conventions, hands)
    assert check.passed and "nothing in the file" in str(check)
    bare = Conversion(conversion.predictions)
    assert check_conversion(bare, None, hands).passed


def test_strict_makes_a_failure_an_error(tmp_path, capsys):
    scene = make_scene(3)
    written = datasets.write_freihand(tmp_path / "freihand", scene, copies=1)
    xyz = written.path / "training_xyz.json"
    xyz.write_text(xyz.read_text().replace("0.", "1."))
    given = InputOptions("freihand")
    convert_file(written.path, tmp_path / "out.npz", to="canonical", given=given)
    assert "WARNING: self-check" in capsys.readouterr().out
    with pytest.raises(InputError, match="self-check.*FAILED"):
        given = replace(given, strict=True)
        convert_file(written.path, tmp_path / "strict.npz", to="canonical", given=given)
    assert not (tmp_path / "strict.npz").exists()


def test_a_few_wrong_hands_of_a_side_are_noticed(hands, tmp_path, model):
    """A video of right hands with a left one now and then, which alone is mirrored wrongly."""
    scene = make_scene(3, presence=((1, 0),) * 39 + ((0, 1),))
    written = hamer.write_wilor_mini(tmp_path / "mini.pkl", scene, decoys=False)
    conversion = read_foreign(written.path, source="wilor_mini", reading=Reading(hands))[0]
    check = check_conversion(
        MISTAKES["left hands are mirrored"](conversion, hands), CONVENTIONS, model
    )
    assert not check.passed and "left hands are mirrored" in check.cause
