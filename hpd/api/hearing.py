"""Hearing of everything that takes long."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from hpd.boundary import public
from hpd.progress import telling as telling_of


@public
def telling(report: Callable[[str, int, int], None]) -> AbstractContextManager[None]:
    """Tell of everything that takes long within a block, whatever function does it.

    Among it are pictures that are read, networks that are trained or asked, samples that are
    drawn, images that are projected. One kind of work may be told of within another, and over
    and over; the count of each goes from 1 to its total.

    Args:
        report: hears (what is done, how much of it, of how much), in the thread that does it.
            Pictures are read by several threads. What it raises ends the work.

    Raises:
        ConfigError: if `report` is no function.

    >>> from hpd.progress import told
    >>> with telling(lambda what, done, total: print(what, done, total)):
    ...     for item in told("counting", ["a", "b"]):
    ...         pass
    counting 1 2
    counting 2 2
    """
    return telling_of(report)
