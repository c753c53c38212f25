"""Recovery (SRe2L, DWA): images that a teacher reads right, and whose statistics it remembers.

Sources: Yin, Xing and Shen, Squeeze, Recover and Relabel, NeurIPS 2023 (SRe2L), which takes the
statistics of batch norms from Yin et al., Dreaming to Distill, CVPR 2020; Du et al., NeurIPS 2024
(DWA), for the two coefficients, the weight of the first layer and the adjustment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from hpd.augment import OperationName, draw_augmentation
from hpd.data import ImageSet
from hpd.machine.host import on_host, send
from hpd.objectives.adjustment import AdjustmentSettings, TeacherAdjustment
from hpd.objectives.base import OBJECTIVES, ObjectiveSettings
from hpd.objectives.classes import rows_by_class, sum_of
from hpd.registry import Only
from hpd.rng import Streams
from hpd.students.teachers import Teacher, batch_norms, read_teacher
from hpd.typing import Matched, Objective, State, Step

_Statistic = Annotated[float, Only("statistics_weight")]


@dataclass(frozen=True)
class Gap:
    """How far a batch's statistics are from those that a norm remembers, each a scalar.

    Args:
        mean: ``|| mean - running mean ||``.
        variance: ``|| variance - running variance ||``.
    """

    mean: Tensor
    variance: Tensor


def statistics_gap(maps: Tensor, mean: Tensor, variance: Tensor) -> Gap:
    """Compare feature maps with remembered statistics; the norms are not squared.

    Args:
        maps: [N, F, h, w], what comes into a batch norm. Their statistics are over images and
            positions, the variance divides by N h w.
        mean: running mean [F].
        variance: running variance [F].
    """
    spread, centre = torch.var_mean(maps, dim=(0, 2, 3), correction=0)
    return Gap((centre - mean).norm(), (spread - variance).norm())


def recovery_loss(
    logits: Tensor,
    labels: Tensor,
    gaps: Sequence[Gap],
    *,
    statistics_weight: float,
    mean_weight: float = 1.0,
    variance_weight: float = 1.0,
    first_layer_weight: float = 1.0,
) -> Tensor:
    """Return ``CE + r_bn * sum over l of m_l (r_mean gap_mean_l + r_var gap_variance_l)``.

    Args:
        logits: of the teacher [N, K].
        labels: [N].
        gaps: of each norm, in order.
        statistics_weight: r_bn.
        mean_weight: r_mean.
        variance_weight: r_var.
        first_layer_weight: m of the first norm; that of the others is 1.
    """
    apart = [mean_weight * gap.mean + variance_weight * gap.variance for gap in gaps]
    apart[:1] = [first_layer_weight * value for value in apart[:1]]
    return F.cross_entropy(logits, labels) + statistics_weight * torch.stack(apart).sum()


@OBJECTIVES.register("recovery")
class RecoverySettings(ObjectiveSettings):
    """Recovery from a teacher with batch norms.

    SRe2L as it comes, from noise; DWA with ``variance_weight: 11`` (2 for ImageNet),
    ``adjustment: {mode: directed}`` and a source that starts from real images.
    """

    teacher: str = Field(
        "runs/teacher", description="folder of `hpd squeeze`, or the published ResNet-20's file"
    )
    statistics_weight: float = Field(0.01, ge=0, description="of both statistics: r_bn")
    mean_weight: _Statistic = Field(1.0, ge=0, description="of the means")
    variance_weight: _Statistic = Field(1.0, ge=0, description="of the variances: r_var")
    first_layer_weight: _Statistic = Field(
        10.0, ge=0, description="of the first norm; others have 1"
    )
    block_images: int | None = Field(
        1,
        ge=1,
        description="images of each class whose statistics are taken together, with a teacher of"
        " their own; null: all",
    )
    block_classes: int = Field(
        100, ge=1, description="most classes of a block; of more, the next are another block"
    )
    roll: int = Field(4, ge=0, description="pixels by which a block is rolled around, at most")
    augment: list[OperationName] = Field(
        [], description="one of these is drawn per step and block; for larger images"
    )
    adjustment: AdjustmentSettings = Field(
        AdjustmentSettings(), description="of the teacher's weights"
    )

    def takes_all(self, asked: int | None) -> bool:
        """Whether nobody asked for some: blocks bound the memory, and have nothing in common."""
        return asked is None

    def build(self, train: ImageSet, device: torch.device, streams: Streams) -> Objective:
        """Return the objective, its teacher read; see `ObjectiveSettings.build`.

        Raises:
            RunError: if there is no teacher, or a broken one.
            ConfigError: if it is of other images or classes.
        """
        teacher = read_teacher(self.teacher)
        teacher.check_fits(train.image_shape, train.classes)
        return Recovery(teacher.to(device), train, self, streams)


class Recovery:
    """Cross entropy of a teacher and the gap of its norms' statistics, summed over blocks.

    A block is the first, second, ... image of every class (`block_images` of them), in the order
    in which they come; of many classes, of `block_classes` of them. Its images meet in the
    statistics, so a class alone gets another gradient than one among others.

    Args:
        teacher: on the device of the images.
        train: the real training images.
        settings: options.
        streams: randomness.
    """

    def __init__(
        self, teacher: Teacher, train: ImageSet, settings: RecoverySettings, streams: Streams
    ) -> None:
        self._teacher, self._train = teacher, train
        self._settings, self._streams = settings, streams
        self._start: tuple[Tensor, Tensor] | None = None
        self._adjustment = TeacherAdjustment(
            teacher.network, settings.adjustment, streams, self._view
        )

    @property
    def provenance(self) -> Mapping[str, object]:
        """The teacher."""
        return {"teacher": self._teacher.provenance}

    def __call__(self, images: Tensor, labels: Tensor, step: Step) -> Matched:
        """Match images [N, C, H, W] in [0, 1] with labels [N] at `step`."""
        return self.match_blocks(images, labels, step, slice(None))

    def match_blocks(self, images: Tensor, labels: Tensor, step: Step, share: slice) -> Matched:
        """Match some of the blocks, one after another; see `MatchesByBlock`.

        A graph is of one block at a time, so memory does not grow with the images of a class, but
        for the weights of a teacher that is adjusted: a copy of them for each block matched here.
        """
        if self._start is None and self._directed_by_start:
            self._start = (images.detach().clone(), labels.clone())
        image_grad = torch.zeros_like(images)
        found: dict[str, list[Tensor]] = {}
        blocks = list(enumerate(self._blocks(labels)))[share]
        for number, chosen in blocks:
            leaf = images[chosen].detach().requires_grad_()
            rng = self._streams.generator("view", step.stage, step.index, number)
            loss, parts = self._loss(self._augmented(leaf, rng), labels[chosen], number)
            (image_grad[chosen],) = torch.autograd.grad(loss, leaf)
            for name, value in {"loss": loss, **parts}.items():
                found.setdefault(name, []).append(value.detach())
        sums = {name: sum_of(values) for name, values in found.items()}
        total = sums.pop("loss", 0.0)
        return Matched(total, image_grad, {k: v / len(blocks) for k, v in sums.items()})

    def state(self) -> State:
        """Return the images of the first step, if the teacher is directed by them."""
        if self._start is None:
            return {}
        return {"start": self._start[0].clone(), "start_labels": self._start[1].clone()}

    def load_state(self, state: State) -> None:
        """Restore them."""
        start = (state["start"].clone(), state["start_labels"].clone()) if state else None
        if not _same(start, self._start):
            self._adjustment.forget()
        self._start = start

    def _blocks(self, labels: Tensor) -> list[Tensor]:
        return blocks_of(labels, self._settings.block_images, self._settings.block_classes)

    @property
    def _directed_by_start(self) -> bool:
        adjustment = self._settings.adjustment
        return (adjustment.mode, adjustment.view) == ("directed", "start")

    def _loss(self, images: Tensor, labels: Tensor, block: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a block's normalised images, and what it is made of."""
        settings, network = self._settings, self._teacher.network
        weights: Any = self._adjustment.weights(block)
        with watched(network) as gaps:
            logits = functional_call(network, weights, (images,))
        loss = recovery_loss(
            logits,
            labels,
            gaps,
            statistics_weight=settings.statistics_weight,
            mean_weight=settings.mean_weight,
            variance_weight=settings.variance_weight,
            first_layer_weight=settings.first_layer_weight,
        )
        parts = {
            "cross_entropy": F.cross_entropy(logits, labels),
            "mean_gap": torch.stack([gap.mean for gap in gaps]).sum(),
            "variance_gap": torch.stack([gap.variance for gap in gaps]).sum(),
        }
        return loss, parts

    def _augmented(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """Normalise images in [0, 1], roll them, and augment them, all alike."""
        x, most = self._teacher.normalise(images), self._settings.roll
        if most:
            shifts = torch.randint(-most, most + 1, (2,), generator=rng).tolist()
            x = x.roll(shifts, dims=(2, 3))
        if self._settings.augment:
            x = draw_augmentation(self._settings.augment, rng)(x)
        return x

    def _view(self, block: int) -> tuple[Tensor, Tensor]:
        """Return one augmented view of the images that direct the teacher of a block."""
        if self._start is None:
            rng = self._streams.generator("real view", block)
            real = self._train.draw_per_class(1, rng)
            # ordered by class: those of the classes of the block
            groups = real.split(self._settings.block_classes)
            real = groups[block % len(groups)]
            device = next(self._teacher.network.parameters()).device
            images = self._train.unit(real, device)
            labels = self._train.labels[real].to(device)
        else:
            images, labels = self._start
            blocks = self._blocks(labels)
            chosen = blocks[block % len(blocks)]
            images, labels = images[chosen], labels[chosen]
        view = self._augmented(images, self._streams.generator("adjustment view", block))
        return view, labels


def _same(a: tuple[Tensor, Tensor] | None, b: tuple[Tensor, Tensor] | None) -> bool:
    """Return whether the weights that images direct would be the same, found anew."""
    if a is None or b is None:
        return a is b
    return all(torch.equal(own, other.to(own)) for own, other in zip(a, b, strict=True))


def blocks_of(labels: Tensor, per_class: int | None, classes: int) -> list[Tensor]:
    """Return the indices of each block: of some classes the next `per_class` images, or all.

    Blocks of the first images of all classes come first, some classes after others.

    Args:
        labels: [N].
        per_class: None for all images of a class.
        classes: most of a block.
    """
    known = on_host(labels)
    order = known.argsort(stable=True)
    counts = known[order].unique_consecutive(return_counts=True)[1]
    starts = (counts.cumsum(0) - counts).repeat_interleave(counts)
    rank, group = torch.empty_like(known), torch.empty_like(known)
    rank[order] = (torch.arange(len(order)) - starts) // (per_class or len(order))
    group[order] = torch.arange(len(counts)).repeat_interleave(counts) // classes
    block = rank * -(-len(counts) // classes) + group
    return [send(own, labels.device) for own in rows_by_class(block).values()]


@contextmanager
def watched(network: nn.Module) -> Iterator[list[Gap]]:
    """Collect, while a network in eval mode runs, the gap at each batch norm, in their order."""
    gaps: list[Gap] = []

    def hear(norm: nn.Module, given: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d), "hooked to nothing else"
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None and variance is not None, "of norms that keep statistics"
        gaps.append(statistics_gap(given[0], mean, variance))

    hooks = [norm.register_forward_pre_hook(hear) for norm in batch_norms(network)]
    try:
        yield gaps
    finally:
        for hook in hooks:
            hook.remove()
