"""What runs on each type of device, by which way, and what its kernels are like."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from generators.ops import native
from generators.ops.build import find_failure, find_library
from generators.ops.cuda import nvrtc, recording
from generators.ops.cuda.tiles import (
    GIVEN_BYTES,
    Filtering,
    Room,
    plan_filtered,
    products_of_block,
    shared_bytes,
)
from generators.ops.native import VARIABLE
from generators.ops.toolchain import DEVICE_TYPES, DeviceType, Recipe, read_recipe
from hpd.errors import OpsError

Way = Literal["library", "NVRTC", "reference", "none"]

NOT_COMPILED = (
    "torch.compile is not used for generators: convolutions and native operations stay what they "
    "are under it, and what it makes has no second derivative. Students: objective.compile."
)


def graphs_told() -> str:
    """Say whether generators are captured as graphs.

    Raises:
        OpsError: if ``HPD_GRAPHS`` is unknown.
    """
    name = f"{recording.VARIABLE}={'on' if recording.wants_graphs() else 'off'}"
    if recording.wants_graphs():
        return (
            f"{name}: images of frozen generators and their derivatives are captured as graphs of "
            "CUDA, on GPUs. It was not measured on one yet."
        )
    return (
        f"{name}: no graphs of CUDA. With on, frozen generators are captured; it was not measured "
        "on a GPU yet."
    )


@dataclass(frozen=True, kw_only=True)
class Status:
    """What runs on a type of device.

    Args:
        device_type: ``"cpu"`` or ``"cuda"``.
        path: what runs; ``"none"`` where ``HPD_OPS=native`` asks for what cannot be had.
        way: by which: a library that a compiler made, kernels of NVRTC, or plain torch.
        reason: why, and why not the other.
        library: the file of the native operations, where there is one.
        compiler: what builds them here, with its version, where there is one.
        flags: what it is given.
        cards: GPUs that are here, and their tiles; of a CPU there are none.
    """

    device_type: DeviceType
    path: Literal["native", "reference", "none"]
    way: Way
    reason: str
    library: Path | None = None
    compiler: str | None = None
    flags: tuple[str, ...] = ()
    cards: tuple[Card, ...] = ()


@dataclass(frozen=True)
class Tile:
    """What a block takes of a layer's result.

    Args:
        layer: which.
        outputs: height and width.
        shared_bytes: of shared memory.
        products: for a value of the result.
    """

    layer: str
    outputs: tuple[int, int]
    shared_bytes: int
    products: float


@dataclass(frozen=True)
class Card:
    """A GPU.

    Args:
        name: as its maker calls it.
        room: what it has.
        tiles: of layers of filtered leaky ReLU.
    """

    name: str
    room: Room
    tiles: tuple[Tile, ...]


def status() -> list[Status]:
    """Say for each type of device what runs there; nothing is built or loaded for that.

    Raises:
        OpsError: if ``HPD_OPS`` is unknown.
    """
    mode = native.requested_mode()
    return [_look(device_type, mode) for device_type in DEVICE_TYPES]


def _look(device_type: DeviceType, mode: str) -> Status:
    recipe: Recipe | None = None
    library: Path | None = None
    problem: OpsError | None = None
    try:
        recipe = read_recipe(device_type)
        library = find_library(recipe)
        problem = None if library else find_failure(recipe)
    except OpsError as error:
        problem = error
    opened = native.opened(device_type)
    if isinstance(opened, Path):
        library, problem = opened, None
    elif isinstance(opened, OpsError):
        problem = opened
    compiler = None
    if device_type == "cuda" and problem is not None and torch.cuda.is_available():
        compiler = nvrtc.available()
    path: Literal["native", "reference", "none"] = "native"
    way: Way = "library"
    reason = "built" if library else "not built yet: on first use, or now by 'hpd ops build'"
    if compiler is not None and library is None:
        way, reason = "NVRTC", f"each kernel on first use, by {compiler}: {problem}"
    elif problem is not None:
        path, reason = "none" if mode == "native" else "reference", str(problem)
    if mode == "reference":
        path, reason = "reference", f"{VARIABLE}=reference"
    if path != "native":
        way = path
    return Status(
        device_type=device_type, path=path, way=way, reason=reason, library=library,
        compiler=recipe.version if recipe else compiler, flags=recipe.flags if recipe else (),
        cards=_cards() if device_type == "cuda" and path == "native" else (),
    )  # fmt: skip


def _cards() -> tuple[Card, ...]:
    if not torch.cuda.is_available():
        return ()
    known = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    cards = []
    for card in known:
        shared = getattr(card, "shared_memory_per_block_optin", GIVEN_BYTES)
        room = Room(shared, card.multi_processor_count)
        cards.append(Card(card.name, room, tuple(tiles_on(room))))
    return tuple(cards)


def tiles_on(room: Room) -> list[Tile]:
    """Return the tiles of layers of StyleGAN3 and StyleGAN-XL, in float32, on a card."""
    found = []
    for layer, problem in _LAYERS.items():
        plan = plan_filtered(problem, room)
        if plan is not None:
            values = problem.shape[0] * problem.shape[1] * problem.result[0] * problem.result[1]
            products = products_of_block(plan) * plan.blocks / values
            outputs = (int(plan.tile[0]), int(plan.tile[1]))
            found.append(Tile(layer, outputs, shared_bytes(plan, problem.sum_bytes), products))
    return found


def _layer(size: int, up: int, taps: int, *, matrix: bool = False, last: bool = False) -> Filtering:
    """Return a layer of ten images and 256 features that lowers the rate by 2."""
    raised = (size - 1) * 2 + 12
    source = -(-(raised + taps) // up)
    return Filtering(
        shape=(10, 256, source, source), last=last, value_bytes=4, sum_bytes=4,
        raised=(raised, raised), result=(size, size), up=up, down=2, first=(taps, taps),
        second=(12, 12), full=(False, matrix), pad=(0, 0), offset=(0, 0), gain=1.0, slope=0.2,
        clamp=256.0, flip=True,
    )  # fmt: skip


_LAYERS = {
    "36 px, up 2": _layer(36, 2, 12),
    "52 px, up 4": _layer(52, 4, 24),
    "84 px, up 2": _layer(84, 2, 12),
    "148 px, up 2": _layer(148, 2, 12),
    "52 px, up 2, matrix (StyleGAN3-R)": _layer(52, 2, 12, matrix=True),
    "36 px, up 2, channels-last": _layer(36, 2, 12, last=True),
}
