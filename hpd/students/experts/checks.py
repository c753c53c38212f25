"""Checks of experts and of the data, made before a run that rests on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hpd.data import ImageSet
from hpd.data.whitening import recipe_of
from hpd.errors import DataError, NumericError, RunError
from hpd.registry import Settings
from hpd.students.base import STUDENTS, StudentSettings
from hpd.students.experts.record import ExpertRecord, student_layout
from hpd.students.experts.trajectories import ExpertFolder
from hpd.students.schedule import TrainingSettings

_SHOWN = 3
_DEVIATIONS = 3
_ANEW = "Train experts with `hpd experts CONFIG`, in a folder of their own."
_TRAINING = "objective.expert_training.training"


def check_matches(
    record: ExpertRecord,
    *,
    student: StudentSettings,
    train: ImageSet,
    training: TrainingSettings | None = None,
    seed: int | None = None,
    fix: str = _ANEW,
) -> None:
    """Check that experts were trained as a run needs them.

    Args:
        record: of the experts.
        student: the run's architecture.
        train: the run's training images; images, labels and normalisation must be equal to the bit.
        training: how the run wants experts trained; None: any way.
        seed: the seed that the run wants them trained with; None: any.
        fix: what to do about a difference, for the message.

    Raises:
        RunError: naming the first thing that differs, what it was and what it should be.
    """
    for name, compare in _comparisons(record, student, train, training, seed):
        got, expected = compare()
        if got != expected:
            raise RunError(
                f"the experts have another {name}",
                got=got,
                expected=expected,
                fix=fix,
            )


def _comparisons(
    record: ExpertRecord, student: StudentSettings, train: ImageSet,
    training: TrainingSettings | None, seed: int | None,
) -> list[tuple[str, Callable[[], tuple[Any, Any]]]]:  # fmt: skip
    """Return name and both sides of what is compared, in the order of the messages.

    What a cause changes comes after the cause: other images also have another normalisation.
    """
    kinds = STUDENTS.kind_of(record.student), STUDENTS.kind_of(student)
    normalisation = train.normalisation
    comparisons: list[tuple[str, Callable[[], tuple[Any, Any]]]] = [
        ("image shape (C, H, W)", lambda: (record.image_shape, train.image_shape)),
        ("list of classes", lambda: (record.classes, train.classes)),
        ("kind of student", lambda: kinds),
        ("student", lambda: _differing(record.student, student)),
        ("layout of the student", lambda: (record.layout, student_layout(student, train))),
        ("number of training images", lambda: (record.images, len(train))),
        ("set of training images (SHA-256)", lambda: (record.images_sha256, train.sha256)),
        ("normalisation (mean)", lambda: (record.mean, normalisation.mean)),
        ("normalisation (std)", lambda: (record.std, normalisation.std)),
        ("zca", lambda: (record.zca, recipe_of(normalisation))),
    ]
    if training is not None:
        comparisons.append(("training", lambda: _differing(record.training, training)))
    if seed is not None:
        comparisons.append(("seed", lambda: (record.seed, seed)))
    return comparisons


def _differing(one: Settings, other: Settings) -> tuple[str, str]:
    """Return the options that differ, as both sides have them."""
    ours, theirs = one.model_dump(mode="json"), other.model_dump(mode="json")
    keys = [key for key in ours if ours[key] != theirs[key]]
    first, second = (", ".join(f"{key}={side[key]!r}" for key in keys) for side in (ours, theirs))
    return first, second


def check_learned(folder: ExpertFolder) -> None:
    """Check that every expert learned something that can be matched.

    Its numbers are finite; its parameters move in every epoch; the loss of the last epoch is below
    that of the first; the accuracy on training images is above that of the fresh network, and above
    chance by three standard deviations of a guess. Reads all shards, so it finds damage, too.

    Raises:
        NumericError: for NaN or Inf, naming expert and epoch.
        RunError: naming the experts that learned nothing, or whose shards are broken.
    """
    infinite, still = [], []
    for expert in range(len(folder)):
        before: Tensor | None = None
        for epoch in range(folder.epochs + 1):
            row = folder.parameters(expert, epoch)
            if not bool(torch.isfinite(row).all()):
                infinite.append(f"expert {expert} after epoch {epoch}")
                break
            if before is not None and torch.equal(row, before):
                still.append(f"expert {expert} in epoch {epoch}")
                break
            before = row
    if infinite:
        raise NumericError(
            f"{len(infinite)} of {len(folder)} experts in {folder.path} are not finite",
            got=_some(infinite),
            fix=f"Lower {_TRAINING}.lr and train them anew.",
        )
    if still:
        raise RunError(
            f"{len(still)} of {len(folder)} experts in {folder.path} stand still",
            got=_some(still),
            expected="parameters that move in every epoch",
            fix=f"Raise {_TRAINING}.lr and train them anew.",
        )
    _check_results(folder)


def _check_results(folder: ExpertFolder) -> None:
    """Check losses and accuracies of every expert."""
    chance, images = folder.record.chance, folder.record.sampled_images
    wanted = chance + _DEVIATIONS * math.sqrt(chance * (1 - chance) / images)
    idle = []
    for expert in range(len(folder)):
        result = folder.result(expert)
        before, after = result.accuracy_before, result.accuracy_after
        # NaN is below and above nothing, so conditions are stated as what must hold
        learned = after > wanted and after > before
        if not learned:
            idle.append(f"expert {expert} with accuracy {before:.1%} -> {after:.1%}")
        elif folder.epochs > 1 and not result.losses[-1] < result.losses[0]:
            idle.append(f"expert {expert} with loss {result.losses[0]:g} -> {result.losses[-1]:g}")
    if idle:
        raise RunError(
            f"{len(idle)} of {len(folder)} experts in {folder.path} did not learn",
            got=_some(idle),
            expected=f"a falling loss, and above {wanted:.1%} of {images:,} training images"
            f" ({chance:.1%} is chance)",
            fix=f"Change {_TRAINING}.lr or .epochs and train them anew.",
        )


def check_complete(folder: ExpertFolder, count: int) -> None:
    """Check that there are as many experts as a run wants.

    Raises:
        RunError: if there are fewer.
    """
    if len(folder) < count:
        raise RunError(
            f"{folder.path} has too few experts",
            got=len(folder),
            expected=f"at least {count}",
            fix="Train the others with `hpd experts CONFIG`.",
        )


def check_images(train: ImageSet) -> None:
    """Check that no training image is one colour throughout, all of its values the same.

    A norm that divides by an image's own deviation blows up what is left of it, and with it the
    gradient.

    Raises:
        DataError: naming how many there are, and the first of them.
    """
    flat = (part.flatten(1) for part in train.parts())
    alike = torch.cat([part.amin(dim=1) == part.amax(dim=1) for part in flat])
    constant = alike.nonzero().flatten().tolist()
    if constant:
        named = [f"image {i} of class {train.classes[train.labels[i]]!r}" for i in constant]
        raise DataError(
            f"{len(constant)} of {len(train)} training images are constant",
            got=_some(named),
            expected="images that show something",
            fix="Remove them from the data.",
        )


def _some(names: Sequence[str]) -> str:
    """Return the first few names, and whether there are more."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
