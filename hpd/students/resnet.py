"""ResNet-18 for small images, as the field evaluates with it."""

from __future__ import annotations

from functools import partial

from pydantic import Field
from torch import Tensor, nn

from hpd.students.base import STUDENTS, ImageShape, StudentSettings
from hpd.students.convolutional import Convolutional, check_last_maps
from hpd.students.norms import Norm, norm_layer


@STUDENTS.register("resnet18")
class ResNet18Settings(StudentSettings):
    """Four stages of two basic blocks, averaged feature maps, a linear head.

    The variant for CIFAR: a first convolution of 3x3 that keeps the size, and no pooling after
    it. Images of 28 px are not padded to 32: either ends in maps of 4x4, and the field leaves
    them as they are. The weights start as torch draws them for each layer, which is the field's
    way; torchvision's ResNet draws its convolutions after He et al., ICCV 2015.

    Source: He et al., CVPR 2016; the field's variant from Zhao et al., ICLR 2021.
    """

    width: int = Field(64, ge=1, description="feature maps of the first stage; each next doubles")
    norm: Norm = "instance"

    def make(self, image_shape: ImageShape, num_classes: int) -> ResNet18:
        """Return the module for images of shape (C, H, W).

        Raises:
            ConfigError: if instance norm would see maps of one pixel, and give a constant.
        """
        check_last_maps(image_shape, self.norm, shrink=8)
        return ResNet18(image_shape, num_classes, width=self.width, norm=self.norm)


class ResNet18(Convolutional):
    """The network of `ResNet18Settings`; its embedding is the average over positions."""

    def __init__(
        self, image_shape: ImageShape, num_classes: int, *, width: int, norm: Norm
    ) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(image_shape[0], width, 3, padding=1, bias=False),
            norm_layer(norm, width),
            nn.ReLU(inplace=True),
            _stage(width, width, norm),
            *(_stage(width * 2**i, width * 2 ** (i + 1), norm) for i in range(3)),
        ]
        super().__init__(layers, 8 * width, num_classes)

    def pool(self, features: Tensor) -> Tensor:
        """Average the feature maps over positions: [N, F]."""
        return features.mean(dim=(2, 3))


def _stage(inside: int, out: int, norm: Norm) -> nn.Sequential:
    """Return two basic blocks; the first halves the size where the number of maps changes."""
    # importing torchvision takes as long as importing torch
    from torchvision.models.resnet import BasicBlock

    layer = partial(norm_layer, norm)
    stride, shortcut = 1, None
    if out != inside:
        stride = 2
        shortcut = nn.Sequential(nn.Conv2d(inside, out, 1, stride, bias=False), layer(out))
    first = BasicBlock(inside, out, stride, shortcut, norm_layer=layer)
    return nn.Sequential(first, BasicBlock(out, out, norm_layer=layer))
