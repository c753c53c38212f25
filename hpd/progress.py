"""Telling of work that takes long, from where it is done to whoever listens."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")

Told = Callable[[str, int, int], None]
"""Hears (what is done, how much of it is, of how much)."""

_listener: ContextVar[Told | None] = ContextVar("listener", default=None)


@contextmanager
def telling(report: Told) -> Iterator[None]:
    """Tell `report` of everything that takes long within a block; see `hpd.telling`."""
    token = _listener.set(report)
    try:
        yield
    finally:
        _listener.reset(token)


def listener() -> Told:
    """Return who hears now, for work that another thread does."""
    return _listener.get() or _nobody


def tell(what: str, done: int, total: int) -> None:
    """Tell how far some work is."""
    listener()(what, done, total)


def told(what: str, items: Iterable[T], total: int | None = None) -> Iterator[T]:
    """Give items one by one, and tell of each when the next one is asked for.

    Args:
        what: is done with them, in words: "drawing samples".
        items: to work on.
        total: their number; None: they know it.
    """
    if total is None:
        assert isinstance(items, Collection), "without a total"
        total = len(items)
    for done, item in enumerate(items, 1):
        yield item
        tell(what, done, total)


def _nobody(what: str, done: int, total: int) -> None:
    pass
