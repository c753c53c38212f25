"""Distilled sets that are a few of the real images."""

from __future__ import annotations

from hpd.artifacts import DistilledSet


def as_set(images, indices):
    """Return some real images as a distilled set."""
    return DistilledSet(
        images.unit(indices), images.labels[indices], images.classes, images.normalisation, 192
    )
