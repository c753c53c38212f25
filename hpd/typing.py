"""The letters, and the protocols by which the parts meet.

Letters in docstrings, comments and `hpd.checks.check_shape`:

====== =============================================================
N      images (synthetic or real)
C H W  channels, height, width
K      classes
L      levels of a generator
D      width of w, the generator's intermediate latent
F      features of a student's embedding
P      positions of a feature map (height times width)
====== =============================================================

Image ranges: generators give [-1, 1]; sources, data and artefacts hold [0, 1] (nominally: an
optimised image may leave it); students see images normalised with the data's mean and std.

The seam: an objective never sees a source and a source never sees an objective. Images go one
way, the image gradient the other::

    images, pullback = source.render(indices)
    matched = objective(images, labels, step)
    pullback(matched.image_grad)

Labels that are learnt (`LearnsLabels`) go the same way, and their gradient back (`MatchesTargets`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import Tensor

from hpd.machine.host import Number

LARGEST_INT = 2**63 - 1
"""The largest whole number that a tensor holds."""

Pullback = Callable[[Tensor], None]
"""Takes the image gradient [N, C, H, W] and adds to the `.grad` of the source's parameters."""

State = dict[str, Tensor]
"""Named tensors that restore a component to the bit."""


@dataclass(frozen=True)
class Step:
    """Where in a run a draw or a loss belongs: the stage, and the step within it, from 0."""

    stage: int
    index: int


@dataclass(frozen=True)
class Stage:
    """A stretch of optimiser steps on one set of parameters.

    Args:
        name: of the stage.
        steps: how many.
        trial: after so many the stage ends where none of its states scores better than its start,
            which is kept, and what it leaves is shared by the stages after it; None: it takes all.
        final: whether only its states may be the result, however earlier stages score: what is
            stored is not what they render from.
    """

    name: str
    steps: int
    trial: int | None = None
    final: bool = False


@dataclass(frozen=True)
class ParameterGroup:
    """Tensors that share a learning rate.

    Args:
        name: what they are: ``"ws"``, ``"features"``, ``"pixels"``.
        tensors: leaf tensors that require grad.
        lr: the learning rate, absolute or a fraction of each tensor's RMS as the optimiser says.
        classes: class of each row of the tensors, int64, where no other class depends on the row;
            None: images of all classes depend on the tensors.
    """

    name: str
    tensors: Sequence[Tensor]
    lr: float
    classes: Tensor | None = None


@dataclass(frozen=True)
class Matched:
    """What an objective returns.

    Args:
        loss: a number; a tensor of one on the device, so that the device is not waited for.
        image_grad: its gradient to the images [N, C, H, W].
        metrics: by name; numbers as `loss`.
        label_grad: its gradient to label probabilities [N, K]; None where there were none.
    """

    loss: Number
    image_grad: Tensor
    metrics: Mapping[str, Number] = field(default_factory=dict)
    label_grad: Tensor | None = None


class Source(Protocol):
    """What is optimised, and how images come out of it."""

    @property
    def labels(self) -> Tensor:
        """Class of each image [N], int64."""
        ...

    @property
    def stored_floats(self) -> int:
        """Number of floats that must be kept to have the images again."""
        ...

    @property
    def provenance(self) -> Mapping[str, object]:
        """What the images come from besides the data, as JSON: generator, hash, licence."""
        ...

    @property
    def stages(self) -> Sequence[Stage]:
        """The stages, in order."""
        ...

    def enter(self, stage: int) -> Sequence[ParameterGroup]:
        """Move to `stage` from the one before it, and return what is optimised in it."""
        ...

    def render(self, indices: Tensor) -> tuple[Tensor, Pullback]:
        """Return images [len(indices), C, H, W] in [0, 1], detached, and their pullback."""
        ...

    def state(self) -> State:
        """Return clones of all that `load_state` needs."""
        ...

    def load_state(self, state: State) -> None:
        """Restore what `state` returned, in the stage in which it was taken."""
        ...


@runtime_checkable
class KeepsGenerator(Protocol):
    """A source whose images need a pretrained generator again, besides what is stored."""

    @property
    def generator_floats(self) -> int:
        """Number of its parameters."""
        ...


def generator_floats_of(source: Source) -> int:
    """Return the parameters of the generator that a source's images need again, 0 without one."""
    return source.generator_floats if isinstance(source, KeepsGenerator) else 0


@runtime_checkable
class Stores(Protocol):
    """A source that says which numbers its images are had again from: those to be stored."""

    @property
    def stored(self) -> Mapping[str, Tensor] | None:
        """The tensors, by their names in its state and no copies; None: the images themselves."""
        ...


def stored_of(source: Source) -> Mapping[str, Tensor] | None:
    """Return what a source stores, None where these are its images."""
    return source.stored if isinstance(source, Stores) else None


@runtime_checkable
class StoresBits(Protocol):
    """A source whose numbers take another number of bits than 32."""

    @property
    def stored_bits(self) -> int:
        """Of what the images are had again from."""
        ...

    @property
    def label_bits(self) -> int:
        """Of the labels that are learnt."""
        ...

    def codes(self) -> State:
        """Return what is stored, at the end of the last stage."""
        ...


@dataclass(frozen=True)
class StageCost:
    """What a stage of a source takes.

    Args:
        rendering: a measure of the time for images, which means something beside other stages.
        state_bytes: of what is optimised in it.
    """

    rendering: float
    state_bytes: int


@runtime_checkable
class TellsCosts(Protocol):
    """A source whose stages do not all take the same."""

    def stage_costs(self) -> Sequence[StageCost] | None:
        """Return what each stage takes; None: nobody knows. It takes about as long as one image."""
        ...


def stage_costs_of(source: Source) -> Sequence[StageCost] | None:
    """Return what each stage of a source takes; None where it does not tell."""
    return source.stage_costs() if isinstance(source, TellsCosts) else None


@runtime_checkable
class DrawsBatches(Protocol):
    """A source of more images than a step takes: it says which ones are rendered."""

    def batch(self, step: Step) -> Tensor:
        """Return the indices of this step's images, int64, as many of every class.

        They depend on the step alone, so that a run that is resumed takes the same ones.
        """
        ...


@runtime_checkable
class Shardable(Source, Protocol):
    """A source whose images can be shared out among processes, class by class."""

    @property
    def owned(self) -> Mapping[str, Tensor]:
        """Class of each row of those tensors of `state` that have rows of one class each."""
        ...

    def narrow(self, classes: Tensor) -> Sequence[ParameterGroup]:
        """Keep the images of some classes only, and of the `owned` tensors only their rows.

        Labels, indices, batches and state are those of what is kept, until `widen`.

        Args:
            classes: to keep, int64.

        Returns:
            what is optimised in the present stage, as `enter` does.
        """
        ...

    def widen(self, state: State, labels: Tensor) -> None:
        """Be whole again, in the same stage.

        Args:
            state: of the whole source.
            labels: of the whole source.
        """
        ...


@runtime_checkable
class EntersByClass(Protocol):
    """A shardable source that can enter a stage with the images of some classes only.

    Any other is made whole for the moment. `narrow` may then be called before the first stage, too.
    """

    def enters_by_class(self, stage: int) -> bool:
        """Return whether an image starts a stage with what came of itself, whichever others are.

        What is in `owned` since that stage has a row an image, or rows as others had before.
        """
        ...


@runtime_checkable
class LearnsLabels(Protocol):
    """A source that learns a label of each image, besides the class that the image stands for."""

    def targets(self, indices: Tensor) -> tuple[Tensor, Pullback]:
        """Return label probabilities [len(indices), K], detached, and their pullback."""
        ...


class Objective(Protocol):
    """How far synthetic images are from the real set."""

    def __call__(self, images: Tensor, labels: Tensor, step: Step) -> Matched:
        """Match images [N, C, H, W] in [0, 1] with labels [N] to the real data at `step`."""
        ...

    @property
    def provenance(self) -> Mapping[str, object]:
        """What the images were matched to besides the data, and what was learnt, as JSON."""
        ...

    def state(self) -> State:
        """Return clones of all that `load_state` needs, besides what the step decides."""
        ...

    def load_state(self, state: State) -> None:
        """Restore what `state` returned, so that the step after it can be taken."""
        ...


@runtime_checkable
class MatchesByClass(Objective, Protocol):
    """An objective whose loss is a sum over classes, each with a gradient of its own.

    Several processes match each its own classes. Any other objective is asked in each process
    about the images of all classes.
    """

    def needs_all(self, step: Step) -> bool:
        """Return whether some classes can be matched at `step` only if all images are known."""
        ...

    def match(self, images: Tensor, labels: Tensor, step: Step, own: Tensor) -> Matched:
        """Match some classes.

        Args:
            images: [N, C, H, W] in [0, 1]; those of all classes if `needs_all`.
            labels: [N].
            step: of the run.
            own: which images are to be matched [N], bool: all of some classes.

        Returns:
            the loss summed over these classes, and the gradient of their images alone, in order.
        """
        ...


@runtime_checkable
class MatchesByBlock(Objective, Protocol):
    """An objective whose loss is a sum over blocks of images, each of images of several classes.

    Several processes match each some of the blocks of all images, and add the gradients up.
    """

    def match_blocks(self, images: Tensor, labels: Tensor, step: Step, share: slice) -> Matched:
        """Match some blocks.

        Args:
            images: of all blocks [N, C, H, W], in [0, 1].
            labels: [N].
            step: of the run.
            share: which blocks, as it would be taken of a list of them; there may be none.

        Returns:
            the loss summed over these blocks, and its gradient to all images: 0 for the others.
        """
        ...


@runtime_checkable
class MatchesTargets(Objective, Protocol):
    """An objective that has a gradient to the labels of synthetic images, too."""

    def match_targets(self, images: Tensor, labels: Tensor, targets: Tensor, step: Step) -> Matched:
        """Match images [N, C, H, W] in [0, 1] with label probabilities.

        Args:
            images: of a step.
            labels: class that each stands for [N].
            targets: its label [N, K], rows that sum to 1.
            step: of the run.

        Returns:
            a match with a gradient to the labels.
        """
        ...


class Score(float):
    """A score that knows by how much another must differ from it to mean anything.

    Args:
        value: lower is better.
        margin: 0 or more; a plain number has none.
    """

    margin: float

    def __new__(cls, value: float, margin: float = 0.0) -> Score:
        """Return the number with its margin."""
        score = super().__new__(cls, value)
        score.margin = margin
        return score

    def __reduce__(self) -> tuple[type[Score], tuple[float, float]]:
        """Return what a copy in another process is made of."""
        return Score, (float(self), self.margin)


class Selector(Protocol):
    """Scores a synthetic set, so that the best state of a run can be kept."""

    def __call__(self, images: Tensor, labels: Tensor) -> float | None:
        """Return the score of images [N, C, H, W] in [0, 1], lower is better; None: keep last.

        With a `Score` that has a margin, of the states within it of the lowest one the last is
        kept: chance alone undoes no steps.
        """
        ...
