"""A set of others as one of hpd, judged by the same yardstick as runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hpd.artifacts import DistilledSet
from hpd.audits.finding import Found
from hpd.audits.spaces import Views
from hpd.audits.stored import Stored
from hpd.data.whitening import recipe_of
from hpd.evaluation import Contender, Evaluation, EvaluationSettings, compare, evaluate_sets
from hpd.evaluation.contenders import of_relabelled, of_set
from hpd.evaluation.similarity import similarity
from hpd.rng import Streams
from hpd.storage import Storage

Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class SeenSet(DistilledSet):
    """A set whose images are kept as students see them, besides as they look.

    What was whitened image by image has lost mean and norm: whitening its pictures would not give
    it back.

    Args:
        seen: images as students see them [N, C, H, W]; None: as the normalisation says.
        kept: what the files of the set keep; None: as its numbers say.
    """

    seen: Tensor | None = None
    kept: Storage | None = None

    def normalised(self) -> Tensor:
        """Return the images as students see them [N, C, H, W]."""
        return super().normalised() if self.seen is None else self.seen

    def only(self, indices: Tensor, stored_floats: int) -> DistilledSet:
        """Return some of the images; see `DistilledSet.only`."""
        seen = self.normalised()[indices]
        return replace(super().only(indices, stored_floats), seen=seen, kept=None)  # type: ignore[call-arg]


@dataclass(frozen=True)
class Rival:
    """A run of hpd that stands beside a set.

    Args:
        name: that rows have.
        distilled: its set.
    """

    name: str
    distilled: DistilledSet

    @property
    def view(self) -> str:
        """How its students see images; see `Views`."""
        recipe = recipe_of(self.distilled.normalisation)
        return "plain" if recipe is None else recipe["kind"]


def as_set(stored: Stored, found: Found, views: Views) -> SeenSet:
    """Return a set as it is understood.

    Images that hold several parts come apart, with the label of the whole.
    """
    train = views[found.reading.space.view].train
    reading, kept, parts = found.reading, stored.storage, found.reading.factor**2
    soft = found.probabilities
    return SeenSet(
        images=reading.pictures(stored.values, train.image_shape),
        labels=found.classes.repeat_interleave(parts),
        classes=train.classes,
        normalisation=train.normalisation,
        stored_floats=kept.images.floats,
        soft_labels=None if soft is None else soft.repeat_interleave(parts, dim=0),
        stored_bits=kept.images.bits,
        generator_floats=kept.generator.floats,
        optimised=True,
        seen=reading.seen(stored.values, views),
        kept=kept,
    )


def judge(
    distilled: SeenSet,
    view: str,
    views: Views,
    settings: EvaluationSettings,
    *,
    device: torch.device,
    streams: Streams,
    rivals: Sequence[Rival] = (),
    report: Report = lambda name, done, total: None,
) -> Evaluation:
    """Judge a set beside random real images, and beside runs of hpd.

    Args:
        distilled: the set.
        view: how its students see images; baselines are seen likewise.
        views: the data.
        settings: the protocol.
        device: where to train.
        streams: as of the evaluation of a run, so that students and random images are the same.
        rivals: runs, each seen as it was made.
        report: hears of each student.
    """
    dataset = views[view]
    found = evaluate_sets(
        distilled, None, dataset, settings, device=device, streams=streams, report=report
    )
    rows = list(found.rows)
    for own in dict.fromkeys(rival.view for rival in rivals):
        beside = [_contender(r, views, settings) for r in rivals if r.view == own]
        rows += compare(
            beside, views[own], settings, device=device, streams=streams, report=report
        ).rows
    near = similarity(distilled, views.plain.train)
    said = "left out: an audit measures no LPIPS"
    return replace(found, rows=rows, similarity={**near, "lpips": said})


def _contender(rival: Rival, views: Views, settings: EvaluationSettings) -> Contender:
    normalisation = views[rival.view].train.normalisation
    distilled = rival.distilled.seen_as(normalisation)
    if settings.labels == "stored":
        made = of_set if distilled.soft_labels is None else of_relabelled
        return made(rival.name, distilled, settings.training)
    return replace(of_set(rival.name, distilled, settings.training), labels=settings.labels)


def protocols(distilled: DistilledSet, settings: EvaluationSettings) -> list[EvaluationSettings]:
    """Return by which protocols a set is judged: by its own soft labels, too, where it has any.

    The one with hard labels, which compares with all others, is the last and so the newest.
    """
    if distilled.soft_labels is None or "labels" in settings.model_fields_set:
        return [settings]
    return [settings.model_copy(update={"labels": "stored"}), settings]
