"""Evaluation: fresh students on the distilled set, beside honest baselines."""

from hpd.evaluation.contenders import Contender, of_random_real, of_real, of_set
from hpd.evaluation.forecast import EvaluationEstimate
from hpd.evaluation.protocol import compare, evaluate_sets
from hpd.evaluation.rows import Evaluation, Row
from hpd.evaluation.settings import PROTOCOLS, EvaluationSettings

__all__ = [
    "PROTOCOLS",
    "Contender",
    "Evaluation",
    "EvaluationEstimate",
    "EvaluationSettings",
    "Row",
    "compare",
    "evaluate_sets",
    "of_random_real",
    "of_real",
    "of_set",
]
