"""Class-incremental learning with a memory of a few images a class, distilled or real."""

from hpd.courses.course import Course
from hpd.courses.memories import MEMORIES, Arrival, MemorySettings
from hpd.courses.settings import ContinualSettings
from hpd.courses.summary import Cell

__all__ = ["MEMORIES", "Arrival", "Cell", "ContinualSettings", "Course", "MemorySettings"]
