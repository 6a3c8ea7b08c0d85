"""Records of experiments: what is written is read, and tables are made from it."""

import json
import math
from pathlib import Path

import pytest

from experiments import collision_engines, map_page, results_page
from experiments.ablation import cells, read_spec
from experiments.benchmark import page as benchmark_page
from experiments.records import Metric, Record, markdown_table, provenance, read_record

ROOT = Path(__file__).parent.parent
RESULTS = sorted((ROOT / "experiments" / "results").rglob("*.json"))


@pytest.fixture
def record():
    return Record(
        question="What?",
        data="synthetic",
        metrics=(
            Metric("time/culled/ms", 2.0, "ms", "lower"),
            Metric("time/exact/ms", 5.0, "ms", "lower"),
            Metric("time/exact/MB", 1.5, "MB", "lower"),
            Metric("time in all", 7.0, "ms", "lower"),
        ),
        provenance=provenance("experiments.nothing"),
        settings={"frames": 3},
    )


def test_what_is_written_is_read(record, tmp_path):
    path = tmp_path / "new" / "record.json"
    record.write(path)
    assert read_record(path) == record
    assert json.loads(path.read_text())["provenance"]["versions"]["jax"]


def test_a_value_by_its_key_and_a_table_by_its_prefix(record):
    assert record["time/exact/MB"] == 1.5
    with pytest.raises(KeyError, match=r"'time/none' is none of time/culled/ms"):
        record["time/none"]
    rows = record.rows("time")
    assert rows == {"culled": {"ms": 2.0}, "exact": {"ms": 5.0, "MB": 1.5}}
    table = markdown_table(rows, corner="engine", show="{:.1f}".format)
    assert (
        table == "| engine | ms | MB |\n|---|---|---|\n| culled | 2.0 |  |\n| exact | 5.0 | 1.5 |"
    )


@pytest.mark.parametrize("path", RESULTS, ids=[path.name for path in RESULTS])
def test_every_committed_record_says_where_it_comes_from(path):
    record = read_record(path)
    assert record.question and record.data and record.metrics
    assert {"command", "commit", "device", "versions"} <= record.provenance.keys()
    assert all(math.isfinite(metric.value) for metric in record.metrics)
    keys = [metric.key for metric in record.metrics]
    assert len(keys) == len(set(keys))


def test_the_page_of_collision_engines_is_its_record():
    records = [
        read_record(ROOT / path) for path in (collision_engines.RECORD, collision_engines.FITS)
    ]
    assert (ROOT / "docs" / "collision.md").read_text() == collision_engines.page(*records)


def test_the_page_of_map_is_its_records():
    records = {name: read_record(ROOT / path) for name, path in map_page.RECORDS.items()}
    assert (ROOT / "docs" / "map.md").read_text() == map_page.page(records)


def test_the_page_of_the_studies_is_their_records():
    page = results_page.page(results_page.read_records(ROOT))
    assert (ROOT / "docs" / "results.md").read_text() == page


def test_every_study_has_its_answer():
    studies = {p.stem for p in (ROOT / "experiments" / "studies").glob("*.toml")}
    assert studies == set(results_page.STUDIES)
    for name, record in results_page.read_records(ROOT).items():
        if name in studies:
            spec = read_spec(ROOT / "experiments" / "studies" / f"{name}.toml")
            assert record.question == spec.question
            asked = {f"{c.data}/{c.strategy}: {c.row}" for c in cells(spec)}
            answered = {m.key.rpartition("/")[0] for m in record.metrics}
            assert asked == {key for key in answered if not key.endswith("/before")}


def test_the_page_of_the_benchmark_is_its_record():
    record = read_record(ROOT / "experiments" / "results" / "benchmark_figures.json")
    assert (ROOT / "docs" / "benchmark.md").read_text() == benchmark_page.page(record)
