"""ConvNet: the small network in which the field matches and evaluates."""

from __future__ import annotations

from pydantic import Field
from torch import nn

from hpd.students.base import STUDENTS, ImageShape, StudentSettings
from hpd.students.networks.convolutional import Convolutional, extra_padding, too_small
from hpd.students.networks.norms import Norm, norm_layer


@STUDENTS.register("convnet")
class ConvNetSettings(StudentSettings):
    """Blocks of 3x3 convolution, norm, ReLU and 2x2 average pooling, then a linear head.

    Source: Gidaris and Komodakis, CVPR 2018; the field's settings from Zhao et al., ICLR 2021.
    """

    width: int = Field(128, ge=1, description="feature maps of each block")
    depth: int | None = Field(
        None, ge=1, description="blocks; null: 3 up to 32 px, 4 up to 64, 5 up to 128, then 6"
    )
    norm: Norm = Field("instance", description="of its layers")

    def make(self, image_shape: ImageShape, num_classes: int) -> Convolutional:
        """Return the module for images of shape (C, H, W).

        Raises:
            ConfigError: if pooling would leave nothing of the image.
        """
        depth = self.depth or depth_for(max(image_shape[1:]))
        channels, *size = image_shape
        extra = extra_padding(image_shape)
        height, wide = (side + 2 * extra for side in size)
        if min(height, wide) >> depth < 1:
            most = min(height, wide).bit_length() - 1
            raise too_small(image_shape, got=f"depth {depth}", expected=f"depth of at most {most}")
        layers: list[nn.Module] = []
        for _ in range(depth):
            layers += [
                nn.Conv2d(channels, self.width, 3, padding=1 + extra),
                norm_layer(self.norm, self.width),
                nn.ReLU(),
                nn.AvgPool2d(2),
            ]
            channels, extra = self.width, 0
        return Convolutional(layers, self.width * (height >> depth) * (wide >> depth), num_classes)


def depth_for(resolution: int) -> int:
    """Return the field's number of blocks for images of this size.

    >>> [depth_for(r) for r in (16, 32, 64, 128, 256)]
    [3, 3, 4, 5, 6]
    """
    return 3 + sum(resolution > limit for limit in (32, 64, 128))
