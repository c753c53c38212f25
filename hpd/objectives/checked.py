"""What goes into an objective and what comes out of it, checked at every call.

Shapes and dtypes alone are looked at, and on a CPU the range of the labels: no device is waited
for. Whether losses and gradients are finite is the loop's to find out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from hpd.arrays import as_labels
from hpd.checks import check_shape, check_tensor
from hpd.data import ImageSet
from hpd.errors import ConfigError, ShapeError
from hpd.machine.host import Number, computes_on_host
from hpd.typing import (
    Matched,
    MatchesByBlock,
    MatchesByClass,
    MatchesTargets,
    Objective,
    State,
    Step,
)

Build = Callable[..., Objective]


def checked_build(build: Build) -> Build:
    """Return a method `build` of settings whose objectives are checked at every call.

    Args:
        build: takes the settings and then, by place or by name, `train` and what else there is.
    """

    @wraps(build)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Objective:
        objective = build(self, *args, **kwargs)
        train = next((a for a in (*args, *kwargs.values()) if isinstance(a, ImageSet)), None)
        if isinstance(objective, Checked) or train is None:
            return objective
        return with_boundary(objective, self.section(), train)

    return wrapped


def with_boundary(objective: Objective, name: str, train: ImageSet) -> Checked:
    """Return an objective with its boundary, whichever way it can be asked; see `Checked`."""
    if isinstance(objective, MatchesByClass):
        return CheckedByClass(objective, name, train)
    kind = CheckedByBlock if isinstance(objective, MatchesByBlock) else Checked
    return kind(objective, name, train)


def matches_targets(objective: Objective) -> bool:
    """Return whether an objective has a gradient to label probabilities; see `MatchesTargets`."""
    own = getattr(objective, "matches_targets", None)
    return isinstance(objective, MatchesTargets) if own is None else bool(own)


class Checked:
    """An objective with its boundary.

    Args:
        objective: maybe one of the user's own.
        name: how it is called in messages.
        train: the real training images, whose shape and classes the synthetic ones have.

    Raises:
        ShapeError: when called, for images, labels or a step that are none of this task, or if the
            objective gives something else than it should.
    """

    def __init__(self, objective: Objective, name: str, train: ImageSet) -> None:
        self._inside, self._name = objective, name
        self._shape, self._num_classes = train.image_shape, train.num_classes

    def __getattr__(self, name: str) -> Any:
        if name == "_inside":  # in a copy that is being made
            raise AttributeError(name)
        return getattr(self._inside, name)

    @property
    def provenance(self) -> Mapping[str, object]:
        """What the objective inside says."""
        return self._inside.provenance

    def __call__(self, images: Tensor, labels: Tensor, step: Step) -> Matched:
        """Match images [N, C, H, W] in [0, 1] with labels [N] at `step`."""
        labels = self._checked_labels(images, labels, step)
        return self._checked_match(self._inside(images, labels, step), images, len(images))

    @property
    def matches_targets(self) -> bool:
        """Whether the objective inside has a gradient to labels."""
        return isinstance(self._inside, MatchesTargets)

    def match_targets(self, images: Tensor, labels: Tensor, targets: Tensor, step: Step) -> Matched:
        """Match images with label probabilities; see `MatchesTargets`."""
        if not isinstance(self._inside, MatchesTargets):
            raise ConfigError(f"{self._name} has no gradient to labels", fix="Do not learn them.")
        labels = self._checked_labels(images, labels, step)
        check_tensor(targets, "targets", images.dtype)
        lengths = {"N": len(images), "K": self._num_classes}
        check_shape(targets, "N K", "targets", **lengths)
        matched = self._inside.match_targets(images, labels, targets, step)
        matched = self._checked_match(matched, images, len(images))
        what = f"the label gradient of {self._name}"
        grad = check_tensor(matched.label_grad, what, targets.dtype)
        return replace(matched, label_grad=check_shape(grad.detach(), "N K", what, **lengths))

    def state(self) -> State:
        """Return clones of all that `load_state` needs."""
        return self._inside.state()

    def load_state(self, state: State) -> None:
        """Restore what `state` returned."""
        self._inside.load_state(state)

    def _checked_labels(self, images: Tensor, labels: Any, step: Step) -> Tensor:
        """Return the labels of one call, whose images and step are checked, too."""
        c, h, w = self._shape
        check_tensor(images, "images", torch.get_default_dtype())
        check_shape(images, "N C H W", "images", C=c, H=h, W=w)
        if not isinstance(step, Step):
            raise ShapeError(
                "the step is none",
                got=type(step).__name__,
                expected="hpd.typing.Step(stage, index)",
            )
        whole = isinstance(labels, Tensor) and labels.dtype == torch.int64
        if whole and not computes_on_host(labels.device):
            return check_shape(labels, "N", "labels", N=len(images))
        device = labels.device if isinstance(labels, Tensor) else images.device
        count, most = len(images), self._num_classes
        return as_labels(labels, count=count, num_classes=most, device=device)

    def _checked_match(self, matched: Any, images: Tensor, count: int | None) -> Matched:
        """Return what the objective gives: numbers, and its gradient without a graph.

        Args:
            matched: what came back.
            images: [N, C, H, W].
            count: of the images that were matched; None: it is not known.
        """
        if not isinstance(matched, Matched):
            raise ShapeError(
                f"{self._name} gives no match",
                got=type(matched).__name__,
                expected="hpd.typing.Matched(loss, image_grad)",
            )
        grad = check_tensor(matched.image_grad, f"the image gradient of {self._name}", images.dtype)
        if grad.shape[1:] != images.shape[1:] or count not in (None, len(grad)):
            raise ShapeError(
                f"the image gradient of {self._name} has the wrong shape",
                got=list(grad.shape),
                expected=[count or "N", *images.shape[1:]],
            )
        if type(matched.loss) is float and not matched.metrics and not grad.requires_grad:
            return matched
        metrics = {
            name: self._as_number(value, f"the metric {name!r}", images.device)
            for name, value in matched.metrics.items()
        }
        loss = self._as_number(matched.loss, "the loss", images.device)
        return replace(matched, loss=loss, metrics=metrics, image_grad=grad.detach())

    def _as_number(self, value: Any, what: str, device: torch.device) -> Number:
        """Return a number as a float, on an accelerator one that nobody asks for as it is."""
        try:
            if not isinstance(value, Tensor):
                return float(value)
            value = value.detach().reshape(())
            return float(value) if computes_on_host(device) else value
        except (TypeError, ValueError, RuntimeError):
            shown = f"{type(value).__name__} {list(getattr(value, 'shape', []))}"
            raise ShapeError(
                f"{what} of {self._name} is no number", got=shown, expected="a float"
            ) from None


class CheckedByClass(Checked):
    """An objective that matches some classes by themselves, with its boundary."""

    _inside: MatchesByClass

    def needs_all(self, step: Step) -> bool:
        """Return whether some classes can be matched at `step` only if all images are known."""
        return self._inside.needs_all(step)

    def match(self, images: Tensor, labels: Tensor, step: Step, own: Tensor) -> Matched:
        """Match some classes; see `MatchesByClass`."""
        labels = self._checked_labels(images, labels, step)
        check_shape(own, "N", "own", N=len(images))
        if own.dtype != torch.bool:
            raise ShapeError("own must say of each image whether it is", got=own.dtype)
        matched = self._inside.match(images, labels, step, own)
        count = int(own.sum()) if computes_on_host(own.device) else None
        return self._checked_match(matched, images, count)


class CheckedByBlock(Checked):
    """An objective that matches some blocks by themselves, with its boundary."""

    _inside: MatchesByBlock

    def match_blocks(self, images: Tensor, labels: Tensor, step: Step, share: slice) -> Matched:
        """Match some blocks; see `MatchesByBlock`."""
        labels = self._checked_labels(images, labels, step)
        matched = self._inside.match_blocks(images, labels, step, share)
        return self._checked_match(matched, images, len(images))
