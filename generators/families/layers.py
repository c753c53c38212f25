"""Layers with an equalised learning rate, shared by the StyleGAN families.

Weights are stored at unit variance and scaled at run time, so one learning rate serves layers of
every size (Karras et al., Progressive Growing of GANs, 2018, section 4.1).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from generators.ops import bias_act, upfirdn2d
from generators.ops.bias_act import Activation
from generators.prepared import Prepares


def normalise_second_moment(x: Tensor) -> Tensor:
    """Scale each row of [N, F] to a mean square of 1."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


class DenseLayer(Prepares):
    """Fully connected layer: ``act(x W^T * lr / sqrt(in) + lr * b)``.

    Args:
        in_features: width of the input.
        out_features: width of the output.
        activation: ``"linear"`` or ``"lrelu"``.
        lr_multiplier: how much slower than the rest this layer learns.
        bias_init: initial bias.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        activation: Activation = "linear",
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features))
        self.activation: Activation = activation
        self.lr_multiplier, self.bias_init = lr_multiplier, bias_init

    @torch.no_grad()
    def initialise(self, rng: torch.Generator) -> None:
        """Draw fresh weights."""
        self.weight.normal_(generator=rng).div_(self.lr_multiplier)
        self.bias.fill_(self.bias_init)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, in] to [N, out]."""
        weight = self.prepared("weight", self.weight, self._turned)
        bias: Tensor = self.bias
        if self.lr_multiplier != 1:
            bias = self.prepared("bias", self.bias, lambda: self.bias * self.lr_multiplier)
        if self.activation == "linear":
            return torch.addmm(bias, x, weight)
        return bias_act(x @ weight, bias, activation=self.activation)

    def _turned(self) -> Tensor:
        return (self.weight * (self.lr_multiplier / math.sqrt(self.weight.shape[1]))).t()


class DenseStack(nn.Module):
    """Dense layers with leaky ReLU, one after another: ``fc0``, ``fc1``, ... as in checkpoints.

    What a subclass registers before `add_layers` is drawn before them.
    """

    depth = 0

    def add_layers(self, width: int, out: int, depth: int, lr_multiplier: float) -> None:
        """Add `depth` layers from [N, width] to [N, out]."""
        self.depth = depth
        for i in range(depth):
            layer = DenseLayer(
                out if i else width, out, activation="lrelu", lr_multiplier=lr_multiplier
            )
            self.add_module(f"fc{i}", layer)

    def through(self, x: Tensor) -> Tensor:
        """Map [N, width] to [N, out]."""
        for i in range(self.depth):
            x = self.get_submodule(f"fc{i}")(x)
        return x


def initialise_layers(network: nn.Module, rng: torch.Generator) -> None:
    """Call `initialise` of every layer below `network` that has one, in a fixed order."""
    for layer in network.modules():
        draw = getattr(layer, "initialise", None)
        if layer is not network and callable(draw):
            draw(rng)


def up_convolve(x: Tensor, weight: Tensor, kernel: Tensor) -> Tensor:
    """Double the size of [N, I, H, W] with a convolution [O, I, k, k], then low-pass filter.

    The transposed convolution with stride 2 is a true convolution of the zero-stuffed input;
    the filter removes the images that zero-stuffing makes. The result is [N, O, 2H, 2W].
    """
    k = weight.shape[-1]
    filter_size = kernel.shape[-1]
    if k == 1:
        # the 1x1 convolution commutes with the filter and is cheaper at the small size
        before, after = (filter_size + 1) // 2, (filter_size - 2) // 2
        y = nn.functional.conv2d(x, weight)
        return upfirdn2d(y, kernel, up=2, padding=(before, after, before, after), gain=4)
    y = nn.functional.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
    before = k // 2 + (filter_size + 1) // 2 - (k - 1)
    after = k // 2 + (filter_size - 2) // 2 - (k - 2)
    return upfirdn2d(y, kernel, padding=(before, after, before, after), gain=4)
