"""Options of an audit."""

from __future__ import annotations

from pydantic import Field

from hpd.audits.scoring import FindSettings
from hpd.evaluation import EvaluationSettings
from hpd.registry import Settings


class AuditSettings(Settings):
    """How a set of others is understood, and how it is judged."""

    find: FindSettings = Field(FindSettings(), description="how what is not said is found out")
    evaluation: EvaluationSettings = Field(
        EvaluationSettings(full_training=None), description="how it is judged, as runs are"
    )
