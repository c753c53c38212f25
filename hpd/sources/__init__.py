"""Sources: what is optimised, and how images come out of it."""

from hpd.sources import linear_bases, low_rank, multi_formation, pixel
from hpd.sources.base import SOURCES, SourceSettings, TakesGenerator
from hpd.sources.gan.settings import GanSettings
from hpd.sources.hmn.settings import HmnSettings
from hpd.sources.latents.settings import LatentsSettings

__all__ = ["SOURCES", "SourceSettings", "TakesGenerator"]
_REGISTERED = (
    GanSettings, HmnSettings, LatentsSettings, linear_bases, low_rank, multi_formation, pixel
)  # fmt: skip
