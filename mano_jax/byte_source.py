"""Bytes of a file or of a part of one, taken in order and never more than there are."""

import io
from typing import Final, Protocol, runtime_checkable

_CHUNK: Final = 1 << 20
"""Bytes read at a time."""

AHEAD: Final = 16
"""Up to `ByteSource.safe`, as many bytes lie in the chunk."""


class DamagedError(Exception):
    """Bytes that are not what they should be; the message says what is wrong."""


@runtime_checkable
class Stream(Protocol):
    """A file, a member of an archive, or bytes in memory."""

    def read(self, size: int, /) -> bytes:
        """As many bytes, fewer only at the end."""
        ...


class ByteSource:
    """The bytes of a stream in order, held a chunk at a time."""

    __slots__ = ("_left", "_stream", "at", "chunk", "safe")

    def __init__(self, stream: Stream, size: int):
        """Begin at the stream's place.

        Args:
            stream: open for reading; it need not seek.
            size: how many bytes it has from there on. What a file says of itself will do: less
                is read if there is less, and never more.
        """
        self._stream, self._left = stream, size
        self.chunk, self.at, self.safe = b"", 0, -1
        self.refill()

    @property
    def left(self) -> int:
        """Bytes that have not been taken."""
        return len(self.chunk) - self.at + self._left

    def refill(self) -> None:
        """Read on. Up to the place `safe`, an instruction and its numbers lie in the chunk."""
        wanted = min(_CHUNK, self._left)
        more = self._stream.read(wanted) if wanted else b""
        self._left = self._left - len(more) if len(more) == wanted else 0
        self.chunk, self.at = self.chunk[self.at :] + more, 0
        self.safe = len(self.chunk) - (AHEAD if self._left else 0)

    def take(self, count: int) -> bytes:
        """The next bytes.

        Raises:
            DamagedError: there are not so many; nothing is allocated for a size that is a lie.
        """
        end = self.at + count
        if 0 <= count and end <= len(self.chunk):
            taken = self.chunk[self.at : end]
            self.at = end
            return taken
        if not 0 <= count <= self.left:
            raise DamagedError(f"{count} bytes should follow where {self.left} are left")
        # BytesIO hands out what it has gathered without another copy.
        gathered = io.BytesIO()
        gathered.write(self.chunk[self.at :])
        self.chunk, self.at, self.safe = b"", 0, -1
        while missing := count - gathered.tell():
            more = self._stream.read(min(missing, _CHUNK))
            if not more:
                raise DamagedError(f"the file ends {missing} bytes early")
            self._left -= len(more)
            gathered.write(more)
        return gathered.getvalue()

    def line(self) -> bytes:
        """The bytes before the next line's end, which is passed over."""
        parts = []
        while (end := self.chunk.find(b"\n", self.at)) < 0:
            parts.append(self.chunk[self.at :])
            self.at = len(self.chunk)
            if not self._left:
                raise DamagedError("a line has no end")
            self.refill()
        parts.append(self.chunk[self.at : end])
        self.at = end + 1
        return b"".join(parts)
