"""Training the teacher that a recovery leans on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hpd.api.loading import load_dataset
from hpd.config import parse_options
from hpd.device import open_device
from hpd.engine import teachers
from hpd.errors import ConfigError
from hpd.students.teachers import SqueezeSettings, Teacher, published_resnet20


def squeeze(
    data: str | Path | Mapping[str, Any],
    *overrides: str,
    out: str | Path,
    seed: int = 0,
    device: str = "auto",
    resnet20: str | Path | None = None,
    report: teachers.Report = lambda epoch, loss: None,
    on_setup: Callable[[SqueezeSettings, int], None] = lambda settings, epochs: None,
) -> Teacher:
    """Train a teacher with batch norm on a whole training set, and keep it in a folder.

    An interrupted training goes on where it stopped, to the same bytes on a CPU; a teacher that is
    there is returned as it is.

    Args:
        data: a data set's name, the folder or file of one, or ``{"kind": name, option: value}``.
        overrides: ``"student=resnet20"``, ``"training.epochs=30"``, ...: see `SqueezeSettings`.
        out: folder of the teacher.
        seed: root of all randomness.
        device: where to train.
        resnet20: file of the published ResNet-20 for CIFAR-10, to keep instead of training.
        report: hears (epochs done, mean training loss) after each epoch.
        on_setup: hears the settings and the number of epochs before the first.

    Raises:
        ConfigError: for an option that is wrong, or an architecture without batch norm.
        RunError: if the folder holds something else, or another teacher.
        HpdError: for what is wrong with the data; `NumericError` if the training diverges.
    """
    settings = SqueezeSettings.read(parse_options(overrides))
    if resnet20 is not None and overrides:
        raise ConfigError("published weights are not trained", got=", ".join(overrides))
    where, dataset = open_device(device), load_dataset(data)
    if resnet20 is not None:
        return teachers.keep_published(
            out, published_resnet20(Path(resnet20).expanduser()), dataset
        )
    on_setup(settings, settings.training.pace(len(dataset.train)).epochs)
    return teachers.squeeze(out, settings, dataset, device=where, seed=seed, report=report)
