"""What is asked of a generator."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from generators import Generator
from generators.probing import BOUND, FAR, check_range, probe
from hpd.checking.examiner import Examiner, gap

_IMAGES = 16
_BATCHES = (1, 2, 3)


def check_generator(say: Examiner, generator: Generator) -> None:
    """Check a generator; see `generators.probing` for what names the layer.

    Args:
        say: takes what is found.
        generator: on any device, frozen.

    Raises:
        HpdError: naming the first thing that is wrong.
    """
    seen = probe(generator)
    levels = len(generator.spec.levels)
    say.holds(f"{levels} levels of the shapes that the spec says, finite", True)
    say.holds("the same image twice, by way of every level too, to the bit", True)
    say.within("each image by itself", seen.company, BOUND)
    with say.asking("images"), torch.no_grad():
        ws = _drawn(generator, _IMAGES)
        images = generator(ws)
    check_range(generator, float(images.min()), float(images.max()), sure=True)
    say.within("images in [-1, 1], nominally: the furthest", float(images.abs().max()), FAR)
    worst = 0.0
    with say.asking("images in batches"), torch.no_grad():
        for size in _BATCHES:
            parts = torch.cat([generator(part) for part in ws.split(size)])
            worst = max(worst, gap(parts, images))
    say.within("batches of any size give the same", worst, BOUND)
    spread = float((images - images[:1]).abs().max())
    say.holds("other z give other images", spread > 0, got="the same image for all")
    if generator.spec.num_classes > 1:
        _check_classes(say, generator)
    _check_composition(say, generator, ws[:2])
    _check_training_mode(say, generator, ws[:2])
    _check_gradients(say, generator, ws[:2])


def _drawn(generator: Generator, count: int, label: int | None = None) -> Tensor:
    """Return ws of drawn z, of all classes in turn or of one."""
    spec, weight = generator.spec, generator._weight()
    rng = torch.Generator().manual_seed(1)
    z = torch.randn(count, spec.z_dim, generator=rng).to(weight)
    labels = None
    if spec.num_classes:
        labels = torch.arange(count, device=weight.device) % spec.num_classes
        labels = labels if label is None else torch.full_like(labels, label)
    return generator.map(z, labels)


def _check_classes(say: Examiner, generator: Generator) -> None:
    with say.asking("images of each class"), torch.no_grad():
        last = generator.spec.num_classes - 1
        first, other = (generator(_drawn(generator, 1, label)) for label in (0, last))
    say.holds(
        "the class decides the image", gap(first, other) > 0, got="the same image of two classes",
        fix="Let the condition use its labels, or set num_classes=0.",
    )  # fmt: skip


def _check_composition(say: Examiner, generator: Generator, ws: Tensor) -> None:
    """Check every pair of levels: from one to the other in one go, and through all between."""
    last = generator.spec.last_level
    with say.asking("levels"), torch.no_grad():
        whole = [generator.advance((), ws, 0, level) for level in range(last + 1)]
        for start in range(last + 1):
            made = generator.advance(whole[start], ws, start, last)
            same = all(map(torch.equal, made, whole[last]))
            say.holds(
                "levels compose to the bit", same or ws.device.type != "cpu",
                got=f"another image by way of level {start}", fix="Let `_next` depend on its "
                "arguments alone.",
            )  # fmt: skip


def _check_training_mode(say: Examiner, generator: Generator, ws: Tensor) -> None:
    with say.asking("images in training mode"), torch.no_grad():
        wanted = generator(ws)
        made = copy.deepcopy(generator).train()(ws)
    say.holds(
        "generator.train() changes no image", torch.equal(made, wanted),
        got=f"a difference of {gap(made, wanted):.2g}",
        fix="Let it stay in eval mode: `def train(self, mode=True): return super().train(False)`.",
    )  # fmt: skip


def _check_gradients(say: Examiner, generator: Generator, ws: Tensor) -> None:
    """Check that every tensor of every level decides the image, and that slopes are finite."""
    for level in range(generator.spec.last_level):
        name = f"level {level} ({generator.spec.levels[level].name})"
        with say.asking(f"gradients of {name}"):
            with torch.no_grad():
                state = generator.advance((), ws, 0, level)
            leaves = [part.clone().requires_grad_() for part in (*state, *([ws] * (level == 0)))]
            latents = leaves[-1] if level == 0 else ws
            images = generator.images(tuple(leaves[: len(state)]), latents, level)
            depends = images.requires_grad
            grads: tuple[Tensor | None, ...] = (None,)
            if depends:
                grads = torch.autograd.grad(images.square().sum(), leaves, allow_unused=True)
        reached = all(g is not None and float(g.abs().max()) > 0 for g in grads)
        finite = all(g is None or bool(g.isfinite().all()) for g in grads)
        say.holds(
            "a gradient reaches every level, and is finite", reached and finite,
            got=f"none at {name}" if not reached else f"NaN or Inf at {name}",
            fix="Let every layer be differentiable: no rounding, no `detach`, no `no_grad`.",
        )  # fmt: skip
