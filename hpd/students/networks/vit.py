"""ViT: the transformer in the field's cross-architecture tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from typing_extensions import Self

from hpd.errors import ConfigError
from hpd.students.base import STUDENTS, ImageShape, Student, StudentSettings, WeightRule


@STUDENTS.register("vit")
class ViTSettings(StudentSettings):
    """Patches as tokens, learnt positions, transformer layers, averaged tokens, a linear head.

    Sizes and dropout are the field's at 128 px. Differences: the field's has a class token and no
    layer norms. Here the embedding is the average of the tokens, so that it is a function of the
    feature maps, which class activation needs, and which trains as well (Beyer et al., Better
    plain ViT baselines for ImageNet-1k, 2022).

    Source: Dosovitskiy et al., ICLR 2021; the sizes from Cazenavette et al. (GLaD), CVPR 2023.
    """

    width: int = Field(512, ge=1, description="values of a token; a multiple of heads")
    depth: int = Field(10, ge=1, description="layers of attention and MLP")
    heads: int = Field(8, ge=1, description="attention heads of a layer")
    mlp_width: int = Field(512, ge=1, description="hidden values of an MLP")
    dropout: float = Field(0.1, ge=0, lt=1, description="while `train_student` trains")
    patch: int | None = Field(
        None,
        ge=1,
        description="pixels of a patch's side, a divisor of the image's; null: at most 8 a side",
    )

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> Self:
        if self.width % self.heads:
            raise ConfigError(
                f"width in {self.section()} is not valid",
                got=self.width,
                expected=f"a multiple of heads, {self.heads}",
            )
        return self

    def make(self, image_shape: ImageShape, num_classes: int) -> ViT:
        """Return the module for images of shape (C, H, W).

        Raises:
            ConfigError: if the image does not divide into two patches or more.
        """
        size = image_shape[1:]
        patch = self.patch or patch_for(size)
        if any(side % patch for side in size) or size == (patch, patch):
            raise ConfigError(
                f"images of {size[0]}x{size[1]} px do not divide into patches",
                got=f"patch {patch}" + ("" if self.patch else ", chosen for the size"),
                expected=f"a divisor of {math.gcd(*size)} with two patches or more",
                fix="Set patch, or scale the images to a size with more divisors.",
            )
        return ViT(image_shape, num_classes, patch, self)


def patch_for(size: tuple[int, int]) -> int:
    """Return the side of the smallest patches of which 8 or fewer make a side of the image.

    The common divisors of height and width are tried; if each gives too many patches, the
    largest is returned.

    >>> [patch_for((side, side)) for side in (8, 16, 28, 32, 128)]
    [1, 2, 4, 4, 16]
    """
    common = math.gcd(*size)
    divisors = [p for p in range(1, common + 1) if common % p == 0]
    return next((p for p in divisors if 8 * p >= max(size)), common)


class ViT(Student):
    """The network of `ViTSettings`; its feature maps are the last tokens in their places."""

    def __init__(
        self, image_shape: ImageShape, num_classes: int, patch: int, options: ViTSettings
    ) -> None:
        super().__init__()
        # importing torchvision takes as long as importing torch
        from torchvision.models.vision_transformer import Encoder

        channels, height, wide = image_shape
        self.conv_proj = nn.Conv2d(channels, options.width, patch, stride=patch)
        self.encoder = Encoder(
            seq_length=(height // patch) * (wide // patch),
            num_layers=options.depth,
            num_heads=options.heads,
            hidden_dim=options.width,
            mlp_dim=options.mlp_width,
            dropout=options.dropout,
            attention_dropout=0.0,
        )
        self.head = nn.Linear(options.width, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Return the last tokens as feature maps [N, F, h, w], one position per patch."""
        patches = self.conv_proj(x)
        # fused attention has no second derivative, which gradient matching takes
        with sdpa_kernel(SDPBackend.MATH):
            tokens: Tensor = self.encoder(patches.flatten(2).transpose(1, 2))
        return tokens.transpose(1, 2).unflatten(2, patches.shape[2:])

    def pool(self, features: Tensor) -> Tensor:
        """Average the tokens: [N, F]."""
        return features.mean(dim=(2, 3))

    def weight_rules(self) -> Mapping[type[nn.Module], WeightRule]:
        """Return how torchvision draws the weights of its ViT, but for the head's (zero there)."""
        from torchvision.models.vision_transformer import Encoder, MLPBlock

        return {Encoder: _draw_positions, MLPBlock: _draw_mlp, ViT: _draw_patches}


def _draw_positions(encoder: Any, rng: torch.Generator) -> None:
    nn.init.normal_(encoder.pos_embedding, std=0.02, generator=rng)


def _draw_mlp(mlp: nn.Module, rng: torch.Generator) -> None:
    for layer in mlp.children():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight, generator=rng)
            nn.init.normal_(layer.bias, std=1e-6, generator=rng)


def _draw_patches(vit: ViT, rng: torch.Generator) -> None:
    weight, bias = vit.conv_proj.parameters()
    nn.init.trunc_normal_(weight, std=math.sqrt(1 / weight[0].numel()), generator=rng)
    bias.zero_()
