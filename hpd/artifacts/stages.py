"""The best state of each stage of a run, as its folder keeps them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from safetensors import SafetensorError
from safetensors.torch import load

from hpd.artifacts.run_folder import CHECKPOINTS, RunFolder
from hpd.errors import RunError
from hpd.seals import read_sealed
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


def read_stages(folder: RunFolder) -> list[SavedStage]:
    """Return the best state of every stage of a finished run, in order.

    Raises:
        RunError: if the run is not finished, or a stage is missing, broken or changed.
    """
    folder.read_manifest()
    paths = sorted((folder.path / CHECKPOINTS).glob("stage-*.json"))
    stages = []
    for path in paths:
        try:
            about = read_sealed(path)
            ((name, digest),) = about["files"].items()
            content = (path.parent / name).read_bytes()
            if hashlib.sha256(content).hexdigest() != digest:
                raise ValueError(f"{name} was changed after it was written")
            stage = SavedStage(about["stage"], about["index"], about["score"], load(content))
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise RunError(f"cannot read {path} and its tensors", got=reason) from None
        stages.append(stage)
    if [stage.index for stage in stages] != list(range(len(stages))) or not stages:
        raise RunError(
            f"{folder.path} has lost stages",
            got=[stage.index for stage in stages],
            expected="every stage from 0 on",
            fix="Distil it again.",
        )
    return stages
