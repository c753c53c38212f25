"""Which samples of a generator a set of latents starts from: their seeds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from generators import Generator
from generators.seeds import draw_seeds, z_of_seeds
from hpd.data import ImageSet
from hpd.errors import ConfigError
from hpd.rng import Streams
from hpd.students.coresets import herding
from hpd.students.teachers import Teacher

Pool = Literal["all", "agreeing", "herding"]
# draws for each image that a teacher is to agree with, at most
_MOST_DRAWS = 50
# samples of which herding picks one
_HERD = 8
# real images of a class whose features are averaged, at most
_REAL = 1000


@dataclass(frozen=True)
class Samples:
    """Samples of a generator, chosen by a teacher where there is one.

    Args:
        generator: on the device.
        psi: of truncation.
        chunk: images made at a time.
        pool: which samples are taken.
        teacher: on the device; None for all of them.
    """

    generator: Generator
    psi: float
    chunk: int
    pool: Pool = "all"
    teacher: Teacher | None = None

    @torch.no_grad()
    def of_class(
        self, number: int, label: int | None, count: int, train: ImageSet, streams: Streams
    ) -> Tensor:
        """Return the seeds of samples [count].

        Args:
            number: of the class of the data.
            label: class of the generator, None for one without.
            count: how many.
            train: real images.
            streams: of this class.

        Raises:
            ConfigError: if the teacher agrees with too few.
        """
        if self.pool == "agreeing":
            return self._agreeing(number, label, count, streams)
        if self.pool == "herding":
            return self._herd(number, label, count, train, streams)
        return draw_seeds(count, streams.generator("seeds", 0))

    def _agreeing(self, number: int, label: int | None, count: int, streams: Streams) -> Tensor:
        found, taken = [], 0
        for part in range(_MOST_DRAWS):
            seeds = draw_seeds(count, streams.generator("seeds", part))
            answers = [
                self._judge.probabilities(images).argmax(dim=1) == number
                for images in self._images(seeds, label)
            ]
            found.append(seeds[torch.cat(answers).cpu()])
            taken += len(found[-1])
            if taken >= count:
                return torch.cat(found)[:count]
        raise ConfigError(
            f"the teacher takes too few samples for class {number}",
            got=f"{taken} of {_MOST_DRAWS * count:,}",
            expected=f"{count:,}",
            fix="Take another teacher, or source.pool=all.",
        )

    def _herd(
        self, number: int, label: int | None, count: int, train: ImageSet, streams: Streams
    ) -> Tensor:
        """Return seeds of samples whose mean features come nearest to those of real images."""
        seeds = draw_seeds(_HERD * count, streams.generator("seeds", 0))
        features = torch.cat([self._judge.embed(images) for images in self._images(seeds, label)])
        own = train.by_class[number][:_REAL]
        device = features.device
        real = torch.cat([self._judge.embed(train.unit(i).to(device)) for i in own.split(256)])
        return seeds[herding(features, count, towards=real.mean(dim=0)).cpu()]

    @property
    def _judge(self) -> Teacher:
        assert self.teacher is not None, "such a pool is never asked for without one"
        return self.teacher

    def _images(self, seeds: Tensor, label: int | None) -> Iterator[Tensor]:
        """Yield samples in [0, 1], part by part."""
        weight = next(self.generator.parameters())
        for part in z_of_seeds(seeds, self.generator.spec.z_dim).to(weight).split(self.chunk):
            labels = None if label is None else torch.full((len(part),), label, device=part.device)
            ws = self.generator.map(part, labels, truncation_psi=self.psi)
            yield ((self.generator(ws) + 1) / 2).clamp(0, 1).float()
