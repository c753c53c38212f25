"""What is asked of an objective."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hpd.checking.examiner import Examiner, default_dtype, gap, relative, slope_error
from hpd.data import ImageSet
from hpd.errors import HpdError
from hpd.objectives.checked import Checked, with_boundary
from hpd.rng import isolated
from hpd.typing import Matched, MatchesByBlock, MatchesByClass, Objective, Step

BuildObjective = Callable[[], Objective]

_FIRST = Step(0, 0)
_GRADIENT, _GRADIENT_FLOAT32 = 1e-3, 5e-2
_SUMS = 1e-3
_DIRECTIONS = 3
_STREAMS = "Draw from the streams that it is built with, by step: streams.generator('name', ...)."


def check_objective(say: Examiner, build: BuildObjective, train: ImageSet) -> None:
    """Check an objective.

    Args:
        say: takes what is found.
        build: makes the objective afresh, from the same streams each time.
        train: the real images that it is built with.

    Raises:
        HpdError: naming the first thing that is wrong.
    """
    _Check(say, build, train).everything()


class _Check:
    """An objective under check, with a few synthetic images."""

    def __init__(self, say: Examiner, build: BuildObjective, train: ImageSet) -> None:
        self.say, self._build, self.train = say, build, train
        rng = torch.Generator().manual_seed(0)
        self.labels = torch.arange(train.num_classes).repeat_interleave(2)
        self.images = torch.rand(len(self.labels), *train.image_shape, generator=rng)
        self.rng = rng

    def everything(self) -> None:
        """Check all there is."""
        self.values()
        self.repeats()
        self.order()
        self.some_classes()
        self.gradient()
        self.state()
        self.by_class()
        self.by_block()
        with self.say.asking("provenance"):
            json.dumps(dict(self.fresh().provenance))
        self.say.holds("provenance is JSON", True)

    def fresh(self) -> Objective:
        """Return the objective as a run builds it, with its boundary around it."""
        with self.say.asking("building"):
            objective = self._build()
        if isinstance(objective, Checked):
            return objective
        return with_boundary(objective, self.say.subject, self.train)

    def match(
        self, objective: Objective, images: Tensor | None = None, labels: Tensor | None = None,
        step: Step = _FIRST,
    ) -> Matched:  # fmt: skip
        """Return what it makes of images, all of them unless others are given."""
        images = self.images if images is None else images
        labels = self.labels if labels is None else labels
        with self.say.asking("a match"):
            return objective(images, labels, step)

    def digest(self) -> str:
        """Return the hash of the real images as they are now."""
        return self.train.at(torch.arange(len(self.train))).sha256

    def values(self) -> None:
        """Shapes, which its boundary looks at; finite numbers; what is given stays as it is."""
        images, labels, real = self.images.clone(), self.labels.clone(), self.digest()
        matched = self.match(self.fresh(), images, labels)
        loss, grad = torch.tensor(float(matched.loss)), matched.image_grad
        self.say.holds("gives `Matched`: a number, a gradient of the images' shape and dtype", True)
        self.say.holds("the loss is finite", bool(loss.isfinite()), got=matched.loss)
        broken = int((~grad.isfinite()).sum())
        self.say.holds("the gradient is finite", not broken, got=f"{broken} NaN or Inf")
        reached = grad.flatten(1).abs().amax(dim=1) > 0
        self.say.holds(
            "the gradient reaches every image", bool(reached.all()),
            got=f"none for {int((~reached).sum())} of {len(reached)}, such as image "
            f"{int(reached.int().argmin())} of class {int(labels[reached.int().argmin()])}",
        )  # fmt: skip
        same = torch.equal(images, self.images) and torch.equal(labels, self.labels)
        self.say.holds(
            "images and labels are left as they are", same and not images.requires_grad,
            fix="Work on a copy: images.detach().clone().",
        )  # fmt: skip
        self.say.holds("the real images are left as they are", self.digest() == real)

    def repeats(self) -> None:
        """Built twice from the same streams, it gives the same, whatever is global."""
        made = []
        for seed in (1, 2):
            with isolated(seed, torch.device("cpu")):
                made.append(self.match(self.fresh()))
        first, again = made
        difference = max(
            relative(float(first.loss), float(again.loss)), gap(first.image_grad, again.image_grad)
        )
        self.say.within("the same streams and step give the same", difference, 0.0, _STREAMS)

    def order(self) -> None:
        """The order of a batch means nothing."""
        order = torch.randperm(len(self.labels), generator=self.rng)
        straight = self.match(self.fresh())
        turned = self.match(self.fresh(), self.images[order], self.labels[order])
        difference = max(
            relative(float(turned.loss), float(straight.loss)),
            gap(turned.image_grad, straight.image_grad[order]),
        )
        self.say.within(
            "the order of the images changes nothing", difference, 1e-2,
            "Tell images by their labels, not by their place.",
        )  # fmt: skip

    def some_classes(self) -> None:
        """A batch need not have every class, and labels say which it has."""
        if self.train.num_classes < 2:
            return
        few = self.labels < self.train.num_classes - 1
        matched = self.match(self.fresh(), self.images[few], self.labels[few])
        reached = matched.image_grad.flatten(1).abs().amax(dim=1) > 0
        self.say.holds(
            "images of some of the classes are matched alone", bool(reached.all()),
            got=f"no gradient for {int((~reached).sum())} of {len(reached)} images",
        )  # fmt: skip
        rest = ~few
        last = self.match(self.fresh(), self.images[rest], self.labels[rest])
        alone = bool((last.image_grad.flatten(1).abs().amax(dim=1) > 0).all())
        self.say.holds("images of the last class are matched alone", alone)

    def gradient(self) -> None:
        """The gradient is that of the loss: central differences along random directions."""
        try:
            with default_dtype(torch.float64):
                worst = self._slope_error((1e-6, 1e-7, 1e-8), torch.float64)
            bound, where = _GRADIENT, "in float64"
        except HpdError:
            # it computes in float32, whatever the images are
            worst = self._slope_error((3e-2, 1e-2, 3e-3, 1e-3), torch.float32)
            bound, where = _GRADIENT_FLOAT32, ""
        self.say.within(
            f"the gradient is that of the loss, by central differences {where}".strip(),
            worst, bound, "Return the derivative of the loss by the images, all of it.",
        )  # fmt: skip

    def _slope_error(self, steps: Sequence[float], dtype: torch.dtype) -> float:
        """Return how far slopes by the gradient are from those by differences, as a share."""
        images, rng = self.images.to(dtype), torch.Generator().manual_seed(1)
        directions = [
            torch.randn(images.shape, generator=rng).to(dtype) for _ in range(_DIRECTIONS)
        ]
        grad = self.match(self.fresh(), images).image_grad
        slopes = [float((grad * direction).sum()) for direction in directions]

        def value_at(number: int, step: float) -> float:
            # a fresh one: what it learns on the way would be part of the difference
            return float(self.match(self.fresh(), images + step * directions[number]).loss)

        return slope_error(value_at, slopes, steps)

    def state(self) -> None:
        """Restored, it goes on as if nothing had happened; a state does not change by itself."""
        steps = [Step(0, index) for index in range(3)]
        straight = self.fresh()
        wanted = [self.match(straight, step=step) for step in steps]
        first, second = self.fresh(), self.fresh()
        self.match(first, step=steps[0])
        with self.say.asking("its state"):
            state = first.state()
            kept = {name: value.clone() for name, value in state.items()}
        self.match(first, 1 - self.images, step=steps[1])
        changed = [name for name, value in state.items() if not torch.equal(value, kept[name])]
        self.say.holds(
            "a state is a clone", not changed, got=f"{', '.join(changed)} changed with a step",
            fix="Return value.clone() of each tensor.",
        )  # fmt: skip
        with self.say.asking("going on from a state"):
            second.load_state(kept)
        got = [self.match(second, step=step) for step in steps[1:]]
        difference = max(
            max(relative(float(a.loss), float(b.loss)), gap(a.image_grad, b.image_grad))
            for a, b in zip(got, wanted[1:], strict=True)
        )
        self.say.within(
            "restored, it goes on as without an interruption", difference, 0.0,
            "Return from `state` all that steps change, or derive it from the step.",
        )  # fmt: skip

    def by_class(self) -> None:
        """What several processes match class by class is the same as the whole."""
        if not isinstance(self.fresh(), MatchesByClass):
            return
        whole, loss = self.match(self.fresh()), 0.0
        grad = torch.zeros_like(self.images)
        for label in range(self.train.num_classes):
            objective, own = self.fresh(), self.labels == label
            assert isinstance(objective, MatchesByClass)
            with self.say.asking("a match of one class"):
                alone = not objective.needs_all(_FIRST)
                images, labels = (
                    (self.images[own], self.labels[own]) if alone else (self.images, self.labels)
                )
                chosen = own[own] if alone else own
                part = objective.match(images, labels, _FIRST, chosen)
            loss += float(part.loss)
            grad[own] = part.image_grad
        difference = max(relative(loss, float(whole.loss)), gap(grad, whole.image_grad))
        self.say.within(
            "classes matched one by one sum to the whole", difference, _SUMS,
            "Let the loss be a sum over classes, or leave out `match` and `needs_all`.",
        )  # fmt: skip

    def by_block(self) -> None:
        """What several processes match block by block is the same as the whole."""
        if not isinstance(self.fresh(), MatchesByBlock):
            return
        whole, parts = self.match(self.fresh()), list[Matched]()
        for rank in range(3):
            objective = self.fresh()
            assert isinstance(objective, MatchesByBlock)
            with self.say.asking("a match of some blocks"):
                share = slice(rank, None, 3)
                parts.append(objective.match_blocks(self.images, self.labels, _FIRST, share))
        grads = torch.stack([part.image_grad for part in parts])
        difference = max(
            relative(sum(float(part.loss) for part in parts), float(whole.loss)),
            gap(grads.sum(dim=0), whole.image_grad),
        )
        self.say.within(
            "shares of the blocks sum to the whole", difference, _SUMS,
            "Let the loss be a sum over blocks, or leave out `match_blocks`.",
        )  # fmt: skip
