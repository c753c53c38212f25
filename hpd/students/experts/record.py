"""How experts are trained, and what is written down about it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase
from typing_extensions import Self

from hpd.augment import OPERATION_NAMES
from hpd.data import ImageSet, Normalisation
from hpd.data.whitening import recipe_of
from hpd.disk.seals import digest_json
from hpd.errors import ConfigError
from hpd.registry import Settings
from hpd.rng import Streams
from hpd.students.base import STUDENTS, StudentSettings
from hpd.students.parameters import Layout, layout_of
from hpd.students.schedule import HardTraining, TrainingSettings

FORMAT = 1
_SAMPLE = 2000
_DIGEST_DIGITS = 8
_TRAINING = TrainingSettings(
    epochs=2, lr=0.01, momentum=0.0, weight_decay=0.0, batch_size=256, schedule="constant",
    augment=list(OPERATION_NAMES),
)  # fmt: skip


class ExpertSettings(Settings):
    """How experts are trained.

    Source: Cazenavette et al., CVPR 2022: SGD 0.01 without momentum or weight decay, batches of
    256, with the augmentation of DSA. They train 100 experts for 50 epochs; what a few dozen
    student steps can follow is the first one or two.
    """

    count: int = Field(12, ge=1, description="experts, each from fresh weights")
    training: HardTraining = Field(_TRAINING, description="of each expert")


def default_folder(
    student: StudentSettings, train: ImageSet, *, below: str = "runs/experts"
) -> str:
    """Return where experts go that are given no folder: one for each student and data set.

    Args:
        student: the architecture.
        train: the real training images.
        below: the folder that it is in.
    """
    seen = train.normalisation
    rests_on = {
        "student": STUDENTS.dump(student), "images": train.sha256, "mean": list(seen.mean),
        "std": list(seen.std), "zca": recipe_of(seen),
    }  # fmt: skip
    shape = "x".join(map(str, train.image_shape))
    digest = digest_json(rests_on)[:_DIGEST_DIGITS]
    return f"{below}/{STUDENTS.kind_of(student)}-{shape}-{digest}"


@dataclass(frozen=True)
class ExpertsWanted:
    """Which experts an objective rests on.

    Args:
        path: their folder.
        student: the architecture.
        settings: how many, and how they are trained.
    """

    path: str
    student: StudentSettings
    settings: ExpertSettings


class ExpertRecord(Settings):
    """What all experts of a folder share.

    Args:
        format: of the folder.
        student: the architecture.
        image_shape: (C, H, W) of the training images.
        classes: name of each class.
        mean: what students saw is ``(x - mean) / std``, x in [0, 1].
        std: see `mean`.
        zca: how they were whitened besides; None: they were not.
        training: how each expert was trained.
        seed: root of all randomness.
        images: number of training images.
        images_sha256: hash of the training images and labels.
        sampled_images: number of training images on which accuracies are measured.
        chance: share of the commonest class in that sample: what any constant answer scores.
        layout: name and shape of the parameters, in the order of a row.
        versions: of hpd and torch when the folder was made.
    """

    format: int = FORMAT
    student: Annotated[StudentSettings, STUDENTS]
    image_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    zca: dict[str, str] | None = None
    training: TrainingSettings
    seed: int
    images: int
    images_sha256: str
    sampled_images: int
    chance: float
    layout: Layout
    versions: dict[str, str]

    @property
    def normalisation(self) -> Normalisation:
        """Mean and std of the training images."""
        return Normalisation(self.mean, self.std)

    @classmethod
    def of(
        cls, student: StudentSettings, train: ImageSet, training: TrainingSettings, seed: int
    ) -> Self:
        """Return the record of experts that are to be trained.

        Args:
            student: the architecture.
            train: the real training images.
            training: how to train.
            seed: root of all randomness.

        Raises:
            ConfigError: for a student whose trajectory is not its parameters alone.
        """
        labels = train.labels[sample(train, seed)]
        return cls(
            student=student,
            image_shape=train.image_shape,
            classes=train.classes,
            mean=train.normalisation.mean,
            std=train.normalisation.std,
            zca=recipe_of(train.normalisation),
            training=training,
            seed=seed,
            images=len(train),
            images_sha256=train.sha256,
            sampled_images=len(labels),
            chance=int(labels.bincount().max()) / len(labels),
            layout=student_layout(student, train),
            versions={"hpd": version("hpd"), "torch": str(torch.__version__)},
        )


def student_layout(student: StudentSettings, train: ImageSet) -> Layout:
    """Return the parameters that a student for these images has.

    Raises:
        ConfigError: if it keeps running statistics, whose trajectory no loss defines.
    """
    with torch.device("meta"):
        module = student.make(train.image_shape, train.num_classes)
    # norms that keep running statistics all derive from this class; others do not
    norms = [layer for layer in module.modules() if isinstance(layer, _NormBase)]
    if any(layer.track_running_stats for layer in norms):
        raise ConfigError(
            "experts cannot have batch norm: trajectories of running statistics are not defined",
            got=f"student {STUDENTS.dump(student)}",
            expected="norm: instance, group, layer or none",
        )
    return layout_of(module)


def sample(train: ImageSet, seed: int) -> Tensor:
    """Return the indices of at most 2,000 training images, the same for all experts."""
    return torch.randperm(len(train), generator=Streams(seed).generator("sample"))[:_SAMPLE]
