"""What the manifest of a run says about its images."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from hpd.api.runs import Run
from hpd.data.whitening import recipe_of
from hpd.engine import StageReport
from hpd.typing import Objective, Source


def manifest_of(
    run: Run, source: Source, objective: Objective, best: StageReport
) -> dict[str, Any]:
    """Return what is known of a run that is done: shapes, ranges, seed, best stage, origins."""
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
        **source.provenance,
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
        "share_outside": float(((images < 0) | (images > 1)).double().mean()),
    }
