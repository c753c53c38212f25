"""What every objective needs that matches a fresh student's response to real images."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated
from weakref import WeakKeyDictionary

import torch
from pydantic import Field
from torch import Tensor, nn

from hpd.augment import OPERATION_NAMES, Augmentation, OperationName, draw_augmentation
from hpd.data import ImageSet
from hpd.errors import ShapeError
from hpd.machine.host import computes_on_host, remember, send
from hpd.machine.precision import Precision, name_of
from hpd.objectives.base import ObjectiveSettings
from hpd.objectives.real_rows import RealRows
from hpd.rng import Streams, isolated
from hpd.students import STUDENTS, Student, StudentSettings
from hpd.students.half import student_dtype
from hpd.students.networks.convnet import ConvNetSettings
from hpd.students.parameters import Sent
from hpd.students.response import Response
from hpd.students.stacked.stack import stack_pays
from hpd.students.traced import Traced
from hpd.typing import Step

_logger = logging.getLogger(__name__)

# of each class, for the statistics of batch norms, as in the released DC code
_CALIBRATION_IMAGES = 16
# where there are more classes than a step takes all of: as many images as ten classes give
_MANY_CLASSES, _OF_MANY = 100, 160
# of images that are in the student together: 256 images of 128 px
_CALIBRATION_PIXELS = 1 << 22


class MatchingSettings(ObjectiveSettings):
    """Options of an objective that matches through a fresh student at each step."""

    student: Annotated[StudentSettings, STUDENTS] = Field(
        ConvNetSettings(), description="the network that both sides are matched through"
    )
    cross: list[Annotated[StudentSettings, STUDENTS]] = Field(
        [],
        description="further architectures: one network after another is of `student` and of these"
        " in turn, so that no set is made for one architecture alone",
    )
    real_batch: int = Field(256, ge=1, description="real images per class and step")
    augment: list[OperationName] = Field(
        list(OPERATION_NAMES),
        description="one of these is drawn per step and applied to both sides alike; [] for none",
    )
    compile: bool = Field(
        False,
        description="compile the student for the real images; pays in long runs on a GPU",
    )
    real_dtype: Precision = Field(
        "float32",
        description="what the student computes in for real images; bfloat16 needs AVX512-BF16, AMX"
        " or a GPU; auto: where it is faster and derivatives point the same way",
    )
    synthetic_dtype: Precision = Field(
        "float32",
        description="what it computes in for synthetic images, there and back; worth it for many of"
        " them: what is rounded here goes into their gradient",
    )


class RealSide:
    """Fresh students, real batches and augmentation, each from its own stream of the step.

    Args:
        train: the real training images.
        settings: options.
        device: where to compute.
        streams: randomness.
    """

    def __init__(
        self, train: ImageSet, settings: MatchingSettings, device: torch.device, streams: Streams
    ) -> None:
        self.train, self.device, self.streams = train, device, streams
        self._rows = RealRows(train, device)
        self._settings = settings
        self._kinds = [settings.student, *settings.cross]
        ways = [self._ways(kind) for kind in self._kinds]
        self._responses = [response for response, _ in ways]
        self._traced = [traced for _, traced in ways]
        self._tell()
        # which of the kinds a student is
        self._turns: WeakKeyDictionary[Student, int] = WeakKeyDictionary()
        # by kind, those that last for a step
        self._places: dict[int, Sent[Student]] = {}

    def _ways(self, kind: StudentSettings) -> tuple[Response, Traced]:
        """Return how students of a kind answer to real and to synthetic images."""
        settings, shape, device = self._settings, self.train.image_shape, self.device

        def make() -> Student:
            return kind.make(shape, self.train.num_classes)

        with torch.device("meta"):
            student = make().eval()
        real = student_dtype(settings.real_dtype, student, shape, device)
        traced = student_dtype(settings.synthetic_dtype, student, shape, device, traced=True)
        # a dtype that is named stands for its bits, the same ones as ever
        stacked = settings.real_dtype != "auto" or stack_pays(student, shape)
        response = Response(make, compiled=settings.compile, dtype=real, stacked=stacked)
        return response, Traced(make, dtype=traced)

    @property
    def precision(self) -> Mapping[str, str]:
        """What students compute in, by the side, as JSON; for the manifest."""
        return {
            "real": _names(response.dtype for response in self._responses),
            "synthetic": _names(traced.dtype for traced in self._traced),
        }

    def _tell(self) -> None:
        """Say what is computed in, where that is not plain."""
        if {self._settings.real_dtype, self._settings.synthetic_dtype} != {"float32"}:
            found = self.precision
            _logger.info(
                "the student computes real images in %s, synthetic ones in %s, on %s",
                found["real"], found["synthetic"], self.device.type,
            )  # fmt: skip

    def response(self, student: Student) -> Response:
        """Return how a student that was built here answers to real images."""
        return self._responses[self._turns[student]]

    def traced(self, student: Student) -> Traced:
        """Return how a student that was built here answers to synthetic images."""
        return self._traced[self._turns[student]]

    def student(self, step: Step, turn: int | None = None) -> Student:
        """Return the fresh student of this step, ready to be matched through.

        Args:
            step: of the run.
            turn: which network it is, counted over the stage, and it is kept for as long as it is
                needed; None: one at each step, which on an accelerator takes the place of the last.
        """
        rng = self.streams.generator("student", step.stage, step.index)
        number = step.index if turn is None else turn
        return self.ready(self.build(rng, number, lasts=turn is not None), step)

    def build(
        self, rng: torch.Generator, turn: int = 0, values: Mapping[str, Tensor] | None = None,
        *, lasts: bool = True,
    ) -> Student:  # fmt: skip
        """Return a student with fresh weights drawn from `rng`, on the device.

        Args:
            rng: for the weights.
            turn: which network it is: architectures take turns.
            values: of its parameters, on the host, in the place of fresh ones.
            lasts: whether it stays what it is when the next one is built.
        """
        number = turn % len(self._kinds)
        shape, classes = self.train.image_shape, self.train.num_classes
        student = self._kinds[number].build(shape, classes, rng)
        if values is not None:
            with torch.no_grad():
                for name, parameter in student.named_parameters():
                    parameter.copy_(values[name])
        if not computes_on_host(self.device):
            student = self._sent(student, number, lasts=lasts)
        self._turns[student] = number
        return student

    def _sent(self, student: Student, number: int, *, lasts: bool) -> Student:
        """Return a student on the accelerator; where the last one was, if it need not last."""
        if lasts:
            return Sent(student, self.device).student
        if number in self._places:
            return self._places[number].refill(student)
        self._places[number] = Sent(student, self.device)
        return self._places[number].student

    def ready(self, student: Student, step: Step) -> Student:
        """Put a student in eval mode, its batch norms with the statistics of real images.

        So no image's gradient depends on the others of its batch, nor on dropout. Statistics are
        of one batch, or of several where it is large, averaged.
        """
        norms = [m for m in student.modules() if isinstance(m, nn.BatchNorm2d)]
        if norms:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # the plain average over batches
            student.train()
            with torch.no_grad(), isolated(self.streams.seed("dropout", step.index), self.device):
                for part in self._calibration(step):
                    student(self._rows.normalised(part))
        return student.eval()

    def _calibration(self, step: Step) -> Sequence[Tensor]:
        """Return the real images that batch norms see at a step, in parts of about one size."""
        rng, train = self.streams.generator("batch norm", step.stage, step.index), self.train
        if train.num_classes <= _MANY_CLASSES:
            chosen = train.draw_each(_CALIBRATION_IMAGES, rng)
        else:
            chosen = torch.randint(len(train), (_OF_MANY,), generator=rng)
        pixels = len(chosen) * math.prod(train.image_shape[1:])
        count = -(-pixels // _CALIBRATION_PIXELS)
        # each part of all classes
        return [chosen] if count == 1 else [chosen[i::count] for i in range(count)]

    def batch(self, label: int, step: Step) -> Tensor:
        """Return this step's normalised real images of one class [n, C, H, W].

        Raises:
            ShapeError: if the class is no number, or none of the data.
        """
        return self.batches((label,), step)[0]

    def batches(self, labels: Sequence[int], step: Step) -> tuple[Tensor, tuple[int, ...]]:
        """Return this step's normalised real images of some classes, and how many are of each.

        Args:
            labels: the classes.
            step: of the run.

        Returns:
            images [n, C, H, W], ordered as the classes are given, and the counts.

        Raises:
            ShapeError: if a class is no number, or none of the data.
        """
        for label in labels:
            # a tensor would be drawn from another stream than the number in it
            if not isinstance(label, int) or not 0 <= label < self.train.num_classes:
                raise ShapeError(
                    "the class of real images is not valid",
                    got=f"{type(label).__name__} {label}",
                    expected=f"an int, 0..{self.train.num_classes - 1}",
                )
        drawn = self._drawn(labels, step)
        images = self._rows.normalised(torch.cat(drawn))
        if self._rows.reads_ahead:
            self._rows.expect(torch.cat(self._drawn(labels, Step(step.stage, step.index + 1))))
        return images, tuple(len(own) for own in drawn)

    def _drawn(self, labels: Sequence[int], step: Step) -> list[Tensor]:
        """Return which real images of each class a step takes."""
        return [
            self.train.draw(
                label,
                self._settings.real_batch,
                self.streams.generator("real batch", step.stage, step.index, label),
            )
            for label in labels
        ]

    def even(self, labels: Sequence[int]) -> bool:
        """Return whether a step takes equally many real images of some classes."""
        counts = {len(self.train.by_class[label]) for label in labels}
        return len({min(count, self._settings.real_batch) for count in counts}) == 1

    def classes_at_once(self, student: Student, counts: int, copies: int) -> int | None:
        """Return how many classes go through a student together; None: all.

        On an accelerator as many as its memory takes. On a CPU one: images of a class fill its
        cores, stay in its caches, and come out the same to the bit whichever classes are matched
        beside them, so that several processes give what one does.

        Args:
            student: that was built here.
            counts: synthetic images of each class.
            copies: of what layers give that are kept; see `Footprint`.
        """
        if computes_on_host(self.device):
            return 1
        most = self.response(student).at_once(self.train.image_shape, self.device, copies)
        return max(1, most // (self._settings.real_batch + counts))

    def balanced_batch(
        self, count: int, step: Step, classes: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return this step's normalised real images of some classes, and their labels.

        Args:
            count: of all; as many of each class, at least 1.
            step: of the run.
            classes: which; None: all.
        """
        rng = self.streams.generator("real batch", step.stage, step.index)
        chosen = range(self.train.num_classes) if classes is None else classes
        each = max(1, count // len(chosen))
        indices = torch.cat([self.train.draw(c, each, rng) for c in chosen])
        return self._rows.normalised(indices), self._labels(indices)

    def mixed_batch(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return random normalised real images of all classes, at most `count`, and labels."""
        indices = torch.randperm(len(self.train), generator=rng)[:count]
        return self._rows.normalised(indices), self._labels(indices)

    def _labels(self, indices: Tensor) -> Tensor:
        own = self.train.labels[indices]
        return remember(send(own, self.device), own)

    def augmentation(self, step: Step, label: int = -1) -> Augmentation | None:
        """Return the augmentation of this step (of one class of it), or None for none."""
        if not self._settings.augment:
            return None
        rng = self.streams.generator("augmentation", step.stage, step.index, label)
        return draw_augmentation(self._settings.augment, rng)

    def normalise(self, images: Tensor) -> Tensor:
        """Normalise images [N, C, H, W] in [0, 1] as the students expect."""
        return self.train.normalisation.apply(images)


def _names(dtypes: Iterable[torch.dtype]) -> str:
    """Return the names of some dtypes, each once: architectures that take turns may differ."""
    return " and ".join(sorted({name_of(dtype) for dtype in dtypes}))
