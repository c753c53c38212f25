"""Checks of components: what is asked of each kind, measured on a small task."""

from hpd.checking.examiner import CheckReport, Examiner, Finding
from hpd.checking.generators import check_generator
from hpd.checking.objectives import check_objective
from hpd.checking.selectors import check_selector
from hpd.checking.sources import check_source
from hpd.checking.students import check_student

__all__ = [
    "CheckReport",
    "Examiner",
    "Finding",
    "check_generator",
    "check_objective",
    "check_selector",
    "check_source",
    "check_student",
]
