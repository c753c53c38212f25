"""How sets are compared: the field's protocols by name, and every option of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from typing_extensions import Self

from hpd.artifacts.judging import student_names
from hpd.augment import OPERATION_NAMES, OperationName
from hpd.errors import ConfigError, nearest
from hpd.evaluation.card.measuring import CardSettings
from hpd.registry import Only, Settings
from hpd.students import STUDENTS, StudentSettings, TrainingSettings
from hpd.students.base import ImageShape
from hpd.students.networks.convnet import ConvNetSettings
from hpd.students.schedule import completed, without_soft_labels

Baseline = Literal["random_real", "herding", "k_centre", "prior_samples", "prior_same_count"]
LabelKind = Literal["hard", "soft", "stored", "online"]

_ALL = list(OPERATION_NAMES)
_LONG = {"epochs": 1000, "min_steps": 1000}
_GLAD = {"lr": 0.001, "schedule": "cosine", "warmup": 0.5, "ema": 0.995}
# IDC's evaluation: DSA's operations without cutout, half of the batches mixed by CutMix
_IDC = {"batch_size": 64, "augment": [op for op in _ALL if op != "cutout"], "cutmix": 0.5}
PROTOCOLS: Mapping[str, Mapping[str, Any]] = {
    "dc": {"training": {"epochs": 300, "min_steps": 1000}},
    "dsa": {"training": {**_LONG, "augment": _ALL}},
    "dm": {"training": {**_LONG, "augment": _ALL}},
    "glad": {"training": {**_LONG, **_GLAD, "augment": _ALL}, "rate_factors": {"vgg11": 0.1}},
    "idc": {"training": {**_LONG, **_IDC, "drops": [2 / 3, 5 / 6], "drop_factor": 0.2}},
    "hmn": {"training": {**_LONG, **_IDC, "schedule": "cosine"}},
    "soft": {
        "training": {**_LONG, "schedule": "cosine", "augment": _ALL, "temperature": 4.0},
        "labels": "soft",
    },
    "dwa": {
        "training": {
            "algorithm": "adamw",
            "lr": 0.001,
            "weight_decay": 0.01,
            "epochs": 400,
            "min_steps": 1000,
            "schedule": "cosine",
            "augment": ["crop", "flip"],
            "mixup": 0.8,
            "temperature": 30.0,
        },
        "labels": "soft",
    },
}
"""What each protocol sets; `TrainingSettings` has the rest.

==== ==============================================================================================
dc   Zhao et al., ICLR 2021: 300 epochs of SGD 0.01, a tenth of it from half of them on
dsa  Zhao and Bilen, ICML 2021: 1,000 epochs, with Siamese augmentation
dm   Zhao and Bilen, WACV 2023: as dsa
glad Cazenavette et al., CVPR 2023, and H-PD, Zhong et al., CVPR 2025: 1,000 epochs, half of them
     warm-up to 0.001 (VGG11: 0.0001), then a cosine; the weights averaged with decay 0.995
idc  Kim et al., ICML 2022: 1,000 epochs in batches of 64, DSA's augmentation less cutout, CutMix at
     0.5; a fifth of the rate from two thirds on, and of that from five sixths
hmn  a cosine, as Zheng et al., ECCV 2024, say; 1,000 epochs at 0.01, batches and augmentation as
     idc are ours
soft labels from a teacher trained on the whole training set, met at a temperature of 4 (ours);
     Hinton et al., 2015
dwa  Du et al., NeurIPS 2024, for CIFAR: 400 epochs of AdamW 0.001 with a cosine, mixup of
     Beta(0.8, 0.8) and soft labels at a temperature of 30; weight decay, augmentation and labels
     that are given once an image, not once a view, are ours
==== ==============================================================================================

Ours in all of them: at least 1,000 steps, and batches of equal size, of 64 above 100 images.
"""


class EvaluationSettings(Settings):
    """How sets are compared."""

    protocol: str = Field("dc", description=f"{', '.join(PROTOCOLS)}: sets what is not given")
    students: list[Annotated[StudentSettings, STUDENTS]] = Field(
        [ConvNetSettings()], min_length=1, description="architectures, each from fresh weights"
    )
    seeds: int = Field(5, ge=1, description="students of each architecture")
    training: TrainingSettings = Field(TrainingSettings(), description="on small sets")
    full_training: TrainingSettings | None = Field(
        TrainingSettings(epochs=30), description="on the whole training set; null: leave it out"
    )
    rate_factors: dict[str, float] = Field(
        {}, description="what the learning rates are multiplied by, by kind of student"
    )
    labels: LabelKind = Field(
        "hard",
        description="soft: probabilities of a teacher, one an image, for all sets but the whole"
        " one; stored: those that `hpd relabel` keeps, and for the other sets those of `teacher`,"
        " if any; online: the teacher is asked for each augmented, mixed batch, for all sets",
    )
    teacher: Annotated[str | None, Only("labels", "soft", "stored", "online")] = Field(
        None,
        description="folder of `hpd squeeze`, which gives soft labels; null: a student trained"
        " on the whole training set, for each architecture",
    )
    baselines: list[Baseline] = Field(
        ["random_real"],
        description="real images at the count of the set and at what it stores; prior_samples:"
        " samples of the source's generator for the bits of their z, which are always there"
        " where there is one; prior_same_count: as many samples as the set has images",
    )
    prior_limit: int | None = Field(
        None,
        ge=1,
        description="most samples a class in prior_samples, where it takes too long to draw as many"
        " as the bits buy, or to train on them; null: as many",
    )
    counts: list[Annotated[int, Field(ge=1)]] = Field(
        [], description="also the first so many distilled images of each class"
    )
    card: CardSettings | None = Field(
        None, description="also corruptions, an attack, another resolution, membership; null: not"
    )
    scores: bool = Field(
        True,
        description="also what HLR, IOR, LRS and ARS need: random real images at the count of each"
        " set, hard labels, and each set once more without augmentation or with it",
    )
    ars_augment: Annotated[list[OperationName], Only("scores")] = Field(
        _ALL, min_length=1, description="what ARS augments with where the training does not"
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        """Take from the protocol what is not given."""
        if not isinstance(values, Mapping):
            return values
        name = values.get("protocol", "dc")
        if not isinstance(name, str) or name not in PROTOCOLS:
            raise ConfigError(f"unknown protocol {name!r}", fix=nearest(str(name), PROTOCOLS))
        training = values.get("training", {})
        given = dict(values)
        if isinstance(training, Mapping):
            given["training"] = completed(PROTOCOLS[name]["training"], training)
        return {**PROTOCOLS[name], **given}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for number, student in enumerate(self.students):
            if student in self.students[:number]:
                raise ConfigError("a student is there twice", got=STUDENTS.dump(student))
        for kind in self.rate_factors:
            # raises with the nearest name
            STUDENTS[kind]
        if self.labels == "hard" and self.training.temperature != 1.0:
            given = self.training.temperature
            if given != PROTOCOLS[self.protocol]["training"].get("temperature"):
                raise without_soft_labels(given, "training.temperature", "labels")
        needs: list[str] = [name for name in self.baselines if name in ("herding", "k_centre")]
        taught = self.labels in ("soft", "online")
        needs += ["a teacher of labels"] if taught and self.teacher is None else []
        if needs and self.full_training is None:
            raise ConfigError(
                f"{needs[0]} needs a network trained on the whole training set",
                got="full_training null",
                fix="Say by full_training how it is trained.",
            )
        return self

    def baselines_of(self, *, prior: bool) -> list[Baseline]:
        """Return the baselines of a source with or without a generator.

        Samples of a generator are always among them, and with labels online, which say as much of
        the teacher as of the set, so are random real images.
        """
        needed: list[Baseline] = ["random_real"] if self.labels == "online" else []
        needed += ["prior_samples"] if prior else []
        return [*self.baselines, *(name for name in needed if name not in self.baselines)]

    @property
    def labels_of_baselines(self) -> LabelKind:
        """What sets learn from that bring no soft labels along."""
        if self.labels == "stored":
            return "hard" if self.teacher is None else "soft"
        return self.labels

    @property
    def other_training(self) -> TrainingSettings:
        """The training without augmentation, or with it where it has none."""
        own = self.training
        if own.augment or own.cutmix or own.mixup:
            return own.model_copy(update={"augment": [], "cutmix": 0.0, "mixup": 0.0})
        return own.model_copy(update={"augment": self.ars_augment})

    def check_fits(self, image_shape: ImageShape, num_classes: int) -> None:
        """Check that there is each student for images of a shape.

        Raises:
            ConfigError: if one is too deep for them.
        """
        for student in self.students:
            with torch.device("meta"):
                student.make(image_shape, num_classes)

    def name_of(self, student: StudentSettings) -> str:
        """Return what rows call one of the students; see `hpd.artifacts.judging`."""
        return student_names([STUDENTS.dump(own) for own in self.students])[
            self.students.index(student)
        ]

    def training_of(self, training: TrainingSettings, kind: str) -> TrainingSettings:
        """Return `training` at the learning rate of a kind of student."""
        factor = self.rate_factors.get(kind, 1.0)
        return training.model_copy(update={"lr": training.lr * factor})
