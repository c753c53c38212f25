"""AlexNet, as small as the field evaluates with it."""

from __future__ import annotations

from pydantic import Field
from torch import nn

from hpd.students.base import STUDENTS, ImageShape, StudentSettings
from hpd.students.networks.convolutional import Convolutional, extra_padding, too_small
from hpd.students.networks.norms import Norm, norm_layer

# of each convolution: kernel, feature maps in half widths, whether pooling follows
_CONVOLUTIONS = ((5, 2, True), (5, 3, True), (3, 4, False), (3, 3, False), (3, 3, True))


@STUDENTS.register("alexnet")
class AlexNetSettings(StudentSettings):
    """Five convolutions with ReLU, three of them with 2x2 max pooling, then a linear head.

    Source: Krizhevsky et al., NeurIPS 2012; the field's widths from Zhao et al., ICLR 2021, whose
    network has no norm.
    """

    width: int = Field(
        128, ge=2, multiple_of=2, description="feature maps of the first convolution"
    )
    norm: Norm = Field("none", description="of its layers")

    def make(self, image_shape: ImageShape, num_classes: int) -> Convolutional:
        """Return the module for images of shape (C, H, W).

        Raises:
            ConfigError: if pooling would leave nothing of the image.
        """
        if min(image_shape[1:]) < 8:
            raise too_small(image_shape, got="three poolings", expected="at least 8 px a side")
        channels, *size = image_shape
        extra = extra_padding(image_shape)
        height, wide = ((side + 2 * extra) // 8 for side in size)
        layers: list[nn.Module] = []
        for kernel, halves, pooled in _CONVOLUTIONS:
            maps = halves * self.width // 2
            layers += [
                nn.Conv2d(channels, maps, kernel, padding=kernel // 2 + extra),
                norm_layer(self.norm, maps),
                nn.ReLU(),
            ]
            if pooled:
                layers.append(nn.MaxPool2d(2))
            channels, extra = maps, 0
        return Convolutional(layers, channels * height * wide, num_classes)
