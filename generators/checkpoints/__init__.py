"""Read the checkpoints of StyleGAN's families without running the code inside them."""

from generators.checkpoints.convert import convert_checkpoint
from generators.checkpoints.converted import Converted
from generators.checkpoints.families.rosinality import convert_rosinality
from generators.checkpoints.families.stylegan2 import stylegan2_from_record
from generators.checkpoints.inspection import GlobalUse, Inspection, inspect_checkpoint
from generators.checkpoints.pickles.reader import read_checkpoint
from generators.checkpoints.pickles.records import ModuleRecord

__all__ = [
    "Converted",
    "GlobalUse",
    "Inspection",
    "ModuleRecord",
    "convert_checkpoint",
    "convert_rosinality",
    "inspect_checkpoint",
    "read_checkpoint",
    "stylegan2_from_record",
]
