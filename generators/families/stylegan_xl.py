"""StyleGAN-XL, stems and super-resolution networks, cut into levels.

Source: Sauer et al., StyleGAN-XL: Scaling StyleGAN to Large Diverse Datasets, SIGGRAPH 2022,
section 3. Parameter names are those of the official checkpoints.
"""

from __future__ import annotations

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from typing_extensions import Self

from generators.base import FAMILIES
from generators.families.alias_free import AliasFreeGenerator
from generators.families.alias_free_plan import AliasFreeSettings, LayerSettings, check_chain
from generators.families.layers import DenseLayer, DenseStack, normalise_second_moment
from hpd.errors import ConfigError

_PLANNED = frozenset(
    "channel_base channel_max num_layers num_critical first_cutoff first_stopband "
    "last_stopband_rel margin conv_kernel radial_filters filter_size lrelu_upsampling "
    "conv_clamp".split()
)


@FAMILIES.register("stylegan_xl")
class StyleGANXLSettings(AliasFreeSettings):
    """Constructor arguments of a StyleGAN-XL generator.

    A stem is described as a StyleGAN3. A super-resolution network is a stem without its last
    layers under new ones, which no rule of its final resolution gives: its `layers` are listed.
    """

    z_dim: int = Field(64, ge=1)
    num_embeddings: int = Field(1000, ge=1, description="rows of the class embedding")
    embedding_dim: int = Field(320, ge=1, description="width of the class embedding")
    layers: list[LayerSettings] | None = Field(
        None, description="every synthesis layer; null to derive them from the other options"
    )

    @model_validator(mode="after")
    def _classes_are_embedded(self) -> Self:
        if self.num_classes > self.num_embeddings:
            raise ConfigError(
                f"num_embeddings in {self.section()} is not valid",
                got=self.num_embeddings, expected=f"at least num_classes, {self.num_classes}",
            )  # fmt: skip
        return self

    @model_validator(mode="after")
    def _layers_stand_alone(self) -> Self:
        if self.layers is None:
            return self
        for name in sorted(_PLANNED):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ConfigError(
                    f"{name} has no effect beside layers",
                    fix=f"Leave {name} out, or set it in each layer.",
                )
        check_chain(self.layers, self)
        return self

    def plan(self) -> list[LayerSettings]:
        """Return all synthesis layers, as listed or as derived."""
        return super().plan() if self.layers is None else list(self.layers)

    def build(self, classes: tuple[str, ...] = ()) -> StyleGANXL:
        """Return the network with uninitialised weights."""
        return StyleGANXL(self, classes)


class ClassMapping(DenseStack):
    """z and class to w, with a pretrained class embedding and an average w per class.

    The embedding holds, for each class, the mean features of a pretrained classifier; a layer
    projects them to the width of z. Truncation moves w toward the average of its own class.

    Source: Sauer et al., 2022, section 3.1 (pretrained class embeddings).
    """

    w_avg: Tensor

    def __init__(self, settings: StyleGANXLSettings, num_ws: int) -> None:
        super().__init__()
        s = settings
        self.num_ws = num_ws
        # built from a tensor, because the plain constructor draws from the global generator
        empty = torch.empty(s.num_embeddings, s.embedding_dim)
        self.embed = nn.Embedding.from_pretrained(empty, freeze=False)
        width = s.z_dim
        if s.num_classes:
            self.embed_proj = DenseLayer(s.embedding_dim, s.z_dim, activation="lrelu")
            width = 2 * s.z_dim
        self.add_layers(width, s.w_dim, s.mapping_layers, s.mapping_lr_multiplier)
        shape = (s.num_classes, s.w_dim) if s.num_classes else (s.w_dim,)
        self.register_buffer("w_avg", torch.zeros(shape))

    @torch.no_grad()
    def initialise(self, rng: torch.Generator) -> None:
        """Draw a random class embedding."""
        self.embed.weight.normal_(generator=rng)

    def forward(self, z: Tensor, labels: Tensor | None, truncation_psi: float = 1.0) -> Tensor:
        """Map z [N, z_dim] and class indices [N] to ws [N, num_ws, D]."""
        x = normalise_second_moment(z)
        if labels is not None:
            embedded = self.embed_proj(self.embed(labels))
            x = torch.cat([x, normalise_second_moment(embedded)], dim=1)
        ws = self.through(x)[:, None].expand(-1, self.num_ws, -1)
        if truncation_psi == 1:
            return ws
        centre = self.w_avg if labels is None else self.w_avg[labels][:, None]
        return centre.lerp(ws, truncation_psi)


class StyleGANXL(AliasFreeGenerator):
    """A StyleGAN-XL generator: mapping by class and alias-free synthesis.

    Args:
        settings: constructor arguments.
        classes: names of the classes, if known.
    """

    family = "stylegan_xl"

    def __init__(self, settings: StyleGANXLSettings, classes: tuple[str, ...] = ()) -> None:
        super().__init__(settings, classes)
        self.settings = settings
        self.mapping = ClassMapping(settings, self.spec.num_ws)

    def _map(self, z: Tensor, labels: Tensor | None, truncation_psi: float) -> Tensor:
        return self.mapping(z, labels, truncation_psi)
