"""Artefacts: the distilled set, the run folder, pictures and exports."""

from hpd.artifacts.distilled import DistilledSet
from hpd.artifacts.exports import EXPORTS, ExportSettings
from hpd.artifacts.packed.provenance import Provenance
from hpd.artifacts.places import check_free
from hpd.artifacts.run_folder import RunFolder

__all__ = [
    "EXPORTS",
    "DistilledSet",
    "ExportSettings",
    "Provenance",
    "RunFolder",
    "check_free",
]
