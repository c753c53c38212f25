"""Sources: what is optimised, and how images come out of it."""

from hpd.sources import gan, hmn, latents, linear_bases, low_rank, multi_formation, pixel
from hpd.sources.base import SOURCES, SourceSettings, TakesGenerator

__all__ = ["SOURCES", "SourceSettings", "TakesGenerator"]
_REGISTERED = (gan, hmn, latents, linear_bases, low_rank, multi_formation, pixel)
