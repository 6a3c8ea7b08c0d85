"""Protocol buffers' text format, as far as MediaPipe's files use it."""

import re
from pathlib import Path
from typing import Any, Final

from fitting.errors import InputError

_LARGEST_TEXT: Final = 64 * 2**20
_DEEPEST: Final = 16
_TOKEN: Final = re.compile(
    r"""[\s,;]+|\#[^\n]*
    |(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)f?(?![\w.])
    |(?P<word>-?[A-Za-z_][\w.]*)
    |(?P<text>"[^"\\\n]*")
    |(?P<mark>[{}:])""",
    re.VERBOSE,
)


def read_text_proto(file: Path) -> dict[str, Any]:
    """A message of protocol buffers' text format: `field: value` and `field { .. }`, no more.

    A field of messages is a list of them; one of values is a value, or a list if it is repeated.
    """
    if not file.is_file():
        raise InputError(f"{file}: no such file")
    if file.stat().st_size > _LARGEST_TEXT:
        raise InputError(f"{file}: expected a result, of {_LARGEST_TEXT} bytes at most")
    try:
        content = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: expected a text proto, found bytes ({error})") from error
    message: dict[str, Any] = {}
    open_messages = [message]
    name, colon, at = "", False, 0
    while at < len(content):
        token = _TOKEN.match(content, at)
        if token is None:
            raise _no_text(file, content, at, f"cannot read {content[at : at + 20]!r}")
        kind, word = token.lastgroup, token[0]
        if kind is None:
            at = token.end()
            continue
        inside = open_messages[-1]
        if name and word == "{":
            if len(open_messages) == _DEEPEST:
                raise _no_text(file, content, at, f"messages nested more than {_DEEPEST} deep")
            inner: dict[str, Any] = {}
            _append(file, content, at, inside.setdefault(name, []), inner)
            open_messages.append(inner)
            name, colon = "", False
        elif name and word == ":" and not colon:
            colon = True
        elif colon and kind != "mark":
            value = float(token["number"]) if kind == "number" else word.strip('"')
            if name in inside:
                raise _no_text(file, content, at, f"a second value of {name}")
            inside[name] = value
            name, colon = "", False
        elif not name and kind == "word":
            name = word
        elif not name and word == "}" and len(open_messages) > 1:
            open_messages.pop()
        else:
            raise _no_text(file, content, at, f"did not expect {word!r}")
        at = token.end()
    if name or len(open_messages) > 1:
        raise _no_text(file, content, at, "the file ends within a message; is it truncated?")
    if not message:
        raise InputError(f"{file}: expected a result of MediaPipe, found nothing")
    return message


def _append(file: Path, content: str, at: int, values: Any, message: dict[str, Any]) -> None:
    if not isinstance(values, list):
        raise _no_text(file, content, at, "a message in a field that has a value")
    values.append(message)


def _no_text(file: Path, content: str, at: int, why: str) -> InputError:
    line = content.count("\n", 0, at) + 1
    return InputError(
        f"{file}, line {line}: {why}; expected a text proto of `field: value` and `field {{ .. }}`"
    )
