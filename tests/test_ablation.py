"""Ablations: what a spec comes to, what is kept of an interrupted run, what its tables say."""

import json
import re
import sys
from dataclasses import replace

import numpy as np
import pytest

from experiments.ablation import Spec, cells, read_spec, run_cells, write_report
from experiments.ablation.plots import draw
from experiments.ablation.run import RESULTS, read_results
from experiments.ablation.spec import AS_IT_IS, Data, Files, Row, reporting_itself
from experiments.ablation.tables import BEFORE, summarise
from experiments.cli import main
from experiments.records import read_record
from fitting.canonical import write_predictions
from fitting.errors import InputError
from fitting.strategy import (
    Acceptance,
    Stage,
    Strategy,
    load_strategy,
    override,
    strategy_to_toml,
    with_stages,
)
from tests.test_refine import count_compilations

JOINTS = Strategy(
    name="joints",
    description="3D joints and shape, no surface: compiled in a moment.",
    report_weights={"joints_3d": 1000.0, "shape_prior": 0.1},
    stages=(
        Stage(
            name="all",
            step_sizes={"orientation": 1e-2, "finger_pose": 1e-2},
            weights={"joints_3d": 1000.0, "shape_prior": 0.1},
            iterations=11,
            acceptance=Acceptance(select_by=("joints_3d",), max_ratio={}),
        ),
    ),
)


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    path = tmp_path_factory.mktemp("ablation") / "joints.toml"
    path.write_text(strategy_to_toml(JOINTS))
    return Spec(
        question="Do joints <help>?",
        strategies=(str(path),),
        rows=(Row("no joints", ("stages.weights.joints_3d=0",)),),
        values={"stages.step_sizes.finger_pose": (1e-3, 3e-2)},
        frames=3,
        seeds=(0, 1),
        metrics=("mpjpe", "i_mpjpe"),
    )


@pytest.fixture(scope="module")
def done(spec, hands, tmp_path_factory):
    folder = tmp_path_factory.mktemp("done")
    return folder, run_cells(spec, hands, folder)


def test_rows_one_at_a_time_and_in_a_grid():
    spec = Spec(
        question="?",
        strategies=("ihmr", "map"),
        values={"stages.iterations": (11, 21), "angle_frame": ("axis_angle",)},
        seeds=(5,),
        data=(Data(), Data("noisy", detector={"joint_noise_mm": 20.0})),
    )
    rows = [AS_IT_IS, "stages.iterations=11", "stages.iterations=21", 'angle_frame="axis_angle"']
    assert list(dict.fromkeys(cell.row for cell in cells(spec))) == rows
    assert len(cells(spec)) == 2 * 2 * 4
    (grid,) = {c.row: c for c in cells(replace(spec, grid=True)) if "21" in c.row}.values()
    assert all(stage.iterations == 21 for stage in grid.plan.stages)
    assert grid.plan.angle_frame == "axis_angle"


def test_rows_of_stages_factors_and_some_strategies(tmp_path):
    (tmp_path / "mine.toml").write_text(strategy_to_toml(load_strategy("ihmr")))
    (tmp_path / "spec.toml").write_text(
        """question = '?'
strategies = ['mine.toml', 'map']
seeds = [0]
[[rows]]
name = 'backwards'
of = ['mine']
stages = ['shape', 'finger_pose']
[values]
'stages.iterations*' = [3]
"""
    )
    spec = read_spec(tmp_path / "spec.toml")
    found = {(c.strategy, c.row): c.plan for c in cells(replace(spec, values={}))}
    assert set(found) == {("mine", AS_IT_IS), ("mine", "backwards"), ("map", AS_IT_IS)}
    assert [s.name for s in found["mine", "backwards"].stages] == ["shape", "finger_pose"]
    times = {c.strategy: c.plan for c in cells(replace(spec, strategies=("map",), rows=()))}
    assert [s.iterations for s in times["map"].stages] == [36, 30, 36, 60]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("strategies = ['ihmr']", "missing key 'question'"),
        ("question = 1", "question: expected str, found 1"),
        ("question = '?'\nframs = 3", "unknown key 'frams'; known: question"),
        ("question = '?'\nmetrics = ['mpje']", "metrics: unknown 'mpje'"),
        ("question = '?'\nseeds = ['a']", "seeds: expected int, found 'a'"),
        ("question = '?'\n[[data]]\ndetector = {joint_noise = 1}", "unknown 'joint_noise'"),
        ("question = '?'\n[[rows]]\nname = 'as it is'\nset = []", "two have the same name"),
        ("question = '?'\nframes = 0", "a seed and a frame at least"),
        ("question = '?'\nmetrics = ['pck']\n[success]\npck = 1", "of pck more is better"),
        ("question = '?'\n[success]\nmpjp = 1", "success: metrics that are measured: unknown"),
        ("question = '?'\n[[rows]]\nname = 'a/b'", "a name in a record's path has no '/'"),
        ("question = '?'\n[[rows]]\nname = 'x'\nof = ['map']", "row 'x': of: unknown 'map'"),
        ("question = '?'\nstrategies = ['map', 'map']", "strategies: two have the same name"),
        ("question = ", "not valid TOML"),
    ],
)
def test_a_bad_spec_is_refused(tmp_path, text, message, capsys):
    path = tmp_path / "spec.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=re.escape(message)):
        read_spec(path)
    assert main(["ablate", str(path), "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_matplotlib_nothing_runs_in_vain(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    (tmp_path / "spec.toml").write_text("question = '?'\nframes = 1\nseeds = [0]")
    out = tmp_path / "out"
    assert main(["ablate", str(tmp_path / "spec.toml"), "--out", str(out)]) == 2
    assert "'plots' extra, or give --no-pictures" in capsys.readouterr().err
    assert not out.exists()


def test_a_wrong_setting_is_refused_before_anything_runs(spec, hands, tmp_path):
    wrong = replace(spec, rows=(Row("wrong", ("stages.wights.joints_3d=0",)),))
    with pytest.raises(InputError, match="no table 'wights'"):
        run_cells(wrong, hands, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_cell_has_its_line(spec, done):
    folder, results = done
    lines = [json.loads(line) for line in (folder / RESULTS).read_text().splitlines()]
    assert len(lines) == len(results) == 2 * 4
    assert [r.key for r in results] == [c.key for c in cells(spec)]
    assert all(len(r.metrics["mpjpe"]) == 3 for r in results)
    assert all(line["provenance"]["commit"] for line in lines)
    by_row = {r.row: np.mean(r.metrics["mpjpe"]) for r in results if r.seed == 0}
    assert by_row[AS_IT_IS] < by_row["no joints"]


def test_what_is_done_is_not_done_again(spec, hands, done, tmp_path):
    folder, results = done
    lines = (folder / RESULTS).read_bytes().splitlines(keepends=True)
    # Killed in the middle of the fourth line.
    (tmp_path / RESULTS).write_bytes(b"".join(lines[:3]) + lines[3][:40])
    again = run_cells(spec, hands, tmp_path)
    assert again[:3] == results[:3]
    assert [r.metrics for r in again] == [r.metrics for r in results]
    assert again[3].seconds != results[3].seconds
    assert len(read_results(tmp_path / RESULTS)) == len(results)
    before = (tmp_path / RESULTS).read_bytes()
    assert run_cells(spec, hands, tmp_path) == again
    assert (tmp_path / RESULTS).read_bytes() == before


def test_other_data_are_other_cells(spec, hands, done, tmp_path):
    folder, results = done
    (tmp_path / RESULTS).write_bytes((folder / RESULTS).read_bytes())
    noisy = replace(
        spec, rows=(), values={}, seeds=(0,), data=(Data(detector={"joint_noise_mm": 20.0}),)
    )
    (found,) = run_cells(noisy, hands, tmp_path)
    assert found.metrics != results[0].metrics
    assert len(read_results(tmp_path / RESULTS)) == len(results) + 1


def test_a_damaged_line_is_told(tmp_path):
    (tmp_path / RESULTS).write_text("{}\n")
    with pytest.raises(InputError, match=r"results.jsonl, line 1: no result of an ablation"):
        read_results(tmp_path / RESULTS)


def test_numbers_and_switches_compile_nothing(spec, hands, done, tmp_path):
    """A weight, a step size and a term switched off: the program is there."""
    changed = replace(spec, values={"stages.step_sizes.finger_pose": (2e-2,)})
    changed = replace(changed, rows=(Row("no shape", ("stages.weights.shape_prior=0",)),))
    run_cells(replace(changed, rows=(), values={}), hands, tmp_path)
    with count_compilations() as compilations:
        run_cells(changed, hands, tmp_path)
        assert not compilations


def test_means_are_over_the_frames_of_all_seeds(spec, done):
    _, results = done
    lines = {line.row: line for line in summarise(spec, results)}
    base = [r for r in results if r.row == AS_IT_IS]
    for name, key in ((AS_IT_IS, "metrics"), (BEFORE, "before")):
        values = np.concatenate([getattr(r, key)["mpjpe"] for r in base])
        mean = lines[name].mean["mpjpe"]
        assert mean.mean == pytest.approx(values.mean()) and lines[name].frames == 6
        assert mean.low <= mean.mean <= mean.high
    change = lines["no joints"].change["mpjpe"]
    difference = lines["no joints"].mean["mpjpe"].mean - lines[AS_IT_IS].mean["mpjpe"].mean
    assert change.mean == pytest.approx(difference)
    assert not lines[AS_IT_IS].change

    worse = [
        replace(
            r,
            row="worse",
            metrics={k: list(np.array(v, float) + 1.0) for k, v in r.metrics.items()},
        )
        for r in base
    ]
    shifted = next(line for line in summarise(spec, [*base, *worse]) if line.row == "worse")
    assert shifted.change["mpjpe"].low == pytest.approx(1.0) and shifted.differs("mpjpe")


def test_the_report_stands_alone(spec, done, tmp_path):
    pytest.importorskip("matplotlib")
    grid = replace(
        spec,
        rows=(),
        values={"stages.weights.joints_3d": (1, 2), "stages.weights.shape_prior": (3,)},
        grid=True,
    )
    _, results = done
    made = [
        replace(results[0], row=f"stages.weights.joints_3d={a}, stages.weights.shape_prior=3")
        for a in (1, 2)
    ]
    written = {p.name for p in write_report(grid, [results[0], *made], tmp_path)}
    assert {"table.txt", "table.md", "table.csv", "table.tex", "bars_mpjpe.png"} <= written
    assert any(name.startswith("heat_map_mpjpe") for name in written)
    text = (tmp_path / "report.html").read_text()
    assert "Do joints &lt;help&gt;?" in text and text.count("data:image/png;base64,") >= 3
    assert not re.search(r"(?:src|href)=\"(?!data:)", text)
    rows = (tmp_path / "table.csv").read_text().splitlines()
    assert len(rows) == 1 + 1 + 3 and rows[0].startswith("data,strategy,row,frames")
    assert (tmp_path / "table.tex").read_text().count(r"\\") == 1 + 4


def test_successes_and_the_record(spec, done, tmp_path):
    _, results = done
    every = sorted(x for r in results if r.row == AS_IT_IS for x in r.metrics["mpjpe"])
    counting = replace(spec, success={"mpjpe": (every[2] + every[3]) / 2, "i_mpjpe": 1e6})
    lines = summarise(counting, results)
    line = next(line for line in lines if line.row == AS_IT_IS)
    assert line.mean["success"].mean == pytest.approx(50.0)
    assert line.seconds == pytest.approx(
        min(r.seconds for r in results if r.row == AS_IT_IS) / spec.frames
    )
    write_report(counting, results, tmp_path, pictures=False)
    assert "success (%)" in (tmp_path / "table.md").read_text()
    record = read_record(tmp_path / "record.json")
    metric = record.metric("benchmark/joints: as it is/mpjpe")
    assert (metric.value, metric.low, metric.high) == tuple(vars(line.mean["mpjpe"]).values())
    assert record["benchmark/joints: as it is/success"] == pytest.approx(50.0)
    assert "benchmark/joints: no joints/mpjpe change" in {m.key for m in record.metrics}


def test_what_cannot_be_measured_is_no_failure(spec, done):
    _, results = done
    counting = replace(spec, success={"mpjpe": 1e6})
    lame = [
        replace(r, metrics={k: [None, *v[1:]] for k, v in r.metrics.items()})
        for r in results
        if r.row == AS_IT_IS
    ]
    line = next(line for line in summarise(counting, lame) if line.row == AS_IT_IS)
    assert line.mean["success"].mean == 100.0


def test_energies_have_what_acts_and_repair_what_they_see():
    ours = load_strategy("map")
    joints = reporting_itself(with_stages(ours, ["joints"]))
    assert "collision" not in joints.report_likelihoods
    assert reporting_itself(ours) == ours
    blind = override(ours, ["contacts.likelihoods=['joints_3d']", "contacts.anneal={}"])
    assert reporting_itself(blind).repairs
    likelihoods = tuple(t for t in ours.stages[0].likelihoods)
    stages = tuple(replace(s, likelihoods=likelihoods, anneal={}) for s in ours.stages)
    assert not reporting_itself(replace(ours, stages=stages)).repairs


def test_curves_over_data_and_values(spec, done):
    pytest.importorskip("matplotlib")
    _, results = done
    two = replace(spec, data=(Data(), Data("again")))
    both = [*results, *(replace(r, data="again") for r in results)]
    pictures = draw(two, summarise(two, both))
    assert {"over the data mpjpe", "over the values i_mpjpe"} <= set(pictures)
    assert all(png.startswith(b"\x89PNG") for png in pictures.values())


def test_a_file_with_truth(spec, hands, done, tmp_path):
    from experiments.benchmark import make_interactions

    truth, predictions = make_interactions(hands, frames=4, seed=0)
    for name, file in (("truth", truth), ("start", predictions)):
        write_predictions(tmp_path / f"{name}.npz", file)
    (tmp_path / "spec.toml").write_text(
        "question = '?'\n[files]\npredictions='start.npz'\ntruth='truth.npz'"
    )
    files = read_spec(tmp_path / "spec.toml").files
    assert files == Files(str(tmp_path / "start.npz"), str(tmp_path / "truth.npz"))
    (found,) = run_cells(replace(spec, rows=(), values={}, files=files), hands, tmp_path)
    assert found.data == "files" and len(found.metrics["mpjpe"]) == 3
    _, results = done
    # The same frames as the synthetic ones, to the rounding of a file.
    file, arrays = (np.array(r.before["mpjpe"], float) for r in (found, results[0]))
    np.testing.assert_allclose(file, arrays, rtol=1e-3)
