"""Finding out what a set means: which reading fits, by how much the next one loses, or an error."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hpd.audits.deciding import Judge
from hpd.audits.findings import Finding
from hpd.audits.labels import ReadLabels, read_label_batches, read_labels, says_no_more
from hpd.audits.ordering import Orderer, plausible_orders
from hpd.audits.readings import Given, Reading, Tried, doubts, readings, tried
from hpd.audits.scoring import FindSettings, Probe
from hpd.audits.spaces import Views
from hpd.audits.stored import Stored
from hpd.rng import Streams


@dataclass(frozen=True)
class Found:
    """All that was found out about a set.

    Args:
        reading: the one that fits.
        classes: class of the data of each stored image [N].
        probabilities: of the classes of the data [N, K]; None where labels are classes.
        labels: what they were stored as.
        findings: question by question.
        tried: every reading, the best first.
        warnings: what does not go together.
        notes: what else a user should know.
    """

    reading: Reading
    classes: Tensor
    probabilities: Tensor | None
    labels: str
    findings: tuple[Finding, ...]
    tried: tuple[Tried, ...]
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def find_out(
    stored: Stored, views: Views, settings: FindSettings, given: Given, streams: Streams
) -> Found:
    """Find out what a set means, from its files, its values and training images.

    Args:
        stored: the set.
        views: the data, and how students may see them.
        settings: how readings are tried.
        given: what the user says.
        streams: randomness of what is drawn.

    Raises:
        DataError: if no reading fits, or two are too close to call and no convention of the layout
            decides, naming the option by which the user does.
        ConfigError: if what the user says does not fit.
    """
    train = views.plain.train
    told = read_labels(stored.labels, train.num_classes, stored.where, given.labels)
    orders, by = plausible_orders(stored, train.classes, given)
    asked = readings(stored, views, given)
    probe = Probe(train, settings, streams)
    fixed = len({one.space.name for one in asked}) == 1
    every = list(
        tried(
            stored, told.classes, orders, views, probe, asked, streams.generator("images"),
            is_said=fixed,
        )
    )  # fmt: skip
    convention = views.expanded(stored.convention)
    judge = Judge(stored, given, convention, probe, settings.margin)
    orderer = Orderer(probe, settings.margin, train.classes)
    best, findings = judge.settle(every)
    order, placed = orderer.order(best, orders, by)
    others = doubts(stored, views, given, asked) if fixed else []
    every += tried(stored, told.classes, orders, views, probe, others, streams.generator("images"))
    judge.doubt(best, every[len(asked) :])
    findings += [placed, _of_labels(told)]
    probabilities, notes = _probabilities(stored, told, train.num_classes, given)
    ranked = sorted(every, key=lambda t: math.inf if t.predicted is None else -t.gain)
    return Found(
        best.reading, order[told.classes],
        None if probabilities is None else _reordered(probabilities, order),
        told.meaning, tuple(findings), tuple(ranked), (*judge.warnings, *orderer.warnings), notes,
    )  # fmt: skip


def _of_labels(told: ReadLabels) -> Finding:
    return Finding("labels", told.meaning, told.by, told.says)


def _probabilities(
    stored: Stored, told: ReadLabels, num_classes: int, given: Given
) -> tuple[Tensor | None, tuple[str, ...]]:
    """Return the soft labels of a set by its own classes, and what to say of them."""
    notes = stored.notes
    if stored.batches is not None:
        found = read_label_batches(stored.batches, told.classes, num_classes, given.fkd_seed)
        said = (
            f"soft labels: the mean over {found.views} views of each image, in the order of the"
            f" {found.order}, in which {found.agrees:.0%} agree with the folders"
            f" ({found.otherwise:.0%} in the other)"
        )
        return found.probabilities, (*notes, said)
    if stored.soft_labels is None:
        return told.probabilities, notes
    soft = read_labels(stored.soft_labels, num_classes, stored.where).probabilities
    return (None if soft is None or says_no_more(soft, told.classes) else soft), notes


def _reordered(probabilities: Tensor, order: Tensor) -> Tensor:
    """Return probabilities of the classes of the data [N, K], from those of the set's."""
    found = torch.zeros_like(probabilities)
    found[:, order] = probabilities
    return found
