"""Evaluation: fresh students on the distilled set, beside honest baselines."""

from hpd.evaluation.protocol import Evaluation, EvaluationSettings, Row, evaluate_sets

__all__ = ["Evaluation", "EvaluationSettings", "Row", "evaluate_sets"]
