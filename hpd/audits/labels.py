"""What labels mean: classes, probabilities, logits, or the centred targets of a regression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hpd.arrays import as_labels, as_numbers
from hpd.audits.layouts.label_batches import drawn_orders
from hpd.audits.stored import LabelBatches
from hpd.errors import DataError
from hpd.machine.host import one_hot

LabelMeaning = Literal["hard", "probabilities", "centred", "logits"]

_SUM, _SMALL = 0.02, 1e-3
# targets of a regression are at most about 1; a logit that decides anything is larger
_TARGET, _LOGIT = 1.6, 2.5
# soft labels of batches agree with the folders of their images in so many cases more than by chance
_AGREES = 0.1


@dataclass(frozen=True)
class ReadLabels:
    """Labels that are understood.

    Args:
        classes: the class of each image [N], int64.
        probabilities: of every class [N, K], float32; None where they say no more than `classes`.
        meaning: what they were stored as.
        by: what told.
        says: that, in a sentence.
    """

    classes: Tensor
    probabilities: Tensor | None
    meaning: LabelMeaning
    by: str
    says: str


def read_labels(
    labels: Tensor, num_classes: int, where: str, meaning: LabelMeaning | None = None
) -> ReadLabels:
    """Return what labels mean.

    Integers, and whole numbers one an image, are classes. Of numbers for every class, rows of one 1
    and else 0 are classes; those of 0 or more that sum to 1 are probabilities; those that sum to
    about 0 and stay below 1.6 are centred targets, one-hot less 1/K; larger ones are logits.

    Args:
        labels: [N], [N, 1] or [N, K].
        num_classes: K.
        where: the file, for messages.
        meaning: what the user says.

    Raises:
        DataError: if they are for other classes, or may mean two things.
        NumericError: for NaN or Inf.
    """
    if labels.ndim == 1 or (labels.ndim == 2 and labels.shape[1] == 1 and num_classes != 1):
        return _indices(labels.flatten(), num_classes, where, meaning)
    if labels.ndim != 2 or labels.shape[1] != num_classes:
        raise DataError(
            f"the labels of {where} are not of the classes of the data",
            got=f"shape {list(labels.shape)}",
            expected=f"[N] or [N, {num_classes}]",
            fix="Say by data.classes which classes the set is of.",
        )
    values = as_numbers(labels, f"the labels of {where}")
    found, says = _looks(values)
    if meaning is None and found is None:
        raise DataError(
            f"the labels of {where} may be logits or targets of a regression", got=says,
            fix="Say by --labels which: hard, probabilities, centred or logits.",
        )  # fmt: skip
    if meaning is not None:
        return _as(values, meaning, "option", f"{says}; taken as {meaning}, as was said")
    assert found is not None
    return _as(values, found, "values", says)


def _indices(
    labels: Tensor, num_classes: int, where: str, meaning: LabelMeaning | None
) -> ReadLabels:
    if meaning not in (None, "hard"):
        raise DataError(f"the labels of {where} are one an image", got=f"--labels {meaning}")
    says = "one class an image"
    if labels.is_floating_point():
        whole = as_numbers(labels, f"the labels of {where}", dtype=torch.float64)
        if not torch.equal(whole, whole.round()):
            raise DataError(f"the labels of {where} are no classes", got="fractions")
        labels, says = whole.long(), "one class an image, stored as floats"
    try:
        classes = as_labels(labels, "labels", num_classes=num_classes)
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"the labels of {where} are not of the classes of the data", got=error,
            fix="Say by data.classes which classes the set is of.",
        ) from None  # fmt: skip
    return ReadLabels(classes, None, "hard", "values", says)


def _looks(values: Tensor) -> tuple[LabelMeaning | None, str]:
    """Return what numbers for every class look like, and what they are in words."""
    low, high = (float(value) for value in values.aminmax())
    sums, top = values.sum(dim=1), values.max(dim=1).values
    says = f"{low:.4g} to {high:.4g}, rows that sum to {float(sums.mean()):.3g}"
    if low >= -_SMALL and bool(((sums - 1).abs() < _SUM).all()):
        hard = bool((top > 1 - _SMALL).all())
        return ("hard" if hard else "probabilities"), says
    if max(abs(low), high) < _TARGET and bool((sums.abs() < 0.5 * top.clamp(min=0.1)).all()):
        return "centred", says
    return ("logits" if float(top.median()) > _LOGIT else None), says


def _as(values: Tensor, meaning: LabelMeaning, by: str, says: str) -> ReadLabels:
    classes = values.argmax(dim=1)
    probabilities: Tensor | None = None
    if meaning == "probabilities":
        probabilities = values.clamp(min=0) / values.clamp(min=0).sum(dim=1, keepdim=True)
    elif meaning == "logits":
        probabilities = values.softmax(dim=1)
    elif meaning == "centred":
        probabilities = on_simplex(values + 1 / values.shape[1])
    if probabilities is not None and says_no_more(probabilities, classes):
        probabilities = None
    return ReadLabels(classes, probabilities, meaning, by, says)


def says_no_more(probabilities: Tensor, classes: Tensor) -> bool:
    """Return whether probabilities [N, K] say no more than classes [N]."""
    gap = (probabilities - one_hot(classes, probabilities.shape[1]).float()).abs().max()
    return bool(gap < _SMALL)


def on_simplex(values: Tensor) -> Tensor:
    """Return the nearest probabilities to rows of numbers [N, K], by Euclidean distance.

    ``max(v - t, 0)`` with the t for which a row sums to 1.
    Source: Duchi et al., ICML 2008, figure 1.

    >>> on_simplex(torch.tensor([[1.2, 0.1, -0.3]]))
    tensor([[1., 0., 0.]])
    """
    ordered = values.sort(dim=1, descending=True).values
    counts = torch.arange(1, values.shape[1] + 1)
    thresholds = (ordered.cumsum(dim=1) - 1) / counts
    kept = (ordered > thresholds).sum(dim=1, keepdim=True).clamp(min=1)
    return (values - thresholds.gather(1, kept - 1)).clamp(min=0)


@dataclass(frozen=True)
class BatchLabels:
    """Soft labels of views, brought to one an image.

    Args:
        probabilities: [N, K], float32.
        order: which order the views were in: ``"sampler"`` or ``"folder"``.
        agrees: share of the views whose likeliest class is that of the image's folder.
        otherwise: the same in the other order.
        views: of each image.
    """

    probabilities: Tensor
    order: str
    agrees: float
    otherwise: float
    views: int


def read_label_batches(
    batches: LabelBatches, classes: Tensor, num_classes: int, seed: int
) -> BatchLabels:
    """Return one soft label an image: the mean over its views of the teacher's probabilities.

    Views of mixed images count by the share of the own image. Which image a view is of the files do
    not say: SRe2L's code draws the order from a seed, 42 unless it was changed; else it is that of
    the folders. The order is taken in which the labels agree with the folders.

    Args:
        batches: as they were stored.
        classes: of the images, in the order of the folders [N].
        num_classes: K.
        seed: of the order.

    Raises:
        DataError: if they are of other classes, or fit the folders in no order.
    """
    epochs, count, width = batches.answers.shape
    if width != num_classes:
        raise DataError(
            "the soft labels are not of the classes of the data", got=width, expected=num_classes
        )
    orders = {
        "sampler": drawn_orders(count, epochs, seed),
        "folder": torch.arange(count).repeat(epochs, 1),
    }
    best = batches.answers.argmax(dim=2)
    own = batches.shares >= 0.5
    agree = {
        name: float((best == classes[order])[own].double().mean()) if bool(own.any()) else 0.0
        for name, order in orders.items()
    }
    name, other = sorted(orders, key=lambda name: -agree[name])
    if agree[name] < 1 / num_classes + _AGREES or agree[name] - agree[other] < _AGREES:
        raise DataError(
            "the soft labels fit the folders in no order that is known",
            got=", ".join(f"{n}: {share:.0%} agree" for n, share in agree.items()),
            fix="Say by --fkd-seed from which seed the order was drawn.",
        )
    sums = torch.zeros(count, width)
    weights = torch.zeros(count)
    for answers, shares, order in zip(batches.answers, batches.shares, orders[name], strict=True):
        sums.index_add_(0, order, answers.softmax(dim=1) * shares[:, None])
        weights.index_add_(0, order, shares)
    return BatchLabels(sums / weights[:, None], name, agree[name], agree[other], epochs)
