"""Generators: pretrained networks cut into an ordered list of levels."""

from generators.base import FAMILIES, FamilySettings, Generator, GeneratorSpec, Level, LevelState
from generators.own import GENERATORS
from generators.prior import Prior
from generators.store import StoredGenerator, bundled_generators, read_generator, save_generator

__all__ = [
    "FAMILIES",
    "GENERATORS",
    "FamilySettings",
    "Generator",
    "GeneratorSpec",
    "Level",
    "LevelState",
    "Prior",
    "StoredGenerator",
    "bundled_generators",
    "read_generator",
    "save_generator",
]
