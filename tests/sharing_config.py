"""A run in few bits that takes a second, for tests of sharing it."""

from __future__ import annotations

from conftest import SMALL_STUDENT, THREE_DIGITS
from small_runs import SMALL_EVALUATION

CONFIG = {
    "data": THREE_DIGITS,
    "device": "cpu",
    "source": {"kind": "pixel", "steps": 2, "storage": {"bits": 8}},
    "objective": {"kind": "distribution", "real_batch": 4, "student": SMALL_STUDENT},
    "selection": {"kind": "last"},
    "evaluation": SMALL_EVALUATION,
}
