"""VGG11, as the field evaluates with it."""

from __future__ import annotations

from pydantic import Field
from torch import nn

from hpd.students.base import STUDENTS, ImageShape, StudentSettings
from hpd.students.networks.convolutional import Convolutional, extra_padding, too_small
from hpd.students.networks.norms import Norm, norm_layer

# feature maps of the convolutions of each block, in widths; a pooling ends the block
_BLOCKS = ((1,), (2,), (4, 4), (8, 8), (8, 8))


@STUDENTS.register("vgg11")
class VGG11Settings(StudentSettings):
    """Eight 3x3 convolutions with norm and ReLU, max pooling after each block, a linear head.

    At 32 px it is the field's. In smaller images a pooling is left out where the convolutions
    after it would see maps of one pixel; in larger ones the head reads the flattened maps
    (8 * width * 4 * 4 of them at 128 px).

    Source: Simonyan and Zisserman, ICLR 2015; the field's variant from Zhao et al., ICLR 2021.
    """

    width: int = Field(64, ge=1, description="feature maps of the first block; the last has 8x")
    norm: Norm = Field("instance", description="of its layers")

    def make(self, image_shape: ImageShape, num_classes: int) -> Convolutional:
        """Return the module for images of shape (C, H, W).

        Raises:
            ConfigError: if there is no image to pool.
        """
        channels, *size = image_shape
        if min(size) < 2:
            raise too_small(image_shape, got="a pooling", expected="at least 2 px a side")
        extra = extra_padding(image_shape)
        height, wide = (side + 2 * extra for side in size)
        layers: list[nn.Module] = []
        for i, block in enumerate(_BLOCKS):
            for maps in (factor * self.width for factor in block):
                layers += [
                    nn.Conv2d(channels, maps, 3, padding=1 + extra),
                    norm_layer(self.norm, maps),
                    nn.ReLU(),
                ]
                channels, extra = maps, 0
            last = i + 1 == len(_BLOCKS)
            if min(height, wide) >= (2 if last else 4):
                layers.append(nn.MaxPool2d(2))
                height, wide = height // 2, wide // 2
        return Convolutional(layers, channels * height * wide, num_classes)
