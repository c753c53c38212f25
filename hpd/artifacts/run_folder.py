"""The folder of a run: what is where, written so that a killed run leaves no half file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpd.artifacts.distilled import FILE_NAME, DistilledSet
from hpd.artifacts.pictures import grid, png_bytes, write_image_folder
from hpd.artifacts.places import check_free
from hpd.errors import RunError
from hpd.files import write_bytes, write_json, write_tensors
from hpd.typing import State

CONFIG, METRICS, MANIFEST, INITIAL, EVALUATION, COST = (
    "config.yaml",
    "metrics.jsonl",
    "manifest.json",
    "initial.safetensors",
    "evaluation.json",
    "cost.json",
)


class RunFolder:
    """A run on disk.

    Args:
        path: the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()

    @classmethod
    def create(cls, path: str | Path, config: str) -> RunFolder:
        """Make the folder of a new run and write its resolved configuration.

        Raises:
            RunError: if the folder holds something, or cannot be made.
        """
        folder = cls(path)
        check_free(folder.path)
        try:
            (folder.path / "checkpoints").mkdir(parents=True, exist_ok=True)
            write_bytes(folder.path / CONFIG, config.encode())
        except OSError as error:
            raise RunError(f"cannot write to {folder.path}", got=error.strerror) from None
        return folder

    def append_metrics(self, values: Mapping[str, Any]) -> None:
        """Add one line to `metrics.jsonl`."""
        with (self.path / METRICS).open("a") as file:
            file.write(json.dumps(values) + "\n")

    def write_checkpoint(self, name: str, state: State, about: Mapping[str, Any]) -> None:
        """Write `checkpoints/<name>.safetensors` and the JSON beside it."""
        write_tensors(self.path / "checkpoints" / f"{name}.safetensors", state)
        write_json(self.path / "checkpoints" / f"{name}.json", about)

    def write_result(
        self, distilled: DistilledSet, initial: DistilledSet, manifest: Mapping[str, Any]
    ) -> None:
        """Write all that a finished run consists of; the manifest comes last."""
        write_image_folder(distilled, self.path / "images")
        write_bytes(self.path / "grid.png", png_bytes(grid(distilled)))
        initial.save(self.path / INITIAL)
        distilled.save(self.path / FILE_NAME)
        write_json(self.path / MANIFEST, manifest)

    def write_cost(self, cost: Mapping[str, float]) -> None:
        """Write `cost.json`, apart from the manifest, which is the same for the same seed."""
        write_json(self.path / COST, cost)

    def write_evaluation(self, evaluation: Mapping[str, Any]) -> None:
        """Write `evaluation.json`."""
        write_json(self.path / EVALUATION, evaluation)

    def read(self, name: str) -> str:
        """Return the text of a file of a finished run.

        Raises:
            RunError: if this is not a run, or the run is not finished.
        """
        if not (self.path / CONFIG).is_file():
            raise RunError(f"{self.path} is not a run folder", expected=f"a folder with {CONFIG}")
        if not (self.path / MANIFEST).is_file():
            raise RunError(f"the run in {self.path} is not finished")
        return (self.path / name).read_text()
