"""Work that goes on while the results of what went before are used."""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

_GLANCE_S = 0.1
"""How often a thread that waits looks whether it is still wanted."""


def in_background(items: Iterable[T], *, ahead: int = 1) -> Iterator[T]:
    """The same items in the same order, made by a thread of their own.

    An error of the thread is raised where its item would have come. When the iterator is closed,
    the thread finishes the item that it is at and ends.

    Args:
        items: what makes them as it is iterated.
        ahead: how many finished ones may wait: the bound of the memory.
    """
    made: queue.Queue[tuple[bool, Any]] = queue.Queue(maxsize=ahead)
    unwanted = threading.Event()

    def put(entry: tuple[bool, Any]) -> None:
        while not unwanted.is_set():
            try:
                return made.put(entry, timeout=_GLANCE_S)
            except queue.Full:
                continue

    def work() -> None:
        source = iter(items)
        try:
            for item in source:
                put((True, item))
                if unwanted.is_set():
                    break
            put((False, None))
        except BaseException as error:  # Whatever it is, it belongs to the thread that waits.
            put((False, error))
        finally:
            if close := getattr(source, "close", None):
                close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            more, value = made.get()
            if more:
                yield value
            elif value is None:
                return
            else:
                raise value
    finally:
        unwanted.set()
        thread.join()
