"""ConvNet: the small network in which the field matches and evaluates."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from hpd.errors import ConfigError
from hpd.students.base import STUDENTS, ImageShape, Student, StudentSettings

Norm = Literal["instance", "batch", "group", "layer", "none"]


@STUDENTS.register("convnet")
class ConvNetSettings(StudentSettings):
    """Blocks of 3x3 convolution, norm, ReLU and 2x2 average pooling, then a linear head.

    Source: Gidaris and Komodakis, CVPR 2018; the field's settings from Zhao et al., ICLR 2021.
    """

    width: int = Field(128, ge=1, description="feature maps of each block")
    depth: int | None = Field(
        None, ge=1, description="blocks; null: 3 up to 32 px, 4 up to 64, 5 up to 128, then 6"
    )
    norm: Norm = "instance"

    def make(self, image_shape: ImageShape, num_classes: int) -> Student:
        """Return the module for images of shape (C, H, W).

        Raises:
            ConfigError: if pooling would leave nothing of the image.
        """
        depth = self.depth or depth_for(max(image_shape[1:]))
        if min(image_shape[1:]) >> depth < 1:
            raise ConfigError(
                f"images of {image_shape[1]}x{image_shape[2]} px are too small for the student",
                got=f"depth {depth}",
                expected=f"depth of at most {min(image_shape[1:]).bit_length() - 1}",
            )
        return ConvNet(image_shape, num_classes, width=self.width, depth=depth, norm=self.norm)


def depth_for(resolution: int) -> int:
    """Return the field's number of blocks for images of this size.

    >>> [depth_for(r) for r in (16, 32, 64, 128, 256)]
    [3, 3, 4, 5, 6]
    """
    return 3 + sum(resolution > limit for limit in (32, 64, 128))


def norm_layer(norm: Norm, channels: int) -> nn.Module:
    """Return a normalisation layer with learnt scale and shift."""
    if norm == "none":
        return nn.Identity()
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    groups = {"instance": channels, "layer": 1, "group": 4 if channels % 4 == 0 else 1}
    return nn.GroupNorm(groups[norm], channels)


class ConvNet(Student):
    """The network of `ConvNetSettings`; its embedding is the flattened last feature maps."""

    def __init__(
        self, image_shape: ImageShape, num_classes: int, *, width: int, depth: int, norm: Norm
    ) -> None:
        super().__init__()
        channels, height, wide = image_shape
        blocks = []
        for i in range(depth):
            blocks += [
                nn.Conv2d(width if i else channels, width, 3, padding=1),
                norm_layer(norm, width),
                nn.ReLU(),
                nn.AvgPool2d(2),
            ]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(width * (height >> depth) * (wide >> depth), num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Return the last feature maps [N, F, h, w]."""
        return self.blocks(x)

    def pool(self, features: Tensor) -> Tensor:
        """Flatten the feature maps: [N, F * h * w]."""
        return features.flatten(1)
