"""Numbers of the official code, under both ways to multiply float32 numbers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from generators.base import Generator
from generators.checkpoints import convert_checkpoint
from generators.ops import native
from gpu_parts.part import ROOT, Place, Row, guarded, judged
from hpd.machine.device import open_device
from hpd.machine.precision import Float32, set_float32

FOLDERS = (ROOT / "tests" / "golden", ROOT.parent / "shared" / "golden")
# of the largest value; ten bits of a fraction leave 5e-4 a product
TOLERANCE: dict[Float32, float] = {"ieee": 1e-4, "tf32": 3e-2}


def golden(place: Place) -> Iterator[Row]:
    """Compare images, and tell of gradients, of each network by each way."""
    root = next((folder for folder in FOLDERS if folder.is_dir()), None)
    if root is None:
        yield Row("golden files", "skipped", "not there: they lie in tests/golden of a checkout")
        return
    device = open_device(place.device)
    kinds: tuple[Float32, ...] = ("ieee", "tf32") if device.type == "cuda" else ("ieee",)
    for folder in sorted(path.parent for path in root.glob("*/golden.safetensors")):
        for ops in ("auto", "reference"):
            for kind in kinds:
                what = f"{folder.name}, {kind}, HPD_OPS={ops}"
                yield from guarded(what, partial(_compared, folder, kind, ops, device, what))
    if device.type != "cuda":
        yield Row("tf32", "skipped", "a CPU has none")


def _compared(
    folder: Path, kind: Float32, ops: str, device: torch.device, what: str
) -> Row:  # fmt: skip
    set_float32(kind)
    os.environ[native.VARIABLE] = ops
    values = {
        name: value.to(device) for name, value in load_file(folder / "golden.safetensors").items()
    }
    ws = values["ws"].clone().requires_grad_()
    images = _network(folder, device)(ws)
    (grad,) = torch.autograd.grad((images * values["probe"]).sum(), ws)
    found = {
        "image": deviation(images.detach(), values["image"]),
        # of all values together: where rounding takes one across 0, the slope jumps
        "gradient_norm": float((grad - values["grad_ws"]).norm() / values["grad_ws"].norm()),
    }
    most = TOLERANCE[kind]
    says = f"image {found['image']:.1e}, at most {most:.0e}; gradient {found['gradient_norm']:.1e}"
    return Row(what, judged(found["image"] <= most), says, found)


def _network(folder: Path, device: torch.device) -> Generator:
    converted = convert_checkpoint(folder / "network.pkl")
    network: Generator = converted.settings.build()
    network.load_state_dict(converted.weights)
    return network.requires_grad_(False).to(device)


def deviation(got: Tensor, want: Tensor) -> float:
    """Return the largest deviation, as a share of the largest value."""
    return float((got - want).abs().max() / want.abs().max())
