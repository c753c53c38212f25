"""Theory: experiments on tasks whose answer is known."""

from hpd.theory.multi_index import measure
from hpd.theory.results import RECONSTRUCTION, Check, Measured, MultiIndexResult
from hpd.theory.settings import MultiIndexSettings

__all__ = [
    "RECONSTRUCTION", "Check", "Measured", "MultiIndexResult", "MultiIndexSettings", "measure",
]  # fmt: skip
