"""Selectors: which state of a run is the best, without ever looking at the test set."""

from hpd.engine.selection import loss, ridge, validation
from hpd.engine.selection.base import SELECTORS, LastSettings, SelectorSettings
from hpd.engine.selection.class_relevant import ClassRelevantDistance, ClassRelevantSettings

__all__ = [
    "SELECTORS",
    "ClassRelevantDistance",
    "ClassRelevantSettings",
    "LastSettings",
    "SelectorSettings",
]
_REGISTERED = (loss, ridge, validation)
