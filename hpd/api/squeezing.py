"""Training the teacher that a recovery leans on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hpd.api.naming import Where, data_from, split_data
from hpd.boundary import public
from hpd.config import parse_options
from hpd.device import open_device
from hpd.engine import teachers
from hpd.errors import ConfigError
from hpd.students.teachers import SqueezeSettings, Teacher, published_resnet20


@public
def squeeze(
    data: Where | None = None,
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
        data: as for `load_dataset`; None: the overrides name it, ``"data=photos"``.
        overrides: ``"student=resnet20"``, ``"training.epochs=30"``, ...: see `SqueezeSettings`;
            ``"data.resolution=32"``: options of the data.
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
    of_data, own = split_data(overrides)
    settings = SqueezeSettings.read(parse_options(own))
    if resnet20 is not None and own:
        raise ConfigError("published weights are not trained", got=", ".join(own))
    where, dataset = open_device(device), data_from(data, of_data).build()
    if resnet20 is not None:
        return teachers.keep_published(
            out, published_resnet20(Path(resnet20).expanduser()), dataset
        )
    on_setup(settings, settings.training.pace(len(dataset.train)).epochs)
    return teachers.squeeze(out, settings, dataset, device=where, seed=seed, report=report)
