"""Numbers in few bits: what is kept of latents, pixels and labels, and how they come back.

``x' = low + step * code`` with codes of 2, 4 or 8 bits, `low` and `step` for a tensor, for each
channel or for each row; or float16; or float32, as they are. `low` and `step` are those of a grid
of ranges, narrower and narrower, that lose least (squared error): the fewer the levels, the less is
the whole range worth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from hpd.registry import Settings
from hpd.storage import FLOAT_BITS

Bits = Literal[2, 4, 8, 16, 32]
Per = Literal["tensor", "channel", "row"]

# of a group's own range, from all of it down
_RANGES = tuple(1 - 0.025 * i for i in range(33))
_HALF = 16
# probability that counts as none
_LEAST = 1e-5


class Codec(Settings):
    """How numbers are kept."""

    bits: Bits = Field(8, description="of a number; 16: float16, 32: float32, both without a scale")
    per: Per = Field(
        "tensor",
        description="what has a scale and an offset of its own, of 32 bits each: a whole tensor,"
        " each channel (its second index) or each row (its first: an image)",
    )

    @property
    def scaled(self) -> bool:
        """Whether there are scales."""
        return self.bits < _HALF

    def bits_for(self, shape: Sequence[int]) -> int:
        """Return the bits of a tensor of some shape: codes, filled up to bytes, and scales."""
        numbers = math.prod(shape)
        scales = 2 * FLOAT_BITS * _groups(shape, self.per) if self.scaled else 0
        return 8 * math.ceil(numbers * self.bits / 8) + scales

    def bits_of(self, values: Tensor) -> int:
        """Return the bits of a tensor; whole numbers are kept as they are, in 32 bits."""
        if not values.is_floating_point():
            return values.numel() * FLOAT_BITS
        return self.bits_for(values.shape)

    def fit(self, values: Tensor) -> Scale:
        """Return the scale that loses least of some values; see `Scale`."""
        if not (self.scaled and values.is_floating_point()):
            nothing = torch.empty(0)
            return Scale(nothing, nothing)
        rows = _grouped(values.detach(), self.per).double()
        centre, top = rows.mean(dim=1), 2**self.bits - 1
        down, up = centre - rows.amin(dim=1), rows.amax(dim=1) - centre
        best = torch.full_like(centre, math.inf)
        low, step = torch.zeros_like(centre), torch.ones_like(centre)
        for share in _RANGES:
            lowest = centre - share * down
            # values that are all alike have no range: any step gives them back
            width = (share * (down + up) / top).clamp_min(1e-12)
            codes = ((rows - lowest[:, None]) / width[:, None]).round().clamp(0, top)
            error = (lowest[:, None] + width[:, None] * codes - rows).square().mean(dim=1)
            less = error < best
            best = torch.where(less, error, best)
            low, step = torch.where(less, lowest, low), torch.where(less, width, step)
        return Scale(low.float(), step.float())

    def encode(self, values: Tensor, scale: Scale) -> Tensor:
        """Return what is kept: packed codes (uint8, flat), float16, float32, or int32 of int64."""
        if not values.is_floating_point():
            return values.to(torch.int32)
        if not self.scaled:
            kept = torch.float16 if self.bits == _HALF else torch.float32
            return values.detach().to(kept)
        return pack(self._codes(values, scale), self.bits)

    def decode(self, kept: Tensor, shape: Sequence[int], scale: Scale) -> Tensor:
        """Return the values [*shape], float32 or int64, of what `encode` returned."""
        if kept.dtype == torch.int32:
            return kept.long().reshape(tuple(shape))
        if not self.scaled:
            return kept.float().reshape(tuple(shape))
        codes = unpack(kept, self.bits, math.prod(shape))
        return self._values(codes.reshape(tuple(shape)), scale)

    def rounded(self, values: Tensor, scale: Scale) -> Tensor:
        """Return the values as they come back, in their own dtype, without a graph."""
        if not (self.scaled and values.is_floating_point()):
            return self.encode(values, scale).to(values.dtype)
        return self._values(self._codes(values, scale), scale).to(values.dtype)

    def _codes(self, values: Tensor, scale: Scale) -> Tensor:
        low, step = scale.beside(values, self.per)
        codes = (values.detach().float() - low) / step
        return codes.round().clamp(0, 2**self.bits - 1).to(torch.uint8)

    def _values(self, codes: Tensor, scale: Scale) -> Tensor:
        low, step = scale.beside(codes, self.per)
        return low + step * codes.float()


@dataclass(frozen=True)
class Scale:
    """Offset and scale of each group of numbers.

    Args:
        low: value of code 0 [G], float32; empty where numbers are kept as floats.
        step: from one code to the next [G].
    """

    low: Tensor
    step: Tensor

    def beside(self, values: Tensor, per: Per) -> tuple[Tensor, Tensor]:
        """Return both in a shape that goes with values."""
        shape = [1] * values.ndim
        if per == "row":
            shape[0] = -1
        elif per == "channel" and values.ndim > 1:
            shape[1] = -1
        return self.low.to(values.device).reshape(shape), self.step.to(values.device).reshape(shape)


@dataclass(frozen=True)
class LabelCodes:
    """Label probabilities in few bits: codes of their logarithms.

    Args:
        kept: the codes, and the one scale that all of them have, by name.
        bits: of each probability.
        shape: [N, K].
    """

    kept: dict[str, Tensor]
    bits: Bits
    shape: tuple[int, int]

    @classmethod
    def of(cls, probabilities: Tensor, bits: Bits) -> LabelCodes:
        """Code probabilities [N, K]; what is below 1e-5 is taken as that."""
        codec = Codec(bits=bits)
        logits = probabilities.clamp_min(_LEAST).log()
        logits = logits - logits.mean(dim=1, keepdim=True)
        scale, (count, classes) = codec.fit(logits), logits.shape
        kept = {"code": codec.encode(logits, scale), "low": scale.low, "step": scale.step}
        return cls({n: v.cpu() for n, v in kept.items() if v.numel()}, bits, (count, classes))

    @property
    def size(self) -> int:
        """Bits of all of it."""
        return Codec(bits=self.bits).bits_for(self.shape)

    @property
    def probabilities(self) -> Tensor:
        """What comes back [N, K], float32."""
        nothing = torch.empty(0)
        scale = Scale(self.kept.get("low", nothing), self.kept.get("step", nothing))
        logits = Codec(bits=self.bits).decode(self.kept["code"], self.shape, scale)
        return logits.softmax(dim=1)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Return codes (uint8, below 2^bits) as bytes, the first ones in the lowest bits."""
    each = 8 // bits
    flat = codes.flatten()
    flat = torch.nn.functional.pad(flat, (0, -len(flat) % each)).reshape(-1, each)
    shifts = torch.arange(each, device=codes.device, dtype=torch.uint8) * bits
    return (flat << shifts).sum(dim=1).to(torch.uint8)


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """Return the first `count` codes of bytes."""
    each = 8 // bits
    shifts = torch.arange(each, device=packed.device, dtype=torch.uint8) * bits
    return ((packed[:, None] >> shifts) & (2**bits - 1)).flatten()[:count]


def _groups(shape: Sequence[int], per: Per) -> int:
    if per == "row":
        return shape[0]
    return shape[1] if per == "channel" and len(shape) > 1 else 1


def _grouped(values: Tensor, per: Per) -> Tensor:
    """Return values with a row for each group that has a scale of its own."""
    if per == "row":
        return values.flatten(1) if values.ndim > 1 else values[:, None]
    if per == "channel" and values.ndim > 1:
        return values.transpose(0, 1).flatten(1)
    return values.flatten()[None]
