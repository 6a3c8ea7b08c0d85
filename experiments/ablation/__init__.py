"""Ablations: what every term, weight, stage and solver buys, from one file of settings.

spec.py     the file: strategies, rows of settings, data; and the cells that it comes to
run.py      cells fitted one by one, each a line of results.jsonl; resumed where it stopped
tables.py   means with intervals: text, Markdown, CSV, LaTeX
plots.py    trade-offs, bars, heat maps
report.py   all of it as one HTML page
"""

from experiments.ablation.report import write_report
from experiments.ablation.run import run_cells
from experiments.ablation.spec import Spec, cells, read_spec

__all__ = ["Spec", "cells", "read_spec", "run_cells", "write_report"]
