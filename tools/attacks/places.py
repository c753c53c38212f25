"""Where an attack takes place: folders of its own, and an environment that leads nowhere else."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Place:
    """The folders of one process under attack.

    Args:
        root: holds all of them; nothing outside may be written to.
    """

    root: Path

    @property
    def seeds(self) -> Path:
        """Whole files that inputs are damaged copies of."""
        return self.root / "seeds"

    @property
    def inputs(self) -> Path:
        """The input of the moment."""
        return self.root / "in"

    @property
    def outputs(self) -> Path:
        """Where hpd is told to write."""
        return self.root / "out"

    @property
    def current(self) -> Path:
        """The current folder, in which nothing should come to be."""
        return self.root / "cwd"

    @property
    def temporary(self) -> Path:
        """Of temporary files, none of which should stay."""
        return self.root / "tmp"

    @property
    def cache(self) -> Path:
        """What hpd may keep."""
        return self.root / "cache"

    def make(self) -> None:
        """Make the folders."""
        for path in (self.seeds, self.inputs, self.outputs, self.current, self.temporary,
                     self.cache, self.root / "home"):  # fmt: skip
            path.mkdir(parents=True, exist_ok=True)

    def environment(self) -> dict[str, str]:
        """Return what must be in the environment before torch is imported."""
        return {
            "HOME": str(self.root / "home"), "TMPDIR": str(self.temporary),
            "HPD_CACHE": str(self.cache), "MPLCONFIGDIR": str(self.root / "home"),
            "HPD_OPS": "reference", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
            "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TERM": "dumb", "COLUMNS": "200",
            "HF_HOME": str(self.root / "home"), "TORCH_HOME": str(self.root / "home"),
            "TORCHINDUCTOR_CACHE_DIR": str(self.root / "home"),
        }  # fmt: skip


def new_place(beside: Path | None = None) -> Place:
    """Return a new place, in memory where the system has such a folder."""
    shared = Path("/dev/shm")
    where = beside or (shared if os.access(shared, os.W_OK) else None)
    place = Place(Path(tempfile.mkdtemp(prefix="hpd-attack-", dir=where)))
    place.make()
    return place


def enter(place: Place) -> None:
    """Move this process to a place; before torch is imported."""
    os.environ.update(place.environment())
    tempfile.tempdir = None
    os.chdir(place.current)


def empty(folder: Path) -> list[str]:
    """Remove what is in a folder, and return the names of it."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            found.append(entry.name)
            _remove(entry)
    return found


def _remove(entry: os.DirEntry[str]) -> None:
    if entry.is_dir(follow_symlinks=False):
        shutil.rmtree(entry.path, ignore_errors=True)
    else:
        os.unlink(entry.path)  # noqa: PTH108 - of a name that may be no text
