"""Artefacts: the distilled set, the run folder, pictures and exports."""

from hpd.artifacts.distilled import DistilledSet
from hpd.artifacts.exports import EXPORTS, check_free, export
from hpd.artifacts.run_folder import RunFolder

__all__ = ["EXPORTS", "DistilledSet", "RunFolder", "check_free", "export"]
