"""Trajectory matching (MTT): a student trained on synthetic images ends where an expert does.

Sources: Cazenavette et al., Dataset Distillation by Matching Training Trajectories, CVPR 2022,
equation 2 (MTT); Cui et al., Scaling Up Dataset Distillation to ImageNet-1K with Constant Memory,
ICML 2023, equation 6 (the gradient of constant memory); Guo et al., Towards Lossless Dataset
Distillation via Difficulty-Aligned Trajectory Matching, ICLR 2024 (starts that come later).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from hpd.augment import OPERATION_NAMES, Augmentation, OperationName, draw_augmentation
from hpd.data import ImageSet
from hpd.errors import ConfigError, NumericError
from hpd.machine.host import send
from hpd.objectives.base import OBJECTIVES, ObjectiveSettings
from hpd.objectives.unrolling import METHODS, Batch, Method, UnrolledStudent
from hpd.rng import Streams
from hpd.students import STUDENTS, StudentSettings
from hpd.students.experts.checks import (
    check_complete,
    check_images,
    check_learned,
    check_matches,
)
from hpd.students.experts.record import ExpertSettings, ExpertsWanted, default_folder
from hpd.students.experts.trajectories import ExpertFolder
from hpd.students.networks.convnet import ConvNetSettings
from hpd.typing import Matched, Objective, State, Step

_LR_MOMENTUM = 0.5
# where the search for a learning rate starts, how often it is repeated, and with how many experts
_LR_GUESS, _CALIBRATION_ROUNDS, _CALIBRATION_EXPERTS = 0.01, 3, 4
# the stage of its draws, which no run and no score has
_CALIBRATION = -1000
# of rate times steps of the expert, below which a student cannot come near
_LEAST_REACH = 0.1
# of which a real image is looked at before the first step
_CHECKED_CLASSES = 100
_logger = logging.getLogger(__name__)


@OBJECTIVES.register("trajectory")
class TrajectorySettings(ObjectiveSettings):
    """MTT: steps on synthetic images from where an expert was, to where it went.

    Students start where evaluation starts, at an expert's initialisation. GLaD and H-PD take
    ``max_start_epoch: 5``, ``expert_epochs: 3`` and ``student_lr: 0.01``.
    """

    student: Annotated[StudentSettings, STUDENTS] = Field(
        ConvNetSettings(), description="the architecture; the experts' must be the same"
    )
    experts: str | None = Field(
        None,
        description="that `hpd experts` wrote to; null: below runs/experts, by student and data",
    )
    expert_training: ExpertSettings | None = Field(
        None, description="how the experts must have been trained; null: any way"
    )
    student_steps: int = Field(20, ge=1, description="SGD steps of the student")
    expert_epochs: int = Field(1, ge=1, description="epochs of the expert to be made up for")
    max_start_epoch: int = Field(
        1, ge=1, description="the student starts where an expert was after 0 to this - 1 epochs"
    )
    difficulty: Annotated[int | None, Field(ge=1)] = Field(
        None,
        description="steps after which students may start one epoch later, up to `max_start_epoch`:"
        " what experts learn first is matched first (DATM); null: all starts from the beginning",
    )
    synthetic_batch: int | None = Field(
        None, ge=1, description="images of a student step; null: all of them"
    )
    student_lr: Annotated[float | None, Field(gt=0)] = Field(
        None,
        description="learning rate of the student, to start with; null: the one that brings it"
        " nearest to where experts went, from the images before the first step",
    )
    student_lr_rate: float = Field(
        0.01,
        ge=0,
        description="SGD rate at which the logarithm of `student_lr` is learnt; 0 leaves it as it"
        " is",
    )
    method: Method = Field(
        "constant_memory",
        description="constant_memory: approximate, memory of one student step; unrolled: exact,"
        " memory grows with the steps; checkpointed: exact, recomputes each step to save memory",
    )
    augment: list[OperationName] = Field(
        list(OPERATION_NAMES), description="one of these is drawn per student step; [] for none"
    )

    def experts_wanted(self, train: ImageSet) -> ExpertsWanted:
        """Return which experts are to be trained; see `MatchesExperts`."""
        path = self.experts or default_folder(self.student, train)
        return ExpertsWanted(path, self.student, self.expert_training or ExpertSettings())

    @property
    def takes_all_classes(self) -> bool:
        """A student that sees a few classes goes another way than the experts."""
        return True

    def build(self, train: ImageSet, device: torch.device, streams: Streams) -> Objective:
        """Return the objective, its experts checked; see `ObjectiveSettings.build`.

        Raises:
            RunError: if there are no experts, too few or broken ones, if they learned nothing or
                saw other images.
            ConfigError: if they are shorter than the epochs asked for, or of other students.
            DataError: if a training image is constant.
            NumericError: if they, or the first step of the student, are not finite.
        """
        check_images(train)
        path = self.experts_wanted(train).path
        folder = ExpertFolder.open(path)
        training = None if self.expert_training is None else self.expert_training.training
        check_matches(folder.record, student=self.student, train=train, training=training)
        if self.expert_training is not None:
            check_complete(folder, self.expert_training.count)
        needed = self.max_start_epoch - 1 + self.expert_epochs
        if needed > folder.epochs:
            raise ConfigError(
                f"the experts in {path} are too short",
                got=f"{folder.epochs} epochs",
                expected=f"{needed} for max_start_epoch={self.max_start_epoch} and"
                f" expert_epochs={self.expert_epochs}",
            )
        check_learned(folder)
        objective = TrajectoryMatching(folder, train, self, device, streams)
        objective.check_first_step()
        return objective


@dataclass(frozen=True)
class Span:
    """A piece of an expert's way.

    Args:
        start: its parameters [P] where the student starts.
        target: its parameters [P] some epochs later.
    """

    start: Tensor
    target: Tensor


def trajectory_loss(end: Tensor, span: Span) -> Tensor:
    """Return ``|| end - target ||^2 / || start - target ||^2``, vectors [P]."""
    return (end - span.target).square().sum() / (span.start - span.target).square().sum()


class TrajectoryMatching:
    """How far from an expert a student ends that trains on the synthetic images.

    ``theta_{i+1} = theta_i - lr * grad CE(theta_i; augmented batch i)``, from an expert's
    ``theta*_t``; loss ``|| theta_S - theta*_{t+M} ||^2 / || theta*_t - theta*_{t+M} ||^2``.

    With ``method: constant_memory`` the image gradient is NOT that of this loss: each step's
    parameters are taken as constants, which drops the products of Hessians through which an early
    image moves the later steps. At one step it is exact; the further lr times curvature times
    steps is from zero, the worse it gets. The loss itself is the same with every method.

    Students answer in eval mode, without dropout.

    Args:
        folder: the experts.
        train: the real training images.
        settings: options.
        device: where to compute.
        streams: randomness.
    """

    def __init__(
        self,
        folder: ExpertFolder,
        train: ImageSet,
        settings: TrajectorySettings,
        device: torch.device,
        streams: Streams,
    ) -> None:
        self._folder, self._train, self._settings = folder, train, settings
        self._device, self._streams = device, streams
        self._student = UnrolledStudent(
            lambda: settings.student.make(train.image_shape, train.num_classes)
        )
        rate = settings.student_lr
        # None until the first images are there
        self._lr = None if rate is None else torch.tensor(rate, dtype=torch.float64)
        self._lr_velocity = torch.zeros((), dtype=torch.float64)
        self._taken = 0

    @property
    def provenance(self) -> Mapping[str, object]:
        """The experts, and the student's learning rate as it was learnt."""
        record = self._folder.record
        return {
            "experts": {
                "count": len(self._folder),
                "epochs": self._folder.epochs,
                "seed": record.seed,
                "images_sha256": record.images_sha256,
            },
            "student_lr": None if self._lr is None else float(self._lr),
        }

    def __call__(self, images: Tensor, labels: Tensor, step: Step) -> Matched:
        """Match images [N, C, H, W] in [0, 1] with labels [N] at `step`."""
        return self._matched(images, labels, step)

    def match_targets(self, images: Tensor, labels: Tensor, targets: Tensor, step: Step) -> Matched:
        """Match images with label probabilities; see `MatchesTargets`."""
        return self._matched(images, targets.detach().requires_grad_(), step)

    def _matched(self, images: Tensor, labels: Tensor, step: Step) -> Matched:
        """Match images with labels [N], or with probabilities [N, K] that require grad."""
        if self._lr is None:
            self._lr = self._calibrated(images, labels.detach())
            self._warn_of_reach(self._lr)
        span = self._span(step, images)
        leaf = images.detach().requires_grad_()
        lr = _there(self._lr.clone(), images).requires_grad_()
        end = METHODS[self._settings.method](
            self._student, span.start, self._batches(leaf, labels, step), lr
        )
        loss = trajectory_loss(end, span)
        learnt = (labels,) if labels.requires_grad else ()
        image_grad, lr_grad, *label_grads = torch.autograd.grad(loss, (leaf, lr, *learnt))
        metrics = {"student_lr": float(self._lr)}
        self._learn_rate(self._lr, float(lr_grad), step)
        self._taken += 1
        return Matched(loss.detach(), image_grad, metrics, *label_grads)

    def check_first_step(self) -> None:
        """Take one student step on real images, one of each class, of a hundred at most.

        Raises:
            NumericError: if loss or gradient is not finite.
        """
        chosen = torch.cat([own[:1] for own in self._train.by_class[:_CHECKED_CLASSES]])
        images = self._train.unit(chosen, self._device).requires_grad_()
        labels = self._train.labels[chosen].to(self._device)
        span = self._span(Step(0, 0), images)
        lr = torch.tensor(self._settings.student_lr or _LR_GUESS).to(images)
        batch = self._batches(images, labels, Step(0, 0))[:1]
        loss = trajectory_loss(METHODS["unrolled"](self._student, span.start, batch, lr), span)
        (grad,) = torch.autograd.grad(loss, images)
        if not (bool(loss.isfinite()) and bool(grad.isfinite().all())):
            raise NumericError(
                "the first step of the student is not finite",
                got=f"loss {float(loss.detach())}",
                fix="Lower objective.student_lr, or train the experts anew.",
            )

    def state(self) -> State:
        """Return clones of the student's learning rate, its momentum and the steps taken."""
        rate = {} if self._lr is None else {"student_lr": self._lr.clone()}
        taken = torch.tensor(self._taken)
        return {**rate, "student_lr_velocity": self._lr_velocity.clone(), "taken": taken}

    def load_state(self, state: State) -> None:
        """Restore the learning rate."""
        rate = state.get("student_lr")
        self._lr = None if rate is None else rate.clone()
        self._lr_velocity = state["student_lr_velocity"].clone()
        # which states of earlier versions do not tell, nor do they need it
        self._taken = int(state.get("taken", torch.tensor(0)))

    def _starts(self, step: Step) -> int:
        """Return the number of epochs at which students may start by now; at a score, all."""
        most, each = self._settings.max_start_epoch, self._settings.difficulty
        return most if each is None or step.stage < 0 else min(most, 1 + self._taken // each)

    def _span(self, step: Step, like: Tensor) -> Span:
        """Return the piece of an expert's way that this step matches."""
        rng = self._streams.generator("expert", step.stage, step.index)
        expert = int(torch.randint(len(self._folder), (), generator=rng))
        epoch = int(torch.randint(self._starts(step), (), generator=rng))
        return self._piece(expert, epoch, like)

    def _piece(self, expert: int, epoch: int, like: Tensor) -> Span:
        """Return a piece of an expert's way, from an epoch on."""
        epochs = (epoch, epoch + self._settings.expert_epochs)
        start, target = (_there(self._folder.parameters(expert, e), like) for e in epochs)
        return Span(start, target)

    def _batches(self, images: Tensor, labels: Tensor, step: Step) -> Sequence[Batch]:
        """Return what each student step trains on: all images before any a second time."""
        settings, normalised = self._settings, self._train.normalisation.apply(images)
        size = min(settings.synthetic_batch or len(images), len(images))
        rng = self._streams.generator("student batches", step.stage, step.index)
        batches: list[Batch] = []
        while len(batches) < settings.student_steps:
            # a last part that is too small is left out, as steps of one size are compared
            order = send(torch.randperm(len(images), generator=rng), images.device)
            for chosen in order[: len(images) // size * size].split(size):
                augment = self._augmentation(rng)
                batches.append(Batch(normalised, labels, chosen, augment))
        return batches[: settings.student_steps]

    def _augmentation(self, rng: torch.Generator) -> Augmentation | None:
        return draw_augmentation(self._settings.augment, rng) if self._settings.augment else None

    def _calibrated(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the rate that brings students nearest to where experts went from the start.

        With G the sum of a student's gradients on its way and D the way of the expert, ``|| start -
        lr G - target ||`` is least at ``lr = -<G, D> / ||G||^2``, summed over experts. G depends on
        the rate, so it is found anew with that rate.
        """
        experts = range(min(len(self._folder), _CALIBRATION_EXPERTS))
        lr = _LR_GUESS
        for _ in range(_CALIBRATION_ROUNDS):
            along = square = 0.0
            for expert in experts:
                span = self._piece(expert, 0, images)
                batches = self._batches(images.detach(), labels, Step(_CALIBRATION, expert))
                rate = torch.tensor(lr).to(images)
                end = METHODS["constant_memory"](self._student, span.start, batches, rate)
                gradients = (span.start - end.detach()).double() / lr
                along -= float(torch.dot(gradients, (span.target - span.start).double()))
                square += float(gradients.square().sum())
            if not (square > 0 and along > 0):
                _logger.warning(
                    "no learning rate brings a student nearer to the experts: it starts at %g", lr
                )
                break
            lr = along / square
        return torch.tensor(lr, dtype=torch.float64)

    def _warn_of_reach(self, lr: Tensor) -> None:
        """Say where the student's way is far too short for that of the expert."""
        record, settings = self._folder.record, self._settings
        pace = record.training.pace(record.images)
        wanted = record.training.lr * pace.batches * settings.expert_epochs
        way = float(lr) * settings.student_steps
        if way < _LEAST_REACH * wanted:
            _logger.warning(
                "a student's way of %d steps at %.3g is short for %d epochs of an expert (%d steps"
                " at %.3g): raise student_steps or student_lr, or lower expert_epochs",
                settings.student_steps, float(lr), settings.expert_epochs,
                pace.batches * settings.expert_epochs, record.training.lr,
            )  # fmt: skip

    def _learn_rate(self, lr: Tensor, grad: float, step: Step) -> None:
        """Take a step of SGD with momentum 0.5 on the logarithm of the student's learning rate.

        ``d L / d log lr = lr d L / d lr``: the rate stays above 0, and how far it moves does not
        depend on where it starts.
        """
        if not self._settings.student_lr_rate:
            return
        self._lr_velocity = _LR_MOMENTUM * self._lr_velocity + grad * lr
        self._lr = lr * (-self._settings.student_lr_rate * self._lr_velocity).exp()
        if not (self._lr.isfinite() and self._lr > 0):
            raise NumericError(
                f"the student's learning rate is out of bounds at step {step.index}",
                got=float(self._lr),
                fix="Lower objective.student_lr_rate.",
            )


def _there(value: Tensor, like: Tensor) -> Tensor:
    """Return a tensor of the host where another one is, in its dtype."""
    return send(value.to(like.dtype), like.device)
