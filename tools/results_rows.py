"""The rows of the results table: what each is made by, and what its students add up to."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from generators import read_generator
from hpd.config import RunSettings, load_config
from hpd.sources import SOURCES
from hpd.sources.gan import GanSettings

Part = Literal["distilled", "initial", "random_real"]
Rows = Sequence[Mapping[str, Any]]

BASES = {
    "fashion_mnist": "results/fashion",
    "cifar10": "results/cifar10",
    "digits": "results/digits",
}
"""The configuration of H-PD with distribution matching, for each data set."""

ACROSS = "across architectures"
"""Stands for the mean over all architectures but the first in the column `network`."""


@dataclass(frozen=True)
class Method:
    """A row: a set, and the configuration that makes it.

    Args:
        name: of the row.
        suffix: of the configuration's name.
        overrides: what the row changes in it.
        part: which of the images of the run are judged; random real ones need no run.
    """

    name: str
    suffix: str = ""
    overrides: tuple[str, ...] = ()
    part: Part = "distilled"


_BEFORE = (
    Method("random real", part="random_real"),
    Method("prior alone", part="initial"),
    Method("pixel, DM", "-pixel"),
    Method("pixel, DC", "-pixel-dc"),
    Method("pixel, MTT", "-pixel-mtt"),
    Method("low rank, DM", "-low-rank"),
    Method("IDC, DM", "-idc"),
)
_AFTER = (
    Method("H-PD, DM"),
    Method("H-PD, DM, class-relevant selection", "-class-relevant"),
    Method("H-PD, DM, selection by the loss", "-loss"),
    Method("H-PD, DC", "-dc"),
    Method("H-PD, MTT", "-mtt"),
    Method("HMN, own decoder, DM", "-hmn"),
    Method("HMN before the generator, DM", "-hmn-generator"),
)


@cache
def methods(dataset: str) -> tuple[Method, ...]:
    """Return the rows of a data set, in the order of the table."""
    source = load_config(BASES[dataset]).source
    assert isinstance(source, GanSettings)
    spec = read_generator(source.generator).generator.spec
    glad = [
        Method(f"GLaD, level {k} ({level.name}), DM", "-glad", (f"source.levels=[{k}]",))
        for k, level in enumerate(spec.levels)
    ]
    rows = [*_BEFORE, *glad, *_AFTER]
    # the digits are nearly solved: what is compared on the others has nothing to add there
    others = (", DC", ", MTT", "by the loss")
    return tuple(r for r in rows if dataset != "digits" or not r.name.endswith(others))


def is_level(name: str) -> bool:
    """Return whether a row is one level of GLaD.

    >>> is_level("GLaD, level 3 (b8.conv1), DM"), is_level("H-PD, DM")
    (True, False)
    """
    return name.startswith("GLaD, level ")


@dataclass(frozen=True)
class Set:
    """One distilled set: of a row, at a budget, from a seed.

    Args:
        dataset: key of `BASES`.
        images: the budget, in the floats of so many images a class.
        method: the row.
        seed: of the run.
        data: folder of the data set, for those that lie in one.
    """

    dataset: str
    images: int
    method: Method
    seed: int
    data: str | None = None

    @property
    def key(self) -> dict[str, Any]:
        """What tells this set from others in the file."""
        return {
            "dataset": self.dataset,
            "images_per_class": self.images,
            "method": self.method.name,
            "seed": self.seed,
        }

    @property
    def config(self) -> str:
        """What to write after ``hpd distill`` to make the set, without data folder and seed."""
        name = BASES[self.dataset] + self.method.suffix
        return " ".join([name, *self.method.overrides, *self._of_budget(name)])

    def settings(self, overrides: Sequence[str]) -> RunSettings:
        """Return the configuration of the run, changed by `overrides`."""
        name, *own = self.config.split(" ")
        if self.data is not None and self.dataset != "digits":
            own.append(f"data.root={self.data}")
        return load_config(name, [*own, *overrides], self.seed)

    def _of_budget(self, name: str) -> list[str]:
        if self.images == 1:
            return []
        source = load_config(name).source
        options = [budget_option(SOURCES.kind_of(source)) + f"={self.images}"]
        if isinstance(source, GanSettings):
            # the class averages would all be the same image
            options.append("source.init=sample")
        return options


def budget_option(kind: str) -> str:
    """Return the option of a source that says how many images' floats it may take."""
    if kind == "multi_formation":
        return "source.of.images_per_class"
    return "source." + ("budget_images" if kind in ("low_rank", "hmn") else "images_per_class")


def best_of(rows: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the row with the best mean, of those of the most sets; None of none.

    The best of many single sets is partly luck, which more sets of it take away again.
    """
    return max(rows, key=lambda row: (len(row["seeds"]), row["accuracy_mean"]), default=None)


def levels(rows: Rows, dataset: str) -> list[Mapping[str, Any]]:
    """Return the rows of single levels, in their order."""
    return [row for row in firsts(rows, dataset) if is_level(row["method"])]


def firsts(rows: Rows, dataset: str) -> list[Mapping[str, Any]]:
    """Return the rows of a data set and its first network, by budget."""
    own = [row for row in rows if row["dataset"] == dataset]
    first = own[0]["network"] if own else ""
    own = [row for row in own if row["network"] == first]
    return sorted(own, key=lambda row: row["images_per_class"])


def summarise(sets: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows: mean, deviation and standard error for each method, budget and network.

    The deviation is over all students. The standard error is that of the mean over sets, where
    there are several; of one set it is over its students, and says nothing of other seeds.
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for one in sets:
        key = (one["dataset"], one["images_per_class"], one["method"])
        groups.setdefault(key, []).append(one)
    rows = []
    for group in groups.values():
        networks = dict.fromkeys(name for one in group for name in one.get("accuracies", {}))
        for network in networks:
            of_network = [one for one in group if network in one["accuracies"]]
            rows.append(_row(of_network, network, [o["accuracies"][network] for o in of_network]))
        others = list(networks)[1:]
        complete = [one for one in group if others and set(others) <= set(one["accuracies"])]
        if complete:
            rows.append(_row(complete, ACROSS, [_across(one, others) for one in complete]))
    return rows


def _across(one: Mapping[str, Any], networks: Sequence[str]) -> list[float]:
    """Return the mean over networks, for each student of a set."""
    students = zip(*(one["accuracies"][name] for name in networks), strict=True)
    return [statistics.fmean(scores) for scores in students]


def _row(
    group: Sequence[Mapping[str, Any]], network: str, accuracies: Sequence[Sequence[float]]
) -> dict[str, Any]:
    students = [score for scores in accuracies for score in scores]
    means = [statistics.fmean(scores) for scores in accuracies]
    basis = means if len(means) > 1 else students
    costs = [one for one in group if "seconds" in one]
    return {
        "dataset": group[0]["dataset"],
        "images_per_class": group[0]["images_per_class"],
        "method": group[0]["method"],
        "network": network,
        "accuracy_mean": round(statistics.fmean(students), 3),
        "accuracy_std": deviation(students),
        "accuracy_sem": round(deviation(basis) / len(basis) ** 0.5, 3),
        "stored_floats": group[0]["stored_floats"],
        "made_images_per_class": group[0]["made_images_per_class"],
        "seconds": round(statistics.fmean(o["seconds"] for o in costs), 2) if costs else None,
        "peak_bytes": max(o["peak_bytes"] for o in costs) if costs else None,
        "config": group[0]["config"],
        "seeds": [one["seed"] for one in group],
        "students": len(students),
    }


def deviation(values: Sequence[float]) -> float:
    """Return the sample standard deviation, 0 for one value."""
    return round(statistics.stdev(values), 3) if len(values) > 1 else 0.0
