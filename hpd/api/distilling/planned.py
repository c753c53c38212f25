"""What a run would do, looked at without doing it."""

from __future__ import annotations

from pathlib import Path

from hpd.api.distilling.accounts import account_of
from hpd.api.distilling.built import Built
from hpd.api.distilling.resuming import is_finished
from hpd.artifacts import RunFolder
from hpd.artifacts.places import check_can_be_made
from hpd.config import RunSettings
from hpd.machine.device import Processes
from hpd.showing import counted
from hpd.typing import Source


def check_run(settings: RunSettings, out: str | Path | None, *, resume: bool = False) -> str:
    """Check all of a run that needs no training, and write nothing.

    Data are read, the source and the objective are built, with the generator, the experts and the
    teacher that they name, and the folder is looked at. Steps, projections and the training of a
    selector's networks are left out.

    Args:
        settings: of the run.
        out: its folder; None: none.
        resume: whether it may go on there.

    Returns:
        what was found, in one line.

    Raises:
        HpdError: what `distill` would raise before its first step.
    """
    folder = None if out is None else RunFolder(out)
    settings.tracking.check(None if folder is None else folder.path)
    if folder is not None and is_finished(folder, settings, resume=resume):
        return f"the run in {folder.path} is finished"
    if folder is not None:
        check_can_be_made(folder.path)
    built = _built(settings)
    source, images = built.source, built.images
    steps = sum(stage.steps for stage in source.stages)
    shape = " x ".join(map(str, images.image_shape))
    return (
        f"{len(images):,} training images of {shape} in {images.num_classes} classes; "
        f"{len(source.labels):,} synthetic images, {account_of(source)}; "
        f"{counted(len(source.stages), 'stage')}, {counted(steps, 'step')} in all"
    )


def checked_source(settings: RunSettings) -> Source:
    """Return the source of a run before its first step, less what takes long.

    Raises:
        HpdError: what `distill` would raise by then.
    """
    return _built(settings).source


def _built(settings: RunSettings) -> Built:
    """Return what a run rests on, of a source that projects nothing."""
    settings = settings.model_copy(update={"source": settings.source.unprojected()})
    built = Built(settings, None, Processes())
    built.build()
    return built
