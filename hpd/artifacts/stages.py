"""The best state of a stage, as the folder of its run keeps it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load

from hpd.disk.seals import read_sealed
from hpd.typing import State


@dataclass(frozen=True)
class SavedStage:
    """The best state of one stage.

    Args:
        name: of the stage.
        index: its number.
        score: of the state, the lower the better; None where nothing is scored.
        state: what the source's `state` gave.
    """

    name: str
    index: int
    score: float | None
    state: State


def read_stage(path: Path) -> SavedStage:
    """Read a stage.

    Args:
        path: its JSON file, beside its tensors.

    Raises:
        ValueError: if either is missing, broken or was changed after it was written.
    """
    try:
        about = read_sealed(path)
        ((name, digest),) = about["files"].items()
        content = (path.parent / name).read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            raise ValueError(f"{name} was changed after it was written")
        return SavedStage(about["stage"], about["index"], about["score"], load(content))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None
