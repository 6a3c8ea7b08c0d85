"""Everything that an ablation says, written beside its results: tables, pictures, one HTML page."""

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.ablation.plots import draw
from experiments.ablation.run import Result
from experiments.ablation.spec import AS_IT_IS, Spec
from experiments.ablation.tables import (
    Line,
    as_csv,
    as_latex,
    as_markdown,
    as_record,
    as_text,
    columns,
    summarise,
)
from fitting.evaluation_summary import LEVEL
from mano_jax.files import write_whole

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #ddd; text-align: right }
th:first-child, td:first-child { text-align: left }
td small { color: #777 } td.differs { font-weight: 600 } img { max-width: 100%; margin: .5rem 0 }
code, pre { background: #f4f4f4; padding: .1rem .3rem }
"""


def write_report(
    spec: Spec, results: Sequence[Result], folder: Path, *, pictures: bool = True
) -> list[Path]:
    """Write `table.{txt,md,csv,tex}`, `record.json`, pictures and `report.html`; the paths.

    Args:
        spec: what was compared.
        results: `run_cells` of it.
        folder: where.
        pictures: draw them; needs the `plots` extra.
    """
    lines = summarise(spec, results)
    drawn = draw(spec, lines) if pictures else {}
    contents = {
        "table.txt": as_text(spec, lines).encode(),
        "table.md": as_markdown(spec, lines).encode(),
        "table.csv": as_csv(spec, lines).encode(),
        "table.tex": as_latex(spec, lines).encode(),
        "record.json": as_record(spec, results, lines).to_json().encode(),
        **{f"{name.replace(' ', '_').replace('/', '-')}.png": png for name, png in drawn.items()},
        "report.html": page(spec, results, lines, drawn).encode(),
    }
    for name, content in contents.items():
        write_whole(folder / name, lambda file, content=content: file.write(content))
    return [folder / name for name in contents]


def page(
    spec: Spec, results: Sequence[Result], lines: Sequence[Line], pictures: Mapping[str, bytes]
) -> str:
    """A page that needs no other file."""
    source = {k: html.escape(str(v).strip()) for k, v in results[-1].provenance.items()}
    what = "a file of the user's" if spec.files else "synthetic frames of interacting hands"
    parts = [
        f"<h1>{html.escape(spec.question)}</h1>",
        f"<p>{lines[0].frames} frames ({what}"
        + ("" if spec.files else f", seeds {', '.join(map(str, spec.seeds))}")
        + f"). Means with {100 * LEVEL:.0f} % bootstrap intervals over frames; bold: differs from "
        f"the strategy {AS_IT_IS}, frame by frame. A term that a row switches off has no say in "
        "whether a frame is given back as it came.</p>",
        f"<p><code>{source['command']}</code>, commit <code>{source['commit']}</code>, "
        f"{source['device']}</p>",
    ]
    for data in dict.fromkeys(line.data for line in lines):
        parts += [f"<h2>{html.escape(data)}</h2>", _table(spec, lines, data)]
    for name, png in pictures.items():
        encoded = base64.b64encode(png).decode()
        name = html.escape(name, quote=True)
        parts.append(f'<img alt="{name}" src="data:image/png;base64,{encoded}">')
    parts.append(_settings(results))
    body = "\n".join(parts)
    title = html.escape(spec.question)
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style>\n{body}\n</html>\n"
    )


def _table(spec: Spec, lines: Sequence[Line], data: str) -> str:
    heads = ["", *columns(spec).values(), "given back"]
    rows = ["<tr>" + "".join(f"<th>{html.escape(h)}</th>" for h in heads) + "</tr>"]
    for line in lines:
        if line.data != data:
            continue
        cells = [f"<td>{html.escape(line.name)}</td>"]
        for metric in columns(spec):
            mean = line.mean[metric]
            differs = ' class="differs"' if line.differs(metric) else ""
            cells.append(
                f"<td{differs}>{mean.mean:.3f}<br><small>{mean.low:.3f} to {mean.high:.3f}</small>"
                "</td>"
            )
        rows.append(f"<tr>{''.join(cells)}<td>{line.kept}</td></tr>")
    return f"<table>{''.join(rows)}</table>"


def _settings(results: Sequence[Result]) -> str:
    seconds = sum(result.seconds for result in results)
    return f"<p>{len(results)} fits, {seconds:.0f} s of fitting, compilation included.</p>"
