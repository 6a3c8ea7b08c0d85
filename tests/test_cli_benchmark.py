"""The commands that make data and judge results."""

import csv
import json

import numpy as np
import pytest

from experiments.benchmark import make_interactions
from experiments.cli import main
from fitting.canonical import read_predictions, write_arrays
from tests.test_cli import refused


@pytest.fixture(scope="module")
def folder(hands, tmp_path_factory):
    """A small benchmark, as files."""
    path = tmp_path_factory.mktemp("benchmark")
    assert main(["benchmark", "make", "--out", str(path), "--frames", "2", "--seed", "3"]) == 0
    return path


def test_a_benchmark_is_what_the_library_makes(hands, folder):
    truth, predictions = make_interactions(hands, frames=2, seed=3)
    for name, made in (("truth", truth), ("predictions", predictions)):
        written = read_predictions(folder / f"{name}.npz")
        np.testing.assert_array_equal(written.hand_pose, made.hand_pose)
        np.testing.assert_array_equal(written.joints_3d, made.joints_3d)
    assert json.loads((folder / "benchmark.json").read_text())["data"] == "synthetic"


def test_a_benchmark_is_not_replaced_unasked(folder, capsys):
    before = (folder / "truth.npz").read_bytes()
    message = refused(capsys, "benchmark", "make", "--out", folder, "--frames", 1)
    assert "truth.npz" in message and "--force" in message
    assert (folder / "truth.npz").read_bytes() == before
    assert "expected 0 or more" in refused(
        capsys, "benchmark", "make", "--out", folder, "--frames", 1, "--joint-noise-mm", -1
    )


def test_a_sheet_is_drawn(folder, tmp_path, capsys):
    out = tmp_path / "sheet.png"
    arguments = ["benchmark", "sheet", str(folder), "--out", str(out), "--frames", "2"]
    assert main(arguments) == 0
    assert out.stat().st_size > 10_000
    assert "sheet.png" in refused(capsys, *arguments)


def test_evaluate_prints_and_writes(folder, tmp_path, capsys):
    """The truth against itself is without error; the predictions before it are not."""
    summary, frames = tmp_path / "summary.json", tmp_path / "frames.csv"
    truth, start = str(folder / "truth.npz"), str(folder / "predictions.npz")
    files = ["--json", str(summary), "--csv", str(frames)]
    assert main(["evaluate", truth, "--truth", truth, "--before", start, *files]) == 0
    printed = capsys.readouterr().out
    assert "mpjpe" in printed and "before" in printed and f"wrote {frames}" in printed
    everything = json.loads(summary.read_text())["subsets"]["all"]["metrics"]
    assert everything["mpjpe"]["after"]["mean"]["mean"] < 1e-3
    assert everything["mpjpe"]["before"]["mean"]["mean"] > 5
    rows = list(csv.DictReader(frames.read_text().splitlines()))
    assert [row["frame_id"] for row in rows] == list(read_predictions(truth).frame_names)
    assert main(["evaluate", truth, "--truth", truth, "--metrics", "mrrpe", "max_p"]) == 0
    printed = capsys.readouterr().out
    assert "mrrpe" in printed and "mpjpe" not in printed


def test_evaluate_refuses_with_a_sentence(folder, tmp_path, capsys):
    truth = folder / "truth.npz"
    assert "mpjpe" in refused(capsys, "evaluate", truth, "--truth", truth, "--metrics", "mpjep")
    assert "nowhere.npz" in refused(capsys, "evaluate", truth, "--truth", tmp_path / "nowhere.npz")
    other = tmp_path / "other.npz"
    write_arrays(other, {"hand_valid": np.ones((3, 2), bool), "joints_3d": np.zeros((3, 2, 21, 4))})
    message = refused(capsys, "evaluate", truth, "--truth", other)
    assert "2" in message and "3" in message
    kept = tmp_path / "kept.json"
    kept.write_text("mine")
    assert "--force" in refused(capsys, "evaluate", truth, "--truth", truth, "--json", kept)
    assert kept.read_text() == "mine"


def test_selection_flags_belong_to_interhand(tmp_path, capsys):
    out = tmp_path / "out.npz"
    message = refused(capsys, "convert", "x.npy", "--from", "vitra", "--out", out, "--limit", 3)
    assert "--limit" in message and "InterHand2.6M" in message
    message = refused(
        capsys, "convert", tmp_path, "--from", "interhand", "--out", out, "--stride", 0
    )
    assert "stride: expected at least 1, found 0" in message
