"""ResNet-20, the small residual network for CIFAR-10, and its published weights."""

from __future__ import annotations

import re
from pathlib import Path

import torch
import torch.nn.functional as F
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from hpd.data import Normalisation
from hpd.errors import DataError
from hpd.students.base import STUDENTS, ImageShape, StudentSettings
from hpd.students.networks.convolutional import Convolutional, check_last_maps
from hpd.students.networks.norms import Norm, norm_layer

NAME = "ResNet-20 for CIFAR-10 (akamaster/pytorch_resnet_cifar10)"
NORMALISATION = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_WIDTHS = (16, 32, 64)
_BLOCKS = 3
# where the names of that repository lie here
_NAMES = (
    (r"conv1\.", "blocks.0."),
    (r"bn1\.", "blocks.1."),
    (r"layer1\.", "blocks.3."),
    (r"layer2\.", "blocks.4."),
    (r"layer3\.", "blocks.5."),
    (r"linear\.", "head."),
)


@STUDENTS.register("resnet20")
class ResNet20Settings(StudentSettings):
    """Three stages of three basic blocks of 16, 32 and 64 feature maps, averaged, a linear head.

    Shortcuts have no parameters (option A). With ``norm: batch`` it is the network whose weights
    `read_resnet20` reads.

    Source: He et al., CVPR 2016, section 4.2.
    """

    norm: Norm = Field("instance", description="of its layers")

    def make(self, image_shape: ImageShape, num_classes: int) -> ResNet20:
        """Return the module for images of shape (C, H, W).

        Raises:
            ConfigError: if instance norm would see maps of one pixel, and give a constant.
        """
        check_last_maps(image_shape, self.norm, shrink=4)
        return ResNet20(image_shape[0], num_classes, norm=self.norm)


class _Block(nn.Module):
    """Two convolutions with norms, beside a shortcut without parameters.

    Where the size halves, the shortcut takes every other pixel and adds feature maps of zeros on
    both sides (He et al., CVPR 2016, option A).
    """

    def __init__(self, inside: int, out: int, norm: Norm) -> None:
        super().__init__()
        self.stride, self.extra = (1, 0) if inside == out else (2, (out - inside) // 2)
        self.conv1 = nn.Conv2d(inside, out, 3, self.stride, padding=1, bias=False)
        self.bn1 = norm_layer(norm, out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = norm_layer(norm, out)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, I, H, W] to [N, O, H / stride, W / stride]."""
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        return (y + F.pad(shortcut, (0, 0, 0, 0, self.extra, self.extra))).relu()


class ResNet20(Convolutional):
    """The network of `ResNet20Settings`; its embedding is the average over positions."""

    def __init__(self, channels: int, num_classes: int, *, norm: Norm = "batch") -> None:
        first = nn.Conv2d(channels, _WIDTHS[0], 3, padding=1, bias=False)
        layers: list[nn.Module] = [first, norm_layer(norm, _WIDTHS[0]), nn.ReLU()]
        inside = _WIDTHS[0]
        for width in _WIDTHS:
            blocks = [_Block(width if j else inside, width, norm) for j in range(_BLOCKS)]
            layers.append(nn.Sequential(*blocks))
            inside = width
        super().__init__(layers, inside, num_classes)

    def pool(self, features: Tensor) -> Tensor:
        """Average the feature maps over positions: [N, F]."""
        return features.mean(dim=(2, 3))


def read_resnet20(path: Path) -> ResNet20:
    """Read the published weights, under the names of their repository, from safetensors.

    Returns:
        the network in eval mode, without gradient; it takes images [N, 3, H, W] normalised by
        `NORMALISATION`.

    Raises:
        DataError: if the file is missing or holds something else.
    """
    with torch.device("meta"):
        network = ResNet20(3, 10)
    try:
        weights = {_here(name): value for name, value in load_file(path).items()}
        network.load_state_dict(weights, strict=False, assign=True)
        left = {name: value for name, value in network.state_dict().items() if value.is_meta}
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise DataError(f"cannot read a ResNet-20 from {path}", got=reason) from None
    # how many batches the norms have seen matters to nothing
    missing = [name for name in left if not name.endswith("num_batches_tracked")]
    if missing:
        raise DataError(f"{path} lacks weights of a ResNet-20", got=f"no {missing[0]}")
    counts = {name: torch.zeros_like(value, device="cpu") for name, value in left.items()}
    network.load_state_dict(counts, strict=False, assign=True)
    return network.requires_grad_(False).eval()


def _here(name: str) -> str:
    """Return what a tensor of the repository is called here."""
    for theirs, ours in _NAMES:
        if re.match(theirs, name):
            return re.sub(theirs, ours, name, count=1)
    return name
