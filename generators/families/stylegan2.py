"""StyleGAN2 with class conditioning, cut into levels.

Source: Karras et al., Analyzing and Improving the Image Quality of StyleGAN, CVPR 2020, and
Training Generative Adversarial Networks with Limited Data, NeurIPS 2020. Parameter names are
those of the official checkpoints, so their state dicts load as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from generators.base import (
    FAMILIES,
    FamilySettings,
    Generator,
    GeneratorSpec,
    Level,
    LevelState,
    Resolution,
)
from generators.draws import Draws
from generators.families.layers import (
    DenseLayer,
    DenseStack,
    initialise_layers,
    normalise_second_moment,
    up_convolve,
)
from generators.families.modulation import (
    convolve_scaled,
    energies_of,
    modulated_convolution,
)
from generators.ops import bias_act, lowpass_filter, upsample2d
from generators.prepared import Prepares
from hpd.errors import GeneratorError
from hpd.machine.host import one_hot

Architecture = Literal["skip", "resnet", "orig"]
NoiseMode = Literal["const", "random", "none"]


@FAMILIES.register("stylegan2")
class StyleGAN2Settings(FamilySettings):
    """Constructor arguments of a StyleGAN2 generator."""

    resolution: Resolution = Field(32, ge=4, description="pixels, a power of two")
    channels: int = Field(3, ge=1)
    z_dim: int = Field(512, ge=1)
    w_dim: int = Field(512, ge=1)
    num_classes: int = Field(0, ge=0, description="0 for an unconditional generator")
    mapping_layers: int = Field(8, ge=1)
    mapping_lr_multiplier: float = Field(0.01, gt=0)
    channel_base: int = Field(32768, ge=1, description="features times resolution")
    channel_max: int = Field(512, ge=1, description="most features of any layer")
    architecture: Architecture = "skip"
    conv_clamp: float | None = Field(None, description="clamp of layer outputs, as trained")

    def features(self, resolution: int) -> int:
        """Return the number of feature maps at `resolution`."""
        return min(self.channel_base // resolution, self.channel_max)

    def build(self, classes: tuple[str, ...] = ()) -> StyleGAN2:
        """Return the network with uninitialised weights."""
        return StyleGAN2(self, classes)


class MappingNetwork(DenseStack):
    """z and class to w: normalise, embed the class, eight (or so) dense layers."""

    w_avg: Tensor

    def __init__(self, settings: StyleGAN2Settings, num_ws: int) -> None:
        super().__init__()
        s = settings
        self.num_ws, self.num_classes = num_ws, s.num_classes
        if s.num_classes:
            self.embed = DenseLayer(s.num_classes, s.w_dim)
        width = s.z_dim + (s.w_dim if s.num_classes else 0)
        self.add_layers(width, s.w_dim, s.mapping_layers, s.mapping_lr_multiplier)
        self.register_buffer("w_avg", torch.zeros(s.w_dim))

    def forward(self, z: Tensor, labels: Tensor | None, truncation_psi: float = 1.0) -> Tensor:
        """Map z [N, z_dim] and class indices [N] to ws [N, num_ws, D]."""
        x = normalise_second_moment(z)
        if labels is not None:
            which = one_hot(labels, self.num_classes).to(z.dtype)
            x = torch.cat([x, normalise_second_moment(self.embed(which))], dim=1)
        ws = self.through(x)[:, None].expand(-1, self.num_ws, -1)
        return ws if truncation_psi == 1 else self.w_avg.lerp(ws, truncation_psi)


class SynthesisLayer(Prepares):
    """Modulated 3x3 convolution, noise, bias, leaky ReLU; optionally doubles the size."""

    noise_const: Tensor
    resample_filter: Tensor

    def __init__(
        self, in_channels: int, out_channels: int, resolution: int, settings: StyleGAN2Settings,
        *, up: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.up, self.resolution, self.clamp = up, resolution, settings.conv_clamp
        self.affine = DenseLayer(settings.w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.empty(out_channels))
        self.noise_strength = nn.Parameter(torch.empty(()))
        self.register_buffer("noise_const", torch.empty(resolution, resolution))
        self.register_buffer("resample_filter", lowpass_filter())

    @torch.no_grad()
    def initialise(self, rng: torch.Generator) -> None:
        """Draw fresh weights and a fresh constant noise."""
        self.weight.normal_(generator=rng)
        self.noise_const.normal_(generator=rng)
        self.bias.zero_()
        self.noise_strength.zero_()

    def forward(
        self, x: Tensor, w: Tensor, noise: NoiseMode, draws: Draws | None, gain: float = 1.0
    ) -> Tensor:
        """Map [N, I, h, h] and w [N, D] to [N, O, H, H]; `gain` scales the result."""
        kernel = self.resample_filter if self.up else None
        dtype = x.dtype
        weight = self.prepared("cast", self.weight, lambda: self.weight.to(dtype), dtype)
        energies = self.prepared("energies", self.weight, lambda: energies_of(self.weight))
        x = convolve_scaled(x, weight, self.affine(w), energies, kernel)
        if noise == "random" and draws is not None:
            drawn = draws.normal(len(x), 1, *self.noise_const.shape)
            x = x + drawn.to(x) * self.noise_strength.to(x.dtype)
        elif noise == "const":
            x = x + (self.noise_const * self.noise_strength).to(x.dtype)
        clamp = None if self.clamp is None else self.clamp * gain
        return bias_act(x, self.bias, activation="lrelu", gain=gain, clamp=clamp)


class ToRGBLayer(nn.Module):
    """Modulated 1x1 convolution from features to image channels, without demodulation."""

    def __init__(self, in_channels: int, settings: StyleGAN2Settings) -> None:
        super().__init__()
        self.clamp = settings.conv_clamp
        self.affine = DenseLayer(settings.w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.empty(settings.channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.empty(settings.channels))

    @torch.no_grad()
    def initialise(self, rng: torch.Generator) -> None:
        """Draw fresh weights."""
        self.weight.normal_(generator=rng)
        self.bias.zero_()

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Map [N, I, H, W] and w [N, D] to [N, C, H, W]."""
        styles = self.affine(w) / math.sqrt(self.weight.shape[1])
        x = modulated_convolution(x, self.weight, styles, demodulate=False)
        return bias_act(x, self.bias, clamp=self.clamp)


class ResidualLayer(nn.Module):
    """Upsampling 1x1 convolution beside a block of the ``resnet`` architecture."""

    resample_filter: Tensor

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 1, 1))
        self.register_buffer("resample_filter", lowpass_filter())

    @torch.no_grad()
    def initialise(self, rng: torch.Generator) -> None:
        """Draw fresh weights."""
        self.weight.normal_(generator=rng)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, I, H, W] to [N, O, 2H, 2W], scaled by sqrt(1/2)."""
        weight = self.weight / math.sqrt(self.weight.shape[1])
        return up_convolve(x, weight.to(x.dtype), self.resample_filter) * math.sqrt(0.5)


class SynthesisBlock(nn.Module):
    """The layers of one resolution: a container that gives parameters their official names."""

    resample_filter: Tensor

    def __init__(self, resolution: int, settings: StyleGAN2Settings) -> None:
        super().__init__()
        s, out = settings, settings.features(resolution)
        self.register_buffer("resample_filter", lowpass_filter())
        if resolution == 4:
            self.const = nn.Parameter(torch.empty(out, 4, 4))
        else:
            before = s.features(resolution // 2)
            self.conv0 = SynthesisLayer(before, out, resolution, s, up=True)
            if s.architecture == "resnet":
                self.skip = ResidualLayer(before, out)
        self.conv1 = SynthesisLayer(out, out, resolution, s)
        if s.architecture == "skip" or resolution == s.resolution:
            self.torgb = ToRGBLayer(out, s)

    @torch.no_grad()
    def initialise(self, rng: torch.Generator) -> None:
        """Draw the learnt constant of the first block."""
        if hasattr(self, "const"):
            self.const.normal_(generator=rng)


class SynthesisNetwork(nn.Module):
    """All blocks, run layer by layer.

    Layer i takes w i. The layer that turns a block's features into colours takes the next w and
    runs at the head of the step that follows, so that at every level the features, and not only
    a finished image, still decide what comes out.
    """

    def __init__(self, settings: StyleGAN2Settings) -> None:
        super().__init__()
        self.settings = settings
        self.layers: list[tuple[int, str]] = []
        resolution = 4
        while resolution <= settings.resolution:
            self.add_module(f"b{resolution}", SynthesisBlock(resolution, settings))
            names = ("conv1",) if resolution == 4 else ("conv0", "conv1")
            self.layers += [(resolution, name) for name in names]
            resolution *= 2

    def block(self, resolution: int) -> SynthesisBlock:
        """Return the block of one resolution."""
        block = self.get_submodule(f"b{resolution}")
        assert isinstance(block, SynthesisBlock)
        return block

    def run_layer(
        self, state: LevelState, ws: Sequence[Tensor], index: int,
        *, noise: NoiseMode = "const", draws: Draws | None = None,
        dtype: torch.dtype | None = None,
    ) -> LevelState:  # fmt: skip
        """Run layer `index` (the last index: the final colours) on the state before it.

        Features are computed in `dtype`; colours are added up in that of ws, a w [N, D] for each
        layer.
        """
        if state:
            state = (state[0].to(dtype=dtype), *state[1:])
        if index == len(self.layers):
            return (self._colours(state, ws, index),)
        resolution, name = self.layers[index]
        block, w = self.block(resolution), ws[index]
        if index == 0:
            x = block.const.to(dtype=dtype).expand(len(w), -1, -1, -1)
            return (block.conv1(x, w, noise, draws),)
        x, *carried = state
        if name == "conv0":
            if self.settings.architecture == "skip":
                carried = [self._colours(state, ws, index)]
            elif self.settings.architecture == "resnet":
                carried = [block.skip(x)]
            return (block.conv0(x, w, noise, draws), *carried)
        if self.settings.architecture == "resnet":
            x = block.conv1(x, w, noise, draws, gain=math.sqrt(0.5))
            return (x + carried[0].to(x.dtype),)
        return (block.conv1(x, w, noise, draws), *carried)

    def _colours(self, state: LevelState, ws: Sequence[Tensor], index: int) -> Tensor:
        """Finish the block before layer `index`: its colours, on top of the image so far."""
        block = self.block(self.layers[index - 1][0])
        colours: Tensor = block.torgb(state[0], ws[index]).to(ws[index].dtype)
        if len(state) == 1:
            return colours
        return upsample2d(state[1], block.resample_filter) + colours

    def level_shapes(self, index: int) -> tuple[tuple[int, ...], ...]:
        """Return the shapes, for one image, of the state after layer ``index - 1``."""
        s = self.settings
        if index == 0:
            return ()
        if index > len(self.layers):
            return ((s.channels, s.resolution, s.resolution),)
        resolution, name = self.layers[index - 1]
        features = (s.features(resolution), resolution, resolution)
        if s.architecture == "skip" and resolution > 4:
            return (features, (s.channels, resolution // 2, resolution // 2))
        if s.architecture == "resnet" and name == "conv0":
            return (features, features)
        return (features,)


class StyleGAN2(Generator):
    """A StyleGAN2 generator: mapping and synthesis.

    Levels: 0 is W+; level k is the output of the first k convolutions, with the image of the
    finished blocks beside it (``skip``) or the block's residual (``resnet``); the last is pixels.

    Args:
        settings: constructor arguments.
        classes: names of the classes, if known.
    """

    layers_known = True

    def __init__(self, settings: StyleGAN2Settings, classes: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.settings = s = settings
        self.synthesis = SynthesisNetwork(s)
        num_ws = len(self.synthesis.layers) + 1
        self.mapping = MappingNetwork(s, num_ws)
        names = ["ws", *(f"b{r}.{name}" for r, name in self.synthesis.layers), "pixels"]
        shapes = [self.synthesis.level_shapes(i) for i in range(len(names))]
        self.spec = GeneratorSpec(
            family="stylegan2", resolution=s.resolution, channels=s.channels, z_dim=s.z_dim,
            w_dim=s.w_dim, num_classes=s.num_classes, num_ws=num_ws, classes=classes,
            levels=tuple(Level(*pair) for pair in zip(names, shapes, strict=True)),
        )  # fmt: skip

    def initialise(self, rng: torch.Generator) -> None:
        """Draw all weights afresh, for training from scratch."""
        initialise_layers(self, rng)

    def _map(self, z: Tensor, labels: Tensor | None, truncation_psi: float) -> Tensor:
        return self.mapping(z, labels, truncation_psi)

    def _given(self, ws: Tensor) -> tuple[Tensor, ...]:
        return ws.unbind(dim=1)

    def _next(self, state: LevelState, ws: Sequence[Tensor], level: int) -> LevelState:
        return self.synthesis.run_layer(state, ws, level, dtype=self.compute_dtype)

    def synthesise(
        self, ws: Tensor, *, noise: NoiseMode = "const", draws: Draws | None = None
    ) -> Tensor:
        """Synthesise images [N, C, H, W] with constant, random (from `draws`) or no noise.

        Raises:
            GeneratorError: if random noise is wanted and there is nothing to draw it from.
        """
        if noise == "random" and draws is None:
            raise GeneratorError("random noise needs draws", fix="Give draws=Draws(rng).")
        state: LevelState = ()
        given = self._given(ws)
        for index in range(self.spec.num_ws):
            state = self.synthesis.run_layer(
                state, given, index, noise=noise, draws=draws, dtype=self.compute_dtype
            )
        return state[0]
