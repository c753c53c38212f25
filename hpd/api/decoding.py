"""The images of a run from what it stores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from hpd.api.runs import Run, opened
from hpd.artifacts import DistilledSet, RunFolder
from hpd.artifacts.run_folder import CODES
from hpd.boundary import public
from hpd.device import open_device
from hpd.errors import ConfigError, RunError
from hpd.rng import Streams
from hpd.sources.coded import Coded


@public
def decode(run: Run | str | Path) -> DistilledSet:
    """Return the distilled set of a run, its images made anew from the codes that it stores.

    The data set and the generator of the run are needed; nothing is optimised. On the kind of
    device that the run was made on the images are those of the run, to the bit.

    Args:
        run: a finished run with ``source.storage``, or its folder.

    Raises:
        ConfigError: if the run stores its numbers as they are.
        RunError: if there is no such run, or its codes are not as they were written.
        HpdError: for what is wrong with data or generator.
    """
    run = opened(run)
    settings = run.config
    if settings.source.storage is None or run.folder is None:
        raise ConfigError(
            "the run has no codes",
            got="no source.storage" if settings.source.storage is None else "no folder",
            expected="a run in few bits, in a folder",
        )
    folder = RunFolder(run.folder)
    folder.check_whole(CODES)
    try:
        codes = load_file(folder.path / CODES)
    except (SafetensorError, OSError) as error:
        raise RunError(f"cannot read {folder.path / CODES}", got=error) from None
    device = open_device(settings.device)
    train, _ = settings.selection.split(settings.data.build().train)
    source = settings.source.unprojected().build_whole(
        train, device, Streams(settings.seed).fork("source")
    )
    assert isinstance(source, Coded)
    for stage in range(len(source.stages)):
        source.enter(stage)
    return replace(run.distilled, images=source.decoded(codes).float())
