"""hpd: dataset distillation with pretrained GANs.

Names load on first use, so that importing the package is instant and has no side effect.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from generators import GENERATORS
    from hpd.api import (
        Run,
        audit,
        check,
        compare,
        continual,
        decode,
        distill,
        evaluate,
        export,
        inspect_dataset,
        load_dataset,
        load_distilled,
        load_generator,
        load_run,
        multi_index,
        pack,
        project,
        prune,
        pull,
        push,
        relabel,
        report,
        sample,
        score_generator,
        squeeze,
        telling,
        train_experts,
        train_generator,
        verify,
    )
    from hpd.artifacts import DistilledSet
    from hpd.config import RunSettings, load_config
    from hpd.data import DATASETS
    from hpd.engine import SELECTORS
    from hpd.errors import HpdError
    from hpd.objectives import OBJECTIVES
    from hpd.sources import SOURCES
    from hpd.students import STUDENTS

_HOMES = {
    "DATASETS": "hpd.data",
    "GENERATORS": "generators",
    "OBJECTIVES": "hpd.objectives",
    "SELECTORS": "hpd.engine",
    "SOURCES": "hpd.sources",
    "STUDENTS": "hpd.students",
    "DistilledSet": "hpd.artifacts",
    "HpdError": "hpd.errors",
    "Run": "hpd.api",
    "RunSettings": "hpd.config",
    "audit": "hpd.api",
    "check": "hpd.api",
    "compare": "hpd.api",
    "continual": "hpd.api",
    "decode": "hpd.api",
    "distill": "hpd.api",
    "evaluate": "hpd.api",
    "export": "hpd.api",
    "inspect_dataset": "hpd.api",
    "load_config": "hpd.config",
    "load_dataset": "hpd.api",
    "load_distilled": "hpd.api",
    "load_generator": "hpd.api",
    "load_run": "hpd.api",
    "multi_index": "hpd.api",
    "pack": "hpd.api",
    "project": "hpd.api",
    "prune": "hpd.api",
    "pull": "hpd.api",
    "push": "hpd.api",
    "relabel": "hpd.api",
    "report": "hpd.api",
    "sample": "hpd.api",
    "score_generator": "hpd.api",
    "squeeze": "hpd.api",
    "telling": "hpd.api",
    "train_experts": "hpd.api",
    "train_generator": "hpd.api",
    "verify": "hpd.api",
}

__all__ = [
    "DATASETS",
    "GENERATORS",
    "OBJECTIVES",
    "SELECTORS",
    "SOURCES",
    "STUDENTS",
    "DistilledSet",
    "HpdError",
    "Run",
    "RunSettings",
    "audit",
    "check",
    "compare",
    "continual",
    "decode",
    "distill",
    "evaluate",
    "export",
    "inspect_dataset",
    "load_config",
    "load_dataset",
    "load_distilled",
    "load_generator",
    "load_run",
    "multi_index",
    "pack",
    "project",
    "prune",
    "pull",
    "push",
    "relabel",
    "report",
    "sample",
    "score_generator",
    "squeeze",
    "telling",
    "train_experts",
    "train_generator",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hpd' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
