"""Layers that several ConvNets of one architecture go through at once, with their own backward.

A step of a small network on ten small images is mostly overhead: tensors too small for the
operations, passes over memory that a wider layout would save, and fresh memory for each result.
Here the tensors of all S students lie in one, channels last, every result has a place that is used
again, and each layer knows its own derivative, so that no graph is kept.

Letters as in `hpd.typing`, and S students; activations are [S, N, H, W, C].
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

# Winograd's minimal filtering F(4, 3) on the points 0, 1, -1, 2, -2 and infinity
_INPUT = (
    (4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0), (0, 2, -1, -2, 1, 0), (0, 4, 0, -5, 0, 1),
)  # fmt: skip
_KERNEL = (
    (1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1),
)  # fmt: skip
_OUTPUT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))
_TILE = 4


class Workspace:
    """Tensors that are used again in the next step.

    Asking the system for memory, and touching it for the first time, takes as long as computing
    what goes into it.

    Args:
        like: gives dtype and device.
    """

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._flat: dict[str, Tensor] = {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        """Return the tensor of this name, of any shape; it holds what it held before, or zeros."""
        size = 1
        for side in shape:
            size *= side
        if name not in self._flat or len(self._flat[name]) < size:
            self._flat[name] = self._like.new_zeros(size)
        return self._flat[name][:size].view(shape)


class Layer(Protocol):
    """A layer and its derivative; each call overwrites what the last one returned."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's answer."""
        ...

    def backward(self, grad: Tensor) -> Tensor:
        """Take the gradient by the answer, write that by the parameters, return that by x."""
        ...


def _pool(active: Tensor, half: Tensor, out: Tensor) -> Tensor:
    """Sum 2x2 positions of [S, N, H, W, C]; `half` is where the sums of two go."""
    s, n, height, wide, c = active.shape
    even = active[:, :, : height // 2 * 2, : wide // 2 * 2]
    rows = even.unflatten(2, (height // 2, 2))
    torch.add(rows[:, :, :, 0], rows[:, :, :, 1], out=half)
    pairs = half.view(s, n, height // 2, wide // 2, 2, c)
    return torch.add(pairs[..., 0, :], pairs[..., 1, :], out=out)


def _relu_pool_backward(grad: Tensor, active: Tensor, out: Tensor) -> Tensor:
    """Give each position the gradient of its sum where it is active, [S, N, H, W, C]."""
    s, n, height, wide, c = active.shape
    h, w = height // 2, wide // 2
    spread = grad[:, :, :, None, :, None].expand(s, n, h, 2, w, 2, c)
    if (2 * h, 2 * w) == (height, wide):
        shape = (s, n, h, 2, w, 2, c)
        torch.ops.aten.threshold_backward.grad_input(
            spread, active.view(shape), 0, grad_input=out.view(shape)
        )
        return out
    # the last row or column of an odd size is in no sum
    out.zero_()
    inside = out[:, :, : 2 * h, : 2 * w]
    inside.copy_(spread.reshape(s, n, 2 * h, 2 * w, c))
    inside.mul_(active[:, :, : 2 * h, : 2 * w] > 0)
    return out


class FirstBlock:
    """Convolution, instance norm, ReLU and 2x2 average of images that need no gradient.

    The norm of a convolution of few channels follows from the patches' covariance, so it goes into
    the kernel of each image: with P the patches of an image less their mean, kernel w, scale g and
    shift b, the answer before the ReLU is ``P (w g / sqrt(w' cov(P) w + eps)) + b``. The bias of
    the convolution cancels.

    Args:
        weight: [S, J, O], J = C * k * k values of a patch, O channels; written to its `.grad`.
        scale: of the norm [S, O].
        shift: of the norm [S, O].
        padding: of the convolution.
        eps: of the norm.
    """

    def __init__(
        self, weight: Tensor, scale: Tensor, shift: Tensor, *, padding: int, eps: float
    ) -> None:
        self._parameters = weight, scale, shift
        self._padding, self._eps = padding, eps
        self._space = Workspace(weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return [S, N, H', W', O] of normalised images [S, N, C, H, W]."""
        s, n, channels, height, wide = x.shape
        side = self._side(channels)
        rows, columns = (v + 2 * self._padding - side + 1 for v in (height, wide))
        outputs = self._parameters[0].shape[2]
        patches = self._patches(x, side, rows, columns)
        covariance = patches[:, :-1] @ patches[:, :-1].transpose(1, 2) / (rows * columns)
        with torch.enable_grad():
            self._kernel = self._normalised_kernel(covariance.unflatten(0, (s, n)))
        kernel = self._kernel.detach().flatten(0, 1)
        active = self._space("active", s, n, rows, columns, outputs)
        flat = active.view(s * n, rows * columns, outputs)
        torch.bmm(patches.transpose(1, 2), kernel, out=flat).clamp_min_(0)
        self._saved = patches, active
        half = self._space("half", s, n, rows // 2, columns // 2 * 2, outputs)
        return _pool(active, half, self._space("out", s, n, rows // 2, columns // 2, outputs))

    def backward(self, grad: Tensor) -> None:
        """Write the parameters' gradients; see `Layer`."""
        patches, active = self._saved
        by_active = _relu_pool_backward(grad, active, self._space("grad", *active.shape))
        by_kernel = torch.bmm(patches, by_active.flatten(2, 3).flatten(0, 1))
        grads = torch.autograd.grad(
            self._kernel, self._parameters, by_kernel.view(self._kernel.shape)
        )
        for parameter, value in zip(self._parameters, grads, strict=True):
            assert parameter.grad is not None
            parameter.grad.copy_(value)

    def _side(self, channels: int) -> int:
        return round((self._parameters[0].shape[1] / channels) ** 0.5)

    def _patches(self, x: Tensor, side: int, rows: int, columns: int) -> Tensor:
        """Return the patches [S * N, J + 1, P], centred; the last row is ones, for the shift."""
        s, n, channels = x.shape[:3]
        padded = F.pad(x, [self._padding] * 4).flatten(0, 1)
        a, b, c, d = padded.stride()
        windows = padded.as_strided(
            (s * n, channels, side, side, rows, columns), (a, b, c, d, c, d)
        )
        size = channels * side * side
        patches = self._space("patches", s * n, size + 1, rows * columns)
        own = patches[:, :-1]
        own.unflatten(1, (channels, side, side)).unflatten(4, (rows, columns)).copy_(windows)
        own -= own.mean(dim=2, keepdim=True)
        patches[:, -1] = 1
        return patches

    def _normalised_kernel(self, covariance: Tensor) -> Tensor:
        """Return the kernel of each image [S, N, J + 1, O], a quarter of it for the average."""
        weight, scale, shift = self._parameters
        s, n, size = covariance.shape[:3]
        moved = (covariance.flatten(1, 2) @ weight).view(s, n, size, -1)
        variance = (moved * weight[:, None]).sum(dim=2)
        factor = scale[:, None] * (variance + self._eps).rsqrt()
        kernel = weight[:, None] * factor[:, :, None]
        last = shift[:, None, None].expand(s, n, 1, -1)
        return torch.cat([kernel, last], dim=2) / 4


class Convolution:
    """3x3 convolution with padding 1 and without bias, by Winograd's F(4x4, 3x3).

    Tiles of 6x6 values give 4x4 answers by 36 products a channel instead of 144, all of them
    matrix products: with B, G and A of the algorithm, ``A'[(G w G') * (B' x B)]A`` per tile.

    Args:
        weight: [3, 3, S, C, O]; written to its `.grad`.

    Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016.
    """

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight
        self._space = Workspace(weight)

        def both_ways(values: tuple[tuple[float, ...], ...]) -> Tensor:
            matrix = torch.tensor(values, dtype=torch.float64)
            return torch.kron(matrix, matrix).to(weight)

        self._input, self._kernel, self._output = map(both_ways, (_INPUT, _KERNEL, _OUTPUT))

    def forward(self, x: Tensor) -> Tensor:
        """Return [S, N, H, W, O] of [S, N, H, W, C]."""
        s, n, height, wide, c = x.shape
        outputs = self._weight.shape[-1]
        h, w = -(-height // _TILE), -(-wide // _TILE)
        padded = self._space("padded", s, n, h * _TILE + 2, w * _TILE + 2, c)
        self._clear_border(padded, height, wide)
        padded[:, :, 1 : height + 1, 1 : wide + 1] = x
        a, b, d, e, _ = padded.stride()
        tiles = self._space("tiles", 6, 6, s, n, h, w, c)
        strides = (d, e, a, b, _TILE * d, _TILE * e, 1)
        tiles.copy_(padded.as_strided(tiles.shape, strides))
        self._moved = self._space("moved", 36, s * n * h * w * c)
        torch.mm(self._input, tiles.view(36, -1), out=self._moved)
        self._moved = self._moved.view(36 * s, n * h * w, c)
        kernel = self._space("kernel", 36, s * c * outputs)
        torch.mm(self._kernel, self._weight.view(9, -1), out=kernel)
        self._shape, self._transformed = x.shape, kernel.view(36 * s, c, outputs)
        products = self._space("products", 36 * s, n * h * w, outputs)
        torch.bmm(self._moved, self._transformed, out=products)
        quads = self._space("quads", 16, s * n * h * w * outputs)
        torch.mm(self._output, products.view(36, -1), out=quads)
        out = self._space("out", s, n, h, _TILE, w, _TILE, outputs)
        out.copy_(quads.view(_TILE, _TILE, s, n, h, w, outputs).permute(2, 3, 4, 0, 5, 1, 6))
        return out.view(s, n, h * _TILE, w * _TILE, outputs)[:, :, :height, :wide]

    @staticmethod
    def _clear_border(padded: Tensor, height: int, wide: int) -> None:
        for side, size in ((2, height), (3, wide)):
            padded.narrow(side, 0, 1).zero_()
            padded.narrow(side, size + 1, padded.shape[side] - size - 1).zero_()

    def backward(self, grad: Tensor) -> Tensor:
        """Return the gradient by x; see `Layer`."""
        s, n, height, wide, c = self._shape
        outputs = grad.shape[-1]
        h, w = -(-height // _TILE), -(-wide // _TILE)
        if (h * _TILE, w * _TILE) != (height, wide):
            grad = F.pad(grad, (0, 0, 0, w * _TILE - wide, 0, h * _TILE - height))
        quads = self._space("quads", _TILE, _TILE, s, n, h, w, outputs)
        quads.copy_(grad.view(s, n, h, _TILE, w, _TILE, outputs).permute(3, 5, 0, 1, 2, 4, 6))
        products = self._space("products", 36, s * n * h * w * outputs)
        torch.mm(self._output.t(), quads.view(16, -1), out=products)
        products = products.view(36 * s, n * h * w, outputs)
        by_kernel = self._space("by kernel", 36 * s, c, outputs)
        torch.bmm(self._moved.transpose(1, 2), products, out=by_kernel)
        assert self._weight.grad is not None
        torch.mm(self._kernel.t(), by_kernel.view(36, -1), out=self._weight.grad.view(9, -1))
        torch.bmm(products, self._transformed.transpose(1, 2), out=self._moved)
        tiles = self._space("tiles", 36, s * n * h * w * c)
        torch.mm(self._input.t(), self._moved.view(36, -1), out=tiles)
        return self._gather(tiles.view(6, 6, s, n, h, w, c))[:, :, 1 : height + 1, 1 : wide + 1]

    def _gather(self, tiles: Tensor) -> Tensor:
        """Add up tiles [6, 6, S, N, h, w, C] where they lie over each other, 2 rows or columns."""
        _, _, s, n, h, w, c = tiles.shape
        out = self._space("gathered", s, n, h + 1, _TILE, w + 1, _TILE, c)
        out[:, :, h].zero_()
        out[:, :, :, :, w].zero_()
        tiles = tiles.permute(2, 3, 4, 0, 5, 1, 6)
        out[:, :, :h, :, :w] = tiles[:, :, :, :_TILE, :, :_TILE]
        out[:, :, 1:, :2, :w] += tiles[:, :, :, _TILE:, :, :_TILE]
        out[:, :, :h, :, 1:, :2] += tiles[:, :, :, :_TILE, :, _TILE:]
        out[:, :, 1:, :2, 1:, :2] += tiles[:, :, :, _TILE:, :, _TILE:]
        return out.view(s, n, (h + 1) * _TILE, (w + 1) * _TILE, c)


class NormReluPool:
    """Instance norm with learnt scale and shift, ReLU and 2x2 average.

    Args:
        scale: [S, C]; written to its `.grad`.
        shift: [S, C]; written to its `.grad`.
        eps: of the norm.
    """

    def __init__(self, scale: Tensor, shift: Tensor, *, eps: float) -> None:
        self._scale, self._shift, self._eps = scale, shift, eps
        self._space = Workspace(scale)

    def forward(self, x: Tensor) -> Tensor:
        """Return [S, N, H // 2, W // 2, C] of [S, N, H, W, C]."""
        s, n, height, wide, c = x.shape
        centred = self._space("centred", *x.shape)
        torch.sub(x, x.mean(dim=(2, 3), keepdim=True), out=centred)
        active = self._space("active", *x.shape)
        torch.mul(centred, centred, out=active)
        variance = active.mean(dim=(2, 3), keepdim=True)
        inverse = variance.add_(self._eps).rsqrt_()
        # a quarter of scale and shift, so that the average is a sum
        factor = inverse * (self._scale.detach() / 4)[:, None, None, None]
        torch.addcmul((self._shift.detach() / 4)[:, None, None, None], centred, factor, out=active)
        active.clamp_min_(0)
        self._saved = centred, active, inverse, factor
        half = self._space("half", s, n, height // 2, wide // 2 * 2, c)
        return _pool(active, half, self._space("out", s, n, height // 2, wide // 2, c))

    def backward(self, grad: Tensor) -> Tensor:
        """Return the gradient by x; see `Layer`."""
        centred, active, inverse, factor = self._saved
        positions = active.shape[2] * active.shape[3]
        out = _relu_pool_backward(grad, active, self._space("grad", *active.shape))
        total = out.sum(dim=(2, 3), keepdim=True)
        # the answer before the ReLU is not needed again
        along = torch.mul(out, centred, out=active).sum(dim=(2, 3), keepdim=True)
        assert self._scale.grad is not None and self._shift.grad is not None
        torch.sum((along * inverse).flatten(1, 3), dim=1, out=self._scale.grad).div_(4)
        torch.sum(total.flatten(1, 3), dim=1, out=self._shift.grad).div_(4)
        out -= total / positions
        out.addcmul_(centred, along * inverse.square() / -positions)
        return out.mul_(factor)


class Head:
    """The linear layer under the mean cross entropy of each student.

    Args:
        weight: [S, h, w, C, K]; written to its `.grad`.
        bias: [S, K]; written to its `.grad`.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self._weight, self._bias = weight, bias

    def gradient(self, maps: Tensor, targets: Tensor, temperature: float) -> Tensor:
        """Return the gradient by the last maps, and write that by the parameters.

        Args:
            maps: [S, N, h, w, C].
            targets: probabilities [S, N, K] at this temperature.
            temperature: T of the softmax; the loss counts T^2 times.
        """
        features, weight = maps.flatten(2), self._weight.detach().flatten(1, 3)
        logits = torch.baddbmm(self._bias.detach()[:, None], features, weight)
        missed = (logits / temperature).softmax(dim=2).sub_(targets)
        missed *= temperature / maps.shape[1]
        assert self._weight.grad is not None and self._bias.grad is not None
        torch.bmm(features.transpose(1, 2), missed, out=self._weight.grad.flatten(1, 3))
        torch.sum(missed, dim=1, out=self._bias.grad)
        return torch.bmm(missed, weight.transpose(1, 2)).view(maps.shape)
