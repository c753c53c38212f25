"""Labels that a teacher gives to the images of a run when it is done."""

from __future__ import annotations

from pydantic import Field

from hpd.codecs import Bits
from hpd.registry import Settings


class RelabelSettings(Settings):
    """Whose probabilities are stored beside the labels, as `hpd relabel` does."""

    teacher: str = Field(description="folder of `hpd squeeze`")
    bits: Bits = Field(32, description="of each probability; below 16: codes of its logarithm")
