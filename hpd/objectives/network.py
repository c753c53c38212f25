"""The network of gradient matching: fresh at first, then trained between its steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from typing_extensions import Self

from hpd.errors import ConfigError, RunError
from hpd.machine.host import on_host
from hpd.objectives.matching import RealSide
from hpd.registry import Only
from hpd.students import Student, Taught, train_epoch
from hpd.students.schedule import SGDSettings
from hpd.typing import State, Step

_IDC_STEPS = 100
_DC_EPOCHS = 500


class NetworkSettings(SGDSettings):
    """How long a network is matched through, and how it trains between two steps.

    Sources: Zhao et al., ICLR 2021, for the defaults: plain SGD on the synthetic images, the loops
    by images per class (1, 10, 50 -> 1, 10, 50 steps with 1, 50, 10 epochs between two of them);
    Kim et al., ICML 2022, for real images.
    """

    momentum: float = Field(0.0, ge=0, lt=1, description="of SGD")
    weight_decay: float = Field(0.0, ge=0, description="of all weights")
    steps: int | None = Field(
        None,
        ge=1,
        description="matching steps with one network; null: the images per class,"
        " or 100 if it trains on real images",
    )
    epochs: int | None = Field(
        None,
        ge=0,
        description="of training between two steps; null: 500 / images per class,"
        " or 1 if it trains on real images",
    )
    train_on: Literal["synthetic", "real"] = Field(
        "synthetic", description="images that it trains on between steps"
    )
    real_images: Annotated[int, Only("train_on", "real")] = Field(
        2000, ge=1, description="drawn anew for each epoch, if it trains on real images"
    )

    @model_validator(mode="after")
    def _trains_at_all(self) -> Self:
        if self.steps != 1:
            return self
        for name, field in type(self).model_fields.items():
            value = vars(self)[name]
            if name != "steps" and name in self.model_fields_set and value != field.default:
                raise ConfigError(
                    f"{name} in network does nothing with steps 1: each network is fresh",
                    got=value,
                    fix="Leave it out.",
                    option=name,
                    because="steps",
                )
        return self

    def steps_for(self, images_per_class: int) -> int:
        """Return the number of matching steps with one network."""
        if self.steps is not None:
            return self.steps
        return _IDC_STEPS if self.train_on == "real" else images_per_class

    def epochs_for(self, images_per_class: int) -> int:
        """Return the number of epochs between two matching steps."""
        if self.epochs is not None:
            return self.epochs
        return 1 if self.train_on == "real" else max(_DC_EPOCHS // images_per_class, 1)


class Network:
    """The student of each step: fresh, or that of the step before after some training.

    Args:
        real: students and real images.
        settings: options.
    """

    def __init__(self, real: RealSide, settings: NetworkSettings) -> None:
        self._real, self._settings = real, settings
        self._student: Student | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        self._next: Step | None = None
        self._turn = 0

    @property
    def provenance(self) -> Mapping[str, object]:
        """Nothing but the data."""
        return {}

    def at(
        self, images: Tensor, labels: Tensor, step: Step, targets: Tensor | None = None
    ) -> Student:
        """Return the network of `step`, in eval mode.

        Args:
            images: the synthetic images in [0, 1], [N, C, H, W], on which it may train.
            labels: [N].
            step: of the run.
            targets: label probabilities [N, K], which it learns in place of the labels.

        Raises:
            RunError: in the middle of a network's steps, if the one before was not taken here.
        """
        per_class = len(images) // len(on_host(labels).unique())
        turn, within = divmod(step.index, self._settings.steps_for(per_class))
        if within == 0:
            self._turn = turn
            self._adopt(self._real.student(step, turn))
        else:
            self._train(images, labels if targets is None else targets, per_class, step)
        self._next = Step(step.stage, step.index + 1)
        assert self._student is not None
        return self._real.ready(self._student, step)

    def _adopt(self, student: Student) -> None:
        self._student, self._optimizer = student, self._settings.optimizer(student)

    def _train(self, images: Tensor, labels: Tensor, per_class: int, step: Step) -> None:
        if self._student is None or self._optimizer is None or self._next != step:
            raise RunError(
                f"step {step.index} needs the network of the step before it",
                fix="Start at the first step, or load the state from before this one.",
            )
        normalised = self._real.normalise(images.detach())
        for epoch in range(self._settings.epochs_for(per_class)):
            rng = self._real.streams.generator("network", step.stage, step.index, epoch)
            batch = normalised, labels
            if self._settings.train_on == "real":
                batch = self._real.mixed_batch(self._settings.real_images, rng)
            train_epoch(self._student, self._optimizer, Taught(*batch), self._settings, rng)

    def state(self) -> State:
        """Return clones of weights, momentum and the step they are for."""
        if self._student is None or self._optimizer is None or self._next is None:
            return {}
        named = [(f"student.{k}", v) for k, v in self._student.state_dict().items()]
        momentum = self._optimizer.state_dict()["state"]
        named += [
            (f"momentum.{i}", own["momentum_buffer"])
            for i, own in momentum.items()
            if own.get("momentum_buffer") is not None
        ]
        state = {name: value.detach().clone() for name, value in named}
        where = {"next": torch.tensor([self._next.stage, self._next.index])}
        return state | where | {"turn": torch.tensor(self._turn)}

    def load_state(self, state: State) -> None:
        """Restore what `state` returned."""
        if not state:
            self._student = self._optimizer = self._next = None
            return
        self._next = Step(*(int(value) for value in state["next"]))
        # states of earlier versions know one architecture alone
        self._turn = int(state.get("turn", torch.tensor(0)))
        student = self._real.student(Step(0, 0), self._turn)
        student.load_state_dict(_below(state, "student."))
        self._adopt(student)
        assert self._optimizer is not None
        momentum = {int(i): {"momentum_buffer": v} for i, v in _below(state, "momentum.").items()}
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": momentum, "param_groups": groups})


def _below(state: State, prefix: str) -> State:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
