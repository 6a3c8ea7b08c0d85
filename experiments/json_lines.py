"""Files of one JSON line a result, which may be cut short and continued."""

import json
import os
from pathlib import Path
from typing import Any

from fitting.errors import InputError


def read_lines(path: Path) -> list[Any]:
    """The lines of a file, none if there is no file.

    A last line that was cut short is taken off the file, so that the next one can follow.

    Raises:
        InputError: another line is not JSON.
    """
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    found = []
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            found.append(json.loads(line))
        except ValueError as error:
            raise InputError(
                f"{path}, line {number}: not JSON ({error}); take the line out"
            ) from error
    return found


def append_line(path: Path, entry: Any) -> None:
    """Add a line, durably: when this returns, a crash does not lose it.

    Raises:
        ValueError: a number that is not finite.
    """
    with path.open("ab") as file:
        file.write(json.dumps(entry, allow_nan=False).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
