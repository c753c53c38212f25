"""New images around those of a finished run."""

from __future__ import annotations

from pathlib import Path

import torch

from generators import Generator
from hpd.api.judging.evaluating import stored_generator
from hpd.api.runs import Run, folder_with_latents, opened
from hpd.artifacts import DistilledSet
from hpd.boundary import public
from hpd.machine.device import open_device
from hpd.own_code import reading
from hpd.sources.sampling import Distilled, SamplingSettings, sample_around


@public
def sample(
    run: Run | str | Path,
    per_class: int,
    *,
    psi: float | None = None,
    noise: float | None = None,
    level: int | None = None,
    seed: int = 0,
    generator: Generator | str | Path | None = None,
) -> DistilledSet:
    """Make new images around the distilled latents of a run, as many as wanted.

    ``w' = w_distilled + psi * (w - w_distilled)`` with w of a fresh draw of the class, and normal
    noise on the features of the level, if there are any. The distilled images of a class take
    turns. Image j of a class depends on seed, class and j alone.

    Args:
        run: a finished run of the source ``gan`` with a folder, its folder, or a packed file that
            holds latents.
        per_class: new images of each class.
        psi: 0 gives the distilled latents, 1 what the generator makes by itself; None: 0.5.
        noise: in parts of the RMS of the features; of ws at level 0; None: none.
        level: level of the latents to start from; None: the first of the run, from which images
            differ most.
        seed: root of every draw.
        generator: the one of the run, where that was in memory or lies elsewhere now.

    Returns:
        the new images alone, [K * per_class, C, H, W] in [0, 1] nominally, ordered by class.

    Raises:
        ConfigError: if the run's source has no generator, or the options do not fit.
        RunError: if there is no finished run, its set is not the one that its manifest tells of,
            or the generator is another one.
    """
    options = {"per_class": per_class, "psi": psi, "noise": noise, "level": level, "seed": seed}
    settings = SamplingSettings.read({k: v for k, v in options.items() if v is not None})
    run = opened(run)
    folder = folder_with_latents(run)
    stages = folder.read_stages()
    known = folder.read_manifest().get("generator", {})
    left = Distilled(
        states=[stage.state for stage in stages],
        labels=run.distilled.labels,
        # no data are read: these are those of the set, if it is the one that the manifest tells of
        classes=run.data_facts.classes,
        sha256=known.get("sha256"),
    )
    stored = None if generator is None else stored_generator(generator)
    device = open_device(run.config.device, run.config.float32)
    with reading(run.config.model_dump(mode="json")):
        images = sample_around(run.config.source, left, settings, device, stored)
    labels = torch.arange(len(run.distilled.classes)).repeat_interleave(per_class)
    return DistilledSet(
        images,
        labels,
        run.distilled.classes,
        run.distilled.normalisation,
        images.numel(),
        optimised=True,
    )
