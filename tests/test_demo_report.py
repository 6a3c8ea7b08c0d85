"""The demo's table, scene and picture, and overlays: what they say is what the arrays hold."""

import os

import jax.numpy as jnp
import numpy as np
import pytest
import trimesh
from PIL import Image

from experiments.demo_report import (
    before_after_picture,
    before_after_table,
    worst_frame,
    write_scene,
)
from experiments.overlay import draw_overlay, overlay
from fitting.errors import InputError
from fitting.predictions import TwoHandPredictions
from mano_jax.model import rest_joints


@pytest.fixture
def pair(hands):
    """Two open hands side by side, and a right one with three vertices inside the left one."""
    vertices = np.array(hands.v_template, float)
    depths = np.zeros(vertices.shape[:2])
    depths[0, :3] = 0.012
    return {
        "vertices": (vertices, vertices + 0.01),
        "depths": (depths, np.zeros_like(depths)),
        "faces": np.asarray(hands.faces),
    }


@pytest.fixture
def frame(hands):
    """Open hands 2 cm apart before a weak camera that sees 40 cm."""
    wrists = np.asarray(rest_joints(hands, jnp.zeros((2, 10))))[:, 0]
    return {
        "hand_valid": np.ones((1, 2), bool),
        "global_orient": np.zeros((1, 2, 3)),
        "hand_pose": np.zeros((1, 2, 15, 3)),
        "betas": np.zeros((1, 2, 10)),
        "relative_transl": (wrists[1] - wrists[0])[None],
        "weak_camera": np.array([[5.0, 0.1, 0.0]]),
    }


def test_table_has_every_row_aligned():
    energies = {
        "collision": (np.array([1.0, 3.0]), np.array([0.5, 0.5])),
        "keypoints_2d": (np.array([10.0, 10.0]), np.array([5.0, 7.0])),
    }
    nothing = np.full(2, np.nan)
    metrics = {"MPJPE (mm)": (np.array([20.0, np.nan]), np.array([10.0, np.nan]))}
    table = before_after_table(
        energies, metrics | {"AVE-P (mm)": (nothing, nothing)}, source="Synthetic interactions"
    )
    rows = {line.split("  ")[0]: line.split()[-4:] for line in table.splitlines()}
    assert table.startswith("Synthetic interactions: mean of 2 frames")
    assert rows["collision"] == ["2", "0.5", "-75", "%"]
    assert rows["sum"] == ["12", "6.5", "-46", "%"]
    assert rows["MPJPE (mm)"] == ["20.00", "10.00", "-50", "%"]
    assert rows["AVE-P (mm)"][-3:] == ["-", "-", "-"]
    assert len({len(line.rstrip()) for line in table.splitlines()[1:]}) == 1


def test_worst_frame_is_the_deepest():
    assert worst_frame(np.array([np.nan, 0.01, 0.02, 0.0])) == 2


def test_scene_holds_both_pairs_side_by_side(tmp_path, pair):
    path = tmp_path / "worst.glb"
    write_scene(path, **pair)
    scene = trimesh.load_scene(path)
    assert set(scene.geometry) == {
        "before_right",
        "before_left",
        "before_right_penetrating",
        "after_right",
        "after_left",
    }
    before, after = (
        np.concatenate([scene.geometry[f"{step}_{side}"].vertices for side in ("right", "left")])
        for step in ("before", "after")
    )
    assert before[:, 0].max() < after[:, 0].min()
    # glTF's y points up, OpenCV's down; lengths stay metres.
    heights = np.concatenate(pair["vertices"][0])[:, 1]
    np.testing.assert_allclose(np.ptp(before[:, 1]), np.ptp(heights), rtol=1e-5)
    assert before[heights.argmax(), 1] == pytest.approx(before[:, 1].min())


def test_scene_is_written_whole_or_not_at_all(tmp_path, pair, monkeypatch):
    path = tmp_path / "worst.glb"
    path.write_bytes(b"former")

    def fails(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="disk full"):
        write_scene(path, **pair)
    assert path.read_bytes() == b"former" and os.listdir(tmp_path) == ["worst.glb"]


def test_picture_marks_penetration_before_and_not_after(pair):
    picture = before_after_picture(**pair, title="a frame", size_px=120).astype(int)
    red = (picture[..., 0] > 140) & (picture[..., 1] < 60) & (picture[..., 2] < 70)
    half = len(picture) // 2
    assert red[:half].any() and not red[half:].any()


def test_overlay_covers_the_projected_hands(hands, frame):
    keypoints = np.zeros((1, 2, 21, 3))
    keypoints[0, 0, 0] = [0.9, 0.9, 1.0]
    image = np.full((100, 100, 3), 200, np.uint8)
    hands_only = overlay(hands, TwoHandPredictions(**frame), image)
    with_dot = overlay(hands, TwoHandPredictions(**frame, keypoints_2d=keypoints), image)
    changed = np.any(hands_only != image, axis=-1)
    assert changed[45:55].any() and not changed[:20].any() and not changed[80:].any()
    dot = np.any(with_dot != hands_only, axis=-1)
    assert dot[92:98, 92:98].any() and not dot[:90].any()


def test_overlay_through_a_perspective_camera(hands, frame, tmp_path):
    del frame["weak_camera"]
    frame["hand_valid"] = np.array([[True, False]])
    frame["K"] = np.array([[[[400.0, 0, 60], [0, 400.0, 30], [0, 0, 1]]]])
    frame["root_transl"] = np.array([[0.02, 0.01, 0.8]])
    predictions = TwoHandPredictions(**frame)
    Image.new("RGB", (120, 90), "black").save(tmp_path / "image.png")
    draw_overlay(hands, predictions, tmp_path / "image.png", tmp_path / "out.png", opacity=1.0)
    seen = np.any(np.array(Image.open(tmp_path / "out.png")) > 0, axis=-1)
    # The wrist is at (70, 35); the open right hand points to the left of it.
    rows, columns = np.nonzero(seen)
    assert abs(rows.mean() - 35) < 8
    assert columns.max() < 85 and columns.mean() < 60


def test_overlay_says_what_is_missing(hands, frame):
    image = np.zeros((20, 20, 3), np.uint8)
    with pytest.raises(InputError, match="0 to 0"):
        overlay(hands, TwoHandPredictions(**frame), image, frame=1)
    with pytest.raises(InputError, match="view 1: expected 0 to 0"):
        overlay(hands, TwoHandPredictions(**frame), image, view=1)
    with pytest.raises(InputError, match="opacity: expected 0 to 1"):
        overlay(hands, TwoHandPredictions(**frame), image, opacity=1.5)
    for crop in ((0.0, 0.0, -5.0, 5.0), (np.nan, 0.0, 5.0, 5.0)):
        with pytest.raises(InputError, match="above 0"):
            overlay(hands, TwoHandPredictions(**frame), image, crop=crop)
    del frame["weak_camera"]
    with pytest.raises(InputError, match="weak_camera or K"):
        overlay(hands, TwoHandPredictions(**frame), image)
    frame["K"] = np.array([[[[400.0, 0, 60], [0, 400.0, 30], [0, 0, 1]]]])
    with pytest.raises(InputError, match="root_transl"):
        overlay(hands, TwoHandPredictions(**frame), image)
    with pytest.raises(InputError, match="leave the crop out"):
        overlay(hands, TwoHandPredictions(**frame), image, crop=(0.0, 0.0, 5.0, 5.0))
