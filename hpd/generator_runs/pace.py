"""How fast a training is: means of its losses, and what it will take."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from hpd.checks import check_finite
from hpd.generator_runs.settings import CurveSettings, Limits
from hpd.showing import roughly

MEASURED_STEPS = 6


class Window:
    """Means of the metrics since the last line of the log."""

    def __init__(self) -> None:
        self._restart()

    def _restart(self) -> None:
        self.values: dict[str, list[float]] = {}
        self.steps, self.start = 0, time.monotonic()

    def add(self, metrics: Mapping[str, float]) -> None:
        """Take in the metrics of one step."""
        self.steps += 1
        for name, value in metrics.items():
            self.values.setdefault(name, []).append(value)

    def flush(self, seconds: float, batch: int) -> dict[str, float]:
        """Return the means and the speed, and start afresh.

        Args:
            seconds: of the run so far.
            batch: images per step.

        Raises:
            NumericError: if a loss is not finite.
        """
        means = {name: sum(v) / len(v) for name, v in self.values.items()}
        check_finite(torch.tensor(list(means.values())), "training loss", "Lower the lr.")
        speed = self.steps * batch / max(time.monotonic() - self.start, 1e-9)
        self._restart()
        means = {name: round(mean, 5) for name, mean in means.items()}
        return means | {"seconds": round(seconds, 1), "images_per_second": round(speed, 2)}


@dataclass
class Pace:
    """What the first steps of a part of a training took.

    The first step is left out where it can be, as it also prepares what all of them need. One in
    `interval` also regularises, and counts for as many as that.

    Args:
        interval: steps from one that regularises to the next; 0 if none does.
        save_seconds: of one distance to real images.
    """

    interval: int
    save_seconds: float

    def __post_init__(self) -> None:
        self.steps: list[tuple[float, bool]] = []

    def add(self, seconds: float, *, regularises: bool) -> bool:
        """Take in a step, and return whether it was the last that is measured."""
        self.steps.append((seconds, regularises))
        return len(self.steps) == MEASURED_STEPS

    def rate(self, batch: int, every_images: int) -> float:
        """Return the images seen in a second, saves included."""
        plain = sorted(seconds for seconds, regularises in self.steps[1:] if not regularises)
        plain = plain or [seconds for seconds, _ in self.steps]
        step = plain[len(plain) // 2]
        slow = [seconds for seconds, regularises in self.steps if regularises]
        if self.interval and slow:
            step += max(0.0, slow[-1] - step) / self.interval
        return 1 / (step / batch + self.save_seconds / every_images)


def estimate(rate: float, limits: Limits, curve: CurveSettings, seen: int, seconds: float) -> str:
    """Return in one line what a training will take.

    >>> curve = CurveSettings()
    >>> estimate(100, Limits(60_000), curve, 0, 0)
    'about 100 images/s: 10 min for 60,000 images'
    >>> estimate(100, Limits(None, 1200), curve, 0, 0)
    'about 100 images/s: 20 min for 120,000 images'
    >>> estimate(100, Limits(), curve, 0, 0)[:46]
    'about 100 images/s: until 10 saves of 100 s ea'

    Args:
        rate: images in a second.
        limits: when it ends at the latest.
        curve: how it is watched.
        seen: images seen already.
        seconds: that it took so far.
    """
    speed = f"about {rate:.3g} images/s"
    left = images_left(rate, limits, seen, seconds)
    if left is None:
        save = roughly(curve.every_images / rate)
        return f"{speed}: until {curve.patience} saves of {save} each bring no gain"
    more = " more" if seen else ""
    return f"{speed}: {roughly(left / rate)} for {left:,.0f}{more} images"


def images_left(rate: float, limits: Limits, seen: int, seconds: float) -> float | None:
    """Return how many images there are to see yet by the limits; None without any."""
    found = []
    if limits.images is not None:
        found.append(float(max(limits.images - seen, 0)))
    if limits.seconds is not None:
        found.append(max(limits.seconds - seconds, 0.0) * rate)
    return min(found, default=None)
