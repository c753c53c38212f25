"""The rows of the results table: a configuration and its changes for each, at equal storage.

A row is one line: what to write after ``hpd distill``, without the folder of the data and the seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

Labels = Literal["hard", "soft"]

RANDOM, SAME_BITS, SAMPLES, HERDING, START = (
    "random_real", "random_real_bits", "prior_samples", "herding", "initial",
)  # fmt: skip

BUDGETS = (1, 10)
"""What a set may store, in images of 32 bits a number."""


@dataclass(frozen=True)
class Data:
    """A data set of the table.

    Args:
        name: what the table calls it.
        config: its configuration, H-PD by distribution matching.
        floats: numbers of an image.
        levels: of its generator; 0 where it has none.
        steps: of distribution matching, all stages together.
        long: of regression, likewise.
        generator: bundled; empty where the rows that need one are left out.
        augment: how a teacher's images are changed.
        folder: where the data lie in that of all data, where that is in one of their own.
        budgets: of the rows.
    """

    name: str
    config: str
    floats: int
    levels: int
    steps: int
    long: int
    generator: str
    augment: str
    folder: str = ""
    budgets: tuple[int, ...] = BUDGETS

    @property
    def teacher_folder(self) -> str:
        """Where the teacher of its labels lies."""
        return next(iter(self.teachers))

    @property
    def teachers(self) -> dict[str, tuple[str, ...]]:
        """How teachers are trained, as options of ``hpd squeeze``, by their folders."""
        name = self.config.rpartition("/")[2]
        return {
            f"runs/{name}-teacher": self._teacher(32, 8),
            f"runs/{name}-wide-teacher": self._teacher(64, 12),
        }

    def _teacher(self, width: int, epochs: int) -> tuple[str, ...]:
        training = f"epochs: {epochs}, batch_size: 128, lr: 0.05, schedule: cosine"
        return (
            f"student={{kind: convnet, width: {width}, norm: batch}}",
            f"training={{{training}, augment: {self.augment}}}",
        )

    @property
    def tells_apart(self) -> bool:
        """Whether methods differ at one image a class: the digits are nearly solved."""
        return self is not DATA["digits"]

    @property
    def student(self) -> str:
        """The network that matching goes through."""
        return "{kind: convnet, width: 32}"


DATA = {
    "digits": Data("digits", "results/digits", 256, 7, 280, 700, "digits16", "[crop]"),
    "fashion_mnist": Data(
        "Fashion-MNIST", "results/fashion", 1024, 9, 270, 900, "fashion32", "[crop, flip]"
    ),
    "cifar10": Data(
        "CIFAR-10", "results/cifar10", 3072, 9, 270, 900, "cifar32", "[crop, flip, cutout]"
    ),
    "imagenette128": Data(
        "Imagenette at 128 px", "results/imagenette128", 49152, 0, 60, 60, "", "[crop, flip]",
        "imagenette128", (1,),
    ),
}  # fmt: skip
CONFIGS = {
    ("cifar10", 1): {
        "seeds": "cifar10-seeds-hard", "seeds, soft labels": "cifar10-seeds",
        "HMN, gradients": "cifar10-hmn",
    },
    ("cifar10", 10): {
        "seeds, soft labels": "cifar10-seeds-10",
        "seeds and their generator, soft labels": "cifar10-generator",
    },
    ("fashion_mnist", 1): {"seeds, soft labels": "fashion-seeds"},
    ("fashion_mnist", 10): {"seeds, soft labels": "fashion-seeds-10"},
}  # fmt: skip
"""Rows that bundled configurations make, of each data set and budget."""

# students see more than a hundred images in batches, and need more steps to see them all often
_MANY = "evaluation.training.steps=3000"


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Args:
        data: key of `DATA`.
        budget: what it stores, in images of 32 bits a number.
        method: whose images.
        objective: what they are matched by; empty where nothing is optimised.
        changes: ``KEY=VALUE`` for the configuration of the data.
        labels: whether a teacher's labels are stored with the images.
        bits: of a stored number.
        level: of the generator, of GLaD.
        config: the configuration; empty for that of the data.
    """

    data: str
    budget: int
    method: str
    objective: str
    changes: tuple[str, ...] = ()
    labels: Labels = "hard"
    bits: int = 32
    level: int | None = None
    config: str = ""

    @property
    def name(self) -> str:
        """What the table calls it.

        >>> Row("digits", 1, "pixels", "DM", bits=8).name
        'pixels, DM, 8 bits'
        """
        level = "" if self.level is None else f", level {self.level}"
        by = f", {self.objective}" if self.objective else ""
        bits = "" if self.bits == 32 else f", {self.bits} bits"
        return f"{self.method}{level}{by}{bits}{', soft labels' if self.labels == 'soft' else ''}"

    @property
    def line(self) -> str:
        """What to write after ``hpd distill``."""
        quoted = [f'"{change}"' if " " in change else change for change in self.changes]
        return " ".join([self.config or DATA[self.data].config, *quoted])

    @property
    def is_reference(self) -> bool:
        """Whether the table's random images, samples and chosen ones are those beside this row."""
        method = "H-PD" if DATA[self.data].generator else "pixels"
        return (self.method, self.objective) == (method, "DM")


def rows(data: str, budget: int) -> list[Row]:
    """Return the rows of a data set at a budget, in the order of the table."""
    found = _rows(DATA[data], data, budget) if DATA[data].generator else _without_generator(data)
    return list(found)


def all_rows() -> list[Row]:
    """Return the rows of all data sets and budgets."""
    return [row for data in DATA for budget in DATA[data].budgets for row in rows(data, budget)]


def best_level(row: Row, measured: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the line of the best level of a row's generator; None before all are measured.

    Args:
        row: one of the levels.
        measured: what `measured_sets.summarise` returns.
    """
    lines = {
        other.line
        for other in rows(row.data, row.budget)
        if (other.method, other.objective) == (row.method, row.objective)
    }
    found = [one for one in measured if one["config"] in lines and one["name"] == "distilled"]
    if len({one["config"] for one in found}) < len(lines):
        return None
    # the best of many single sets is partly luck, which more sets of it take away again
    best = max(found, key=lambda one: (one["sets"], one["mean"]))
    return str(best["config"])


def best_rows(asked: Sequence[Row], measured: Sequence[Mapping[str, Any]], count: int) -> list[Row]:
    """Return the best so many rows of each data set and budget, of those that are measured."""
    means = {one["config"]: one["mean"] for one in measured if one["name"] == "distilled"}
    found: list[Row] = []
    for data, budget in dict.fromkeys((row.data, row.budget) for row in asked):
        own = [row for row in asked if (row.data, row.budget) == (data, budget)]
        known = [row for row in own if row.line in means]
        found += sorted(known, key=lambda row: -means[row.line])[:count]
    return found


def on_others(row: Row) -> list[str]:
    """Return the lines of a row with other students: a wide one, and other architectures."""
    wide, others = "evaluation.students=[{kind: convnet, width: 128}]", [
        "{kind: alexnet, width: 32}", "{kind: vgg11, width: 16}", "{kind: resnet18, width: 16}",
        "{kind: vit, width: 64, mlp_width: 64, depth: 4}",
    ]  # fmt: skip
    return [f'{row.line} "{one}"' for one in (wide, f"evaluation.students=[{', '.join(others)}]")]


def _rows(of: Data, data: str, budget: int) -> Iterator[Row]:
    """Yield images of free numbers first, then levels and latents of the generator."""
    plain = Row(data, budget, "", "")
    for objective, steps in (("DM", of.steps), ("regression", of.long)):
        by = replace(plain, objective=objective)
        matched = _objective(of, objective)
        full_size = _objective(of, objective, one=budget == 1)
        for method, source in _free(budget, steps).items():
            found = full_size if method == "pixels" else matched
            yield replace(by, method=method, changes=(f"source={source}", *found))
        for row in _levels(of, by, steps, budget):
            yield replace(row, changes=(*row.changes, *full_size))
        for method, source in _many(of, budget, steps).items():
            yield replace(by, method=method, changes=(f"source={source}", *matched, _MANY))
    if budget == 1 and of.tells_apart:
        yield from _trajectories(of, plain)
    yield from _coded(of, plain)


def _trajectories(of: Data, plain: Row) -> Iterator[Row]:
    """Yield pixels, GLaD's levels and H-PD by trajectories; colours in whitened space."""
    objective = (
        f"objective={{kind: trajectory, student: {of.student},"
        " expert_training: {count: 10, training: {epochs: 3}}, student_steps: 30,"
        " expert_epochs: 2, max_start_epoch: 2, difficulty: 500}"
    )
    zca = ("data.zca=standardised",) if plain.data == "cifar10" else ()
    by = replace(plain, objective="trajectories")
    pixels = "source={kind: pixel, images_per_class: 1, lr: 0.02, steps: 990}"
    shared = (objective, *zca, "selection.every=110")
    yield replace(by, method="pixels", changes=(pixels, *shared))
    each = f"source.steps={990 // of.levels}"
    for level in range(of.levels):
        changes = (f"source.levels=[{level}]", each, *shared)
        yield replace(by, method="GLaD", level=level, changes=changes)
    yield replace(by, method="H-PD", changes=(each, *shared))


def _objective(of: Data, objective: str, *, one: bool = False) -> tuple[str, ...]:
    """Return what an objective changes; random networks suffice for one image a class."""
    if objective == "DM":
        return ()
    pool = ", pool: null" if one else ""
    return (f"objective={{kind: regression, student: {of.student}, real_batch: 512{pool}}}",)


def _free(budget: int, steps: int) -> dict[str, str]:
    """Return sources whose images are numbers of their own."""
    pixels = f"{{kind: pixel, images_per_class: {budget}, lr: 0.05, steps: {steps}}}"
    return {
        "pixels": pixels,
        "low rank": f"{{kind: low_rank, budget_images: {budget}, steps: {steps}}}",
        "IDC": f"{{kind: multi_formation, factor: 2, of: {pixels}}}",
        "shared bases": f"{{kind: linear_bases, budget_images: {budget}, steps: {steps}}}",
    }


def _levels(of: Data, by: Row, steps: int, budget: int) -> Iterator[Row]:
    """Yield H-PD, with a search and without, and each level of GLaD at its share of the steps."""
    each = steps // of.levels
    start = () if budget == 1 else (f"source.images_per_class={budget}", "source.init=sample")
    searched = by.objective == "DM" or (budget == 1 and of.tells_apart)
    for level in range(of.levels if searched else 0):
        changes = (f"source.levels=[{level}]", f"source.steps={each}", *start)
        yield replace(by, method="GLaD", level=level, changes=changes)
    changes = (f"source.steps={each}", *start)
    yield replace(by, method="H-PD", changes=changes)
    yield replace(by, method="H-PD with search", changes=(*changes, "source.search=levels"))


def _many(of: Data, budget: int, steps: int) -> dict[str, str]:
    """Return sources of many images from few numbers."""
    hmn = f"kind: hmn, budget_images: {budget}, batch_images: 4, steps: {steps}"
    latents = f"kind: latents, generator: {of.generator}, budget_images: {budget}"
    latents += f", batch_images: 10, steps: {steps}"
    return {
        "HMN": f"{{{hmn}, decoder: {{kind: conv, fit_steps: 500}}}}",
        "HMN before the generator": (
            f"{{{hmn}, decoder: {{kind: stylegan, generator: {of.generator}}}}}"
        ),
        "latents z": f"{{{latents}, store: z}}",
        "latents w": f"{{{latents}, store: w}}",
    }


def _coded(of: Data, plain: Row) -> Iterator[Row]:
    """Yield what few bits a number and a teacher's labels buy."""
    budget, bits = plain.budget, 32 * of.floats * 10 * plain.budget
    soft = (
        f"relabel={{teacher: {of.teacher_folder}, bits: 4}}", "evaluation.protocol=soft",
        "evaluation.labels=stored",
    )  # fmt: skip
    learnt = _objective(of, "regression")
    pixels = f"source={{kind: pixel, images_per_class: {4 * budget}, lr: 0.05, steps: {of.long}"
    pixels += ", storage: {bits: 8}}"
    by = replace(plain, objective="regression", bits=8)
    yield replace(by, method="pixels", changes=(pixels, *learnt))
    low_rank = f"source={{kind: low_rank, budget_images: {budget}, steps: {of.long}}}"
    yield replace(by, method="low rank", bits=32, labels="soft", changes=(low_rank, *learnt, *soft))
    seeds = f"kind: latents, generator: {of.generator}, store: seed, budget_bits: {bits}"
    known = CONFIGS.get((plain.data, budget), {})
    if "seeds" not in known:
        changes = (f"source={{{seeds}}}", "selection=last", _MANY)
        yield replace(plain, method="seeds", changes=changes)
    if "seeds, soft labels" not in known:
        changes = (f"source={{{seeds}, label_room: 40}}", "selection=last", *soft, _MANY)
        yield replace(plain, method="seeds", labels="soft", changes=changes)
    for name, config in known.items():
        method, _, kind = name.partition(", ")
        row = replace(plain, method=method, config=config)
        soft_ones = kind == "soft labels"
        yield replace(row, labels="soft") if soft_ones else replace(row, objective=kind)
    for kept in (8, 4):
        latents = f"kind: latents, generator: {of.generator}, budget_bits: {bits}"
        latents += f", batch_images: 10, steps: {of.long}, storage: {{bits: {kept}}}"
        changes = (f"source={{{latents}}}", *learnt, _MANY)
        yield replace(by, method="latents z", bits=kept, changes=changes)


def _without_generator(data: str) -> Iterator[Row]:
    """Yield the rows of large images: free numbers, and latents of a tiny autoencoder."""
    plain, steps = Row(data, 1, "", "DM"), DATA[data].steps
    yield replace(plain, method="pixels")
    adam = "optimizer={kind: adam, rates: relative}"
    for method in ("low rank", "IDC", "shared bases"):
        yield replace(plain, method=method, changes=(f"source={_free(1, steps)[method]}", adam))
    encoded = (
        "{kind: gan, generator: taef2_decoder.pth, init: encode, levels: [0], store: ws,"
        " images_per_class: 6, steps: 60, lr_ws: 0.1}"
    )
    changes = (f"source={encoded}", adam, "evaluation.training.batch_size=20")
    yield replace(plain, method="autoencoder", changes=changes)
