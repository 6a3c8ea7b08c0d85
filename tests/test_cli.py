"""The command line: what it does with good input, and what it says to bad input."""

import re

import numpy as np
import pytest

from experiments.benchmark_data import make_interactions
from experiments.cli import main
from fitting.canonical import read_arrays, read_predictions, write_arrays

# As many as in `test_refine.py`, which then has the compiled programs already.
SHORT = ["--set", "stages.iterations=21"]


@pytest.fixture(scope="module")
def predictions_file(hands, tmp_path_factory):
    _, predictions = make_interactions(hands, frames=3, seed=4)
    path = tmp_path_factory.mktemp("cli") / "predictions.npz"
    write_arrays(path, predictions.arrays())
    return path


def refused(capsys, *arguments):
    """Run, expect exit code 2, and return the one sentence on stderr."""
    assert main([str(a) for a in arguments]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error and error.startswith("manofit: ")
    assert error.count("\n") == 1
    return error


def test_refine_writes_a_whole_result(predictions_file, tmp_path, capsys):
    out = tmp_path / "new" / "refined.npz"
    assert main(["refine", str(predictions_file), "--out", str(out), *SHORT]) == 0
    printed = capsys.readouterr().out
    assert "embedded hand" in printed and "3 with both hands" in printed
    assert re.search(r"3 frames: \d refined, \d kept as they came, 0 skipped", printed)
    arrays = read_arrays(out)
    assert arrays["status"].shape == (3,) and "input" in str(arrays["provenance"])
    assert list(out.parent.iterdir()) == [out]
    # A result is an input again.
    assert read_predictions(out).num_frames == 3


def test_refine_a_range_of_frames(predictions_file, tmp_path):
    out = tmp_path / "one.npz"
    run = ["refine", str(predictions_file), "--out", str(out), "--frames", "1:2", *SHORT]
    assert main(run) == 0
    assert read_predictions(out).num_frames == 1


def test_nothing_is_overwritten_without_force(predictions_file, tmp_path, capsys):
    out = tmp_path / "mine.npz"
    out.write_bytes(b"precious")
    message = refused(capsys, "refine", predictions_file, "--out", out)
    assert "exists already" in message and "--force" in message
    assert out.read_bytes() == b"precious"


def test_a_skipped_frame_is_no_error(predictions_file, tmp_path, capsys):
    arrays = read_arrays(predictions_file)
    arrays["hand_pose"][1] = np.nan
    path, out = tmp_path / "nan.npz", tmp_path / "out.npz"
    write_arrays(path, arrays)
    assert main(["refine", str(path), "--out", str(out), *SHORT]) == 0
    assert "1 skipped" in capsys.readouterr().out
    assert read_arrays(out)["status"][1] == 2
    assert main(["check", str(path)]) == 0
    assert "not finite" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["refine", "none.npz", "--out", "{tmp}/o.npz"], "none.npz"),
        (["refine", "{file}", "--out", "{tmp}"], "is a folder"),
        (["refine", "{file}", "--out", "{tmp}/o.npz", "--strategy", "best"], "unknown strategy"),
        (["refine", "{file}", "--out", "{tmp}/o.npz", "--set", "shape=1"], "name a field"),
        (["refine", "{file}", "--out", "{tmp}/o.npz", "--frames", "7"], "expected A:B"),
        (["refine", "{file}", "--out", "{tmp}/o.npz", "--frames", "9:12"], "none in the range"),
        (["refine", "{file}", "--out", "{tmp}/o.npz", "--hands", "nowhere"], "nowhere"),
        (["check", "{text}"], "text.npz"),
        (["convert", "{text}", "--from", "vitra", "--out", "{tmp}/o.npz"], "text.npz"),
        (["overlay", "{file}", "--image", "none.png", "--out", "{tmp}/o.png"], "none.png"),
        (["overlay", "{file}", "--image", "x", "--out", "{tmp}/o.png", "--frame", "9"], "0 to 2"),
        (["strategy", "show", "none.toml"], "no strategy file"),
        (["hands", "info", "--hands", "nowhere"], "nowhere"),
        (["demo", "--frames", "0", "--out", "{tmp}/demo"], "at least one frame"),
    ],
)
def test_bad_input_is_one_sentence(arguments, message, predictions_file, tmp_path, capsys):
    text = tmp_path / "text.npz"
    text.write_text("no archive")
    names = {"file": predictions_file, "tmp": tmp_path, "text": text}
    error = refused(capsys, *(a.format(**names) for a in arguments))
    assert message in error
    assert not (tmp_path / "o.npz").exists() and not (tmp_path / "o.png").exists()


@pytest.mark.parametrize(
    "arguments",
    [[], ["refin"], ["refine"], ["refine", "x.npz"], ["demo", "--frames", "many"], ["demo", "-x"]],
)
def test_bad_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err and captured.err and not captured.out


def test_debug_shows_where_it_failed(capsys):
    assert main(["check", "none.npz", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_help_comes_from_the_config(capsys):
    for arguments in (["--help"], ["refine", "--help"], ["hands", "export", "--help"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "finger_pose.weights.collision=2" in text and "Replace an existing result" in text


def test_version(capsys):
    assert main(["--version"]) == 0
    assert re.fullmatch(r"manofit \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_strategies_are_listed_and_shown(tmp_path, capsys):
    assert main(["strategy", "list"]) == 0
    assert "ihmr-release" in capsys.readouterr().out
    assert main(["strategy", "show", "ihmr", "--set", "stages.iterations=11"]) == 0
    path = tmp_path / "mine.toml"
    path.write_text(capsys.readouterr().out)
    assert main(["strategy", "show", str(path)]) == 0
    assert "iterations = 11" in capsys.readouterr().out


def test_hands_are_described_and_exported(tmp_path, capsys):
    assert main(["hands", "info"]) == 0
    assert "778 vertices" in capsys.readouterr().out
    folder = tmp_path / "hands"
    assert main(["hands", "export", "--out", str(folder)]) == 0
    names = {path.name for path in folder.iterdir()}
    assert names == {"MANO_RIGHT.pkl", "MANO_LEFT.pkl", "MANO_RIGHT.npz", "MANO_LEFT.npz"}
    capsys.readouterr()
    assert main(["hands", "info", "--hands", str(folder)]) == 0
    assert "MANO_RIGHT" in capsys.readouterr().out
    assert main(["hands", "export", "--out", str(folder)]) == 2


def test_demo_and_refine_give_the_same(tmp_path, capsys):
    """The demo is `manofit refine` on the file that it wrote, and leaves all it promises."""
    folder, again = tmp_path / "demo", tmp_path / "again.npz"
    assert main(["demo", "--frames", "2", "--out", str(folder), *SHORT]) == 0
    table = capsys.readouterr().out
    for name in ("collision", "finger_twist", "MPJPE", "I-MPJPE", "MPVPE", "AVE-P", "MAX-P"):
        assert name in table
    assert "synthetic" in table
    names = {path.name for path in folder.iterdir()}
    pictures = {"worst_frame.glb", "before_after.png"}
    assert names == {"predictions.npz", "truth.npz", "refined.npz"} | pictures
    run = ["refine", str(folder / "predictions.npz"), "--out", str(again), *SHORT]
    assert main(run) == 0
    a, b = read_arrays(folder / "refined.npz"), read_arrays(again)
    assert set(a) == set(b)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])
    assert main(["demo", "--frames", "2", "--out", str(folder)]) == 2
