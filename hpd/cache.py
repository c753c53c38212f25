"""The folder of what can be made again: libraries of operations, rows of pictures."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_folder(name: str) -> Path:
    """Return the folder of one kind of thing, in ``$HPD_CACHE`` or in the user's cache.

    Args:
        name: of the kind: ``"ops"``, ``"rows"``.
    """
    own = os.environ.get("HPD_CACHE")
    root = Path(own).expanduser() if own else platformdirs.user_cache_path("hpd", appauthor=False)
    return root.absolute() / name
