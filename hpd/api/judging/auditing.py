"""Judging distilled sets of others, whatever layout they are in."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any

from hpd.api.identity import EvaluationData, check_data
from hpd.api.naming import data_from, split_data
from hpd.api.runs import Run, opened
from hpd.artifacts.places import check_free
from hpd.audits.finding import find_out
from hpd.audits.folder import Audit
from hpd.audits.judging import Rival, as_set, judge, protocols
from hpd.audits.labels import LabelMeaning
from hpd.audits.layouts import read_stored
from hpd.audits.readings import Channels, Given, ZcaAnswer
from hpd.audits.settings import AuditSettings
from hpd.audits.spaces import Views
from hpd.audits.stored import Axes, Wanted
from hpd.boundary import public
from hpd.data import Dataset
from hpd.errors import ConfigError
from hpd.evaluation.rows import remarks
from hpd.given import parse_options
from hpd.machine.device import open_device
from hpd.rng import Streams

_logger = logging.getLogger(__name__)


@public
def audit(
    where: str | Path,
    data: Dataset | str | Path | Mapping[str, Any] | None = None,
    *overrides: str,
    runs: Sequence[Run | str | Path] = (),
    out: str | Path | None = None,
    layout: str | None = None,
    index: int | None = None,
    range: str | None = None,
    zca: ZcaAnswer | None = None,
    axes: Axes | None = None,
    channels: Channels | None = None,
    factor: int | None = None,
    class_order: str | None = None,
    labels: LabelMeaning | None = None,
    soft_labels: str | Path | None = None,
    fkd_seed: int = 42,
    seed: int = 0,
    device: str = "auto",
    report: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> Audit:
    """Find out what a distilled set of others means, and judge it as runs are judged.

    Files are read as data; nothing in them runs. What they do not say (range, normalisation, ZCA,
    order of channels and classes) is found out on training images, and what labels are from their
    values. Test images are seen by the trained students alone.

    Args:
        where: file or folder of the set.
        data: the real images that it stands for, as for `load_dataset`, or such a data set; None:
            the overrides name them.
        overrides: ``"data.root=FOLDER"``, ``"seeds=3"``, ``"students=[...]"``: options of the data
            and of the evaluation; ``"find.rows=5000"``: of how things are found out.
        runs: runs of hpd on the same data, or their folders, to be judged beside it.
        out: a new folder for `audit.json`, `evaluation.json`, the set, a table and a report; None
            writes nothing.
        layout: name of the layout; None: found out.
        index: which of several sets in a file.
        range: what values mean, and nothing is found out about it: ``"unit"`` for 0 to 1,
            ``"bytes"`` for 0 to 255, ``"symmetric"`` for -1 to 1, ``"data"`` for normalised by the
            data's mean and deviation, ``"cifar10"``, ``"imagenet"``, ... for constants that code of
            others has, or ``"MEAN/STD"``. Likewise:
        zca: in whose space values are, or ``"none"``.
        axes: the order of those of flat images.
        channels: which is first.
        factor: parts along each side of an image, as IDC has them.
        class_order: ``"data"`` for indices of the data's classes, ``"alphabetical"``, ``"found"``
            for what fits best, or all classes with commas.
        labels: what they are.
        soft_labels: folder of soft labels in batches, where it is not below the images.
        fkd_seed: from which the order of these was drawn.
        seed: of students and of what is drawn; that of a run gives the same random images.
        device: where to train.
        report: hears (row name, students done, students in all) after each student.

    Raises:
        DataError: if the set cannot be read, fits the data in no reading, or fits in two that are
            too close to call, naming the option that decides; if a run is of other data.
        ConfigError: for an unknown or wrong option.
        RunError: if `out` holds something.
    """
    if out is not None:
        check_free(Path(out).expanduser())
    given = Given(range, zca, axes, channels, factor, class_order, labels, fkd_seed)
    of_data, own = split_data(overrides)
    settings = _settings(own)
    views = Views(_dataset(data, of_data))
    train = views.plain.train
    settings.evaluation.check_fits(train.image_shape, train.num_classes)
    rivals = [_rival(run, views) for run in runs]
    path = Path(where).expanduser()
    said = None if soft_labels is None else Path(soft_labels).expanduser()
    stored = read_stored(path, Wanted(train.image_shape, train.classes, index, said), layout)
    found = find_out(stored, views, settings.find, given, Streams(seed).fork("audit"))
    for line in found.warnings:
        _logger.warning("%s", line)
    distilled = as_set(stored, found, views)
    about = _about(views.plain, seed, device)
    evaluations = []
    for protocol in protocols(distilled, settings.evaluation):
        judged = judge(
            distilled, found.reading.space.view, views, protocol, device=open_device(device),
            streams=Streams(seed).fork("evaluation"), rivals=rivals, report=report,
        )  # fmt: skip
        lines = remarks(judged.rows, len(views.plain.test))
        evaluations.append(replace(judged, about={**judged.about, **about, "remarks": lines}))
    made = Audit(path.name or str(path), distilled, found, stored, evaluations)
    if out is None:
        return made
    made.write(Path(out).expanduser(), train)
    return replace(made, folder=Path(out).expanduser())


def _about(dataset: Dataset, seed: int, device: str) -> dict[str, Any]:
    """Return what makes the numbers of an evaluation, as far as its settings do not say."""
    return {
        "seed": seed,
        "device": str(open_device(device)),
        "float32": "ieee",
        "versions": {**{n: version(n) for n in ("hpd", "torch")}, "python": python_version()},
        "data": EvaluationData.of(dataset).as_json(),
    }


def _settings(overrides: Sequence[str]) -> AuditSettings:
    """Return the options of an audit; those without a group are of the evaluation."""
    grouped = ("find.", "find=", "evaluation.", "evaluation=")
    named = [o if o.startswith(grouped) else f"evaluation.{o}" for o in overrides]
    # whole training sets take hours, and what is known of them is beside the code
    return AuditSettings.read(parse_options(["evaluation.full_training=null", *named]))


def _dataset(
    data: Dataset | str | Path | Mapping[str, Any] | None, overrides: Sequence[str]
) -> Dataset:
    if isinstance(data, Dataset):
        if overrides:
            raise ConfigError("a data set in memory has no options", got=", ".join(overrides))
        return data
    settings = data_from(data, overrides)
    if settings.zca != "none":
        raise ConfigError(
            "an audit finds out whether a set is whitened", got=f"data.zca={settings.zca}",
            fix="Leave it out, or say it of the set by --zca.",
        )  # fmt: skip
    return settings.build()


def _rival(run: Run | str | Path, views: Views) -> Rival:
    """Return a run to stand beside a set.

    Raises:
        DataError: if it is of other data.
    """
    found = opened(run)
    name = "in memory" if found.folder is None else found.folder.resolve().name
    rival = Rival(f"run {name}", found.distilled)
    check_data(found.data_facts, views[rival.view].train, found.folder)
    return rival
