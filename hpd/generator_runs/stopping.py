"""The curve of a training: which state is the best, and when there will be no better one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """What a state of the generator came to.

    Args:
        images: seen by then.
        distance: of its samples to real images; smaller is better.
    """

    images: int
    distance: float


def best_of(points: Sequence[Point]) -> Point:
    """Return the point of the least distance, of several the first.

    >>> best_of([Point(10, 3.0), Point(20, 1.0), Point(30, 1.0)])
    Point(images=20, distance=1.0)
    """
    return min(points, key=lambda point: point.distance)


def saves_without_gain(points: Sequence[Point], least_gain: float) -> int:
    """Return how many of the last points brought no gain.

    A point is a gain if its distance is below that of the last gain by a share of `least_gain`;
    the first point is one. Small steps add up: they are measured from the last gain, not from the
    point before.

    >>> saves_without_gain([Point(i, d) for i, d in enumerate([4, 2, 1.99, 3, 1.9])], 0.01)
    0
    >>> saves_without_gain([Point(i, d) for i, d in enumerate([4, 2, 1.99, 3])], 0.01)
    2
    """
    since, mark = 0, float("inf")
    for point in points:
        if point.distance < mark * (1 - least_gain):
            since, mark = 0, point.distance
        else:
            since += 1
    return since


def is_enough(
    points: Sequence[Point], *, patience: int, least_gain: float, after_images: int = 0
) -> bool:
    """Return whether the last `patience` points brought no gain; never with a patience of 0.

    Args:
        points: in their order.
        patience: how many may bring none.
        least_gain: see `saves_without_gain`.
        after_images: points up to here, while the generator stands, do not count as such.
    """
    moved = sum(point.images > after_images for point in points)
    return 0 < patience <= min(moved, saves_without_gain(points, least_gain))
