"""Class-incremental learning with a buffer of a few images a class, distilled or real."""

from hpd.courses.buffers import BUFFERS, Arrival, BufferSettings
from hpd.courses.course import Course
from hpd.courses.settings import ContinualSettings
from hpd.courses.summary import Cell

__all__ = ["BUFFERS", "Arrival", "BufferSettings", "Cell", "ContinualSettings", "Course"]
