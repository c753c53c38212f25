"""What an opponent gets out of a trained student: wrong answers, and who was trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hpd.checks import check_shape
from hpd.errors import ShapeError


@contextmanager
def evaluating(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Put modules into eval mode for a block, and each layer back as it was after it."""
    before = {layer: layer.training for module in modules for layer in module.modules()}
    try:
        for module in modules:
            module.eval()
        yield
    finally:
        for layer, training in before.items():
            layer.training = training


def pgd(
    classify: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    steps: int,
    step_size: float,
    rng: torch.Generator,
) -> Tensor:
    """Return images near the given ones that are made to be misclassified.

    ``x <- clip(x + step_size * sign(dL(x, y)/dx))`` with the cross entropy L, clipped to
    ``|x - images| <= epsilon`` and to [0, 1], from a start that is uniform in the former. The
    gradient is taken to the images alone: parameters get none, whether they require it or not.

    Args:
        classify: images [N, C, H, W] in [0, 1] to logits [N, K]; what normalises is part of it.
        images: [N, C, H, W] in [0, 1].
        labels: [N], int64.
        epsilon: most that a value changes.
        steps: of ascent.
        step_size: that a value changes in a step.
        rng: a CPU generator, of the start.

    Returns:
        [N, C, H, W] in [0, 1].

    Source: Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018.
    """
    low, high = (images - epsilon).clamp(min=0), (images + epsilon).clamp(max=1)
    start = torch.rand(images.shape, generator=rng, dtype=images.dtype).to(images.device)
    x = (images + epsilon * (2 * start - 1)).clamp(low, high)
    for _ in range(steps):
        x = (x + step_size * _slope(classify, x, labels).sign()).clamp(low, high)
    return x


def _slope(classify: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = images.detach().requires_grad_()
        # a sum, so that the gradient of an image hangs on it alone
        loss = F.cross_entropy(classify(leaf), labels, reduction="sum")
        (slope,) = torch.autograd.grad(loss, leaf)
    return slope


def membership_advantage(members: Tensor, others: Tensor) -> float:
    """Return how well a threshold on the loss tells what was trained on, in points.

    ``100 (TPR - FPR)`` of the guess "a member, if the loss is below t": -100 to 100, 0 for blind
    guesses. The threshold that is best for one half of the losses is measured on the other half,
    and the other way round; the mean of both is not biased upwards, as the best of all would be.

    Args:
        members: losses [N] of what was trained on, in random order.
        others: losses [N] of as many images that were not.

    Raises:
        ShapeError: if there are not as many of both, or fewer than two.

    Source: Yeom et al., Privacy Risk in Machine Learning: Analyzing the Connection to Overfitting,
    CSF 2018, whose threshold is the mean loss of training.

    >>> membership_advantage(torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([2.0, 3.0, 4.0, 5.0]))
    100.0
    """
    check_shape(others, "N", "losses of others", N=check_shape(members, "N", "losses").numel())
    if len(members) < 2:
        raise ShapeError("losses to tell apart", got=len(members), expected="two or more of each")
    # a student that came to nothing has losses that are no numbers: higher than any
    members, others = (x.double().nan_to_num(torch.finfo(x.dtype).max) for x in (members, others))
    halves = [(members[start::2], others[start::2]) for start in (0, 1)]
    found = [
        _advantage(*measured, best_threshold(*chosen))
        for chosen, measured in (halves, halves[::-1])
    ]
    return 100 * sum(found) / 2


def best_threshold(members: Tensor, others: Tensor) -> float:
    """Return the threshold of the largest TPR - FPR: half-way between two losses, or a bound.

    Args:
        members: losses [N].
        others: losses [M].
    """
    losses = torch.cat([members, others]).unique()
    # above all losses everything is a member, below them nothing is
    between = torch.cat([losses[:1] - 1, (losses[:-1] + losses[1:]) / 2, losses[-1:] + 1])
    shares = [
        torch.searchsorted(own.sort().values, between, right=False) / len(own)
        for own in (members, others)
    ]
    return float(between[(shares[0] - shares[1]).argmax()])


def _advantage(members: Tensor, others: Tensor, threshold: float) -> float:
    rates = [float((own < threshold).double().mean()) for own in (members, others)]
    return rates[0] - rates[1]
