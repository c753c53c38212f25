"""Starts that are chosen from many: the images that a regression predicts real ones best from.

Source: what is compared is the error of Nguyen, Chen and Lee, ICLR 2021, on features of random
networks (Loo et al., NeurIPS 2022); the descent, image by image, is ours.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from hpd.data import ImageSet
from hpd.progress import told
from hpd.rng import Streams
from hpd.students import Student, in_batches
from hpd.students.networks.convnet import ConvNetSettings
from hpd.students.ridge import centred_targets

_NETWORKS, _REAL_IMAGES, _RIDGE = 5, 2000, 1e-3
_ROUNDS = 2
# of candidates that are compared at once
_CHUNK = 50
# real images of a class that images are held against, at most
_NEIGHBOURS = 50


def best_candidates(
    candidates: Iterable[Tensor], per_class: int, train: ImageSet, device: torch.device,
    streams: Streams,
) -> Tensor:  # fmt: skip
    """Return which candidates to start from: those that tell the classes of real images best.

    From the first ones on, each image in turn is replaced by the candidate of its class with which
    the error of ridge regressions from the set to real training images is least, the other images
    being what they are; twice over.

    Args:
        candidates: images in [0, 1] of each class in turn, [M, C, H, W]; asked for once.
        per_class: how many of each to choose.
        train: the real training images.
        device: where to embed.
        streams: of networks and real images.

    Returns:
        indices of the chosen candidates, none of a class twice, [K, per_class].
    """
    students = [_network(train, device, streams.generator("network", i)) for i in range(_NETWORKS)]
    real, labels = _real(train, streams)
    # class by class, so that the images of one class alone are in memory
    made = [[_embed(own, images, train, device) for own in students] for images in candidates]
    features = [torch.stack(own) for own in zip(*made, strict=True)]
    views = [
        (_embed(student, real, train, device), own)
        for student, own in zip(students, features, strict=True)
    ]
    classes = len(made)
    wanted = centred_targets(labels, train.num_classes)
    chosen = torch.arange(per_class).repeat(classes, 1)
    places = [(c, i) for _ in range(_ROUNDS) for c in range(classes) for i in range(per_class)]
    for c, i in told("choosing where to start", places):
        errors = torch.stack([_errors(*view, chosen, (c, i), wanted) for view in views]).mean(0)
        taken = chosen[c][torch.arange(per_class) != i]
        errors[taken] = torch.inf
        chosen[c, i] = int(errors.argmin())
    return chosen


def distances_to_real(
    images: Iterable[tuple[int, Tensor]], train: ImageSet, device: torch.device, streams: Streams
) -> list[Tensor]:
    """Return how far images are from the nearest of some real images of their class.

    In features of a network of random weights, which are what a student sees of them: in pixels a
    grey image is near to everything.

    Args:
        images: class, and images of it in [0, 1], [M, C, H, W].
        train: the real training images.
        device: where to embed.
        streams: of the network and the real images.

    Returns:
        a distance for each image [M], float64, of each class in turn.
    """
    student = _network(train, device, streams.generator("network"))
    rng, found = streams.generator("real images"), []
    for c, made in images:
        own = train.by_class[c]
        chosen = own[torch.randperm(len(own), generator=rng)[:_NEIGHBOURS].to(own.device)]
        real = _embed(student, train.unit(chosen), train, device)
        found.append(torch.cdist(_embed(student, made, train, device), real).amin(dim=1))
    return found


def _network(train: ImageSet, device: torch.device, rng: torch.Generator) -> Student:
    """Return a frozen network of random weights."""
    student = ConvNetSettings(width=32).build(train.image_shape, train.num_classes, rng)
    return student.to(device).eval().requires_grad_(False)


def _real(train: ImageSet, streams: Streams) -> tuple[Tensor, Tensor]:
    """Return real images in [0, 1], as many of each class, and their labels."""
    rng = streams.generator("real images")
    chosen = train.draw_each(max(1, _REAL_IMAGES // train.num_classes), rng)
    return train.unit(chosen), train.labels[chosen]


def _embed(student: Student, images: Tensor, train: ImageSet, device: torch.device) -> Tensor:
    """Return features of images in [0, 1], float64 on the CPU."""

    def embed(part: Tensor) -> Tensor:
        return student.embed(train.normalisation.apply(part.to(device))).cpu().double()

    return in_batches(embed, images)


def _errors(
    real: Tensor, features: Tensor, chosen: Tensor, place: tuple[int, int], wanted: Tensor
) -> Tensor:
    """Return the error with each candidate [M] of a class in the place of one image.

    Args:
        real: features of real images [R, E].
        features: of all candidates [K, M, E].
        chosen: the set as it is [K, per_class].
        place: class and number of the image that is to be replaced.
        wanted: targets of the real images [R, K].
    """
    (c, i), (classes, per_class) = place, chosen.shape
    rows = torch.arange(classes)[:, None]
    present = features[rows, chosen].flatten(0, 1)
    at, n = c * per_class + i, classes * per_class
    targets = centred_targets(torch.arange(classes).repeat_interleave(per_class), wanted.shape[1])
    kernel, similar = present @ present.t(), real @ present.t()
    errors = []
    for part in features[c].split(_CHUNK):
        kernels = kernel.repeat(len(part), 1, 1)
        with_others = part @ present.t()
        kernels[:, at, :] = with_others
        kernels[:, :, at] = with_others
        kernels[:, at, at] = part.square().sum(dim=1)
        scales = kernels.diagonal(dim1=1, dim2=2).mean(dim=1).clamp(min=torch.finfo().tiny)
        penalised = kernels + _RIDGE * scales[:, None, None] * torch.eye(n, dtype=kernel.dtype)
        weights = torch.linalg.solve(penalised, targets.expand(len(part), -1, -1))
        others = similar.clone()
        others[:, at] = 0
        made = others @ weights + (real @ part.t()).t()[:, :, None] * weights[:, at, None, :]
        errors.append((made - wanted).square().sum(dim=2).mean(dim=1))
    return torch.cat(errors)


def spread_of(psi: tuple[float, float], count: int) -> Tensor:
    """Return how far each of `count` candidates is from the mean of its class [count].

    The first is the mean itself; the others go evenly from the first number to the second.

    >>> spread_of((0.5, 1.0), 4)
    tensor([0.0000, 0.5000, 0.7500, 1.0000])
    """
    return torch.cat([torch.zeros(1), torch.linspace(*psi, count - 1)])
