"""Results belong to their data: what a run knows of its data, and whether others are the same."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hpd.artifacts import DistilledSet, RunFolder
from hpd.artifacts.places import going_on
from hpd.data import Dataset, ImageSet, Normalisation
from hpd.data.classes import class_changes
from hpd.data.whitening import recipe_of
from hpd.errors import ConfigError, DataError, RunError
from hpd.students.teachers import Teacher

# earlier versions may have rounded the sums behind mean and std otherwise
_TOLERANCE = 1e-4
_OTHER_MEAN = "other pixels: their mean or deviation is another"
_DIGITS = 12


@dataclass(frozen=True)
class DataFacts:
    """What a run knows of the training images that it was distilled from.

    Args:
        classes: name of each class, in the order of the labels.
        image_shape: (C, H, W) of an image.
        normalisation: mean and std of the images.
        sha256: of pixels and labels; None where it is not known, as in runs of earlier versions.
        images: number of images; None likewise.
    """

    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    normalisation: Normalisation
    sha256: str | None = None
    images: int | None = None

    @classmethod
    def of_run(
        cls, distilled: DistilledSet, folder: Path | None, sha256: str | None = None
    ) -> DataFacts:
        """Return what a finished run knows.

        Args:
            distilled: the set of the run.
            folder: of the run, whose manifest tells the rest; None for a run in memory.
            sha256: of the training images of a run in memory, where it is known.

        Raises:
            RunError: if there is no manifest, or it tells of another set.
        """
        channels, height, width = distilled.images.shape[1:]
        shape = (channels, height, width)
        facts = cls(distilled.classes, shape, distilled.normalisation, sha256)
        if folder is None:
            return facts
        manifest = RunFolder(folder).read_manifest()
        _check_set(facts, manifest, folder)
        return replace(
            facts, sha256=manifest.get("data_sha256"), images=manifest.get("data_images")
        )

    def changes(self, found: ImageSet) -> list[str]:
        """Return what is not as it was; nothing if all is."""
        same = self.sha256 is not None and self.sha256 == found.sha256
        changes = class_changes(self.classes, found.classes, same_labels=same)
        changes += _change("image shape", self.image_shape, found.image_shape)
        changes += _change("zca", *map(_zca, (self.normalisation, found.normalisation)))
        if self.images is not None:
            changes += _change("training images", self.images, len(found))
        if same or changes:
            return changes
        if self.sha256 is not None:
            return _other_pixels(self.sha256, found.sha256)
        return [] if _close(self.normalisation, found.normalisation) else [_OTHER_MEAN]


def check_data(known: DataFacts, found: ImageSet, folder: Path | str | None = None) -> None:
    """Check that training images are those of a run.

    Args:
        known: what the run knows of its data.
        found: the training images as they are now.
        folder: of the run, to be named.

    Raises:
        DataError: naming what has changed.
    """
    if changes := known.changes(found):
        raise DataError(
            "the data are not those of the run" + ("" if folder is None else f" in {folder}"),
            got="; ".join(changes),
            fix="Bring those back, or distil these into another folder.",
        )


def check_teacher(known: DataFacts, teacher: Teacher) -> None:
    """Check that a teacher was trained on the data of a run, as far as both tell of them.

    Raises:
        ConfigError: naming what differs.
    """
    record = teacher.record
    changes = class_changes(known.classes, record.classes)
    changes += _change("image shape", known.image_shape, record.image_shape)
    if not changes and None not in (known.sha256, record.images_sha256):
        changes = _other_pixels(known.sha256, record.images_sha256)
    if changes:
        raise ConfigError(
            "the teacher is of other images than the run",
            got="; ".join(changes),
            fix="Train one on the data of the run: `hpd squeeze --data DATA --out DIR`.",
        )


@dataclass(frozen=True)
class EvaluationData:
    """Which data an evaluation was made with.

    Args:
        train_sha256: of the training images and labels.
        test_sha256: of the test images and labels.
        classes: name of each class, in the order of the labels.
    """

    train_sha256: str
    test_sha256: str
    classes: tuple[str, ...]

    @classmethod
    def of(cls, dataset: Dataset) -> EvaluationData:
        """Return it of the data at hand."""
        return cls(dataset.train.sha256, dataset.test.sha256, dataset.train.classes)

    @classmethod
    def read(cls, evaluation: Mapping[str, Any]) -> EvaluationData | None:
        """Return what an `evaluation.json` says; None for one of an earlier version, without it.

        Raises:
            KeyError: if a part is missing.
        """
        data = evaluation.get("data")
        if data is None:
            return None
        return cls(data["train_sha256"], data["test_sha256"], tuple(data["classes"]))

    def as_json(self) -> dict[str, Any]:
        """Return it for `evaluation.json`."""
        return {**asdict(self), "classes": list(self.classes)}


def check_evaluation(manifest: Mapping[str, Any], data: EvaluationData, folder: Path) -> None:
    """Check that an evaluation was made with the data of its run.

    Args:
        manifest: of the run.
        data: of the evaluation.
        folder: of the run.

    Raises:
        RunError: naming what differs.
    """
    changes = class_changes(manifest.get("classes", data.classes), data.classes)
    if not changes:
        sha256 = manifest.get("data_sha256", data.train_sha256)
        changes = _other_pixels(sha256, data.train_sha256)
    if changes:
        raise RunError(
            f"the run in {folder} was evaluated with other data than its own",
            got="; ".join(changes),
            fix=f"Evaluate it again: `hpd evaluate {folder}`.",
        )


def check_same_data(evaluations: Mapping[Path, EvaluationData]) -> None:
    """Check that runs whose accuracies are averaged were evaluated with the same data.

    Args:
        evaluations: data of the evaluation in each folder, of which there is at least one.

    Raises:
        RunError: naming the first two that differ, and in what.
    """
    (first, data), *others = evaluations.items()
    for folder, other in others:
        changes = class_changes(data.classes, other.classes)
        for part in ("train", "test"):
            differs = _other_pixels(*(getattr(d, f"{part}_sha256") for d in (data, other)))
            changes += [f"{part}: {difference}" for difference in differs]
        if changes:
            raise RunError(
                f"{first} and {folder} differ in more than their seed: their evaluations are of "
                "different data",
                got="; ".join(changes),
                fix="`hpd evaluate RUN` evaluates again with the data as they are now.",
            )


def _check_set(facts: DataFacts, manifest: Mapping[str, Any], folder: Path) -> None:
    """Check that a manifest is that of a set, as far as it tells of its classes and images."""
    changes = class_changes(manifest.get("classes", facts.classes), facts.classes)
    shape = manifest.get("image_shape", facts.image_shape)
    changes += _change("image shape", shape, facts.image_shape)
    told = manifest.get("normalisation")
    if told is not None and not changes:
        normalisation = Normalisation(tuple(told["mean"]), tuple(told["std"]))
        changes = [] if _close(normalisation, facts.normalisation) else [_OTHER_MEAN]
    if changes:
        raise RunError(
            f"the distilled set of the run in {folder} is not the one that its manifest tells of",
            got="; ".join(changes),
            fix=f"Bring that back: {going_on(folder)} writes it again.",
        )


def _zca(normalisation: Normalisation) -> str:
    recipe = recipe_of(normalisation)
    return "none" if recipe is None else recipe["kind"]


def _change(name: str, before: object, after: object) -> list[str]:
    was, now = (
        list(v) if isinstance(v, Sequence) and not isinstance(v, str) else v
        for v in (before, after)
    )
    return [] if was == now else [f"{name}: {was} -> {now}"]


def _other_pixels(before: str | None, after: str | None) -> list[str]:
    if before == after:
        return []
    was, now = (str(digest)[:_DIGITS] for digest in (before, after))
    return [f"other pixels or labels: SHA-256 {was}... -> {now}..."]


def _close(one: Normalisation, other: Normalisation) -> bool:
    pairs = zip((*one.mean, *one.std), (*other.mean, *other.std), strict=True)
    return all(math.isclose(a, b, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE) for a, b in pairs)
