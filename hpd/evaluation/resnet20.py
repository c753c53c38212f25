"""ResNet-20 for CIFAR-10, as akamaster/pytorch_resnet_cifar10 trained and published it."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from hpd.data import Normalisation
from hpd.errors import DataError

NAME = "ResNet-20 for CIFAR-10 (akamaster/pytorch_resnet_cifar10)"
NORMALISATION = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_WIDTHS = (16, 32, 64)
_BLOCKS = 3


class _Block(nn.Module):
    """Two convolutions with batch norm, beside a shortcut without parameters.

    Where the size halves, the shortcut takes every other pixel and adds feature maps of zeros on
    both sides (He et al., CVPR 2016, option A).
    """

    def __init__(self, inside: int, out: int) -> None:
        super().__init__()
        self.stride, self.extra = (1, 0) if inside == out else (2, (out - inside) // 2)
        self.conv1 = nn.Conv2d(inside, out, 3, self.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, I, H, W] to [N, O, H / stride, W / stride]."""
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        return (y + F.pad(shortcut, (0, 0, 0, 0, self.extra, self.extra))).relu()


class ResNet20(nn.Module):
    """The network; it takes images normalised by `NORMALISATION`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, _WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(_WIDTHS[0])
        inside = _WIDTHS[0]
        for i, width in enumerate(_WIDTHS, start=1):
            blocks = [_Block(width if j else inside, width) for j in range(_BLOCKS)]
            self.add_module(f"layer{i}", nn.Sequential(*blocks))
            inside = width
        self.linear = nn.Linear(inside, 10)

    def embed(self, x: Tensor) -> Tensor:
        """Return the averaged last feature maps, [N, 64], of images [N, 3, 32, 32]."""
        x = self.bn1(self.conv1(x)).relu()
        for i in range(1, len(_WIDTHS) + 1):
            x = self.get_submodule(f"layer{i}")(x)
        return x.mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [N, 10] of images [N, 3, 32, 32]."""
        return self.linear(self.embed(x))


def read_resnet20(path: Path) -> ResNet20:
    """Read the weights, under the names of their repository, from safetensors.

    Raises:
        DataError: if the file is missing or holds something else.
    """
    with torch.device("meta"):
        network = ResNet20()
    try:
        network.load_state_dict(load_file(path), strict=False, assign=True)
        left = [name for name, value in network.state_dict().items() if value.is_meta]
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise DataError(f"cannot read a ResNet-20 from {path}", got=reason) from None
    # how many batches the norms have seen matters to nothing
    missing = [name for name in left if not name.endswith("num_batches_tracked")]
    if missing:
        raise DataError(f"{path} lacks weights of a ResNet-20", got=f"no {missing[0]}")
    return network.requires_grad_(False).eval()
