"""Where latents of a generator start: averages, draws, the best of many, or real images."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from generators import Generator
from generators.projection import Distance, project
from hpd.data import ImageSet
from hpd.progress import told
from hpd.rng import Streams
from hpd.sources.starts import best_candidates, distances_to_real, spread_of

_ROLE, _CHECK = "gan init", "gan averages"
# how much further away an average may be than samples: the bundled generators are at 0.73 to
# 0.93, decoders whose averages are no images at 1.4 and 3.9
_SLACK = 1.15
# classes by which a generator is judged, and samples of each
_JUDGED, _SAMPLES = 10, 16
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Started:
    """What a source starts from.

    Args:
        ws: [N, num_ws, D], ordered by class.
        instead: what was taken in the place of what was asked for; empty where it is that.
    """

    ws: Tensor
    instead: str = ""


@dataclass(frozen=True)
class Starts:
    """Makes the ws that a source starts from, [N, num_ws, D], ordered by class.

    Args:
        generator: on the device.
        classes: its class for each class of the data, None where it has none.
        train: real images.
        streams: of the source.
        per_class: images of each class.
        chunk: images made at a time.
    """

    generator: Generator
    classes: Sequence[int | None]
    train: ImageSet
    streams: Streams
    per_class: int
    chunk: int

    @property
    def _device(self) -> torch.device:
        return next(self.generator.parameters()).device

    def drawn(self, draws: int, psi: float) -> Tensor:
        """Return the mean of so many draws of its class for each image; of one: a sample."""
        rows = []
        for c, label in enumerate(self.classes):
            for i in range(self.per_class):
                rng = self.streams.generator(_ROLE, c, i)
                rows.append(self.generator.class_average(label, draws, rng, psi))
        return torch.stack(rows)

    def averages(self, draws: int, psi: float) -> Started:
        """Return the mean w of each class, or else the sample nearest to real images.

        A mean of w is an image of its class if the mapping was trained to make it one. Of a decoder
        whose w is a product of z and class, say, it is the same grey for every class. So the images
        of means must lie about as near to real images as samples do; see `distances_to_real`.

        """
        means = self.drawn(draws, psi)
        with torch.no_grad():
            every = range(len(self.classes))
            judged = [*every][:: -(-len(every) // _JUDGED)]
            samples = {c: self._samples(c, psi) for c in judged}
            far = self._distances(samples, means)
            mean, others = (torch.stack([part(d) for d in far]).mean() for part in (_first, _rest))
            if mean <= _SLACK * others:
                return Started(means)
            _logger.warning(
                "the mean w of a class makes no image of it: it is %.2g from real images, samples"
                " are %.2g. The nearest of %d samples is taken in its place (source.init=average).",
                mean, others, _SAMPLES,
            )  # fmt: skip
            samples |= {c: self._samples(c, psi) for c in every if c not in samples}
            far = self._distances(dict(sorted(samples.items())), means)
        nearest = [int(distances[1:].argmin()) for distances in far]
        ws = torch.stack([samples[c][i] for c, i in enumerate(nearest)])
        return Started(ws, "the nearest samples: averages are no images of their class")

    def _samples(self, c: int, psi: float) -> Tensor:
        """Return ws of some draws of a class."""
        spec, label = self.generator.spec, self.classes[c]
        z = torch.randn(_SAMPLES, spec.z_dim, generator=self.streams.generator(_CHECK, c))
        labels = None if label is None else torch.full((_SAMPLES,), label, device=self._device)
        return self.generator.map(z.to(self._device), labels, psi)

    def _distances(self, samples: Mapping[int, Tensor], means: Tensor) -> list[Tensor]:
        """Return how far from real images the mean of each class is, and its samples."""
        images = (
            (c, self.images(torch.cat([means[c : c + 1], own]))) for c, own in samples.items()
        )
        return distances_to_real(images, self.train, self._device, self.streams.fork(_CHECK))

    def encoded(self) -> Tensor:
        """Return the latents of random real images, by the generator's encoder."""
        chosen = self.train.draw_per_class(self.per_class, self.streams.generator(_ROLE))
        parts = told("encoding images", chosen.split(self.chunk))
        return torch.cat([self._encode(part) for part in parts])

    @torch.no_grad()
    def _encode(self, chosen: Tensor) -> Tensor:
        return self.generator.encode(self.train.unit(chosen, self._device))

    def projected(self, distance: Distance, steps: int, average_draws: int) -> Tensor:
        """Return the ws of random real images, by descent from the mean w of their class."""
        rng = self.streams.generator(_ROLE)
        real = self.train.unit(self.train.draw_per_class(self.per_class, rng), self._device)
        labels = None
        if self.generator.spec.num_classes:
            own = torch.tensor(self.classes, device=self._device)
            labels = own.repeat_interleave(self.per_class)
        return project(
            self.generator, real, labels, distance=distance, rng=rng, steps=steps,
            average_draws=average_draws, chunk_images=self.chunk,
        )  # fmt: skip

    @torch.no_grad()
    def best(self, candidates: int, average_draws: int) -> Tensor:
        """Return those of many with which regressions tell real images best.

        The many are draws, from half of the way between the mean w and a draw on; of a generator
        with an encoder, the latents of real images.
        """
        every: list[Tensor] = []
        streams = self.streams.fork(_ROLE)

        def images() -> Iterator[Tensor]:
            for c in told("drawing samples", range(len(self.classes))):
                rng = streams.generator("draws", c)
                if self.generator.has_encoder:
                    every.append(self._some_encoded(c, candidates, rng))
                else:
                    every.append(self._around_mean(c, candidates, average_draws, rng))
                yield self.images(every[-1])

        chosen = best_candidates(images(), self.per_class, self.train, self._device, streams)
        return torch.cat([ws[own.to(self._device)] for ws, own in zip(every, chosen, strict=True)])

    def _some_encoded(self, c: int, count: int, rng: torch.Generator) -> Tensor:
        """Return latents of real images of a class, as many as there are, at most."""
        own = self.train.by_class[c]
        chosen = own[torch.randperm(len(own), generator=rng)[:count].to(own.device)]
        return torch.cat([self._encode(part) for part in chosen.split(self.chunk)])

    def _around_mean(self, c: int, count: int, draws: int, rng: torch.Generator) -> Tensor:
        """Return ws between the mean of a class and draws, the mean first."""
        generator, label, device = self.generator, self.classes[c], self._device
        spread = spread_of((0.5, 1.0), count).to(device)[:, None, None]
        mean = generator.class_average(label, draws, rng)
        z = torch.randn(count, generator.spec.z_dim, generator=rng).to(device)
        labels = None if label is None else torch.full((count,), label, device=device)
        return mean + spread * (generator.map(z, labels) - mean)

    @torch.no_grad()
    def images(self, ws: Tensor) -> Tensor:
        """Return images in [0, 1], on the CPU."""
        parts = [((self.generator(part) + 1) / 2).cpu() for part in ws.split(self.chunk)]
        return torch.cat(parts).clamp(0, 1)


def _first(distances: Tensor) -> Tensor:
    return distances[0]


def _rest(distances: Tensor) -> Tensor:
    return distances[1:].mean()
