"""Large JSON files, one value at a time.

A split of InterHand2.6M has a million images in a file of a gigabyte. `json.load` would hold it
ten times over in small objects; here only the values that are asked for exist, one after another.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from fitting.errors import InputError

_CHUNK: Final = 1 << 22
"""Characters read at a time: many values, and little memory."""

_DECODER: Final = json.JSONDecoder()
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_NUMBER: Final = re.compile(r"[-+.0-9eE]*")
_KINDS: Final = {"{": "an object", "[": "a list", '"': "a string", "n": "null"}


class JsonStream:
    """A JSON file with a place in it, to be used in a `with` statement.

    `elements` and `members` enter the list or object at this place, `value` reads whatever is
    there and `skip` passes over it. Every method raises InputError where the file is no JSON.
    """

    def __init__(self, file: Path):
        """Open the file, with its outermost value as the place.

        Raises:
            InputError: no such file, or one that cannot be opened.
        """
        self.file = file
        self._text, self._at, self._before = "", 0, 0
        try:
            self._handle = file.open(encoding="utf-8")
        except OSError as error:
            raise self._unreadable(str(error)) from error

    def __enter__(self) -> "JsonStream":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._handle.close()

    def members(self, what: str) -> Iterator[str]:
        """Keys of the object at this place; take or skip a key's value before the next key.

        Args:
            what: the object's name, for the message where there is none.

        Raises:
            InputError: something else is here.
        """
        self._enter("{", what)
        if self._peek() == "}":
            self._at += 1
            return
        while True:
            key = self.value()
            if not isinstance(key, str):
                raise self._unreadable("a key that is no string")
            self._next(":")
            yield key
            if self._next(",}") == "}":
                return

    def elements(self, what: str) -> Iterator[Any]:
        """Values of the list at this place; arguments and errors as for `members`."""
        self._enter("[", what)
        if self._peek() == "]":
            self._at += 1
            return
        while True:
            yield self.value()
            if self._next(",]") == "]":
                return

    def value(self) -> Any:
        """The value at this place, as Python has it."""
        self._peek()
        chunks = 1
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except (ValueError, RecursionError) as error:
                # The value may go on in the file. Twice as much every time, so that a file that
                # is no JSON costs no more than reading it.
                if self._fill(chunks):
                    chunks *= 2
                    continue
                raise self._unreadable(str(error).partition(": line")[0]) from error
            # A number at the end of what was read may go on, with an exponent too.
            if _past(_NUMBER, self._text, end) == len(self._text) and self._fill():
                continue
            self._at = end
            return value

    def skip(self) -> None:
        """Pass over the value at this place, holding one of its parts at a time."""
        first = self._peek()
        if first == "{":
            for _ in self.members(""):
                self.value()
        elif first == "[":
            for _ in self.elements(""):
                pass
        else:
            self.value()

    def _enter(self, opening: str, what: str) -> None:
        found = self._peek()
        if found != opening:
            self.value()
            raise InputError(
                f"{self.file}: {what}: expected {_KINDS[opening]}, found "
                f"{_KINDS.get(found, 'another value')}; is it the data set's own file?"
            )
        self._at += 1

    def _next(self, allowed: str) -> str:
        found = self._peek()
        if not found or found not in allowed:
            raise self._unreadable(f"{' or '.join(allowed)} expected")
        self._at += 1
        return found

    def _peek(self) -> str:
        """The next character that is no space, "" at the file's end; moves to it."""
        if self._at < len(self._text) and self._text[self._at] > " ":
            return self._text[self._at]
        while True:
            self._at = _past(_SPACE, self._text, self._at)
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._fill():
                return ""

    def _fill(self, chunks: int = 1) -> bool:
        """Read on; what lies before this place is forgotten. False at the file's end."""
        try:
            more = self._handle.read(chunks * _CHUNK)
        except (ValueError, OSError) as error:
            raise self._unreadable(str(error)) from error
        self._before += self._at
        self._text, self._at = self._text[self._at :] + more, 0
        return bool(more)

    def _unreadable(self, reason: str) -> InputError:
        where = f" near character {self._before + self._at}" if self._before + self._at else ""
        return InputError(f"{self.file}: no readable JSON ({reason}{where}); copy it again")


def _past(characters: re.Pattern[str], text: str, start: int) -> int:
    """Where the text goes on behind characters of a kind, of which there may be none."""
    found = characters.match(text, start)
    return start if found is None else found.end()
