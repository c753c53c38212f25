"""What a repository of the hub is called, and the library that speaks to it."""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

from hpd.errors import HubError

PREFIX = "hub:"
"""Stands before a name where a path could stand as well."""
Kind = Literal["dataset", "model"]
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_REVISION = re.compile(r"[A-Za-z0-9][\w./-]*")
_LONGEST = 200
PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Repository:
    """A repository of the hub.

    Args:
        name: of its owner and its own: ``"org/name"``.
        kind: ``"dataset"`` for distilled sets, ``"model"`` for generators.
        revision: branch, tag or commit; None: the newest of its main branch.
    """

    name: str
    kind: Kind = "dataset"
    revision: str | None = None

    @classmethod
    def read(cls, text: str, kind: Kind = "dataset") -> Repository:
        """Read ``"org/name"``, ``"hub:org/name"``, or either with ``@revision`` at its end.

        Raises:
            HubError: if it is none.

        >>> Repository.read("hub:me/digits@v1")
        Repository(name='me/digits', kind='dataset', revision='v1')
        """
        name, at, revision = text.removeprefix(PREFIX).partition("@")
        known = _NAME.fullmatch(name) and len(text) <= _LONGEST and ".." not in text
        if not known or "--" in name or bool(at) != bool(_REVISION.fullmatch(revision)):
            raise HubError("no name of a repository", got=repr(text), expected="org/name")
        return cls(name, kind, revision or None)

    def of(self, kind: Kind) -> Repository:
        """Return the repository of the same name that is of another kind."""
        return replace(self, kind=kind)

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}" if self.revision else self.name


def library() -> Any:
    """Import the library of the hub.

    Raises:
        HubError: if it is not installed, saying how to get it.
    """
    try:
        # which are attributes of it only once something imported them
        for part in ("constants", "utils", "utils.logging"):
            importlib.import_module(f"huggingface_hub.{part}")
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise HubError(
            "the hub needs the library huggingface_hub, which cannot be imported",
            got=error,
            fix="Install it with: pip install 'hpd[hub]'.",
        ) from None


def patience() -> float:
    """Return the seconds without a byte after which the hub counts as silent."""
    return PATIENCE_SECONDS


@contextmanager
def quietly(hub: Any) -> Iterator[None]:
    """Keep the library from drawing bars and from telling of each try, as long as a block runs.

    A server that says nothing is given up after `PATIENCE_SECONDS`, for which the library itself
    would wait for ever.
    """
    talk = hub.utils.logging
    drawn, said = not hub.utils.are_progress_bars_disabled(), talk.get_verbosity()
    session = hub.utils.get_session()
    before = session.timeout
    hub.utils.disable_progress_bars()
    talk.set_verbosity(logging.CRITICAL)
    session.timeout = patience()
    try:
        yield
    finally:
        session.timeout = before
        talk.set_verbosity(said)
        if drawn:
            hub.utils.enable_progress_bars()
