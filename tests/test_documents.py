"""What README and docs say is so: commands parse, examples run, tables match the code."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from experiments import cli
from experiments.ablation import cells, read_spec
from fitting.canonical import RESULT_NAMES
from fitting.parameters import PARAMETER_GROUPS
from fitting.predictions import FIELD_NAMES
from fitting.refine import STATUS_NAMES
from fitting.strategy import load_strategy, override, strategy_from_toml
from mano_jax.joint_orders import FINGERTIP_VERTICES, JOINT_ORDERS
from objectives.joint_limits import ANGLE_FRAMES
from objectives.total import TERMS

ROOT = Path(__file__).parents[1]
DOCUMENTS = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")])
}
MAKE_TARGETS = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
CODE_SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def blocks(document: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return [body for found, body in FENCE.findall(DOCUMENTS[document]) if found == language]


def command_lines() -> list[tuple[str, str]]:
    """Every shell command in the documents, without comments: (document, command)."""
    lines = []
    for name, text in DOCUMENTS.items():
        shell = "\n".join(blocks(name, "bash")).splitlines()
        spans = CODE_SPAN.findall(FENCE.sub("", text))
        lines += [(name, line.split(" #")[0].strip()) for line in (*shell, *spans)]
    return [(name, line) for name, line in lines if line]


MANOFIT_LINES = sorted(
    {(name, line) for name, line in command_lines() if line.startswith("manofit ")}
)


def table(document: str, header: str) -> list[list[str]]:
    """The cells of the table whose first line begins with `header`."""
    lines = DOCUMENTS[document].splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith(header)]
    assert len(starts) == 1, f"{document}: expected one table {header!r}, found {len(starts)}"
    rows = []
    for line in lines[starts[0] + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def names_in(cells: list[str]) -> list[str]:
    """Names in backticks at the beginning of each cell."""
    return [CODE_SPAN.findall(cell)[0] for cell in cells]


def numbers_in(record: Any) -> list[float]:
    """All numbers of a JSON value."""
    if isinstance(record, dict | list):
        values = record.values() if isinstance(record, dict) else record
        return [number for value in values for number in numbers_in(value)]
    return [float(record)] if isinstance(record, int | float) else []


def first_column(document: str, header: str) -> list[str]:
    return names_in([row[0] for row in table(document, header)])


def test_the_readme_example_runs(tmp_path, monkeypatch, capsys):
    (example,) = blocks("README.md", "python")
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {"__name__": "__main__"})
    assert re.search(r"^refined energy \d", capsys.readouterr().out)
    assert (tmp_path / "refined.npz").is_file()


@pytest.mark.parametrize(("document", "line"), MANOFIT_LINES)
def test_every_command_parses_and_its_settings_exist(document, line, monkeypatch):
    arguments = shlex.split(line.split(" > ")[0])[1:]
    parsed = []
    for command in vars(cli).values():
        if isinstance(command, type) and hasattr(command, "run"):
            monkeypatch.setattr(command, "run", lambda self: parsed.append(self))
    if len(arguments) == 1 and arguments[0] != "--version":
        # Prose names a command without its arguments: that there is one will do.
        with pytest.raises(SystemExit) as exited:
            cli.main([*arguments, "--help"])
        assert exited.value.code == 0
        return
    assert cli.main(arguments) == 0
    (command,) = parsed
    command = getattr(command, "action", command)
    settings = getattr(command, "set", ())
    name = getattr(command, "strategy", getattr(command, "name", "ihmr"))
    override(load_strategy("ihmr" if name.endswith(".toml") else name), settings)


def test_the_commands_are_found():
    commands = {line.split()[1] for _, line in MANOFIT_LINES}
    assert commands >= {"demo", "refine", "convert", "check", "overlay", "strategy", "hands"}


def test_make_targets_exist():
    lines = [line.split() for _, line in command_lines() if re.fullmatch(r"make [a-z]+", line)]
    assert lines
    for _, target in lines:
        assert target in MAKE_TARGETS


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_and_images_exist(document):
    for link in LINK.findall(DOCUMENTS[document]):
        if not link.startswith(("https://", "#")):
            target = (ROOT / document).parent / link.split("#")[0]
            assert target.exists(), f"{document} refers to {link}, which is not there"


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if name != "docs/ablation.md"])
def test_toml_examples_are_strategies(document):
    for example in blocks(document, "toml"):
        strategy = strategy_from_toml(example, origin=document)
        assert strategy.stages


def test_toml_examples_of_ablations_are_specs(tmp_path):
    files = [ROOT / "experiments" / "studies" / "objectives.toml"]
    for number, example in enumerate(blocks("docs/ablation.md", "toml")):
        files.append(tmp_path / f"{number}.toml")
        files[-1].write_text(example)
    assert len(files) == 3
    assert all(cells(read_spec(path)) for path in files)


def test_there_is_a_toml_example():
    assert blocks("docs/strategies.md", "toml")


def test_the_table_of_terms_is_the_codes():
    assert first_column("docs/strategies.md", "| term |") == list(TERMS)


def test_every_term_has_its_formula():
    headings = re.findall(r"^### `(\w+)`", DOCUMENTS["docs/method.md"], re.M)
    assert sorted(headings) == sorted(TERMS)


def test_the_table_of_weights_is_the_preset():
    header = "| stage | step |"
    lines = DOCUMENTS["docs/method.md"].splitlines()
    terms = CODE_SPAN.findall(next(line for line in lines if line.startswith(header)))
    preset = load_strategy("ihmr")
    rows = table("docs/method.md", header)
    assert [row[0] for row in rows] == [stage.name for stage in preset.stages]
    for row, stage in zip(rows, preset.stages, strict=True):
        assert [float(row[1])] == list(stage.step_sizes.values())
        assert dict(zip(terms, map(float, row[2:]), strict=True)) == stage.weights


@pytest.mark.parametrize(
    ("document", "heading"), [("README.md", "Results"), ("docs/batch.md", "Tried")]
)
def test_measured_figures_come_from_records(document, heading):
    """Every number of the results tables is in a record that the section links to."""
    section = DOCUMENTS[document].split(f"\n## {heading}\n")[1].split("\n## ")[0]
    links = [link for link in LINK.findall(section) if link.endswith(".json")]
    records = [json.loads(((ROOT / document).parent / link).read_text()) for link in links]
    known = [number for record in records for number in numbers_in(record)]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    cells = [cell.strip() for row in rows for cell in row[1:]]
    figures = [cell for cell in cells if re.fullmatch(r"[\d.]+", cell)]
    assert figures
    for figure in figures:
        digits = len(figure.partition(".")[2])
        assert any(f"{number:.{digits}f}" == figure for number in known), figure


def test_the_canonical_tables_name_exactly_the_fields():
    text = DOCUMENTS["docs/conventions.md"]
    given, result = text.split("\n### Input\n")[1].split("\n### Result\n")
    rows = re.compile(r"^\| `(\w+)` \|", re.M)
    assert rows.findall(given) == list(FIELD_NAMES)
    assert rows.findall(result.split("\n## ")[0]) == list(RESULT_NAMES)


def test_the_readme_table_names_only_fields():
    cells = [row[0] for row in table("README.md", "| name | shape |")]
    names = [name for cell in cells for name in CODE_SPAN.findall(cell)]
    assert names
    assert set(names) <= set(FIELD_NAMES)


def test_the_tables_of_groups_statuses_and_orders_are_the_codes():
    assert first_column("docs/strategies.md", "| group |") == list(PARAMETER_GROUPS)
    assert first_column("README.md", "| status |") == list(STATUS_NAMES)
    statuses = table("docs/conventions.md", "| status |")
    assert names_in([row[1] for row in statuses]) == list(STATUS_NAMES)
    assert [int(row[0]) for row in statuses] == list(range(len(STATUS_NAMES)))
    assert first_column("docs/conventions.md", "| order |") == list(JOINT_ORDERS)
    assert sorted(first_column("docs/method.md", "| `angle_frame` |")) == sorted(ANGLE_FRAMES)


def test_the_table_of_fingertips_is_the_codes():
    rows = table("docs/conventions.md", "| set |")
    assert names_in([row[0] for row in rows]) == list(FINGERTIP_VERTICES)
    for row, vertices in zip(rows, FINGERTIP_VERTICES.values(), strict=True):
        right, _, left = row[1].partition("; left ")
        assert tuple(map(int, right.split(", "))) == vertices["right"]
        assert tuple(map(int, (left or right).split(", "))) == vertices["left"]
