"""Files of joints: what independent writers write comes back, and bad files are told."""

# Every file here has joints.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false
# pyright: reportArgumentType=false, reportCallIssue=false

import csv
import io
from typing import get_args

import jax
import numpy as np
import pytest

from experiments.ablation.spec import reporting_itself
from experiments.cli import Target
from experiments.input_options import Source
from fitting.adapters import AUTO, FORMATS, read_input
from fitting.adapters.aria import read_aria
from fitting.adapters.leap import read_leap
from fitting.adapters.table import read_table
from fitting.errors import InputError
from fitting.exporters import EXPORTERS
from fitting.refine import SKIPPED_INVALID, refine
from fitting.strategy import load_strategy, with_stages
from mano_jax.joint_orders import JOINT_ORDERS, MANO21
from tests.conftest import RECORDINGS, needs_recordings

RNG = np.random.default_rng(5)
FRAMES = 4


@pytest.fixture
def joints():
    """(N, 2, 21, 3) metres in MANO's order; in frame 1 no left hand, in frame 2 none at all."""
    found = RNG.normal(0, 0.1, (FRAMES, 2, 21, 3))
    found[1, 1] = found[2] = np.nan
    return found


def joint(joints, frame, side, name):
    return joints[frame, ("right", "left").index(side), MANO21.index(name)]


def same(predictions, joints, *, missing=()):
    """The file's joints, with confidence where there are any."""
    found = predictions.joints_3d
    there = np.isfinite(joints).all(-1)
    there[..., [MANO21.index(name) for name in missing]] = False
    np.testing.assert_array_equal(found[..., 3] > 0, there)
    np.testing.assert_allclose(found[there][:, :3], joints[there], atol=1e-7)
    np.testing.assert_array_equal(predictions.hand_valid, there.any(-1))
    assert not found[~there].any()


# ---- Project Aria

ARIA = (
    *("thumb_tip", "index_tip", "middle_tip", "ring_tip", "pinky_tip", "wrist", "thumb2"),
    *("thumb3", "index1", "index2", "index3", "middle1", "middle2", "middle3", "ring1", "ring2"),
    *("ring3", "pinky1", "pinky2", "pinky3", None),
)


def write_aria(path, joints):
    rows = []
    for frame in range(FRAMES):
        row = {"tracking_timestamp_us": 1_000_000 + 200 * frame}
        for side in ("left", "right"):
            there = np.isfinite(joint(joints, frame, side, "wrist")).all()
            row[f"{side}_tracking_confidence"] = 0.75 if there else -1
            for i, name in enumerate(ARIA):
                point = joint(joints, frame, side, name) if there and name else np.zeros(3)
                for axis, value in zip("xyz", point, strict=True):
                    row[f"t{axis}_{side}_landmark_{i}_device"] = repr(float(value))
        rows.append(row)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_aria_comes_back(tmp_path, joints):
    write_aria(tmp_path / "hands.csv", joints)
    found = read_aria(tmp_path / "hands.csv")
    same(found, joints, missing=("thumb1",))
    assert found.joints_3d[0, 0, 0, 3] == 0.75
    np.testing.assert_allclose(found.timestamp, 1 + 2e-4 * np.arange(FRAMES))
    assert found.frame_id[1] == "1000200"


# ---- Leap


def test_leap_comes_back(tmp_path, joints):
    joints[:, :, MANO21.index("wrist")] = np.nan
    fingers = np.zeros((FRAMES, 2, 5, 4, 3))
    for f, finger in enumerate(("thumb", "index", "middle", "ring", "pinky")):
        for j, end in enumerate(("1", "2", "3", "_tip")):
            for h, side in enumerate(("left", "right")):
                column = joints[:, ("right", "left").index(side), MANO21.index(finger + end)]
                fingers[:, h, f, j] = 1000 * column * [1, -1, -1]
    confidence = np.isfinite(fingers).all((2, 3, 4)).astype(float)
    np.savez(
        tmp_path / "leap.npz",
        fingers_mm=fingers,
        confidence=confidence,
        timestamp_us=np.arange(FRAMES) * 9000.0,
    )
    found = read_leap(tmp_path / "leap.npz")
    same(found, joints)
    np.testing.assert_allclose(found.timestamp, 0.009 * np.arange(FRAMES))


# ---- tables


@pytest.mark.parametrize("order", JOINT_ORDERS)
@pytest.mark.parametrize(("unit", "per_metre"), [("m", 1), ("cm", 100), ("mm", 1000)])
def test_arrays_come_back_in_any_order_and_unit(tmp_path, joints, order, unit, per_metre):
    columns = [MANO21.index(name) for name in JOINT_ORDERS[order]]
    path = tmp_path / "joints.npz"
    np.savez(path, joints=per_metre * joints[:, :, columns], order=order, unit=unit)
    same(read_table(path), joints)


def write_table(path, joints, *, unit="mm", factor=1000):
    names = [(side, name) for side in ("left", "right") for name in sorted(MANO21)]
    header = [f"{side}_{name}_{axis}_{unit}" for side, name in names for axis in "zyx"]
    lines = [[*header, "right_index2_confidence", "frame_id"]]
    for frame in range(FRAMES):
        row = []
        for side, name in names:
            point = factor * joint(joints, frame, side, name)
            row += ["" if np.isnan(x) else repr(float(x)) for x in point[::-1]]
        lines.append([*row, "0.5" if frame else "0", f"take/{frame}"])
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(lines)


def test_columns_come_back(tmp_path, joints):
    write_table(tmp_path / "joints.csv", joints)
    found = read_table(tmp_path / "joints.csv")
    joints[0, 0, MANO21.index("index2")] = np.nan
    same(found, joints)
    assert found.joints_3d[1, 0, MANO21.index("index2"), 3] == 0.5
    assert list(found.frame_id) == [f"take/{i}" for i in range(FRAMES)]


# ---- bad files


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "no array 'joints'"),
        ({"joints": np.zeros((1, 2, 21, 3)), "unit": "m"}, "no array 'order'; found joints, unit"),
        ({"joints": np.zeros((1, 2, 21, 3)), "order": "mano", "unit": "m"}, "order: expected one"),
        ({"joints": np.zeros((1, 2, 21, 3)), "order": "mano21", "unit": "in"}, "unit: expected"),
        ({"joints": np.zeros((1, 21, 3)), "order": "mano21", "unit": "m"}, r"found \(1, 21, 3\)"),
        ({"joints": np.zeros((0, 2, 21, 3)), "order": "mano21", "unit": "m"}, "a frame at least"),
        ({"joints": np.full((1, 2, 21, 3), "a"), "order": "mano21", "unit": "m"}, "numbers"),
    ],
)
def test_bad_arrays_are_told(tmp_path, arrays, message):
    np.savez(tmp_path / "joints.npz", **arrays)
    with pytest.raises(InputError, match=message):
        read_input(tmp_path / "joints.npz", source="table")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a header and rows"),
        ("right_wrist_x_mm\n", "expected a header and rows"),
        ("right_wrist_x_in\n1\n", "column 'right_wrist_x_in': expected frame_id or a name"),
        ("middle_wrist_x_m\n1\n", "column 'middle_wrist_x_m'"),
        ("right_index4_x_m\n1\n", "column 'right_index4_x_m'"),
        ("right_wrist_x_m\nfar\n", "right_wrist_x_m: expected numbers"),
    ],
)
def test_bad_columns_are_told(tmp_path, text, message):
    (tmp_path / "joints.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_input(tmp_path / "joints.csv", source="table")


@pytest.mark.parametrize("source", ["aria", "leap", "table"])
def test_damaged_files_never_crash(tmp_path, joints, source):
    """Cut short, bits flipped, cells replaced: an error that names the file, or finite joints."""
    write = {"aria": write_aria, "table": write_table}
    path = tmp_path / ("file.npz" if source == "leap" else "file.csv")
    if source == "leap":
        buffer = io.BytesIO()
        np.savez(buffer, fingers_mm=RNG.normal(size=(2, 2, 5, 4, 3)), confidence=np.ones((2, 2)))
        whole = buffer.getvalue()
    else:
        write[source](path, joints)
        whole = path.read_bytes()
    refused = 0
    for _ in range(120):
        damaged = bytearray(whole)
        kind = RNG.integers(3)
        if kind == 0:
            damaged = damaged[: RNG.integers(len(damaged))]
        elif kind == 1:
            for _ in range(8):
                damaged[RNG.integers(len(damaged))] ^= 1 << RNG.integers(8)
        else:
            at = RNG.integers(len(damaged))
            damaged[at : at + 6] = RNG.choice([b"nan,in", b"inf,1e", b",,,,,,", b"\x00\xff\n\n"])
        path.write_bytes(bytes(damaged))
        try:
            found = read_input(path, source=source)
        except InputError as error:
            assert path.name in str(error)
            refused += 1
        else:
            assert np.isfinite(found.joints_3d).all()
    assert refused > 20


# ---- real recordings


@needs_recordings
@pytest.mark.parametrize("version", [1, 2])
def test_an_aria_recording(hands, version):
    path = RECORDINGS / "aria_mps_handtracking" / f"hand_tracking_results_v{version}.csv"
    found = read_input(path, source="aria")
    assert found.num_frames == 8
    both = found.hand_valid.all(1)
    assert both.sum() == 2 and found.hand_valid.any(1).sum() == 4
    # The stage on joints, which poses no surface and compiles in a moment.
    strategy = reporting_itself(with_stages(load_strategy("map"), ["joints"]))
    result = refine(hands, found, strategy, devices=jax.devices()[:1])
    assert result.count(SKIPPED_INVALID) == 4
    assert np.isfinite(result.predictions.hand_pose[found.hand_valid]).all()


@needs_recordings
def test_a_leap_recording():
    found = read_input(RECORDINGS / "leap_flapping" / "flapping_fingers.npz", source="leap")
    assert found.num_frames == 328 and found.hand_valid.all()
    points = found.joints_3d[..., :3]
    # Palms down, fingers away from the user, left hand on the left, in the camera's axes.
    right, left = points[:, 0].mean((0, 1)), points[:, 1].mean((0, 1))
    assert right[0] > left[0] and np.linalg.norm(points, axis=-1).max() < 1.0


def test_the_command_names_every_format():
    assert set(get_args(Source)) == {AUTO, *FORMATS}
    assert set(get_args(Target)) == set(EXPORTERS)
