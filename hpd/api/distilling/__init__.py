"""Distilling: what the settings name, the place of the run, the loop, and the result."""

from hpd.api.distilling.distil import distill
from hpd.api.distilling.planned import check_run, checked_source
from hpd.api.distilling.resuming import GO_ON

__all__ = ["GO_ON", "check_run", "checked_source", "distill"]
