"""AlexNet, as small as the field evaluates with it."""

from __future__ import annotations

from torch import nn

from hpd.students.base import STUDENTS, ImageShape, StudentSettings
from hpd.students.convolutional import Convolutional, extra_padding, too_small
from hpd.students.norms import Norm, norm_layer

# of each convolution: kernel, feature maps, whether pooling follows
_CONVOLUTIONS = ((5, 128, True), (5, 192, True), (3, 256, False), (3, 192, False), (3, 192, True))


@STUDENTS.register("alexnet")
class AlexNetSettings(StudentSettings):
    """Five convolutions with ReLU, three of them with 2x2 max pooling, then a linear head.

    Source: Krizhevsky et al., NeurIPS 2012; the field's widths from Zhao et al., ICLR 2021, whose
    network has no norm.
    """

    norm: Norm = "none"

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
        for kernel, maps, pooled in _CONVOLUTIONS:
            layers += [
                nn.Conv2d(channels, maps, kernel, padding=kernel // 2 + extra),
                norm_layer(self.norm, maps),
                nn.ReLU(),
            ]
            if pooled:
                layers.append(nn.MaxPool2d(2))
            channels, extra = maps, 0
        return Convolutional(layers, channels * height * wide, num_classes)
