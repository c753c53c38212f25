"""A generator as a prior: what its samples give, before anything is optimised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from generators.sampling import TOO_LARGE
from generators.seeds import SEED_BITS, draw_seeds, z_of_seeds
from generators.store import StoredGenerator
from hpd.checks import check_finite
from hpd.codecs import Codec

_CHUNK = 256


@dataclass(frozen=True)
class Prior:
    """A class-conditional generator, and which of its classes are wanted.

    Args:
        stored: the generator, on any device.
        classes: its index for each class of the data.
        codec: in how many bits z is kept; None: 32.
        seeded: whether a seed of each sample is kept, from which its z is drawn.
        counted: whether the generator is kept with the samples, and is of their budget.
        generator_codec: in how many bits its weights are kept then; None: 32.
    """

    stored: StoredGenerator
    classes: Sequence[int]
    codec: Codec | None = None
    seeded: bool = False
    counted: bool = False
    generator_codec: Codec | None = None

    @property
    def sample_floats(self) -> int:
        """Numbers that a sample is had again from: those of its z, or its seed."""
        return 1 if self.seeded else self.stored.generator.spec.z_dim

    @property
    def generator_floats(self) -> int:
        """Number of the generator's parameters."""
        return self.stored.generator.floats

    @property
    def generator_bits(self) -> int:
        """Bits of the generator's parameters, as they are kept."""
        codec = (self.generator_codec if self.counted else None) or Codec(bits=32)
        return sum(codec.bits_of(value) for value in self.stored.generator.parameters())

    def sample_bits(self, count: int) -> int:
        """Return the bits that so many samples take."""
        if self.seeded:
            return count * SEED_BITS
        return (self.codec or Codec(bits=32)).bits_for((count, self.sample_floats))

    @torch.no_grad()
    def draw(self, per_class: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return samples, without truncation.

        Args:
            per_class: samples of each class.
            rng: of z ~ N(0, I), all of them at once, or of their seeds.

        Returns:
            images [K * per_class, C, H, W] in [0, 1], clipped, on the CPU, ordered by class, and
            labels [K * per_class], int64.

        Raises:
            NumericError: if an image is not finite.
        """
        generator = self.stored.generator
        device = next(generator.parameters()).device
        labels = torch.arange(len(self.classes)).repeat_interleave(per_class)
        width = generator.spec.z_dim
        if self.seeded:
            z = z_of_seeds(draw_seeds(len(labels), rng), width)
        else:
            z = torch.randn(len(labels), width, generator=rng)
            if self.codec is not None:
                z = self.codec.rounded(z, self.codec.fit(z))
        wanted = torch.tensor(self.classes)[labels]
        parts = [
            generator(generator.map(some.to(device), own.to(device))).float().cpu()
            for some, own in zip(z.split(_CHUNK), wanted.split(_CHUNK), strict=True)
        ]
        images = check_finite(torch.cat(parts), "what the generator makes", TOO_LARGE)
        return ((images + 1) / 2).clamp(0, 1), labels
