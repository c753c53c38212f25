"""Networks of several ages, trained on real images before the run that matches through them.

Source of matching through networks that real images trained: Kim et al., Dataset Condensation via
Efficient Synthetic-Data Parameterization, ICML 2022 (IDC), which trains them during the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from hpd.data import ImageSet
from hpd.errors import ConfigError
from hpd.objectives.matching import RealSide
from hpd.registry import Settings
from hpd.students import Student, StudentSettings
from hpd.students.experts.checks import (
    check_complete,
    check_images,
    check_learned,
    check_matches,
)
from hpd.students.experts.record import ExpertSettings, ExpertsWanted, default_folder
from hpd.students.experts.trajectories import ExpertFolder
from hpd.students.parameters import unflatten
from hpd.students.schedule import TrainingSettings
from hpd.typing import State, Step

# as IDC trains its networks between the steps they are matched in
_TRAINING = TrainingSettings(
    epochs=4, lr=0.01, momentum=0.9, weight_decay=5e-4, batch_size=64, schedule="constant",
    augment=["color", "crop", "cutout"], cutmix=0.5,
)  # fmt: skip
_NETWORKS = ExpertSettings(count=10, training=_TRAINING)


class BankSettings(Settings):
    """Networks that `hpd experts` trained on the real images, and kept after every epoch.

    A step takes one of them as it was after some epoch, so that no step waits for its training.
    """

    experts: str | None = Field(
        None,
        description="folder that `hpd experts` wrote to; null: below runs/networks, by student and"
        " data",
    )
    training: ExpertSettings = Field(_NETWORKS, description="how many, and how they are trained")
    first_epoch: Annotated[int, Field(ge=0)] = Field(
        0, description="the youngest a network is, in epochs; 0: fresh"
    )
    last_epoch: Annotated[int | None, Field(ge=0)] = Field(
        None, description="the oldest; null: as old as they are"
    )

    def wanted(self, student: StudentSettings, train: ImageSet) -> ExpertsWanted:
        """Return which networks are to be trained.

        Args:
            student: the architecture.
            train: the real training images.
        """
        path = self.experts or default_folder(student, train, below="runs/networks")
        return ExpertsWanted(path, student, self.training)

    def open(self, student: StudentSettings, train: ImageSet) -> ExpertFolder:
        """Return the networks, checked.

        Args:
            student: the architecture that they must be of.
            train: the images that they must have seen.

        Raises:
            RunError: if there are none, too few or broken ones, if they learned nothing or saw
                other images.
            ConfigError: if they are younger than the epochs asked for.
            NumericError: if they are not finite.
        """
        check_images(train)
        path = self.wanted(student, train).path
        folder = ExpertFolder.open(path)
        check_matches(folder.record, student=student, train=train, training=self.training.training)
        check_complete(folder, self.training.count)
        last = folder.epochs if self.last_epoch is None else self.last_epoch
        if not self.first_epoch <= last <= folder.epochs:
            raise ConfigError(
                f"the networks in {path} are not of these ages",
                got=f"epochs {self.first_epoch} to {last}",
                expected=f"0 to {folder.epochs}, the first not above the last",
            )
        check_learned(folder)
        return folder


class Bank:
    """The student of each step: one of the networks, as it was after one of its epochs.

    Args:
        real: builds students.
        settings: options.
        student: the architecture.
    """

    def __init__(self, real: RealSide, settings: BankSettings, student: StudentSettings) -> None:
        self._real, self._settings = real, settings
        self._folder = settings.open(student, real.train)

    @property
    def provenance(self) -> Mapping[str, object]:
        """How many networks of which images."""
        record = self._folder.record
        return {
            "networks": {
                "count": len(self._folder),
                "epochs": self._folder.epochs,
                "seed": record.seed,
                "images_sha256": record.images_sha256,
            }
        }

    def at(
        self, images: Tensor, labels: Tensor, step: Step, targets: Tensor | None = None
    ) -> Student:
        """Return the network of `step`, in eval mode; images and labels have no part in it."""
        rng = self._real.streams.generator("bank", step.stage, step.index)
        first, last = self._settings.first_epoch, self._settings.last_epoch
        last = self._folder.epochs if last is None else last
        expert = int(torch.randint(len(self._folder), (), generator=rng))
        epoch = int(torch.randint(first, last + 1, (), generator=rng))
        values = unflatten(self._folder.parameters(expert, epoch), self._folder.record.layout)
        return self._real.ready(self._real.build(rng, values=values), step)

    def state(self) -> State:
        """Return nothing: the step decides."""
        return {}

    def load_state(self, state: State) -> None:
        """Restore nothing."""
