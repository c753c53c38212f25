"""One multi-index task, and what is measured on it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import torch
from torch import Tensor

from hpd.rng import Streams
from hpd.theory.distillation import Points, distil_labels, distil_points, without_linear_part
from hpd.theory.network import Moments, Start, features, learned_rows, ridge_map, signal
from hpd.theory.results import (
    DISTILLED,
    NETWORK,
    OTHER_START,
    REAL,
    REAL_POINTS,
    SAME_START,
    TEACHER,
    UNLEARNED,
    Measured,
)  # fmt: skip
from hpd.theory.settings import MultiIndexSettings
from hpd.theory.task import MultiIndexTask, alignment

_RIDGES = (1e-5, 1e-3, 1e-1, 1e1)


class Trial:
    """One task with its examples and two starts.

    Args:
        settings: sizes.
        rank: r.
        seed: as `Measured` shall name it.
        streams: randomness of the task, and of all on it.
    """

    def __init__(
        self, settings: MultiIndexSettings, rank: int, seed: int, streams: Streams
    ) -> None:
        self._settings, self._streams, self._rank, self._seed = settings, streams, rank, seed
        s, d = settings, settings.dimension
        self._task = MultiIndexTask.draw(rank, d, streams.generator("task"))
        self._inputs, self._labels = self._task.examples(s.examples, streams.generator("examples"))
        self._test = self._task.examples(s.test_examples, streams.generator("test"))
        self._start = Start.draw(s.width, d, streams.generator("start"))
        self._other = Start.draw(s.width, d, streams.generator("start", "other"))

    def measure_alignment(self) -> Iterable[Measured]:
        """Yield the alignment of points by the number of examples."""
        counts, m = self._settings.example_counts, self._settings.points
        inputs, labels = self._task.examples(max(counts), self._streams.generator("many examples"))
        for n in counts:
            centred = without_linear_part(inputs[:n], labels[:n])
            points = self._distil(signal(self._start, inputs[:n], centred), m)
            yield self._row(
                "alignment", DISTILLED, n, alignment(points.inputs, self._task.subspace)
            )

    def measure_points(self) -> Iterable[Measured]:
        """Yield the error of students by the number of points, and what stands beside them."""
        start, m = self._other, self._settings.points
        for count in self._settings.point_counts:
            points = self._distil(self._signals, count)
            rows = _taught(start, points)
            yield self._row("points", DISTILLED, count, self._error(rows, start))
        teacher = learned_rows(start, signal(start, self._inputs, self._centred))
        yield self._row("points", TEACHER, m, self._error(teacher, start))
        # rows of norm 1, as those that are learned
        unlearned = learned_rows(start, start.signs[:, None] * start.weights)
        yield self._row("points", UNLEARNED, m, self._error(unlearned, start))
        real = _taught(start, Points(self._inputs[:m], self._centred[:m]))
        yield self._row("points", REAL_POINTS, m, self._error(real, start))

    def measure_floats(self) -> Iterable[Measured]:
        """Yield the error of networks that are given nothing but what is stored."""
        settings, start = self._settings, self._start
        d, width, ridge = settings.dimension, settings.width, settings.ridge
        rng = self._streams.generator("probes")
        probes = torch.randn(width, d, generator=rng, dtype=torch.float64)
        for count in settings.point_counts:
            points = self._distil(self._signals, count)
            rows = _taught(start, points)
            known = self._moments(rows, start)
            labels = distil_labels(known, features(rows, start.biases, probes), ridge)
            for series, own in ((SAME_START, start), (OTHER_START, self._other)):
                rows = _taught(own, points)
                top = ridge_map(features(rows, own.biases, probes), ridge) @ labels
                value = self._test_error(rows, own, top)
                yield self._row("floats", series, count * (d + 1) + width, value)
            if count == settings.points:
                value = self._test_error(_taught(start, points), start, known.fit(ridge))
                yield self._row("floats", NETWORK, width * (d + 2), value)
        for count in settings.real_counts:
            yield self._row("floats", REAL, count * (d + 1), self._of_real(count))

    def _of_real(self, count: int) -> float:
        """Return the error of a network that learns both layers from a few real examples.

        At the ridge that is best on the test examples: it shall not lose for want of tuning.
        """
        start, inputs, labels = self._start, self._inputs[:count], self._labels[:count]
        rows = _taught(start, Points(inputs, without_linear_part(inputs, labels)))
        known = Moments.of(features(rows, start.biases, inputs), labels)
        return min(self._test_error(rows, start, known.fit(ridge)) for ridge in _RIDGES)

    @cached_property
    def _centred(self) -> Tensor:
        return without_linear_part(self._inputs, self._labels)

    @cached_property
    def _signals(self) -> Tensor:
        return signal(self._start, self._inputs, self._centred)

    def _distil(self, signals: Tensor, count: int) -> Points:
        rng = self._streams.generator("points", count)
        return distil_points(self._start, signals, count, rng)

    def _moments(self, rows: Tensor, start: Start) -> Moments:
        n = self._settings.fit_examples
        return Moments.of(features(rows, start.biases, self._inputs[:n]), self._labels[:n])

    def _error(self, rows: Tensor, start: Start) -> float:
        """Return the error with a second layer that is fitted to real examples."""
        return self._test_error(rows, start, self._moments(rows, start).fit(self._settings.ridge))

    def _test_error(self, rows: Tensor, start: Start, top: Tensor) -> float:
        """Return the mean squared error on fresh examples as a share of the variance."""
        inputs, labels = self._test
        gaps = features(rows, start.biases, inputs) @ top - labels
        return float(gaps.square().mean() / self._task.variance)

    def _row(self, part: str, series: str, x: int, value: float) -> Measured:
        return Measured(part, series, self._rank, x, self._seed, value)


def _taught(start: Start, points: Points) -> Tensor:
    """Return the first layer that a network learns from points in one step."""
    return learned_rows(start, signal(start, points.inputs, points.labels))
