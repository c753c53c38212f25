"""Bytes of a file, read in order, that never yield more than there are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from hpd.errors import GeneratorError

_MAX_VALUE_BYTES = 64 * 2**20
_MAX_LINE_BYTES = 4096


class ByteSource:
    """A window of a binary file.

    Lengths written in a pickle are only claims: asking for more than the window holds is an
    error before any memory is taken.

    Args:
        file: a seekable binary file.
        start: first byte of the window.
        stop: end of the window.
    """

    def __init__(self, file: BinaryIO, start: int, stop: int) -> None:
        self._file, self.position, self.start, self.stop = file, start, start, stop
        file.seek(start)

    @property
    def size(self) -> int:
        """Length of the window in bytes."""
        return self.stop - self.start

    def window(self, start: int, size: int) -> ByteSource:
        """Return a source for part of the same file; this one must not be read meanwhile."""
        return ByteSource(self._file, start, start + size)

    def read(self, count: int) -> bytes:
        """Return the next `count` bytes.

        Raises:
            GeneratorError: if there are fewer, or `count` is out of all proportion.
        """
        self._check(count)
        if count > _MAX_VALUE_BYTES:
            raise GeneratorError(
                "a single value in the file is too long",
                got=f"{count} bytes at byte {self.position}",
                expected=f"at most {_MAX_VALUE_BYTES}",
            )
        return self._take(count)

    def readline(self) -> bytes:
        """Return the next line with its end, at most 4096 bytes of it."""
        line = self._file.readline(min(_MAX_LINE_BYTES, self.stop - self.position))
        self.position += len(line)
        return line

    def skip(self, count: int) -> int:
        """Pass over `count` bytes and return where they start."""
        self._check(count)
        start = self.position
        self.position += count
        self._file.seek(self.position)
        return start

    def read_at(self, start: int, count: int) -> bytes:
        """Return `count` bytes from `start`, of any length that the file has."""
        self.position = start
        self._file.seek(start)
        self._check(count)
        return self._take(count)

    def _take(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) != count:
            raise GeneratorError("the file became shorter while it was read")
        self.position += count
        return data

    def _check(self, count: int) -> None:
        if not 0 <= count <= self.stop - self.position:
            raise GeneratorError(
                "the file is truncated or damaged",
                got=f"a value of {count} bytes at byte {self.position}",
                expected=f"at most the {self.stop - self.position} bytes that follow",
            )


@contextmanager
def open_source(path: str | Path, max_bytes: int) -> Iterator[ByteSource]:
    """Open a whole file as a `ByteSource`.

    Raises:
        GeneratorError: if it cannot be opened or is larger than `max_bytes`.
    """
    try:
        path = Path(path).expanduser()
        # a pipe or a device would block, or never end
        if not path.is_file():
            raise FileNotFoundError("a folder" if path.is_dir() else "no such file")
        size = path.stat().st_size
        file = path.open("rb")
    # RuntimeError: a home of nobody
    except (OSError, ValueError, RuntimeError) as error:
        raise GeneratorError(f"cannot open {path}", got=str(error)) from None
    with file:
        if size > max_bytes:
            raise GeneratorError(
                f"{path} is too large for a checkpoint",
                got=f"{size} bytes",
                expected=f"at most {max_bytes}",
            )
        yield ByteSource(file, 0, size)
