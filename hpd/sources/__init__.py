"""Sources: what is optimised, and how images come out of it."""

from hpd.sources import gan, pixel
from hpd.sources.base import SOURCES, SourceSettings

__all__ = ["SOURCES", "SourceSettings"]
_REGISTERED = (gan, pixel)
