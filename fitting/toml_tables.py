"""Dataclasses from TOML tables: what is unknown, missing or of a wrong type is told by name."""

import dataclasses
from collections.abc import Iterable, Mapping
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin

from fitting.errors import InputError


def from_table(
    kind: type, data: Mapping[str, Any], where: str, error: type[InputError] = InputError
) -> Any:
    """Make a dataclass of a table.

    Fields may be numbers, words, booleans, `Literal`s, tuples and dictionaries of such, other
    dataclasses and tuples of them, and either may be None.

    Args:
        kind: the dataclass.
        data: the table, as `tomllib` reads it.
        where: what the table is, for messages.
        error: what is raised.

    Raises:
        InputError: a key that is unknown or missing, or a value of another type.
    """
    known = {f.name: f for f in dataclasses.fields(kind)}
    for key in data:
        if key not in known:
            raise error(f"{where}: unknown key {key!r}; known: {', '.join(known)}")
    values = {}
    for name, f in known.items():
        if name in data:
            values[name] = _convert(f.type, data[name], f"{where}: {name}", error)
        elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise error(f"{where}: missing key {name!r}")
    return kind(**values)


def check_names(
    names: Iterable[str], known: Iterable[str], where: str, error: type[InputError] = InputError
) -> None:
    """Refuse a name that is none of the known ones."""
    for name in names:
        if name not in known:
            raise error(f"{where}: unknown {name!r}; known: {', '.join(known)}")


def _convert(kind: Any, value: Any, where: str, error: type[InputError]) -> Any:
    if isinstance(kind, UnionType):
        (kind,) = (k for k in get_args(kind) if k is not NoneType)
    arguments = get_args(kind)
    match get_origin(kind):
        case origin if origin is tuple:
            items = _expect(value, (list, tuple), where, error)
            inner = arguments[0]
            # Tables are told apart by their number; a wrong word is told by itself.
            places = dataclasses.is_dataclass(inner)
            return tuple(
                _convert(inner, item, f"{where}[{i}]" if places else where, error)
                for i, item in enumerate(items)
            )
        case origin if origin is dict:
            table = _expect(value, (dict,), where, error)
            return {k: _convert(arguments[1], v, f"{where}.{k}", error) for k, v in table.items()}
        case origin if origin is Literal:
            check_names([_expect(value, (str,), where, error)], arguments, where, error)
            return value
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return from_table(kind, _expect(value, (dict,), where, error), where, error)
    if kind is Any:
        return value
    if kind is float:
        return float(_expect(value, (int, float), where, error))
    return _expect(value, (kind,), where, error)


def _expect(value: Any, kinds: tuple[type, ...], where: str, error: type[InputError]) -> Any:
    # To Python a boolean is an integer; to whoever writes a file it is not.
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        names = " or ".join(k.__name__ for k in kinds)
        raise error(f"{where}: expected {names}, found {value!r}")
    return value
