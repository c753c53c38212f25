"""ResNet-18 for small images, as the field evaluates with it."""

from __future__ import annotations

from functools import partial

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

    norm: Norm = "instance"

    def make(self, image_shape: ImageShape, num_classes: int) -> ResNet18:
        """Return the module for images of shape (C, H, W).

        Raises:
            ConfigError: if instance norm would see maps of one pixel, and give a constant.
        """
        check_last_maps(image_shape, self.norm, shrink=8)
        return ResNet18(image_shape, num_classes, norm=self.norm)


class ResNet18(Convolutional):
    """The network of `ResNet18Settings`; its embedding is the average over positions."""

    def __init__(self, image_shape: ImageShape, num_classes: int, *, norm: Norm) -> None:
        # importing torchvision takes as long as importing torch
        from torchvision.models.resnet import BasicBlock, ResNet

        layer = partial(norm_layer, norm)
        net = ResNet(BasicBlock, [2, 2, 2, 2], num_classes=num_classes, norm_layer=layer)
        first = nn.Conv2d(image_shape[0], 64, 3, padding=1, bias=False)
        layers = [first, net.bn1, net.relu, net.layer1, net.layer2, net.layer3, net.layer4]
        super().__init__(layers, 512, num_classes)

    def pool(self, features: Tensor) -> Tensor:
        """Average the feature maps over positions: [N, F]."""
        return features.mean(dim=(2, 3))
