"""Arguments that few expect, of any type; and how a message shows them."""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import random
import reprlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attacks import damage
from attacks.places import Place

# amounts that a run can have, or that no amount is: 2**31 steps are no attack, but a wish
AMOUNTS = (
    0,
    1,
    -1,
    2,
    3,
    -(2**63),
    0.5,
    -0.5,
    1e-320,
    float("nan"),
    float("inf"),
    True,
    2**64,
    10**30,
)
_SHAPES = ((), (0,), (1,), (2,), (2, 1, 16, 16), (2, 3, 16, 16), (0, 1, 16, 16), (2, 16, 16),
           (2, 1, 16, 15), (2, 1, 1, 1), (2, 1, 16, 16, 1), (2, 0, 16, 16))  # fmt: skip
_DEEPEST = 50
_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8, torch.int8,
           torch.int64, torch.int32, torch.bool, torch.complex64)  # fmt: skip


def tensor(rng: random.Random) -> torch.Tensor:
    """Return a tensor of an odd shape, type, memory or value."""
    shape, dtype = rng.choice(_SHAPES), rng.choice(_DTYPES)
    found = torch.zeros(shape, dtype=dtype)
    kind = rng.randrange(12)
    if kind == 0 and dtype.is_floating_point:
        odd = rng.choice((float("nan"), float("inf"), -1.0, 1e30))
        return torch.full(shape, odd, dtype=torch.float64).to(dtype)
    if kind == 1 and dtype.is_floating_point:
        return found.requires_grad_()
    if kind == 2 and found.ndim > 1:
        return found.transpose(-1, -2)
    if kind == 3:
        return torch.empty(shape, dtype=dtype, device="meta")
    if kind == 4 and found.ndim == 2:
        return found.to_sparse()
    if kind == 5:
        return found[:1].expand(shape) if found.ndim and len(found) else found
    if kind == 6:
        return torch.ones(shape, dtype=dtype)
    if kind == 7 and not dtype.is_complex and dtype is not torch.bool:
        return torch.full(shape, rng.choice((1, 2, 100)), dtype=dtype)
    if kind == 8:
        return torch.arange(2)
    if kind == 9:
        return torch.tensor([0, rng.choice((-1, 1, 2, 99, 2**62))])
    return found


def array(rng: random.Random) -> np.ndarray[Any, Any]:
    """Return an array of NumPy, of an odd type or shape."""
    shape = rng.choice(_SHAPES)
    kind = rng.choice(("u1", "<f4", ">f4", "<f8", "<i8", "?", "<U3", "O", "<c8", "<M8[s]", "<f2"))
    found = np.zeros(shape, kind)
    return found[..., ::-1] if found.ndim and rng.random() < 0.3 else found


def paths(place: Place) -> tuple[Any, ...]:
    """Return places that are odd, missing, of another kind or closed."""
    inputs = place.inputs
    return (
        "", ".", "/", "..", "~", "~nobody/x", "/dev/null", "/dev/zero", "/dev/full",
        "/proc/self/mem", "/nonexistent/x", "/nonexistent", "a\0b", "a\nb", "x" * 300, "x/" * 2000,
        "\udcff", "é",
        b"bytes", str(inputs), str(inputs / "missing"), inputs / "odd" / "pipe", "//", "/dev/stdin",
        inputs / "odd" / "empty", inputs / "odd" / "folder", inputs / "odd" / "circle",
        inputs / "odd" / "text", inputs / "odd" / "text" / "below", "\x1b[31mred", "-x", "a/../b",
        str(place.outputs / ("y" * 240)), place.outputs / "new" / "deep" / "er", "CON", "https://x/y",
        "file:///etc/passwd", "hf://x/y", Path(), Path("/"), inputs / "run" / "config.yaml",
        inputs / "run" / "grid.png", inputs / "run" / "distilled.safetensors", "digits", "digits16",
    )  # fmt: skip


def write_odd_places(inputs: Path) -> None:
    """Write what `paths` names."""
    import os

    odd = inputs / "odd"
    if odd.is_dir():
        return
    (odd / "folder").mkdir(parents=True)
    os.mkfifo(odd / "pipe")
    (odd / "empty").touch()
    (odd / "text").write_text("no such thing\n")
    (odd / "circle").symlink_to(odd / "circle")


class _Odd:
    """An object that nobody knows, and that answers nothing."""

    def __repr__(self) -> str:
        return "odd\n" * 300


class _Text(str):
    """A text of a kind of its own."""

    __slots__ = ()


def _endless() -> Any:
    while True:
        yield "x"


def anything(rng: random.Random, place: Place) -> Any:
    """Return a value of any type."""
    makers: tuple[Callable[[], Any], ...] = (
        lambda: rng.choice(AMOUNTS), lambda: rng.choice(AMOUNTS), lambda: damage.text(rng),
        lambda: damage.text(rng), lambda: rng.choice(paths(place)), lambda: tensor(rng),
        lambda: array(rng), lambda: rng.choice((None, True, False, ..., NotImplemented)),
        lambda: small(damage.odd(rng)), lambda: b"bytes", lambda: _Odd(), lambda: {1: 2},
        lambda: {None: 1, (1,): 2}, lambda: {"x"}, lambda: (), lambda: [[]], lambda: [None],
        lambda: ["a", 1, None], lambda: _circle(), lambda: _Text("digits"), lambda: range(3),
        lambda: (n for n in "ab"), lambda: {}.keys(), lambda: np.float32(1), lambda: np.int64(1),
        lambda: np.bool_(True), lambda: np.str_("digits"), lambda: decimal.Decimal(1),
        lambda: fractions.Fraction(1, 2), lambda: 1j, lambda: datetime.date(2001, 1, 1),
        lambda: collections.OrderedDict(kind="digits"), lambda: collections.defaultdict(list),
        lambda: bytearray(b"x"), lambda: memoryview(b"x"), lambda: print,
        lambda: torch.device("cpu"), lambda: torch.float32, lambda: Exception("x"),
        lambda: slice(None),
    )  # fmt: skip
    return rng.choice(makers)()


def _circle() -> list[Any]:
    found: list[Any] = ["x"]
    found.append(found)
    return found


def small(value: Any, depth: int = 0) -> Any:
    """Return a value whose numbers are no large amounts, as far as they are not nested too deep."""
    if depth > _DEEPEST:
        return value
    if isinstance(value, dict):
        return {k: small(v, depth + 1) for k, v in value.items()}
    if isinstance(value, list):
        return [small(v, depth + 1) for v in value]
    if isinstance(value, int | float) and 20 < value < 2**63:
        return value % 20
    return value


def shown(value: Any) -> str:
    """Return a value as a short line of printable text."""
    if isinstance(value, torch.Tensor):
        return f"tensor {list(value.shape)} {value.dtype} on {value.device}"
    if isinstance(value, np.ndarray):
        return f"array {list(value.shape)} {value.dtype}"
    if callable(value) and hasattr(value, "__qualname__"):
        return f"<{value.__qualname__}>"
    limits = reprlib.Repr()
    limits.maxstring = limits.maxother = 60
    limits.maxlevel = 3
    said = limits.repr(value)
    # where an object lies differs from time to time
    return ascii(said)[1:-1].split(" at 0x")[0][:300]
