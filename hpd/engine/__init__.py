"""The progressive loop: stages, fresh optimisers, keep-best selection."""

from hpd.engine.loop import Outcome, optimise
from hpd.engine.optimizer import OptimizerSettings
from hpd.engine.selection import SELECTORS, SelectorSettings
from hpd.engine.watching.observer import Observer, StageReport, StepReport

__all__ = [
    "SELECTORS",
    "Observer",
    "OptimizerSettings",
    "Outcome",
    "SelectorSettings",
    "StageReport",
    "StepReport",
    "optimise",
]
