"""`manofit refine` into a Zarr group and `manofit report`, as a user meets them."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from experiments import refine_command
from experiments.benchmark import make_interactions
from experiments.cli import EXIT_FRAMES_SKIPPED, main
from experiments.refine_command import summary_path
from fitting.canonical import read_arrays, read_predictions, write_arrays
from fitting.evaluation import read_result
from fitting.strategy import Stage, Strategy, strategy_to_toml

FRAMES = 20


@pytest.fixture(scope="module")
def folder(hands, tmp_path_factory):
    """Predictions of which frame 2 is broken, and a strategy of joints alone."""
    folder = tmp_path_factory.mktemp("refine")
    _, made = make_interactions(hands, frames=4, seed=8)
    arrays = made.frames(np.arange(FRAMES) % 4).arrays()
    arrays["hand_pose"] = (
        arrays["hand_pose"] + np.linspace(0, 0.1, FRAMES, dtype=np.float32)[:, None, None, None]
    )
    arrays["hand_pose"][2] = np.nan
    write_arrays(folder / "input.npz", arrays)
    weights = {"joints_3d": 1000.0}
    stage = Stage("all", {"orientation": 1e-2, "finger_pose": 1e-2}, weights, iterations=11)
    strategy = Strategy("joints", "Joints alone.", (stage,), report_weights=weights)
    (folder / "joints.toml").write_text(strategy_to_toml(strategy))
    return folder


@pytest.fixture
def words(folder):
    """The command line without its result."""
    return ["refine", str(folder / "input.npz"), "--strategy", str(folder / "joints.toml")]


def test_refine_into_a_group_and_report_it(words, tmp_path, capsys):
    out, flat = tmp_path / "new" / "r.zarr", tmp_path / "r.npz"
    assert main([*words, "--out", str(out), "--batch-size", "8"]) == 0
    printed = capsys.readouterr()
    assert re.search(r"20 frames: \d+ refined, \d+ kept as they came, 1 skipped", printed.out)
    assert "1 x hand_pose of the right hand is not finite" in printed.out
    assert "20 of 20 frames" in printed.err and "frames/s" in printed.err
    summary = json.loads(summary_path(out).read_text())
    assert summary["frames"] == FRAMES == summary["refined"] + summary["kept_input"] + 1
    assert sorted(p.name for p in out.parent.iterdir()) == ["r.summary.json", "r.zarr"]

    # The same as a file in memory, and read by everything that reads one.
    assert main([*words, "--out", str(flat)]) == 0
    a, b = read_arrays(out), read_arrays(flat)
    for name in b.keys() - {"provenance"}:
        np.testing.assert_array_equal(a[name], b[name])
    assert a.keys() == b.keys()
    provenance = json.loads(str(a["provenance"]))
    assert {"manofit", "jax", "device", "hands", "input_fingerprint"} <= provenance.keys()
    assert read_predictions(out).num_frames == FRAMES
    assert read_result(out)[1].sum() == 1

    capsys.readouterr()
    picture = tmp_path / "energies.png"
    for path in (out, flat):
        assert main(["report", str(path), "--plot", str(picture), "--force"]) == 0
        assert "1 skipped" in capsys.readouterr().out
    assert picture.stat().st_size > 10_000
    assert main(["report", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["skipped_invalid"] == 1


def test_json_and_exit_codes(words, tmp_path, capsys):
    for name in ("r.zarr", "r.npz"):
        code = main([*words, "--out", str(tmp_path / name), "--json", "--fail-on-skipped"])
        assert code == EXIT_FRAMES_SKIPPED == 3
        assert json.loads(capsys.readouterr().out)["skipped_invalid"] == 1
    assert main([*words, "--out", str(tmp_path / "r.zarr"), "--json"]) == 0
    healthy = [*words, "--frames", "3:9", "--fail-on-skipped"]
    assert main([*healthy, "--out", str(tmp_path / "s.zarr")]) == 0


def test_what_is_done_is_not_done_again_and_changes_are_refused(words, folder, tmp_path, capsys):
    out = tmp_path / "r.zarr"
    assert main([*words, "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["run"]["frames"] == FRAMES
    assert main([*words, "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["run"]["frames"] == 0
    changed = [*words, "--out", str(out), "--set", "all.iterations=21"]
    assert main(changed) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "-iterations = 11, +iterations = 21" in message and "--restart" in message
    assert main([*changed, "--restart"]) == 0


def test_a_start_from_joints_and_joints_on_request(folder, tmp_path):
    arrays = read_arrays(folder / "input.npz")
    path = tmp_path / "joints.npz"
    write_arrays(path, {n: arrays[n] for n in ("hand_valid", "joints_3d")})
    options = ["--strategy", str(folder / "joints.toml"), "--save", "joints"]
    assert main(["refine", str(path), "--out", str(tmp_path / "j.zarr"), *options]) == 0
    found = read_arrays(tmp_path / "j.zarr")
    assert found["joints"].shape == (FRAMES, 2, 21, 3) and "vertices" not in found
    assert found["hand_pose"].shape == (FRAMES, 2, 15, 3)


def test_lines_of_progress_tell_rate_and_time_left(capsys, monkeypatch):
    clock = iter([0.0, 0.0, 5.0, 20.0, 40.0])
    monkeypatch.setattr(refine_command.time, "monotonic", lambda: next(clock))
    with refine_command._bar() as shown:
        shown(100, 0, 1000)
        shown(200, 100, 1000)
        shown(300, 200, 1000)
        shown(1000, 900, 1000)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "100 of 1000 frames"
    assert lines[1] == "300 of 1000 frames, 10.0 frames/s, 1 min 10 s left"
    assert len(lines) == 3


def test_ctrl_c_finishes_the_chunk_and_says_how_to_go_on(words, tmp_path):
    out = tmp_path / "r.zarr"
    command = [sys.executable, "-m", "experiments.cli", *words, "--out", str(out)]
    # So many steps that there is something to interrupt.
    command += ["--batch-size", "8", "--set", "all.iterations=1001"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with process:
        while not (out / "energy_terms").exists():
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        error = process.stderr.read().decode()
    assert process.returncode == 130
    assert "Traceback" not in error and "finishing the chunk at hand" in error
    assert re.search(r"\d of 3 chunks are done, .*run the same command", error)
    assert [p.name for p in tmp_path.iterdir()] == ["r.zarr"]
    assert not list(out.rglob("*.partial"))


@pytest.mark.skipif(os.name == "nt", reason="signals of another kind")
def test_killed_in_the_middle_and_gone_on_with(words, tmp_path):
    """The whole trial, with contacts and 2,000 frames, is `experiments.batch_trial kill`."""
    alone, out = tmp_path / "alone.zarr", tmp_path / "killed.zarr"
    options = ["--batch-size", "8", "--set", "all.iterations=201"]
    assert main([*words, "--out", str(alone), *options]) == 0
    command = [sys.executable, "-m", "experiments.cli", *words, "--out", str(out), *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (out / "chunk_done" / "c.0").exists():
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert main([*words, "--out", str(out), *options]) == 0
    a, b = read_arrays(alone), read_arrays(out)
    for name in a.keys() - {"provenance"}:
        np.testing.assert_array_equal(a[name], b[name])
    assert not list(tmp_path.rglob("*.partial")) and not list(tmp_path.glob("*.lock"))
