"""From a checkpoint file of any family to settings and weights of this project's networks."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from torch import Tensor

from generators.base import FamilySettings
from generators.checkpoints.inspection import inspect_checkpoint
from generators.checkpoints.reader import read_checkpoint
from generators.checkpoints.records import ModuleRecord
from generators.checkpoints.rosinality import read_rosinality
from generators.checkpoints.stylegan2 import stylegan2_from_record
from generators.checkpoints.stylegan3 import (
    is_stylegan_xl,
    stylegan3_from_record,
    stylegan_xl_from_record,
)
from hpd.errors import GeneratorError

Converted = tuple[FamilySettings, dict[str, Tensor]]


def convert_checkpoint(path: str | Path, network: Literal["G_ema", "G"] = "G_ema") -> Converted:
    """Read a generator from a ``.pkl`` or ``.pt`` file, without running code from it.

    Args:
        path: an official StyleGAN2-ADA, StyleGAN3 or StyleGAN-XL pickle, or a rosinality file.
        network: ``"G_ema"``, the averaged generator, or ``"G"``.

    Returns:
        Settings, and the state dict that their network loads strictly.

    Raises:
        GeneratorError: naming what was refused, or what does not fit.
    """
    if inspect_checkpoint(path).format in ("torch zip", "torch legacy"):
        return read_rosinality(path, {"G_ema": "g_ema", "G": "g"}[network])
    return convert_record(read_checkpoint(path, network))


def convert_record(record: ModuleRecord) -> Converted:
    """Return settings and state dict of an official generator of any family.

    Raises:
        GeneratorError: if it belongs to none that is known, or does not fit.
    """
    if "synthesis" not in record.children or "mapping" not in record.children:
        raise GeneratorError(
            "not a StyleGAN generator",
            got=f"submodules {', '.join(record.children) or 'none'}",
            expected="a mapping and a synthesis network",
        )
    if "b4" in record.child("synthesis").children:
        return stylegan2_from_record(record)
    if is_stylegan_xl(record):
        return stylegan_xl_from_record(record)
    return stylegan3_from_record(record)
