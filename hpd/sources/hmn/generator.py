"""A pretrained generator as the decoder of hierarchical memories.

The memories are its latents: at level 0 they give ws, at level k the state after k synthesis
layers, as steps away from the average of the class along directions that the generator itself
takes. The arrangement is ours; HMN (Zheng et al., ECCV 2024) decodes with its own network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from generators import Generator, LevelState, Prior, StoredGenerator, read_generator
from generators.captured import Captured
from hpd.data import ImageSet
from hpd.errors import ConfigError
from hpd.registry import Only
from hpd.rng import Streams
from hpd.sources.class_matching import GeneratorClasses, match_classes
from hpd.sources.gan.levels import LevelPlan
from hpd.sources.gan.settings import check_fit, prior_of
from hpd.sources.hmn.budget import Shapes
from hpd.sources.hmn.decoders import DECODERS, Blueprint, Decoder, DecoderSettings

_HEAD_NOISE = 0.01


@DECODERS.register("stylegan")
class GeneratorDecoderSettings(DecoderSettings):
    """A frozen generator behind a small learnt head; the head is counted, the generator is not."""

    generator: str = Field(description="bundled name, or folder of a generator")
    generator_classes: GeneratorClasses = None
    level: int = Field(0, ge=0, description="0: memories give ws; k: the state after k layers")
    keep: Literal["memories", "images"] = Field(
        "memories",
        description="what is stored: memories and head, with which only the generator makes the "
        "images again, or the images themselves, as with then_levels",
    )
    average_draws: int = Field(1000, ge=1, description="draws in the mean w of a class")
    truncation_psi: float | None = Field(
        None,
        ge=0,
        le=1,
        description="where the memories start: 0 at the average of each class, 1 as far from it "
        "as the generator's own images; null: 0 at one image a class, else 1",
    )
    then_levels: list[int] = Field(
        [], description="levels to optimise after the memories, image by image, ascending"
    )
    then_steps: Annotated[int, Only("then_levels")] = Field(
        100, ge=0, description="steps for each of them"
    )
    lr_ws: Annotated[float, Only("then_levels")] = Field(0.02, gt=0, description="of then_levels")
    lr_features: Annotated[float, Only("then_levels")] = Field(
        0.02, gt=0, description="of then_levels"
    )
    lr_pixels: Annotated[float, Only("then_levels")] = Field(
        0.02, gt=0, description="of then_levels"
    )

    def blueprint(self, train: ImageSet, device: torch.device, streams: Streams) -> Blueprint:
        """Return what the decoder will be; see `DecoderSettings.blueprint`."""
        return self.blueprint_from(read_generator(self.generator), train, device, streams)

    def blueprint_from(
        self, stored: StoredGenerator, train: ImageSet, device: torch.device, streams: Streams
    ) -> Blueprint:
        """Return what the decoder will be on a generator in memory."""
        stored.generator.to(device)
        check_fit(stored.generator.spec, train, stored.name)
        last = stored.generator.spec.last_level
        if self.level > last:
            raise ConfigError(
                "the generator has no such level", got=self.level, expected=f"0 to {last}"
            )
        bounds = [self.level - 1, *self.then_levels, last + 1]
        if any(a >= b for a, b in pairwise(bounds)):
            raise ConfigError(
                "then_levels must be ascending, from the level of the memories on",
                got=self.then_levels,
                expected=f"{self.level} to {last}",
            )
        classes = match_classes(stored.generator.spec, train.classes, self.generator_classes)
        return GeneratorBlueprint(stored, classes, self)

    def prior(self, train: ImageSet, stored: StoredGenerator | None = None) -> Prior | None:
        """Return the generator and its classes; see `SourceSettings.prior`."""
        return prior_of(stored or read_generator(self.generator), train, self.generator_classes)

    def level_plan(self) -> list[LevelPlan]:
        """Return the stages that follow the memories."""
        steps, rates = self.then_steps, (self.lr_ws, self.lr_features)
        return [LevelPlan(level, steps, *rates) for level in self.then_levels]


class GeneratorBlueprint(Blueprint):
    """A generator, and which of its classes are wanted."""

    def __init__(
        self, stored: StoredGenerator, classes: list[int | None], settings: GeneratorDecoderSettings
    ) -> None:
        self.stored, self._classes, self._settings = stored, classes, settings
        self.keeps_images = settings.keep == "images" or bool(settings.then_levels)

    def grid(self, class_floats: float) -> tuple[int, int]:
        """Return a single position: coordinates have no place."""
        return 1, 1

    def instance_scale(self, images_per_class: int) -> float:
        """Return how far from the averages the memories start."""
        given = self._settings.truncation_psi
        return given if given is not None else float(images_per_class > 1)

    def settled(self, width: int) -> DecoderSettings:
        """Return the options: the head has the sizes of the memories."""
        return self._settings

    def floats(self, shapes: Shapes, width: int) -> int:
        """Return the floats of the head: one row and a bias for each coordinate."""
        return (shapes.code + 1) * shapes.instance

    def build(self, shapes: Shapes, width: int, streams: Streams) -> Decoder:
        """Return the decoder; its head passes the instance memories on."""
        s, generator = self._settings, self.stored.generator
        averages, directions = [], []
        for c, label in enumerate(self._classes):
            rng = streams.generator("average", c)
            average = generator.class_average(label, s.average_draws, rng)
            averages.append(average)
            rng = streams.generator("directions", c)
            directions.append(
                draw_directions(generator, label, average, s.level, shapes.instance, rng)
            )
        rng = streams.generator("head")
        return GeneratorDecoder(
            self.stored, torch.stack(averages), torch.stack(directions), s.level,
            head=torch.randn(shapes.instance, shapes.code, generator=rng).mul_(_HEAD_NOISE),
        )  # fmt: skip


@torch.no_grad()
def draw_directions(
    generator: Generator, label: int | None, average: Tensor, level: int, count: int,
    rng: torch.Generator,
) -> Tensor:  # fmt: skip
    """Return steps from a class's average to draws of that class.

    ``d_j = (s(w_j) - s(average)) / sqrt(q)`` for j = 1 .. q, with s the state at a level. For
    coordinates a ~ N(0, I) the sum of a_j d_j has the covariance of the draws.

    Args:
        generator: the network.
        label: its class; None if it has none.
        average: ws [num_ws, D].
        level: of the states; at level 0 they are ws.
        count: q.
        rng: of the draws.

    Returns:
        [q, S], the tensors of the state flattened and joined.
    """
    z = torch.randn(count, generator.spec.z_dim, generator=rng).to(average)
    labels = None if label is None else torch.full((count,), label, device=average.device)
    ws = generator.map(z, labels)
    # one draw at a time: what a level takes up is not small
    states = [_flat_state(generator, one[None], level) for one in ws]
    start = _flat_state(generator, average[None], level)
    return (torch.cat(states) - start) / math.sqrt(count)


def _flat_state(generator: Generator, ws: Tensor, level: int) -> Tensor:
    """Return the state at a level [N, S]."""
    state = (ws,) if level == 0 else generator.advance((), ws, 0, level)
    return torch.cat([part.flatten(1) for part in state], dim=1)


class GeneratorDecoder(Decoder):
    """``images = G(s(average_c) + sum_j a_j d_cj)`` with ``a = head(code)``.

    Args:
        stored: the generator, frozen, on the device.
        averages: ws of each class [K, num_ws, D].
        directions: [K, q, S], from `draw_directions`.
        level: at which the memories enter.
        head: initial weights [q, code], on top of passing the instance memories, which are the
            last q channels of the code.
    """

    averages: Tensor
    directions: Tensor
    origins: Tensor

    def __init__(
        self, stored: StoredGenerator, averages: Tensor, directions: Tensor, level: int,
        head: Tensor,
    ) -> None:  # fmt: skip
        super().__init__()
        self.stored, self.level = stored, level
        self.generator = stored.generator
        self._captured = Captured(stored.generator)
        self.generator_floats = self.generator.floats
        count = len(head)
        passing = torch.cat([head.new_zeros(count, head.shape[1] - count), torch.eye(count)], dim=1)
        self.head = nn.Parameter((passing + head).to(averages))
        self.bias = nn.Parameter(averages.new_zeros(count))
        self.register_buffer("averages", averages)
        self.register_buffer("directions", directions)
        with torch.no_grad():
            self.register_buffer("origins", _flat_state(self.generator, averages, level))

    @property
    def provenance(self) -> Mapping[str, object]:
        """Name, hash and licence of the generator."""
        return {"generator": self.stored.facts}

    def latents(self, code: Tensor, labels: Tensor) -> tuple[LevelState, Tensor]:
        """Return the state at the level and ws [n, num_ws, D] of codes [n, code, 1, 1]."""
        # products of one row each: in a product of matrices the rows may not be independent
        coordinates = (self.head * code.flatten(1)[:, None]).sum(dim=2) + self.bias
        steps = torch.bmm(coordinates[:, None], self.directions[labels])[:, 0]
        flat, ws = self.origins[labels] + steps, self.averages[labels]
        if self.level == 0:
            return (), flat.reshape(ws.shape)
        shapes = self.generator.spec.levels[self.level].shapes
        parts = flat.split([math.prod(shape) for shape in shapes], dim=1)
        pairs = zip(parts, shapes, strict=True)
        return tuple(part.reshape(-1, *shape) for part, shape in pairs), ws

    def forward(self, code: Tensor, labels: Tensor) -> Tensor:
        """Decode; see `Decoder.forward`."""
        state, ws = self.latents(code, labels)
        return (self._captured.images(state, ws, self.level) + 1) / 2
