"""What is asked of a source."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hpd.checking.examiner import Examiner, gap, slope_error
from hpd.data import ImageSet
from hpd.engine.rendered import render_all
from hpd.errors import ShapeError
from hpd.rng import isolated
from hpd.typing import ParameterGroup, Source, stored_of

BuildSource = Callable[[], Source]

# no image in [0, 1], nominally, goes so far, optimised or not; one of 0 to 255 does
_FURTHEST = 16.0
_SLOPE = 0.03
# parts of the RMS of what is optimised
_STEPS = (3e-2, 1e-2, 3e-3, 1e-3, 3e-4)
_DIRECTIONS = 4
_ROUNDING = 1e-4


def check_source(
    say: Examiner, build: BuildSource, train: ImageSet, in_chunks: BuildSource | None = None
) -> None:
    """Check a source.

    Args:
        say: takes what is found.
        build: makes the source afresh, from the same streams each time.
        train: the real images that it is built with.
        in_chunks: makes it with chunks of one image; None where it knows no chunks.

    Raises:
        HpdError: naming the first thing that is wrong.
    """
    source = _built(say, build)
    _check_facts(say, source, train)
    images = _rendered(say, source)
    _check_images(say, source, images, train)
    with isolated(1, torch.device("cpu")):
        again = _rendered(say, _built(say, build))
    say.within(
        "the same streams give the same images", gap(again, images), 0.0,
        "Draw from the streams that it is built with: streams.generator('what for').",
    )  # fmt: skip
    for index in range(len(source.stages)):
        _check_stage(say, source, index, None if in_chunks is None else _built(say, in_chunks))


def _built(say: Examiner, build: BuildSource) -> Source:
    with say.asking("building"):
        return build()


def _rendered(say: Examiner, source: Source) -> Tensor:
    with say.asking("images"):
        return render_all(source)


def _check_facts(say: Examiner, source: Source, train: ImageSet) -> None:
    with say.asking("labels, stages and what it stores"):
        labels, stages = source.labels, list(source.stages)
        stored = source.stored_floats
        json.dumps(dict(source.provenance))
    counts = labels.bincount(minlength=train.num_classes).tolist()
    say.holds(
        "labels [N], int64, every class as often",
        labels.ndim == 1 and labels.dtype == torch.int64 and len(set(counts)) == 1
        and len(counts) == train.num_classes, got=counts,
    )  # fmt: skip
    say.holds("stages, at least one", bool(stages) and all(s.steps >= 0 for s in stages))
    say.holds(
        "stored_floats is a number above 0", isinstance(stored, int) and stored > 0, got=stored
    )
    say.holds("provenance is JSON", True)
    named = stored_of(source)
    if named is not None:
        count, state = sum(value.numel() for value in named.values()), source.state()
        say.holds(
            "what is stored by name is all that it stores", count == stored,
            got=f"{count:,} values", expected=f"{stored:,}",
        )  # fmt: skip
        say.holds("what is stored is part of the state", set(named) <= set(state), got=list(named))


def _check_images(say: Examiner, source: Source, images: Tensor, train: ImageSet) -> None:
    wanted = (len(source.labels), *train.image_shape)
    say.holds(
        "images have the shape of the data's", tuple(images.shape) == wanted,
        got=list(images.shape), expected=list(wanted),
    )  # fmt: skip
    broken = int((~images.isfinite()).sum())
    say.holds("images are finite", not broken, got=f"{broken} NaN or Inf")
    say.holds("images are detached", not images.requires_grad, fix="Return images.detach().")
    furthest = float((images - 0.5).abs().max()) + 0.5
    say.holds(
        "images are in [0, 1], nominally", furthest <= _FURTHEST,
        got=f"values up to {furthest:.3g}", fix="Divide by 255 what is 0 to 255.",
    )  # fmt: skip
    order = torch.arange(len(images)).flip(0)[: max(1, len(images) - 1)]
    with say.asking("some images in another order"):
        some = source.render(order.to(source.labels.device))[0].cpu()
    say.within("images in any order are the same images", gap(some, images[order]), _ROUNDING)


def _check_stage(say: Examiner, source: Source, index: int, chunked: Source | None) -> None:
    before = _rendered(say, source)
    with say.asking(f"stage {index}"):
        groups = source.enter(index)
    say.holds("a stage has something to optimise", bool(groups) and all(g.tensors for g in groups))
    for group in groups:
        leaves = all(t.is_leaf and t.requires_grad for t in group.tensors)
        say.holds(
            "what is optimised are leaves that require grad", leaves, got=group.name,
            fix="Make them by tensor.detach().clone().requires_grad_().",
        )  # fmt: skip
        say.holds("rates are above 0", group.lr > 0, got=f"{group.lr} of {group.name}")
    say.within("entering a stage changes no image", gap(_rendered(say, source), before), _ROUNDING)
    whole = _pulled(say, source, groups)
    for group, grads in zip(groups, whole, strict=True):
        reached = any(float(grad.abs().max()) > 0 for grad in grads)
        say.holds("a gradient reaches every group", reached, got=f"none at {group.name}")
    for group, grads in zip(groups, whole, strict=True):
        error = _slope_error(say, source, group, grads)
        say.within(
            f"the pullback is that of the images, by central differences ({group.name})",
            error, _SLOPE, "Let the pullback add the gradient of the images to `.grad`, all of it.",
        )  # fmt: skip
    _check_parts(say, source, groups, whole)
    if chunked is not None:
        with say.asking("a stage in chunks"):
            for stage in range(index + 1):
                other = chunked.enter(stage)
        parts = _pulled(say, chunked, other)
        pairs = [(a, b) for one, two in zip(parts, whole, strict=True)
                 for a, b in zip(one, two, strict=True)]  # fmt: skip
        worst = max(gap(a, b) for a, b in pairs)
        say.within("chunks of any size give the same gradient", worst, 1e-3)
    _check_boundary(say, source)
    _check_state(say, source, groups)


def _probe(images: Tensor) -> Tensor:
    """Return the image gradient of a random linear function of the images."""
    rng = torch.Generator().manual_seed(0)
    return torch.randn(images.shape, generator=rng).to(images)


def _pulled(
    say: Examiner, source: Source, groups: Sequence[ParameterGroup], parts: int = 1
) -> list[list[Tensor]]:
    """Return the gradients by each tensor of each group, of images rendered in some parts."""
    everything = torch.arange(len(source.labels), device=source.labels.device)
    for group in groups:
        for tensor in group.tensors:
            tensor.grad = None
    with say.asking("images and their pullback"):
        shape = source.render(everything)[0]
        probe = _probe(shape)
        for chosen in everything.chunk(parts):
            _, pullback = source.render(chosen)
            pullback(probe[chosen])
    return [
        [torch.zeros_like(t) if t.grad is None else t.grad.clone() for t in group.tensors]
        for group in groups
    ]


def _check_parts(
    say: Examiner, source: Source, groups: Sequence[ParameterGroup], whole: list[list[Tensor]]
) -> None:
    """Check that pullbacks of parts add up."""
    halves = _pulled(say, source, groups, parts=2)
    worst = max(
        gap(a, b) for one, two in zip(halves, whole, strict=True)
        for a, b in zip(one, two, strict=True)
    )  # fmt: skip
    say.within(
        "pullbacks of parts add up to that of the whole", worst, 1e-3,
        "Add to `.grad`, do not set it; each image by itself.",
    )  # fmt: skip


def _slope_error(
    say: Examiner, source: Source, group: ParameterGroup, grads: Sequence[Tensor]
) -> float:
    """Return how far slopes by the pullback are from those by differences, as a share."""
    rng = torch.Generator().manual_seed(1)
    kept = [tensor.detach().clone() for tensor in group.tensors]
    scales = [float(value.square().mean().sqrt()) or 1.0 for value in kept]
    drawn = [
        [
            torch.randn(value.shape, generator=rng).to(value) * scale
            for value, scale in zip(kept, scales, strict=True)
        ]
        for _ in range(_DIRECTIONS)
    ]
    slopes = [
        sum(float((g.double() * d.double()).sum()) for g, d in zip(grads, direction, strict=True))
        for direction in drawn
    ]

    def value_at(number: int, step: float) -> float:
        move(step, drawn[number])
        images = _rendered(say, source)
        return float((images.double() * _probe(images).double()).sum())

    @torch.no_grad()
    def move(step: float, direction: Sequence[Tensor]) -> None:
        for tensor, value, along in zip(group.tensors, kept, direction, strict=True):
            tensor.copy_(value + step * along)

    error = slope_error(value_at, slopes, _STEPS)
    move(0.0, kept)
    return error


def _check_boundary(say: Examiner, source: Source) -> None:
    """Check that a gradient of another shape is an error, and no silent broadcast."""
    with say.asking("a pullback of a wrong gradient"):
        images, pullback = source.render(source.labels.new_tensor([0]))
        try:
            pullback(images.new_zeros(2, *images.shape[1:]))
            refused = False
        except (ShapeError, RuntimeError):
            refused = True
    say.holds(
        "a gradient of another shape is refused", refused,
        fix="Render by hpd.sources.rendering.render_in_chunks, which checks it.",
    )  # fmt: skip


def _check_state(say: Examiner, source: Source, groups: Sequence[ParameterGroup]) -> None:
    """Check that a state restores to the bit, and does not change by itself."""
    before = _rendered(say, source)
    with say.asking("its state"):
        kept = source.state()
        copies = {name: value.clone() for name, value in kept.items()}
    with torch.no_grad():
        for group in groups:
            for tensor in group.tensors:
                tensor.add_(0.5)
    moved = _rendered(say, source)
    say.holds(
        "the images follow what is optimised", not torch.equal(moved, before),
        fix="Render from the tensors that `enter` returned, not from copies.",
    )  # fmt: skip
    changed = [name for name, value in kept.items() if not torch.equal(value, copies[name])]
    say.holds(
        "a state is a clone", not changed, got=f"{', '.join(changed)} changed",
        fix="Return value.detach().clone() of each tensor.",
    )  # fmt: skip
    with say.asking("going back to a state"):
        source.load_state(copies)
    say.within(
        "a state restores the images to the bit", gap(_rendered(say, source), before), 0.0,
        "Return from `state` all that images depend on.",
    )  # fmt: skip
    with torch.no_grad():
        for group in groups:
            for tensor in group.tensors:
                tensor.add_(0.5)
    say.holds(
        "after a state, the images follow what is optimised",
        torch.equal(_rendered(say, source), moved),
        fix="Copy into the tensors that `enter` returned, with copy_: an optimiser holds these.",
    )  # fmt: skip
    with say.asking("going back to a state"):
        source.load_state(copies)
