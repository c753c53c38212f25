"""Pruning a finished run down to a budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from hpd.api.distilling.manifests import range_of
from hpd.api.identity import check_data
from hpd.api.naming import data_again, split_data
from hpd.api.runs import Run, folder_with_latents, load_run
from hpd.artifacts import RunFolder
from hpd.artifacts.places import check_free, drafted, writing_to
from hpd.boundary import public
from hpd.config import RunSettings
from hpd.data import DatasetSettings, ImageSet
from hpd.disk.seals import digest_json
from hpd.engine.rendered import render_all
from hpd.engine.selection.validation import ValidationSettings
from hpd.errors import ConfigError, RunError
from hpd.evaluation.pruning import Pruning, PruningSettings, prune_set
from hpd.given import parse_options
from hpd.machine.device import open_device
from hpd.rng import Streams
from hpd.sources import SOURCES
from hpd.sources.base import Prunable, Prunes

_NOTHING = "Nothing is written: mend that, and prune again."
_TOLERANCE = 1e-3
_OF_THE_FILES = ("format", "files")


@public
def prune(
    run: str | Path,
    *overrides: str,
    out: str | Path,
    budget: int | None = None,
    report: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> Run:
    """Drop images of a finished run until it fits a budget, and write what is left as a new run.

    Nothing but memories of single images is dropped, from both ends of their difficulty; see
    `hpd.evaluation.pruning`. The run itself is left as it is.

    Args:
        run: its folder, or a packed file that holds latents.
        overrides: ``"betas=[0, 1]"``, ``"training.epochs=30"``, ...: options of the pruning;
            ``"data.root=FOLDER"``: where the data of the run are now.
        out: folder of the new run.
        budget: floats; None: the budget that the run was meant to have, without what it was
            allowed above it.
        report: hears (what is trained, students done, students in all).

    Raises:
        ConfigError: for a source that cannot be pruned, or a wrong override.
        DataError: if the data are not those of the run any more, before anything is trained.
        RunError: if the run is not finished or not as it was written, if `out` holds something, or
            if nothing would be left.
    """
    out = Path(out).expanduser()
    check_free(out)
    of_data, own = split_data(overrides)
    settings = PruningSettings.read(parse_options(own))
    before = load_run(run)
    work = _Opened.of(before, data_again(before.config.data, None, of_data))
    wanted = work.budget if budget is None else budget
    pruning = prune_set(
        before.distilled,
        min(work.source.images_within(wanted), work.images_per_class),
        work.held_out(settings),
        settings,
        device=work.device,
        streams=Streams(before.config.seed).fork("pruning"),
        report=report,
    )
    with writing_to(out, _NOTHING):
        return _write(before, work, pruning, wanted, out)


@dataclass(frozen=True)
class _Opened:
    """A finished run with its source as it was in the best stage."""

    config: RunSettings
    folder: RunFolder
    train: ImageSet
    source: Prunable
    budget: int
    device: torch.device

    @classmethod
    def of(cls, run: Run, data: DatasetSettings) -> _Opened:
        config, settings = run.config, run.config.source
        if not isinstance(settings, Prunes) or run.folder is None:
            kind = SOURCES.kind_of(settings)
            raise ConfigError("the source cannot be pruned", got=kind, expected="hmn")
        if settings.storage is not None:
            raise ConfigError(
                "images in few bits cannot be pruned",
                got=f"source.storage of {settings.storage.bits} bits",
                fix="Distil without it, prune, and store what is left.",
            )
        folder, device = folder_with_latents(run), open_device(config.device, config.float32)
        train = data.build().train
        check_data(run.data_facts, train, run.origin or run.folder)
        seen, _ = config.selection.split(train)
        source = settings.restore(
            folder.read_best_stage(), seen, device, Streams(config.seed).fork("source")
        )
        if not torch.allclose(render_all(source).float(), run.distilled.images, atol=_TOLERANCE):
            raise RunError(
                f"the memories in {run.origin or run.folder} do not give its images",
                fix="Use the generator that the run was made with.",
            )
        return cls(config, folder, train, source, settings.budget(seen), device)

    @property
    def images_per_class(self) -> int:
        return len(self.source.labels) // self.train.num_classes

    def held_out(self, settings: PruningSettings) -> ImageSet:
        """Return the images that the selection of the run held out, or others."""
        seen, held = self.config.selection.split(self.train)
        if len(seen) < len(self.train):
            return held
        return ValidationSettings(held_out=settings.held_out).split(self.train)[1]


def _write(before: Run, work: _Opened, pruning: Pruning, budget: int, out: Path) -> Run:
    """Write the new run whole or not at all."""
    config = before.config.model_copy(update={"source": work.source.keep(pruning.kept)})
    after = replace(
        before,
        config=config,
        distilled=before.distilled.only(pruning.kept, work.source.stored_floats),
        initial=before.initial.only(pruning.kept, work.source.stored_floats),
        folder=out,
        origin=None,
    )
    old = work.folder.read_manifest()
    images, best = after.distilled.images, old["best_stage"]
    manifest: dict[str, Any] = {key: old[key] for key in old if key not in _OF_THE_FILES}
    manifest |= work.source.provenance
    manifest |= {
        "images": len(images),
        "image_range": range_of(images),
        "storage": after.distilled.storage.as_json(),
        "pruning": {"budget": budget, "of_run": digest_json(old), **pruning.as_json()},
    }
    if after.distilled.soft_labels is not None:
        manifest["soft_labels"] = {**old["soft_labels"], "floats": after.distilled.label_floats}
    stage = {"stage": best["name"], "index": 0, "best_step": best["step"], "score": best["score"]}
    with drafted(out) as path:
        draft = RunFolder.create(path, config.to_yaml())
        draft.write_stage(0, work.source.state(), stage)
        draft.write_result(after.distilled, after.initial, manifest)
    return after
