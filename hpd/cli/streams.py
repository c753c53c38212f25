"""Standard output and standard error that never end what a command does.

A reader that has enough (``| head``), a full disk, a stream that is closed and names that its
encoding does not know: a command goes on to its end, as what it writes to folders is worth more
than what it says.
"""

from __future__ import annotations

import codecs
import errno
import io
import json
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from typing_extensions import Buffer

_UNKNOWN = "hpd.escaped"
_OUTPUT, _ERRORS = 1, 2
# on Windows a pipe that nobody reads is an invalid argument
_ENOUGH = (errno.EPIPE, errno.EINVAL) if sys.platform == "win32" else (errno.EPIPE,)


@contextmanager
def lasting_streams() -> Iterator[list[OSError]]:
    """Let standard output and error last for the length of a block, whatever becomes of them.

    What cannot be written is dropped. A character that the encoding of a stream does not know is
    written as JSON escapes it, ``\\u00fc``, so that JSON stays JSON. Streams that are not those
    that the process began with, as in a notebook or in a test, are left as they are.

    Yields:
        why standard output was not written to its end, once known: empty, or one error. A reader
        that has enough is no error.
    """
    failures: list[OSError] = []
    before = sys.stdout, sys.stderr
    if sys.stdout is sys.__stdout__ and sys.stderr is sys.__stderr__:
        codecs.register_error(_UNKNOWN, _escaped)
        _fill_closed()
        sys.stdout = _lasting(sys.stdout, _OUTPUT, failures)
        sys.stderr = _lasting(sys.stderr, _ERRORS, [])
    try:
        yield failures
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        sys.stdout, sys.stderr = before


def _fill_closed() -> None:
    """Open what is closed of the three standard streams, or the next file would be taken for it."""
    for number in (0, _OUTPUT, _ERRORS):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def _lasting(stream: TextIO | None, number: int, failures: list[OSError]) -> TextIO:
    """Return a stream to write to in the place of one that the process began with."""
    if stream is not None:
        stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Lasting(number, failures)),
        encoding="utf-8" if stream is None else stream.encoding,
        errors=_UNKNOWN,
        line_buffering=number == _ERRORS or (stream is not None and stream.isatty()),
    )


class _Lasting(io.FileIO):
    """A file that takes what it cannot write, too.

    Args:
        number: of the descriptor, which stays open when this is closed.
        failures: takes the first error that is not that of a reader who has enough.
    """

    def __init__(self, number: int, failures: list[OSError]) -> None:
        super().__init__(number, "w", closefd=False)
        self._failures, self._ended = failures, False

    def write(self, content: Buffer, /) -> int:
        """Write bytes, and return how many were taken: all, once something was not written."""
        if not self._ended:
            try:
                taken: int | None = super().write(content)
                # None: another program that has the stream made it not wait
                while taken is None:
                    select.select([], [self], [])
                    taken = super().write(content)
                return taken
            except OSError as error:
                self._ended = True
                if error.errno not in _ENOUGH:
                    self._failures.append(error)
        return memoryview(content).nbytes


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """Return the characters that an encoding does not know as JSON escapes them."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end
