"""What the manifest of a run says about its images."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from hpd.api.runs import Run
from hpd.artifacts import DistilledSet
from hpd.data import ImageSet
from hpd.data.whitening import recipe_of
from hpd.engine import StageReport
from hpd.typing import Objective, Source, StoresBits, generator_floats_of

# images that are looked at together
_AT_ONCE = 256


@dataclass(frozen=True)
class Origins:
    """What images come from, as their source says it before the first step, with all of them.

    Args:
        stored_floats: of the source.
        generator_floats: of the generator that is needed again; 0 without one.
        provenance: of the source.
    """

    stored_floats: int
    generator_floats: int
    provenance: Mapping[str, object]

    @classmethod
    def of(cls, source: Source) -> Origins:
        """Return what a source says."""
        return cls(source.stored_floats, generator_floats_of(source), source.provenance)

    def as_set(
        self, images: Tensor, labels: Tensor, train: ImageSet, coded: StoresBits | None,
        soft: Tensor | None = None,
    ) -> DistilledSet:  # fmt: skip
        """Return images of the source as a set.

        Args:
            images: [N, C, H, W], in [0, 1] (nominally).
            labels: [N].
            train: the real images.
            coded: the source, whole, where its numbers take other bits than 32.
            soft: labels [N, K] that were learnt.
        """
        return DistilledSet(
            images.float(),
            labels,
            train.classes,
            train.normalisation,
            self.stored_floats,
            soft_labels=soft,
            generator_floats=self.generator_floats,
            optimised=True,
            stored_bits=None if coded is None else coded.stored_bits,
            label_bits=None if coded is None or soft is None else coded.label_bits,
        )


def manifest_of(
    run: Run, provenance: Mapping[str, object], objective: Objective, best: StageReport
) -> dict[str, Any]:
    """Return what is known of a run that is done: shapes, ranges, seed, best stage, origins.

    Args:
        run: that is done.
        provenance: of its source.
        objective: of the run.
        best: the stage that its images are from.
    """
    images, recipe = run.distilled.images, recipe_of(run.distilled.normalisation)
    return {
        "classes": run.distilled.classes,
        "images": len(images),
        "image_shape": list(images.shape[1:]),
        "image_range": range_of(images),
        "normalisation": {
            "mean": run.distilled.normalisation.mean,
            "std": run.distilled.normalisation.std,
            **({"zca": recipe} if recipe is not None else {}),
        },
        "storage": run.distilled.storage.as_json(),
        "seed": run.config.seed,
        "float32": run.config.float32,
        "best_stage": {"name": best.stage.name, "step": best.best_step, "score": best.score},
        **provenance,
        **objective.provenance,
        "versions": {
            "hpd": version("hpd"),
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
    }


def range_of(images: Tensor) -> dict[str, Any]:
    """Return how far images, nominally in [0, 1], leave that range."""
    return {
        "nominal": [0, 1],
        "min": float(images.min()),
        "max": float(images.max()),
        "share_outside": sum(
            int(((part < 0) | (part > 1)).sum()) for part in images.split(_AT_ONCE)
        )
        / images.numel(),
    }
