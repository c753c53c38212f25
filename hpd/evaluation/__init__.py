"""Evaluation: fresh students on the distilled set, beside honest baselines."""

from hpd.evaluation.protocol import (
    Contender,
    Evaluation,
    EvaluationSettings,
    Row,
    compare,
    evaluate_sets,
    of_random_real,
    of_set,
)

__all__ = [
    "Contender",
    "Evaluation",
    "EvaluationSettings",
    "Row",
    "compare",
    "evaluate_sets",
    "of_random_real",
    "of_set",
]
