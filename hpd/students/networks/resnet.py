"""ResNet-18: for small images, as the field evaluates with it, and for those of ImageNet."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from hpd.students.base import STUDENTS, ImageShape, StudentSettings
from hpd.students.networks.convolutional import Convolutional, check_last_maps
from hpd.students.networks.norms import Norm, norm_layer

Stem = Literal["small", "imagenet"]


@STUDENTS.register("resnet18")
class ResNet18Settings(StudentSettings):
    """Four stages of two basic blocks, averaged feature maps, a linear head.

    With ``stem: small`` the variant for CIFAR: a first convolution of 3x3 that keeps the size, and
    no pooling after it. With ``stem: imagenet`` the original: 7x7 with stride 2, and a maximum over
    3x3 with stride 2. Images of 28 px are not padded to 32: either ends in maps of 4x4, and the
    field leaves them as they are. The weights start as torch draws them for each layer, which is
    the field's way; torchvision's ResNet draws its convolutions after He et al., ICCV 2015.

    Source: He et al., CVPR 2016; the field's variant from Zhao et al., ICLR 2021.
    """

    width: int = Field(64, ge=1, description="feature maps of the first stage; each next doubles")
    norm: Norm = Field("instance", description="of its layers")
    stem: Stem = Field(
        "small", description="small: 3x3; imagenet: 7x7 with stride 2, then a maximum with stride 2"
    )

    def make(self, image_shape: ImageShape, num_classes: int) -> ResNet18:
        """Return the module for images of shape (C, H, W).

        Raises:
            ConfigError: if instance norm would see maps of one pixel, and give a constant.
        """
        check_last_maps(image_shape, self.norm, shrink=8 if self.stem == "small" else 32)
        layers = _stem(self.stem, image_shape[0], self.width, self.norm)
        return ResNet18(layers, num_classes, width=self.width, norm=self.norm)


class ResNet18(Convolutional):
    """The network of `ResNet18Settings`; its embedding is the average over positions."""

    def __init__(
        self, stem: Sequence[nn.Module], num_classes: int, *, width: int, norm: Norm
    ) -> None:
        layers: list[nn.Module] = [
            *stem,
            _stage(width, width, norm),
            *(_stage(width * 2**i, width * 2 ** (i + 1), norm) for i in range(3)),
        ]
        super().__init__(layers, 8 * width, num_classes)

    def pool(self, features: Tensor) -> Tensor:
        """Average the feature maps over positions: [N, F]."""
        return features.mean(dim=(2, 3))


def _stem(stem: Stem, channels: int, width: int, norm: Norm) -> list[nn.Module]:
    """Return the layers before the first stage."""
    small = stem == "small"
    size, stride = (3, 1) if small else (7, 2)
    first = nn.Conv2d(channels, width, size, stride, padding=size // 2, bias=False)
    layers = [first, norm_layer(norm, width), nn.ReLU(inplace=True)]
    return layers if small else [*layers, nn.MaxPool2d(3, 2, padding=1)]


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
