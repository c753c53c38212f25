"""What is asked of a selector."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from hpd.checking.examiner import Examiner
from hpd.data import ImageSet
from hpd.disk.seals import digest_tensor
from hpd.errors import CheckError
from hpd.rng import isolated
from hpd.typing import Selector

BuildSelector = Callable[[], Selector]


def check_selector(say: Examiner, build: BuildSelector, train: ImageSet) -> None:
    """Check a selector.

    Args:
        say: takes what is found.
        build: makes the selector afresh, from the same streams each time.
        train: the real images.

    Raises:
        HpdError: naming the first thing that is wrong.
    """
    rng, before = torch.Generator().manual_seed(0), digest_tensor(train.rows)
    chosen = torch.cat([own[:3] for own in train.by_class])
    real, labels = train.unit(chosen), train.labels[chosen]
    noise = torch.rand(real.shape, generator=rng)
    first = _built(say, build, 1)
    score = _scored(say, first, noise, labels)
    if score is None:
        say.holds("gives None each time, and keeps the last", True)
        return
    again = _scored(say, first, noise, labels)
    say.holds(
        "the same set has the same score twice", again == score, got=f"{score} and {again}",
        fix="Draw once, when it is built; the same draws for every score.",
    )  # fmt: skip
    other = _scored(say, _built(say, build, 2), noise, labels)
    say.holds(
        "the same streams give the same score", other == score, got=f"{score} and {other}",
        fix="Draw from the streams that it is built with: streams.generator('what for').",
    )  # fmt: skip
    best = _scored(say, first, real, labels)
    say.holds(
        "lower is better: real images score lower than noise", best is not None and best < score,
        got=f"{best:.4g} for real images, {score:.4g} for noise" if best is not None else None,
        fix="Return the negative where more is better.",
    )  # fmt: skip
    after = _scored(say, first, noise, labels)
    say.holds(
        "a score does not depend on the sets before it", after == score,
        got=f"{score} before another set, {after} after it",
        fix="Keep no means and no best of what was scored.",
    )  # fmt: skip
    say.holds(
        "real images are left as they are", digest_tensor(train.rows) == before,
        fix="Work on a copy: train.unit(indices) gives one.",
    )  # fmt: skip
    margin = float(getattr(score, "margin", 0.0))
    say.holds("its margin is 0 or more", margin >= 0 and math.isfinite(margin), got=margin)


def _built(say: Examiner, build: BuildSelector, seed: int) -> Selector:
    with isolated(seed, torch.device("cpu")), say.asking("building"):
        return build()


def _scored(
    say: Examiner, selector: Selector, images: torch.Tensor, labels: torch.Tensor
) -> float | None:
    """Return the score of images, which are checked to be left alone."""
    given, names = images.clone(), labels.clone()
    with say.asking("a score"):
        score = selector(given, names)
    same = torch.equal(given, images) and torch.equal(names, labels)
    say.holds(
        "images and labels are left as they are", same and not given.requires_grad,
        fix="Work on a copy: images.clone().",
    )  # fmt: skip
    if score is None:
        return None
    number = isinstance(score, int | float) and not isinstance(score, bool)
    if not number or not math.isfinite(score):
        raise CheckError(
            f"{say.subject} is not as asked: a score is a finite number, or None",
            got=score if number else type(score).__name__, fix="Return float(...).",
        )  # fmt: skip
    return score
