"""Class-incremental learning with a memory of a few images a class, distilled or real."""

from hpd.continual.course import Course
from hpd.continual.memories import MEMORIES, Arrival, MemorySettings
from hpd.continual.settings import ContinualSettings
from hpd.continual.summary import Cell

__all__ = ["MEMORIES", "Arrival", "Cell", "ContinualSettings", "Course", "MemorySettings"]
