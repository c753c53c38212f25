"""How sets are compared: the field's protocols by name, and every option of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from hpd.augment import OPERATION_NAMES
from hpd.errors import ConfigError, nearest
from hpd.registry import Settings
from hpd.students import STUDENTS, StudentSettings, TrainingSettings
from hpd.students.convnet import ConvNetSettings

Baseline = Literal["random_real", "herding", "k_centre"]

_ALL = list(OPERATION_NAMES)
_GLAD = {"lr": 0.001, "epochs": 1000, "schedule": "cosine", "warmup": 0.5, "ema": 0.995}
PROTOCOLS: Mapping[str, Mapping[str, Any]] = {
    "dc": {"training": {}},
    "dsa": {"training": {"epochs": 1000, "augment": _ALL}},
    "dm": {"training": {"epochs": 1000, "augment": _ALL}},
    "glad": {"training": {**_GLAD, "augment": _ALL}, "rate_factors": {"vgg11": 0.1}},
    "hmn": {
        "training": {
            "epochs": 1000,
            "schedule": "cosine",
            "augment": ["color", "crop", "cutout"],
            "cutmix": 0.5,
        }
    },
    "soft": {
        "training": {"epochs": 1000, "schedule": "cosine", "augment": _ALL, "temperature": 4.0},
        "labels": "soft",
    },
    "dwa": {
        "training": {
            "algorithm": "adamw",
            "lr": 0.001,
            "weight_decay": 0.01,
            "epochs": 400,
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
hmn  a cosine, as Zheng et al., ECCV 2024, say; 1,000 epochs at 0.01 and the augmentation of IDC,
     Kim et al., ICML 2022, are ours
soft labels from a teacher trained on the whole training set, met at a temperature of 4 (ours);
     Hinton et al., 2015
dwa  Du et al., NeurIPS 2024, for CIFAR: 400 epochs of AdamW 0.001 with a cosine, mixup of
     Beta(0.8, 0.8) and soft labels at a temperature of 30; weight decay, augmentation and labels
     that are given once an image, not once a view, are ours
==== ==============================================================================================
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
    labels: Literal["hard", "soft", "stored"] = Field(
        "hard",
        description="soft: probabilities of a teacher, for all sets but the whole one; stored:"
        " those that `hpd relabel` keeps, and for the other sets those of `teacher`, if any",
    )
    teacher: str | None = Field(
        None,
        description="folder of `hpd squeeze`, which gives the soft labels; null: a student trained"
        " on the whole training set, for each architecture",
    )
    baselines: list[Baseline] = Field(["random_real"], description="real images, as many")
    counts: list[Annotated[int, Field(ge=1)]] = Field(
        [], description="also the first so many distilled images of each class"
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        """Take from the protocol what is not given."""
        if not isinstance(values, Mapping):
            return values
        name = values.get("protocol", "dc")
        if name not in PROTOCOLS:
            raise ConfigError(f"unknown protocol {name!r}", fix=nearest(str(name), PROTOCOLS))
        training = values.get("training", {})
        given = dict(values)
        if isinstance(training, Mapping):
            given["training"] = {**PROTOCOLS[name]["training"], **training}
        return {**PROTOCOLS[name], **given}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for kind in self.rate_factors:
            # raises with the nearest name
            STUDENTS[kind]
        needs: list[str] = [name for name in self.baselines if name != "random_real"]
        needs += ["soft labels"] if self.labels == "soft" and self.teacher is None else []
        if needs and self.full_training is None:
            raise ConfigError(
                f"{needs[0]} needs a network trained on the whole training set",
                got="full_training null",
                fix="Say by full_training how it is trained.",
            )
        return self

    def training_of(self, training: TrainingSettings, kind: str) -> TrainingSettings:
        """Return `training` at the learning rate of a kind of student."""
        factor = self.rate_factors.get(kind, 1.0)
        return training.model_copy(update={"lr": training.lr * factor})
