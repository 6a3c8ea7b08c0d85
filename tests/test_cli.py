"""The command line: what it does with good input, and what it says to bad input."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments import commands
from experiments.benchmark import make_interactions
from experiments.cli import main
from fitting.canonical import read_arrays, read_predictions, write_arrays
from fitting.errors import InputError
from fitting.strategy import Stage, Strategy, strategy_to_toml
from mano_jax.export import export_hands
from mano_jax.loading import read_hand_models
from tests.test_canonical import ABSURD_SHAPES, npz_that_claims

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
    assert error.count("\n") == 1 and "Errno" not in error
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
        ("refine none.npz --out {new}/o.npz", "none.npz"),
        ("refine {file} --out {tmp}", "is a folder"),
        ("refine {file} --out {new}/o.txt", "ends in .npz or .zarr"),
        ("refine {file} --out {new}/o", "ends in .npz or .zarr"),
        ("refine {file} --out {text}/o.zarr", "text.npz is no folder"),
        ("refine {file} --out {new}/o.zarr --force", "--restart"),
        ("refine {file} --out {new}/o.npz --restart", "belong to a result in .zarr"),
        ("refine {file} --out {new}/o.zarr --batch-size 0", "at least one frame"),
        ("refine {file} --out {new}/o.zarr --devices 99", "expected 1 to"),
        ("refine {file} --out {new}/o.zarr --frames 9:12", "none in the range"),
        ("refine {file} --out {new}/o.zarr --focal 900", "need --from another format"),
        ("refine {file} --out {new}/o.npz --focal 900", "need --from another format"),
        ("refine {text} --out {new}/o.zarr", "text.npz"),
        ("report {file}", "no result"),
        ("report {new}.zarr", "no such file"),
        ("refine {file} --out {text}/o.npz", "text.npz is no folder"),
        ("refine {file} --out {new}/o.npz --strategy best", "unknown strategy"),
        ("refine {file} --out {new}/o.npz --strategy {latin}", "latin.toml"),
        ("refine {file} --out {new}/o.npz --set contacts=1", "name a field"),
        ("refine {file} --out {new}/o.npz --frames 7", "expected A:B"),
        ("refine {file} --out {new}/o.npz --frames 9:12", "none in the range"),
        ("refine {file} --out {new}/o.npz --hands nowhere", "nowhere"),
        ("check {text}", "text.npz"),
        ("check {file} --strategy best", "unknown strategy"),
        ("convert {text} --from vitra --out {new}/o.npz", "text.npz"),
        ("convert {text} --from vitra --out {new}/o.txt", "ends in .npz"),
        ("overlay {file} --image {new}.png --out {new}/o.png", "new.png: no such file"),
        ("overlay {file} --image {text} --out {new}/o.png", "text.npz"),
        ("overlay {file} --image {image} --out {new}/o.jpg", "ends in .png"),
        ("overlay {file} --image {image} --out {new}/o.png --frame 9", "0 to 2"),
        ("overlay {file} --image {image} --out {new}/o.png --view 1", "0 to 0"),
        ("overlay {file} --image {image} --out {new}/o.png --crop 0 0 0 9", "above 0"),
        ("overlay {file} --image {image} --out {new}/o.png --opacity 2", "0 to 1"),
        ("strategy show none.toml", "no strategy file"),
        ("strategy show {latin}", "latin.toml"),
        ("hands info --hands nowhere", "nowhere"),
        ("hands export --out {text}", "text.npz is no folder"),
        ("demo --frames 0 --out {new}", "at least one frame"),
        ("demo --seed -1 --out {new}", "0 or more"),
        ("demo --out {text}", "text.npz is no folder"),
    ],
)
def test_bad_input_is_one_sentence(arguments, message, predictions_file, tmp_path, capsys):
    """It is refused before the work, and before anything is made: no folder either."""
    names = {name: tmp_path / name for name in ("new", "text.npz", "latin.toml", "image.png")}
    names["text.npz"].write_text("no archive")
    names["latin.toml"].write_bytes("name = 'é'".encode("latin-1"))
    Image.new("RGB", (20, 20)).save(names["image.png"])
    names = {name.split(".")[0]: path for name, path in names.items()}
    before = set(tmp_path.rglob("*"))
    words = [
        word.format(file=predictions_file, tmp=tmp_path, **names) for word in arguments.split()
    ]
    assert message in refused(capsys, *words)
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("shape", ABSURD_SHAPES)
def test_a_hand_file_that_claims_too_much(shape, tmp_path, capsys):
    npz_that_claims(shape, tmp_path / "MANO_RIGHT.npz", "v_template")
    assert "no readable .npz" in refused(capsys, "hands", "info", "--hands", tmp_path)


def test_check_asks_about_the_strategy_that_is_named(predictions_file, tmp_path, capsys):
    path = tmp_path / "joints.toml"
    stage = Stage(name="all", step_sizes={"finger_pose": 0.01}, weights={"joints_3d": 1.0})
    only_joints = Strategy("joints", "Joints alone.", (stage,), report_weights={"joints_3d": 1.0})
    path.write_text(strategy_to_toml(only_joints))
    for arguments, expected in (([], True), (["--strategy", str(path)], False)):
        assert main(["check", str(predictions_file), *arguments]) == 0
        printed = capsys.readouterr().out
        assert "joints_3d: 3 of 3" in printed
        assert ("collision: 3 of 3" in printed) == expected


def test_starting_from_joints_is_said(predictions_file, tmp_path, capsys, monkeypatch):
    arrays = read_arrays(predictions_file)
    path = tmp_path / "joints.npz"
    write_arrays(path, {name: arrays[name] for name in ("hand_valid", "joints_3d")})

    def stop(*_, **__):
        raise InputError("far enough")

    monkeypatch.setattr(commands, "refine", stop)
    for file, expected in ((path, True), (predictions_file, False)):
        assert main(["refine", str(file), "--out", str(tmp_path / "o.npz")]) == 2
        printed = capsys.readouterr().out
        assert ("each stage keeps its iterate of lowest energy" in printed) == expected


def test_ctrl_c_during_a_fit_ends_it_cleanly(predictions_file, tmp_path):
    out = tmp_path / "refined.npz"
    command = [sys.executable, "-m", "experiments.cli", "refine", str(predictions_file)]
    process = subprocess.Popen(
        [*command, "--out", str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    )
    with process:
        assert process.stdout is not None and process.stderr is not None
        error = b""
        while b"refining" not in error:
            letter = process.stderr.read(1)
            assert letter, error.decode()
            error += letter
        process.send_signal(signal.SIGINT)
        error += process.stderr.read()
        process.stdout.read()
    assert process.returncode == 130
    assert b"Traceback" not in error and error.endswith(b"manofit: interrupted\n")
    assert os.listdir(tmp_path) == []


def test_an_interrupted_process_skips_the_interpreters_shutdown():
    """XLA's threads, still computing, crashed there: exit code -11 instead of 130."""
    code = (
        "import atexit; from experiments import cli; atexit.register(print, 'shutdown'); "
        "cli.main = lambda: cli.EXIT_INTERRUPTED; print('said before', end=''); cli.run()"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (process.returncode, process.stdout, process.stderr) == (130, b"said before", b"")


def test_overlay_takes_view_and_crop(predictions_file, tmp_path):
    image, whole, part = (tmp_path / name for name in ("image.png", "whole.png", "part.png"))
    Image.new("RGB", (90, 60)).save(image)
    run = ["overlay", str(predictions_file), "--image", str(image), "--frame", "1"]
    assert main([*run, "--out", str(whole)]) == 0
    crop = ["--view", "0", "--opacity", "1", "--crop", "0", "0", "45", "30"]
    assert main([*run, "--out", str(part), *crop]) == 0
    seen = [np.any(np.array(Image.open(path)) > 0, axis=-1) for path in (whole, part)]
    assert seen[0][:, 50:].any() and seen[1][:32, :47].any() and not seen[1][35:, 50:].any()


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


@pytest.mark.parametrize("debug", [[], ["--debug"]])
def test_an_error_of_the_program_stays_one(debug, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("a fault of the program")

    monkeypatch.setattr(commands, "check_file", broken)
    with pytest.raises(ZeroDivisionError):
        main(["check", "any.npz", *debug])


@pytest.mark.parametrize(
    "command",
    ["convert --out o.npz", "refine --out o.npz", "refine --out o.zarr", "calibrate --out o.toml"],
)
def test_what_is_told_of_the_input_reaches_its_reader(command, monkeypatch, tmp_path):
    seen = []

    def read(path, *, source, reading):
        seen.append((source, reading.image_size, reading.focal, reading.annotations))
        raise InputError("enough")

    monkeypatch.setattr("experiments.convert.read_foreign", read)
    monkeypatch.chdir(tmp_path)
    told = "--from hamer --image-size 640 480 --focal 900 --annotations a.pkl".split()
    assert main([*command.split(), "in.pkl", *told]) == 2
    assert seen == [("hamer", (640, 480), 900.0, Path("a.pkl"))]


def test_help_comes_from_the_config(capsys):
    for arguments in (["--help"], ["refine", "--help"], ["hands", "export", "--help"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "scales.joints_3d=0.005" in text and "Replace an existing result" in text


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
    assert "--force" in refused(capsys, "hands", "export", "--out", folder)
    assert main(["hands", "export", "--out", str(folder), "--force"]) == 0


def test_hands_without_45_independent_components_are_exported(
    right_model, left_model, tmp_path, capsys
):
    path = export_hands(right_model, left_model, tmp_path)[1]
    with np.load(path) as archive:
        entries = dict(archive)
    entries["hands_components"][-1] = 0.0
    entries["hands_coeffs"] = np.ones((3, 45))
    singular, again = tmp_path / "singular", tmp_path / "again"
    for folder in (singular, again):
        folder.mkdir()
    np.savez(singular / "MANO_RIGHT.npz", **entries)
    run = ["hands", "export", "--hands", str(singular), "--out", str(again)]
    assert main(run) == 0
    first, second = (read_hand_models(folder)[0].pose_samples for folder in (singular, again))
    assert first is not None and second is not None
    np.testing.assert_allclose(first, second, atol=1e-9)


def test_demo_and_refine_give_the_same(tmp_path, capsys):
    """The demo is `manofit refine` on the file that it wrote, and leaves all it promises."""
    folder, again = tmp_path / "demo", tmp_path / "again.npz"
    assert main(["demo", "--frames", "2", "--out", str(folder), *SHORT]) == 0
    table = capsys.readouterr().out
    for name in ("collision", "joints_3d", "MPJPE", "I-MPJPE", "MPVPE", "AVE-P", "MAX-P"):
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


@pytest.mark.parametrize(
    ("told", "devices", "pool"),
    [
        ({}, 1, None),
        ({"JAX_NUM_CPU_DEVICES": "1"}, 1, 4),
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}, 3, 4),
        ({"JAX_NUM_CPU_DEVICES": "2", "NPROC": "7"}, 2, 7),
    ],
)
def test_a_processor_is_one_device_unless_told_otherwise(told, devices, pool):
    """Virtual devices have a pool of threads that is the same for one and for four."""
    program = (
        "from experiments.cli import _round_alike_on_virtual_devices as use; use(); "
        "import jax, os; print(len(jax.devices()), os.environ.get('NPROC'))"
    )
    ours = ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES", "NPROC")
    clean = {k: v for k, v in os.environ.items() if k not in ours}
    run = subprocess.run(
        [sys.executable, "-c", program],
        env={**clean, "JAX_PLATFORMS": "cpu", **told},
        capture_output=True,
        text=True,
        check=True,
    )
    threads = max(pool, os.cpu_count() or 1) if pool == 4 else pool
    assert run.stdout.split() == [str(devices), str(threads)]
