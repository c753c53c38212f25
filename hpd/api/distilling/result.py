"""What a run comes to: the sets, the manifest, what it took."""

from __future__ import annotations

import logging
from dataclasses import replace

from hpd.api.distilling.built import Built
from hpd.api.distilling.manifests import Origins, manifest_of
from hpd.api.judging.judges import with_labels
from hpd.api.runs import Run
from hpd.artifacts import RunFolder
from hpd.artifacts.costs import LINES, as_cost, seconds_of
from hpd.engine import Outcome
from hpd.machine.device import Processes
from hpd.machine.memory import peak_bytes
from hpd.typing import StoresBits

_logger = logging.getLogger(__name__)


def concluded(
    built: Built, origins: Origins, outcome: Outcome, folder: RunFolder | None, processes: Processes
) -> Run:
    """Turn what the loop came to into a run, and write it where there is a folder.

    Args:
        built: what the run rests on.
        origins: what its source said before the first step.
        outcome: of the loop.
        folder: of the run, which the first process writes.
        processes: that share the run, and call this at once.
    """
    if processes.is_first:
        _tell_kept_start(outcome)
    run = _run_of(built, origins, outcome, folder)
    if folder is None:
        run = replace(run, cost=processes.first(built.cost.as_json))
    else:
        manifest = {
            "data_sha256": built.images.sha256, "data_images": len(built.images),
            **manifest_of(
                run, origins.provenance, built.objective, outcome.stages[outcome.best_stage]
            ),
        }  # fmt: skip
        written = _Written(built, folder)
        run = replace(run, cost=processes.first(lambda: written.write(run, manifest)))
    with processes.together():
        writes = folder is not None and processes.is_first
        return with_labels(run, built.settings, writes=writes)


def _tell_kept_start(outcome: Outcome) -> None:
    """Say where no step made anything better."""
    if outcome.kept_start and any(report.stage.steps for report in outcome.stages):
        _logger.warning(
            "no state scored better than the start, which was kept: the images are those of "
            "before the first step (selection=last keeps the last state instead)"
        )


def _run_of(built: Built, origins: Origins, outcome: Outcome, folder: RunFolder | None) -> Run:
    coded, train = _coded(built), built.train
    return Run(
        config=built.settings,
        distilled=origins.as_set(outcome.images, outcome.labels, train, coded, outcome.targets),
        initial=origins.as_set(outcome.initial_images, outcome.labels, train, coded),
        folder=None if folder is None else folder.path,
        data_sha256=built.images.sha256,
        stages=tuple(outcome.stages),
        generator=built.generator,
    )


def _coded(built: Built) -> StoresBits | None:
    """Return the source, where its numbers take other bits than 32."""
    return built.source if isinstance(built.source, StoresBits) else None


class _Written:
    """Writes what a run came to.

    Args:
        built: what it rests on.
        folder: of the run.
    """

    def __init__(self, built: Built, folder: RunFolder) -> None:
        self._built, self._folder = built, folder

    def write(self, run: Run, manifest: dict[str, object]) -> dict[str, float]:
        """Write sets, manifest and cost, and return the cost."""
        folder, coded = self._folder, _coded(self._built)
        # before the manifest, with which the run is finished; and after all is written
        folder.write_cost(self._cost())
        with self._built.cost.line("results"):
            codes = None if coded is None else coded.codes()
            folder.write_result(run.distilled, run.initial, manifest, codes)
        cost = self._cost()
        folder.write_cost(cost)
        return cost

    def _cost(self) -> dict[str, float]:
        """Return what the run took, with what evaluations of it took that are written already."""
        known = seconds_of(self._folder.read_cost())
        evaluated = {k: v for k, v in known.items() if k not in LINES}
        own = self._built.cost
        peak = peak_bytes(self._built.device)
        return as_cost(own.seconds | evaluated, parts=own.parts, peak_bytes=peak)
