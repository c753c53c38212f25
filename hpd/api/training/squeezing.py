"""Training the teacher that a recovery leans on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from generators.checkpoints.contents import open_contents
from hpd.api.naming import Where, data_from, split_data
from hpd.boundary import public
from hpd.data import Dataset
from hpd.engine import teachers
from hpd.errors import ConfigError, DataError, GeneratorError
from hpd.given import parse_options
from hpd.machine.device import open_device
from hpd.students.resnet18_weights import (
    WeightsSettings,
    resnet18_in,
    resnet18_teacher,
)
from hpd.students.teachers import SqueezeSettings, Teacher, published_resnet20


@public
def squeeze(
    data: Where | None = None,
    *overrides: str,
    out: str | Path,
    seed: int = 0,
    device: str = "auto",
    resnet20: str | Path | None = None,
    weights: str | Path | None = None,
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
        weights: file of a state dict of torchvision's ResNet-18, by torch or in safetensors, to
            keep instead of training; nothing in it is executed. Overrides are then those of
            `WeightsSettings`: how its images were normalised. The thousand classes of ImageNet fit
            data of some of them, by wnid or name; else it has the classes of the data, in order.
        report: hears (epochs done, mean training loss) after each epoch.
        on_setup: hears the settings and the number of epochs before the first.

    Raises:
        ConfigError: for an option that is wrong, or an architecture without batch norm; for weights
            of other channels or classes than the data.
        DataError: for a file that holds no such weights.
        RunError: if the folder holds something else, or another teacher.
        HpdError: for what is wrong with the data; `NumericError` if the training diverges.
    """
    of_data, own = split_data(overrides)
    if resnet20 is not None and weights is not None:
        raise ConfigError("one file is enough", got="resnet20 and weights", fix="Leave one out.")
    if resnet20 is not None and own:
        raise ConfigError("published weights are not trained", got=", ".join(own))
    where, found = open_device(device), data_from(data, of_data)
    if weights is not None:
        options = WeightsSettings.read(parse_options(own))
        dataset = found.build()
        teacher = _torchvision(Path(weights).expanduser(), options, dataset)
        return teachers.keep_published(out, teacher, dataset, device=where)
    settings = SqueezeSettings.read(parse_options(own))
    dataset = found.build()
    if resnet20 is not None:
        teacher = published_resnet20(Path(resnet20).expanduser())
        return teachers.keep_published(out, teacher, dataset, device=where)
    on_setup(settings, settings.training.pace(len(dataset.train)).epochs)
    return teachers.squeeze(out, settings, dataset, device=where, seed=seed, report=report)


def _torchvision(path: Path, options: WeightsSettings, dataset: Dataset) -> Teacher:
    """Return a ResNet-18 of torchvision's from a file, for the classes of some data."""
    try:
        with open_contents(path) as contents:
            names = list(contents.tensors)
            before = resnet18_in(names)
            weights = {
                name.removeprefix(before): contents.tensors[name]
                for name in names
                if name.startswith(before)
            }
        return resnet18_teacher(weights, options, dataset.train)
    # the reader is that of generators, and says so
    except (GeneratorError, DataError) as error:
        raise DataError(f"cannot read the weights of a ResNet-18 from {path}", got=error) from None
