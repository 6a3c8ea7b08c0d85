"""The conventions that the adapters declare, as the table of docs/regressors.md.

python -m experiments.format_tables
"""

from fitting.adapters import FORMATS, Format

_COLUMNS = {
    "rotations": "rotations",
    "mean": "mean pose",
    "left": "left hand",
    "left_shapedirs": "left shape space",
    "origin": "points about",
    "camera": "camera",
    "axes": "axes",
    "unit": "unit",
    "joint_order": "joint order",
    "fingertips": "fingertips",
    "two_hands": "two hands",
}


def conventions_table() -> str:
    """A row a format, a column a convention."""
    formats = [format for format in FORMATS.values() if format.conventions is not None]
    lines = [
        f"| `--from` | {' | '.join(_COLUMNS.values())} |",
        "|---" * (len(_COLUMNS) + 1) + "|",
        *(f"| `{format.name}` | {' | '.join(_cells(format))} |" for format in formats),
    ]
    return "\n".join(lines)


def _cells(format: Format) -> list[str]:
    values = [str(getattr(format.conventions, name)) for name in _COLUMNS]
    return ["" if value == "none" else value for value in values]


if __name__ == "__main__":
    print(conventions_table())
