"""Projection: the latents whose images come closest to given real images.

Source: Karras et al., CVPR 2020, section 5, and Abdal et al., Image2StyleGAN, ICCV 2019, for
optimising one w per layer (W+).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal
from urllib.error import URLError

import torch
import torch.nn.functional as F
from torch import Tensor

from generators.base import Generator
from hpd.arrays import as_count, as_images, as_labels
from hpd.checks import check_finite
from hpd.errors import GeneratorError, ShapeError
from hpd.progress import tell

Distance = Callable[[Tensor, Tensor], Tensor]
"""Takes two batches of images in [0, 1], [N, C, H, W], and gives [N]."""

_SMALLEST = 64
_WEIGHTS = "alexnet-owt-7be5be79.pth"
_logger = logging.getLogger(__name__)


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean squared difference of each pair of images: [N]."""
    return (a - b).square().mean(dim=(1, 2, 3))


def distance_named(name: Literal["squared", "lpips"], device: torch.device) -> Distance:
    """Return a distance by its name.

    Raises:
        GeneratorError: if LPIPS lacks the weights of its backbone.
    """
    return squared_distance if name == "squared" else perceptual_distance(device)


def perceptual_distance(device: torch.device) -> Distance:
    """Return LPIPS with its AlexNet backbone.

    Grey images count as colour; images under 64 px are enlarged, for the backbone needs as much.

    Raises:
        GeneratorError: if the backbone's weights are not at hand and cannot be fetched.

    Source: Zhang et al., The Unreasonable Effectiveness of Deep Features, CVPR 2018.
    """
    network = _load_lpips().to(device).requires_grad_(False)

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return network(_prepare(a), _prepare(b), normalize=True).flatten()

    return distance


def perceptual_weights() -> Path:
    """Return the file in which LPIPS looks for the weights of its backbone."""
    return Path(torch.hub.get_dir()) / "checkpoints" / _WEIGHTS


def _load_lpips() -> torch.nn.Module:
    import lpips

    weights = perceptual_weights()
    if not weights.is_file():
        _logger.warning("LPIPS needs AlexNet's weights: fetching 233 MB to %s", weights.parent)
    # its constructor draws weights from the global generator before it loads the real ones,
    # and goes through a deprecated argument of torchvision
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            network: torch.nn.Module = lpips.LPIPS(net="alex", verbose=False)
        except (URLError, OSError, RuntimeError) as error:
            raise GeneratorError(
                "LPIPS needs AlexNet's weights, which are not at hand",
                got=f"{type(error).__name__}: {error}",
                fix=f"Put torchvision's {_WEIGHTS} into {weights.parent}, or use 'squared'.",
            ) from None
    return network.eval()


def _prepare(images: Tensor) -> Tensor:
    if images.shape[1] == 1:
        images = images.expand(-1, 3, -1, -1)
    scale = -(-_SMALLEST // images.shape[-1])
    return images if scale == 1 else F.interpolate(images, scale_factor=scale, mode="bilinear")


def project(
    generator: Generator,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    distance: Distance,
    rng: torch.Generator,
    steps: int = 200,
    lr: float = 0.05,
    average_draws: int = 1000,
    chunk_images: int = 16,
    any_range: bool = False,
) -> Tensor:
    """Find ws whose images are close to given ones.

    Each image starts at the average w of its class and is optimised by itself with Adam, whose
    rate is `lr` times the RMS of that start, of an autoencoder `lr`, and falls along a cosine; the
    best state is kept.

    Args:
        generator: frozen.
        images: [N, C, H, W] in [0, 1], or uint8; see `hpd.arrays`.
        labels: the generator's class of each image [N]; None for an unconditional generator.
        distance: what close means.
        rng: for the draws behind the average w.
        steps: optimiser steps.
        lr: share of the RMS of the start by which a step moves.
        average_draws: draws in the average w of a class.
        chunk_images: images optimised at a time.
        any_range: whether the images may lie anywhere, as those of a generator may.

    Returns:
        ws [N, num_ws, D].

    Raises:
        ShapeError: if images or labels are not those of the generator, or the distance is not one
            number an image.
        NumericError: if an image, or every distance of one, is not finite.
    """
    spec, weight = generator.spec, next(generator.parameters())
    shape, steps = (spec.channels, spec.resolution, spec.resolution), as_count(steps, "steps")
    images = as_images(
        images, shape=shape, dtype=weight.dtype, device=weight.device, any_range=any_range
    )
    chosen: list[int | None] = [None] * len(images)
    if labels is not None:
        # a generator without classes says so itself
        most = spec.num_classes or None
        chosen = [*as_labels(labels, count=len(images), num_classes=most).tolist()]
    starts = {
        label: generator.class_average(label, average_draws, rng)
        for label in sorted(set(chosen), key=lambda label: -1 if label is None else label)
    }
    ws = torch.stack([starts[label] for label in chosen])
    chunks = ws.split(chunk_images)
    pairs = zip(chunks, images.split(chunk_images), strict=True)
    total = len(chunks) * (steps + 1)
    return torch.cat([
        _descend(generator, *pair, distance, steps, lr, told_of=(number * (steps + 1), total))
        for number, pair in enumerate(pairs)
    ])  # fmt: skip


def _descend(
    generator: Generator, start: Tensor, target: Tensor, distance: Distance, steps: int, lr: float,
    *, told_of: tuple[int, int],
) -> Tensor:  # fmt: skip
    """Optimise one chunk and return the best ws of each image.

    `told_of` are the steps of earlier chunks, and of all.
    """
    before, total = told_of
    # Adam moves the offset by its rate, so each image by its own share of its own start
    scale = generator.scale_of(start)
    offset = torch.zeros_like(start, requires_grad=True)
    optimizer = torch.optim.Adam([offset], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps + 1)
    best, lowest = start.clone(), torch.full((len(start),), torch.inf, device=start.device)
    for step in range(steps + 1):
        ws = start + scale * offset
        gaps = _checked_gaps(distance((generator(ws) + 1) / 2, target), target)
        with torch.no_grad():
            better = gaps < lowest
            best[better], lowest = ws[better], torch.minimum(gaps, lowest)
        tell("projecting images", before + step + 1, total)
        if step == steps:
            break
        optimizer.zero_grad()
        # images do not see each other, so the sum optimises each by itself
        gaps.sum().backward()
        optimizer.step()
        schedule.step()
    check_finite(lowest, "the distance between images", "Look at the generator and the distance.")
    return best


def _checked_gaps(gaps: Tensor, images: Tensor) -> Tensor:
    """Check what a distance, maybe one of the user's own, has given."""
    if not isinstance(gaps, Tensor) or gaps.shape != images.shape[:1] or not gaps.requires_grad:
        shape = list(gaps.shape) if isinstance(gaps, Tensor) else ""
        graph = " without a graph" if isinstance(gaps, Tensor) and not gaps.requires_grad else ""
        raise ShapeError(
            "the distance does not give one number an image",
            got=f"{type(gaps).__name__} {shape}{graph}",
            expected=f"a tensor [{len(images)}] that depends on the first of the two batches",
        )
    return gaps
