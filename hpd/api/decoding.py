"""The images and labels of a run from what it stores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from hpd.api.runs import Run, opened
from hpd.artifacts import DistilledSet, RunFolder
from hpd.artifacts.run_folder import CODES
from hpd.boundary import public
from hpd.codecs import LabelCodes
from hpd.errors import ConfigError, RunError
from hpd.machine.device import open_device
from hpd.rng import Streams
from hpd.sources.coded import Coded
from hpd.typing import State


@public
def decode(run: Run | str | Path) -> DistilledSet:
    """Return the distilled set of a run, made anew from the codes that it stores.

    So are labels that `relabel` stored in few bits. The data set and the generator of the run are
    needed; nothing is optimised. On the kind of device that the run was made on the images are
    those of the run, to the bit.

    Args:
        run: a finished run with ``source.storage``, or of latents, or its folder.

    Raises:
        ConfigError: if the run stores its numbers as they are.
        RunError: if there is no such run, or its codes are not as they were written.
        HpdError: for what is wrong with data or generator.
    """
    run = opened(run)
    settings = run.config
    if settings.source.codec is None or run.folder is None:
        raise ConfigError(
            "the run has no codes",
            got="no source.storage" if settings.source.codec is None else "no folder",
            expected="a run in few bits, in a folder",
        )
    folder = RunFolder(run.folder)
    codes = _read(folder, CODES)
    device = open_device(settings.device, settings.float32)
    train, _ = settings.selection.split(settings.data.build().train)
    source = settings.source.unprojected().build_whole(
        train, device, Streams(settings.seed).fork("source")
    )
    assert isinstance(source, Coded)
    for stage in range(len(source.stages)):
        source.enter(stage)
    distilled = replace(run.distilled, images=source.decoded(codes).float())
    about = folder.read_manifest().get("soft_labels") or {}
    if "codes" not in about:
        return distilled
    shape = (len(distilled), len(distilled.classes))
    labels = LabelCodes(_read(folder, about["codes"]), about["bits_each"], shape)
    return replace(distilled, soft_labels=labels.probabilities)


def _read(folder: RunFolder, name: str) -> State:
    """Return the tensors of a file of a run.

    Raises:
        RunError: if they are not as they were written.
    """
    folder.check_whole(name)
    try:
        return load_file(folder.path / name)
    except (SafetensorError, OSError) as error:
        raise RunError(f"cannot read {folder.path / name}", got=error) from None
