"""Synthesis by alias-free layers, which StyleGAN3 and StyleGAN-XL share.

Source: Karras et al., Alias-Free Generative Adversarial Networks, NeurIPS 2021. Parameter names
are those of the official checkpoints, so their state dicts load as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generators.base import Generator, GeneratorSpec, Level, LevelState
from generators.families.alias_free_plan import AliasFreeSettings, LayerSettings
from generators.families.layers import DenseLayer, initialise_layers
from generators.ops import filtered_lrelu, scale_planes
from generators.prepared import Prepares


def modulated_convolution(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    *,
    input_gain: Tensor,
    demodulate: bool = True,
) -> Tensor:
    """Convolve [N, I, H, W] with weights that each image scales by its own styles.

    Scaling the activations before and after the one shared convolution gives what a copy of the
    weights per image gives, without the copies:
    ``y[n, o] = d[n, o] * sum_i w[o, i] * (g s[n, i] x[n, i])`` with
    ``d[n, o] = (sum_i s[n, i]^2 sum_kk w[o, i]^2 + 1e-8)^(-1/2)``, where w and s are first
    brought to a mean square of 1.

    Args:
        x: [N, I, H, W]; its dtype is that of the convolution and the result.
        weight: [O, I, k, k].
        styles: [N, I].
        input_gain: scalar g that brings the expected magnitude of x to 1.
        demodulate: whether to normalise w and s and divide by the norm of the scaled weights.

    Returns:
        [N, O, H + k - 1, W + k - 1]: the borders, where the kernel overlaps x in part, stay.

    Source: Karras et al., 2020, equations 1 and 3; Karras et al., 2021, section 3.1, for the
    gain from running magnitudes.
    """
    if not demodulate:
        return convolve(scale_planes(x, styles * input_gain), weight.to(x.dtype))
    unit, energies = normalised_weight(weight)
    styles, norms = demodulated(styles, energies)
    y = convolve(scale_planes(x, styles * input_gain), unit.to(x.dtype))
    return scale_planes(y, norms)


def normalised_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return a weight [O, I, k, k] with a mean square of 1, and ``sum_kk w[o, i]^2`` [I, O]."""
    unit = weight * weight.square().mean(dim=(1, 2, 3), keepdim=True).rsqrt()
    return unit, unit.square().sum(dim=(2, 3)).t()


def convolve(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve [N, I, H, W] with a weight [O, I, k, k] of its dtype; all borders stay."""
    return F.conv2d(x, weight, padding=weight.shape[-1] - 1)


def demodulated(styles: Tensor, energies: Tensor) -> tuple[Tensor, Tensor]:
    """Return styles [N, I] with a mean square of 1, and d of `modulated_convolution` [N, O]."""
    # the official code takes this mean over the batch too; the division by the norm cancels
    # it up to the 1e-8, and one mean per image keeps the images of a batch independent
    styles = styles * styles.square().mean(dim=1, keepdim=True).rsqrt()
    return styles, (styles.square() @ energies + 1e-8).rsqrt()


class TransformLayer(DenseLayer):
    """w to (cos, sin, x, y) of a rotation and a translation; fresh weights give the identity."""

    def __init__(self, w_dim: int) -> None:
        super().__init__(w_dim, 4)

    @torch.no_grad()
    def initialise(self, rng: torch.Generator) -> None:
        """Set the identity for every w."""
        self.weight.zero_()
        self.bias.zero_()
        self.bias[0] = 1


class SynthesisInput(nn.Module):
    """Fourier features on a grid that w rotates and moves, mixed by a learnt matrix.

    ``x[c, p] = a_c sin(2 pi (f'_c . p + phi'_c))`` with ``f' = f A`` and ``phi' = phi + f t``,
    where ``[A | t]`` is the rotation and translation that w gives, times `transform`, which the
    user may set. The amplitude ``a_c`` falls from 1 at the bandwidth to 0 at half the sampling
    rate, so that a transform cannot push a feature beyond what the grid can hold.

    Args:
        channels: number of features C.
        size: height and width, in pixels.
        sampling_rate: pixels per image side; the size is larger by the margins.
        bandwidth: largest frequency, in cycles per image side.
        w_dim: width of w.

    Source: Karras et al., 2021, sections 3.1 (Fourier features) and 3.2 (their transform).
    """

    freqs: Tensor
    phases: Tensor
    transform: Tensor

    def __init__(
        self, channels: int, size: int, *, sampling_rate: int, bandwidth: float, w_dim: int
    ) -> None:
        super().__init__()
        self.size, self.sampling_rate, self.bandwidth = size, sampling_rate, bandwidth
        self.weight = nn.Parameter(torch.empty(channels, channels))
        self.affine = TransformLayer(w_dim)
        self.register_buffer("transform", torch.eye(3))
        self.register_buffer("freqs", torch.empty(channels, 2))
        self.register_buffer("phases", torch.empty(channels))

    @torch.no_grad()
    def initialise(self, rng: torch.Generator) -> None:
        """Draw frequencies, uniform on the disc of the bandwidth, phases and the mixing matrix."""
        self.freqs.normal_(generator=rng)
        radius = self.freqs.norm(dim=1, keepdim=True)
        # 1 - exp(-r^2 / 2) of a normal point is uniform, and its square root is the radius of a
        # uniform point on the disc
        uniform = (-torch.expm1(-radius.square() / 2)).sqrt()
        self.freqs.mul_(self.bandwidth * uniform / radius)
        self.phases.uniform_(-0.5, 0.5, generator=rng)
        self.weight.normal_(generator=rng)

    def placed(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Return frequencies [N, C, 2] and phases [N, C] under the transforms of w [N, D]."""
        t = self.affine(w)
        cos, sin, x, y = (t / t[:, :2].norm(dim=1, keepdim=True)).unbind(dim=1)
        turn = torch.stack([cos, -sin, sin, cos], dim=1).reshape(-1, 2, 2)
        shift = -turn @ torch.stack([x, y], dim=1)[:, :, None]
        # [turn | shift] times the rows of the user's transform
        placed = turn @ self.transform[:2] + shift * self.transform[2]
        moved = self.freqs @ placed
        return moved[:, :, :2], self.phases + moved[:, :, 2]

    def forward(self, w: Tensor) -> Tensor:
        """Map w [N, D] to features [N, C, size, size]."""
        freqs, phases = self.placed(w)
        room = self.sampling_rate / 2 - self.bandwidth
        amplitudes = (1 - (freqs.norm(dim=2) - self.bandwidth) / room).clamp(0, 1)
        steps = torch.arange(self.size, device=w.device, dtype=w.dtype)
        grid = (steps + 0.5 - self.size / 2) / self.sampling_rate
        across = freqs[:, :, 0, None, None] * grid
        along = freqs[:, :, 1, None, None] * grid[:, None]
        waves = torch.sin((across + along + phases[:, :, None, None]) * (2 * math.pi))
        mixing = self.weight / math.sqrt(len(self.weight))
        return F.conv2d(waves * amplitudes[:, :, None, None], mixing[:, :, None, None])


class Modulation(NamedTuple):
    """A layer's weight for images of a dtype, and what a w does to it.

    Styles, times the gain, scale what is convolved, [N, I], and norms what comes of it, [N, O].
    """

    weight: Tensor
    styles: Tensor
    norms: Tensor | None


class SynthesisLayer(Prepares):
    """Modulated convolution, then filtered leaky ReLU (or, to colours, a bias alone)."""

    magnitude_ema: Tensor
    up_filter: Tensor | None
    down_filter: Tensor | None

    def __init__(self, layer: LayerSettings, w_dim: int) -> None:
        super().__init__()
        self.layer, k = layer, layer.kernel_size
        self.affine = DenseLayer(w_dim, layer.in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.empty(layer.out_channels, layer.in_channels, k, k))
        self.bias = nn.Parameter(torch.empty(layer.out_channels))
        self.register_buffer("magnitude_ema", torch.ones(()))
        # a buffer that is None has no entry in the state dict, as in official checkpoints
        self.register_buffer("up_filter", layer.up_filter())
        self.register_buffer("down_filter", layer.down_filter())

    @torch.no_grad()
    def initialise(self, rng: torch.Generator) -> None:
        """Draw fresh weights."""
        self.weight.normal_(generator=rng)
        self.bias.zero_()

    def modulation(self, w: Tensor, dtype: torch.dtype) -> Modulation:
        """Return what w [N, D] does to images of a dtype."""
        layer = self.layer
        styles = self.affine(w)
        gain = self.prepared("gain", self.magnitude_ema, self.magnitude_ema.rsqrt)
        if layer.to_rgb:
            styles = styles / math.sqrt(layer.in_channels * layer.kernel_size**2)
            weight = self.prepared("cast", self.weight, lambda: self.weight.to(dtype), dtype)
            return Modulation(weight, styles * gain, None)
        unit, energies = self.prepared("unit", self.weight, self._unit(dtype), dtype)
        styles, norms = demodulated(styles, energies)
        return Modulation(unit, styles * gain, norms)

    def forward(self, x: Tensor, given: Modulation, following: Tensor | None) -> Tensor:
        """Map [N, I, in_size, in_size] to [N, O, out_size, out_size].

        Args:
            x: what the convolution takes, styles and all.
            given: of the w of this layer.
            following: styles of the layer that takes the result, [N, O], with which it is
                multiplied; None for none.
        """
        layer = self.layer
        return filtered_lrelu(
            convolve(x, given.weight), self.bias, before=given.norms, after=following,
            up_kernel=self.up_filter, down_kernel=self.down_filter,
            up=layer.up, down=layer.down, padding=layer.padding,
            gain=1.0 if layer.to_rgb else math.sqrt(2), slope=1.0 if layer.to_rgb else 0.2,
            clamp=layer.conv_clamp,
        )  # fmt: skip

    def _unit(self, dtype: torch.dtype) -> Callable[[], tuple[Tensor, Tensor]]:
        def make() -> tuple[Tensor, Tensor]:
            unit, energies = normalised_weight(self.weight)
            return unit.to(dtype), energies

        return make


class SynthesisNetwork(nn.Module):
    """Fourier features, then all layers; ws 0 places the features, ws i + 1 feeds layer i."""

    def __init__(self, layers: list[LayerSettings], w_dim: int, output_scale: float) -> None:
        super().__init__()
        self.layers, self.output_scale, first = layers, output_scale, layers[0]
        self.input = SynthesisInput(
            first.in_channels, first.in_size, sampling_rate=first.in_sampling_rate,
            bandwidth=first.in_cutoff, w_dim=w_dim,
        )  # fmt: skip
        for layer in layers:
            self.add_module(layer.name, SynthesisLayer(layer, w_dim))

    def layer(self, index: int) -> SynthesisLayer:
        """Return layer `index`."""
        layer = self.get_submodule(self.layers[index].name)
        assert isinstance(layer, SynthesisLayer)
        return layer

    def run_layers(
        self, state: LevelState, ws: Sequence[Tensor], start: int, stop: int,
        dtype: torch.dtype | None,
    ) -> LevelState:  # fmt: skip
        """Run layers `start` to `stop` on the state before them; the first makes its own input.

        Features are computed in `dtype`. What a layer gives is multiplied with the styles of the
        next one where it is made, which is the same as where it is taken. `ws` has a w [N, D] for
        each layer.
        """
        if start == stop:
            return state
        x = (self.input(ws[0]) if start == 0 else state[0]).to(dtype=dtype)
        coming = self.layer(start).modulation(ws[start + 1], x.dtype)
        x = scale_planes(x, coming.styles)
        for index in range(start, stop):
            given, following = coming, None
            if index + 1 < stop:
                coming = self.layer(index + 1).modulation(ws[index + 2], x.dtype)
                following = coming.styles
            x = self.layer(index)(x, given, following)
        return (x.to(ws[0].dtype) * self.output_scale if stop == len(self.layers) else x,)

    def levels(self) -> tuple[Level, ...]:
        """Return every level: W+, the output of each layer, and pixels for the last."""
        shapes = [((s.out_channels, s.out_size, s.out_size),) for s in self.layers]
        names = [*(layer.name for layer in self.layers[:-1]), "pixels"]
        named = zip(names, shapes, strict=True)
        return (Level("ws", ()), *(Level(*pair) for pair in named))


class AliasFreeGenerator(Generator):
    """A mapping network in front of alias-free synthesis.

    Levels: 0 is W+, level k the output of the first k synthesis layers, the last is pixels (the
    output of the last layer times the output scale).

    Args:
        settings: constructor arguments.
        classes: names of the classes, if known.
    """

    family: ClassVar[str]

    layers_known = True

    def __init__(self, settings: AliasFreeSettings, classes: tuple[str, ...] = ()) -> None:
        super().__init__()
        s = settings
        self.synthesis = SynthesisNetwork(s.plan(), s.w_dim, s.output_scale)
        levels = self.synthesis.levels()
        self.spec = GeneratorSpec(
            family=self.family, resolution=s.resolution, channels=s.channels, z_dim=s.z_dim,
            w_dim=s.w_dim, num_classes=s.num_classes, num_ws=len(levels), classes=classes,
            levels=levels,
        )  # fmt: skip

    def initialise(self, rng: torch.Generator) -> None:
        """Draw all weights afresh, for training from scratch."""
        initialise_layers(self, rng)

    def _given(self, ws: Tensor) -> tuple[Tensor, ...]:
        return ws.unbind(dim=1)

    def _run(self, state: LevelState, ws: Sequence[Tensor], start: int, stop: int) -> LevelState:
        return self.synthesis.run_layers(state, ws, start, stop, self.compute_dtype)

    def _next(self, state: LevelState, ws: Sequence[Tensor], level: int) -> LevelState:
        return self._run(state, ws, level, level + 1)
