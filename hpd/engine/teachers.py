"""Trains the teacher that a recovery leans on, and goes on where it stopped."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from hpd.data import Dataset, ImageSet
from hpd.data.whitening import recipe_of
from hpd.disk.files import is_leftover, remove_leftovers
from hpd.disk.locks import held
from hpd.engine.optimizer import optimizer_state, restore
from hpd.errors import ConfigError, NumericError, RunError
from hpd.rng import Streams
from hpd.students import Student, Taught, accuracy, train_epoch
from hpd.students.experts.checks import check_images
from hpd.students.experts.record import sample
from hpd.students.resnet18_weights import gap_of_first_norm
from hpd.students.teachers import (
    PARTIAL,
    RECORD,
    WEIGHTS,
    SqueezeSettings,
    Teacher,
    TeacherProgress,
    TeacherRecord,
    digest_network,
    read_progress,
    read_teacher,
    write_progress,
    write_teacher,
)

Report = Callable[[int, float], None]
"""Hears (epochs done, mean training loss) after each epoch."""

# images whose statistics are compared with those that the first norm remembers, and how much they
# may differ, in deviations and as a ratio
_LOOKED_AT, _APART, _RATIO = 64, 0.5, 4.0
_logger = logging.getLogger(__name__)
_OTHER = "Choose another folder with --out."
_RESULTS = ("losses", "accuracy_train", "accuracy_test", "weights", "versions")


def squeeze(
    path: str | Path,
    settings: SqueezeSettings,
    dataset: Dataset,
    *,
    device: torch.device,
    seed: int,
    report: Report = lambda epoch, loss: None,
) -> Teacher:
    """Train a teacher in a folder, or return the one of the same training that is there.

    A killed training goes on at the epoch at which it stopped, and on a CPU ends in the same bytes
    as one that was not.

    Args:
        path: the folder, made if it is not there.
        settings: which network, and how it is trained.
        dataset: it learns the training images; on the test images it is measured once, at the end.
        device: where to train.
        seed: root of all randomness.
        report: hears of every epoch.

    Raises:
        ConfigError: for an architecture without batch norm, or data that students see whitened.
        DataError: for images that are constant.
        RunError: if the folder holds something else, or another teacher.
        NumericError: if the training diverges.
    """
    path = Path(path).expanduser()
    if recipe_of(dataset.train.normalisation) is not None:
        raise ConfigError(
            "a teacher sees images by mean and deviation alone, whatever its students see",
            got="data.zca",
            fix="Leave out data.zca: labels for whitened images come from the images themselves.",
        )
    record = TeacherRecord.of(settings, dataset.train, seed)
    check_images(dataset.train)
    open_folder(path)
    with held(path, "train a teacher in"):
        remove_leftovers(path)
        if (path / RECORD).is_file():
            return _same(path, record)
        return _train(path, record, dataset, device, report)


def keep_published(
    path: str | Path, teacher: Teacher, dataset: Dataset, *, device: torch.device
) -> Teacher:
    """Write a teacher that others trained to a folder, with its accuracy on the test images.

    Args:
        path: the folder, made if it is not there.
        teacher: with its weights.
        dataset: that it is to know.
        device: where it is asked about the test images.

    Raises:
        ConfigError: if it does not fit the data.
        RunError: if the folder holds something.
    """
    path = Path(path).expanduser()
    teacher.check_fits(dataset.train.image_shape, dataset.train.classes)
    open_folder(path)
    if (path / RECORD).is_file():
        return _same(path, teacher.record)
    _look_at(teacher, dataset.train)
    own = replace(dataset.test, normalisation=teacher.record.normalisation)
    asked = teacher.to(device).network
    share = accuracy(asked, own.seen_on(device), dataset.test.labels.to(device))
    record = teacher.record.model_copy(update={"accuracy_test": share})
    teacher = Teacher(teacher.network.to("cpu"), record)
    write_teacher(path, teacher)
    return teacher


def _look_at(teacher: Teacher, train: ImageSet) -> None:
    """Say where real images look to a teacher otherwise than those that it was trained on."""
    some = torch.linspace(0, len(train) - 1, min(_LOOKED_AT, len(train))).long()
    apart, ratio = gap_of_first_norm(teacher, train.at(some))
    if apart > _APART or not 1 / _RATIO < ratio < _RATIO:
        _logger.warning(
            "the images look to the teacher otherwise than those it was trained on: at its first"
            " norm means are %.2g deviations apart, variances are %.2g of those it remembers. Are"
            " these the mean and std that its images were normalised by?",
            apart, ratio,
        )  # fmt: skip


def open_folder(path: Path) -> None:
    """Make the folder of a teacher, if it is not there.

    Raises:
        RunError: if it holds something else, or cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        names = {p.name for p in path.iterdir() if not is_leftover(p.name)}
    except OSError as error:
        raise RunError(f"cannot write to {path}", got=error.strerror) from None
    others = names - {RECORD, WEIGHTS, PARTIAL}
    if others:
        raise RunError(f"{path} already holds other files", got=min(others), fix=_OTHER)


def _same(path: Path, record: TeacherRecord) -> Teacher:
    """Return the teacher that is there, if it is what would be made."""
    teacher = read_teacher(path)
    there, wanted = (r.model_dump(mode="json") for r in (teacher.record, record))
    keys = [k for k in wanted if k not in _RESULTS and there[k] != wanted[k]]
    # of one that is to be trained they are not known yet
    keys += [k for k in ("weights",) if wanted[k] and there[k] != wanted[k]]
    if keys:
        raise RunError(
            f"{path} holds a teacher of another {keys[0].replace('_', ' ')}",
            got=there[keys[0]],
            expected=wanted[keys[0]],
            fix=_OTHER,
        )
    return teacher


def _train(
    path: Path, record: TeacherRecord, dataset: Dataset, device: torch.device, report: Report
) -> Teacher:
    training, train = record.training, dataset.train
    assert training is not None and record.seed is not None, "those of a teacher to be trained"
    streams = Streams(record.seed).fork("teacher")
    weights = streams.generator("weights")
    network = record.student.build(record.image_shape, train.num_classes, weights).to(device)
    optimizer = training.optimizer(network)
    progress = read_progress(path, record)
    losses: tuple[float, ...] = ()
    if progress is not None:
        network.load_state_dict(progress.network)
        restore(optimizer, progress.optimizer)
        losses = progress.losses
    images, labels = train.seen_on(device), train.labels.to(device)
    taught = Taught(images, labels)
    for epoch in range(len(losses), training.pace(len(images)).epochs):
        rng = streams.generator("epoch", epoch)
        loss = train_epoch(network, optimizer, taught, training, rng, epoch)
        _check_finite(network, loss, epoch)
        losses = (*losses, loss)
        now = TeacherProgress(network.state_dict(), optimizer_state(optimizer), losses)
        write_progress(path, record, now)
        report(epoch + 1, loss)
    chosen = sample(train, record.seed)
    test = dataset.test
    found = {
        "losses": losses,
        "accuracy_train": accuracy(network, images.at(chosen), labels[chosen]),
        "accuracy_test": accuracy(network, test.seen_on(device), test.labels.to(device)),
        "weights": digest_network(network),
    }
    teacher = Teacher(network.requires_grad_(False).eval(), record.model_copy(update=found))
    write_teacher(path, teacher)
    return teacher


def _check_finite(network: Student, loss: float, epoch: int) -> None:
    values = [value for value in network.state_dict().values() if value.is_floating_point()]
    if not (math.isfinite(loss) and all(bool(value.isfinite().all()) for value in values)):
        raise NumericError(
            f"the teacher is not finite after epoch {epoch + 1}",
            got=f"loss {loss:g}",
            fix="Lower training.lr.",
        )
