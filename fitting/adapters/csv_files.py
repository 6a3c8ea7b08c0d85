"""CSV files with a header, as adapters read them."""

import csv
from pathlib import Path

from fitting.errors import InputError


def read_csv(path: Path) -> tuple[list[str], list[list[str]]]:
    """The header, and the rows below it that are not empty, as text.

    Raises:
        InputError: no such file, no CSV file, or nothing below its header.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = [row for row in csv.reader(file) if row] or [[]]
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: no CSV file ({error})") from error
    if not rows:
        raise InputError(f"{path}: expected a header and rows below it, found {len(header)} cells")
    return header, rows
