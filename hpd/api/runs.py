"""Finished runs: loading and evaluating them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from generators import Generator
from hpd.api.identity import DataFacts
from hpd.artifacts import DistilledSet, RunFolder
from hpd.artifacts.packed.opening import place_of
from hpd.artifacts.run_folder import CHECKPOINTS, CONFIG, INITIAL
from hpd.boundary import public
from hpd.config import RunSettings
from hpd.disk.yaml_text import parse_yaml
from hpd.engine import StageReport
from hpd.engine.watching.recorder import stored_stages
from hpd.errors import RunError
from hpd.evaluation import Evaluation
from hpd.objectives import OBJECTIVES
from hpd.showing import as_html, never_fails
from hpd.sources import SOURCES


@dataclass(frozen=True)
class Run:
    """A finished distillation.

    Args:
        config: what was run.
        distilled: the result.
        initial: the images of the source before its first step.
        folder: where it was written, None if it was not.
        origin: the packed file or the name on the hub that it was opened from, whose copy to read
            `folder` then is; None: it may be written to.
        cost: what its `cost.json` says: `seconds` of the distillation over all its parts,
            `selection_share`, seconds of each line of `hpd.artifacts.costs` as ``steps_seconds``,
            their sum `total_seconds`, and `peak_bytes`.
        data_sha256: of the training images and labels; None for a run that was loaded, whose
            manifest has it.
        stages: the report of each stage: which step was kept, its score, and `measured`, the score
            and the loss on fixed draws of every state that was measured. A run that was loaded
            has them from its `metrics.jsonl`, and none where an earlier version wrote that.
        generator: the one that was given in memory, if any.
    """

    config: RunSettings
    distilled: DistilledSet
    initial: DistilledSet
    folder: Path | None
    cost: Mapping[str, float] = field(default_factory=dict)
    data_sha256: str | None = None
    stages: Sequence[StageReport] = ()
    generator: Generator | None = field(default=None, compare=False, repr=False)
    origin: str | None = None

    def __repr__(self) -> str:
        kinds = (
            f"{SOURCES.kind_of(self.config.source)}, {OBJECTIVES.kind_of(self.config.objective)}"
        )
        where = "no folder" if self.folder is None else self.origin or str(self.folder)
        return f"Run({kinds}: {self.distilled!r}, {where})"

    @never_fails
    def _repr_html_(self) -> str:
        evaluation = self.evaluation
        table = "" if evaluation is None else evaluation.table_html()
        return as_html(repr(self), table, self.distilled._repr_html_())

    @property
    def home(self) -> Path | None:
        """The folder that what comes of it is written to; None: there is none."""
        return self.folder if self.origin is None else None

    @property
    def evaluations(self) -> dict[str, Evaluation]:
        """The evaluations in its folder by name, the oldest first; empty without one.

        Raises:
            RunError: if they cannot be read.
        """
        records = [] if self.folder is None else RunFolder(self.folder).read_evaluations()
        try:
            return {str(record["name"]): Evaluation.read(record) for record in records}
        except (ValueError, KeyError, TypeError) as error:
            path, fix = self.folder, f"Evaluate it again: `hpd evaluate {self.folder}`."
            raise RunError(f"cannot read the evaluations in {path}", got=error, fix=fix) from None

    @property
    def evaluation(self) -> Evaluation | None:
        """The newest evaluation in its folder, None without one; see `evaluations`."""
        found = list(self.evaluations.values())
        return found[-1] if found else None

    @property
    def data_facts(self) -> DataFacts:
        """What it knows of its training images.

        Raises:
            RunError: if the manifest in its folder tells of another set.
        """
        return DataFacts.of_run(self.distilled, self.folder, self.data_sha256)


@public
def load_run(path: str | Path) -> Run:
    """Load a finished run from its folder, a packed file or the hub.

    What in its configuration is of the user's own, and not registered here, is kept as it is.

    Args:
        path: the folder; or what `pack` wrote, or ``"hub:org/name"``, of which nothing is changed.

    Raises:
        RunError: if there is none, or it is damaged.
        HubError: if the hub does not give it.
    """
    place = place_of(path)
    folder = RunFolder(place.folder)
    # what came from elsewhere is held to all that it says of itself
    folder.check_whole(*([CONFIG] if place.origin is None else []))
    return Run(
        config=RunSettings.read_kept(stored_config(folder)),
        distilled=DistilledSet.load(folder.path),
        initial=DistilledSet.load(folder.path / INITIAL),
        folder=folder.path,
        cost=folder.read_cost(),
        stages=stored_stages(folder),
        origin=place.origin,
    )


def opened(run: Run | str | Path) -> Run:
    """Return a finished run, given as such or as `load_run` takes it."""
    return run if isinstance(run, Run) else load_run(run)


def folder_of(run: Run) -> RunFolder:
    """Return where a run was written.

    Raises:
        RunError: if it was not.
    """
    if run.folder is None:
        raise RunError("the run has no folder", fix="Distil with out=FOLDER.")
    return RunFolder(run.folder)


def folder_with_latents(run: Run) -> RunFolder:
    """Return where a run was written, with the state that each stage ended with.

    Raises:
        RunError: if it was not, or they were not handed on with it.
    """
    folder = folder_of(run)
    if run.origin is not None and not (folder.path / CHECKPOINTS).is_dir():
        raise RunError(
            f"{run.origin} holds no latents",
            fix="Take the folder of the run, or hand them on: `hpd pack RUN --latents`.",
        )
    return folder


def stored_config(folder: RunFolder) -> Any:
    """Return the configuration of the run in a folder as its YAML holds it, unchecked.

    Raises:
        RunError: if there is no run.
        ConfigError: if it is no YAML.
    """
    return parse_yaml(folder.read_config(), str(folder.path / CONFIG))
