"""The layers of an alias-free generator: their rates, cutoffs, sizes, filters and padding.

Source: Karras et al., Alias-Free Generative Adversarial Networks, NeurIPS 2021, section 3.2
(flexible layer specifications) and appendix C (filters).
"""

from __future__ import annotations

import itertools
import math

from pydantic import Field, model_validator
from torch import Tensor
from typing_extensions import Self

from generators.base import FamilySettings, Resolution
from generators.families.filters import design_lowpass, design_radial_lowpass
from hpd.errors import ConfigError
from hpd.registry import Settings

_GIVEN_TO_LAYERS = (
    "conv_kernel", "filter_size", "lrelu_upsampling", "radial_filters", "conv_clamp"
)  # fmt: skip


class LayerSettings(Settings):
    """One synthesis layer. Rates, cutoffs and half widths are in cycles per image side."""

    name: str = Field(pattern=r"^L\d+_\d+_\d+$", description="index, size, features")
    in_channels: int = Field(ge=1)
    out_channels: int = Field(ge=1)
    in_size: int = Field(ge=1, description="height and width with margins, in pixels")
    out_size: int = Field(ge=1)
    in_sampling_rate: int = Field(ge=1)
    out_sampling_rate: int = Field(ge=1)
    in_cutoff: float = Field(gt=0)
    out_cutoff: float = Field(gt=0)
    in_half_width: float = Field(gt=0, description="half of the transition band")
    out_half_width: float = Field(gt=0)
    to_rgb: bool = Field(False, description="the last layer: colours, no activation, no filters")
    critically_sampled: bool = Field(False, description="cutoff at half the sampling rate")
    conv_kernel: int = Field(3, ge=1, description="1 for to_rgb, whatever is given")
    filter_size: int = Field(6, ge=1, description="taps per unit of the resampling factor")
    lrelu_upsampling: int = Field(2, ge=1, description="rate of the activation, relatively")
    radial_filters: bool = Field(False, description="not where critically sampled")
    conv_clamp: float | None = Field(256.0, gt=0)

    @model_validator(mode="after")
    def _rates_fit(self) -> Self:
        for rate in (self.in_sampling_rate, self.out_sampling_rate):
            if self.raised_rate % rate:
                raise ConfigError(
                    f"layer {self.name} cannot resample",
                    got=f"rates {self.in_sampling_rate} and {self.out_sampling_rate}",
                    expected="the larger a multiple of the smaller",
                )
        for side, taps, cutoff in (
            ("in", self.up_taps, self.in_cutoff),
            ("out", self.down_taps, self.out_cutoff),
        ):
            if taps > 1 and cutoff >= self.raised_rate / 2:
                raise ConfigError(
                    f"layer {self.name} cannot filter",
                    got=f"{side}_cutoff {cutoff:g}",
                    expected=f"below {self.raised_rate / 2:g}, half the rate of its activation",
                )
        return self

    @property
    def kernel_size(self) -> int:
        """Height and width of the convolution."""
        return 1 if self.to_rgb else self.conv_kernel

    @property
    def raised_rate(self) -> int:
        """The sampling rate at which the activation runs."""
        rate = max(self.in_sampling_rate, self.out_sampling_rate)
        return rate if self.to_rgb else rate * self.lrelu_upsampling

    @property
    def up(self) -> int:
        """Factor from the rate of the input to that of the activation."""
        return self.raised_rate // self.in_sampling_rate

    @property
    def down(self) -> int:
        """Factor from the rate of the activation to that of the output."""
        return self.raised_rate // self.out_sampling_rate

    @property
    def up_taps(self) -> int:
        """Length of the filter before the activation; 1 for none."""
        return self.filter_size * self.up if self.up > 1 and not self.to_rgb else 1

    @property
    def down_taps(self) -> int:
        """Length of the filter after the activation; 1 for none."""
        return self.filter_size * self.down if self.down > 1 and not self.to_rgb else 1

    @property
    def padding(self) -> tuple[int, int, int, int]:
        """Padding after upsampling that makes `out_size` of `in_size`, centred: l, r, t, b."""
        wanted = (self.out_size - 1) * self.down + 1 + self.up_taps + self.down_taps - 2
        # the convolution pads by kernel_size - 1 on both sides, which leaves as much on top
        total = wanted - (self.in_size + self.kernel_size - 1) * self.up
        # zero-stuffing puts each sample at the start of its interval; half of `up` centres it
        before = (total + self.up) // 2
        return before, total - before, before, total - before

    def up_filter(self) -> Tensor | None:
        """Design the filter before the activation: [k], or None for none."""
        if self.up_taps == 1:
            return None
        return design_lowpass(
            self.up_taps, cutoff=self.in_cutoff, width=2 * self.in_half_width,
            sampling_rate=self.raised_rate,
        )  # fmt: skip

    def down_filter(self) -> Tensor | None:
        """Design the filter after the activation: [k], radial [k, k], or None for none."""
        if self.down_taps == 1:
            return None
        radial = self.radial_filters and not self.critically_sampled
        return (design_radial_lowpass if radial else design_lowpass)(
            self.down_taps, cutoff=self.out_cutoff, width=2 * self.out_half_width,
            sampling_rate=self.raised_rate,
        )  # fmt: skip


class AliasFreeSettings(FamilySettings):
    """Constructor arguments that StyleGAN3 and StyleGAN-XL share."""

    resolution: Resolution = Field(256, ge=8, description="pixels, a power of two")
    channels: int = Field(3, ge=1)
    z_dim: int = Field(512, ge=1)
    w_dim: int = Field(512, ge=1)
    num_classes: int = Field(0, ge=0, description="0 for an unconditional generator")
    mapping_layers: int = Field(2, ge=1)
    mapping_lr_multiplier: float = Field(0.01, gt=0)
    output_scale: float = Field(0.25, gt=0, description="factor of the last layer's output")
    channel_base: int = Field(32768, ge=1, description="features times twice the cutoff")
    channel_max: int = Field(512, ge=1, description="most features of any layer")
    num_layers: int = Field(14, ge=1, description="without the Fourier features and to_rgb")
    num_critical: int = Field(2, ge=0, description="critically sampled layers at the end")
    first_cutoff: float = Field(2.0, gt=0, description="cycles per image side")
    first_stopband: float = Field(2**2.1, gt=0, description="cycles per image side")
    last_stopband_rel: float = Field(2**0.3, gt=1, description="relative to the last cutoff")
    margin: int = Field(10, ge=0, description="pixels around the image before the last layers")
    conv_kernel: int = Field(3, ge=1, description="3 for StyleGAN3-T, 1 for StyleGAN3-R")
    radial_filters: bool = Field(False, description="true for StyleGAN3-R")
    filter_size: int = Field(6, ge=1)
    lrelu_upsampling: int = Field(2, ge=1)
    conv_clamp: float | None = Field(256.0, gt=0, description="clamp of activations, as trained")

    @model_validator(mode="after")
    def _bands_fit(self) -> Self:
        for name, got, limit, expected in (
            ("num_critical", self.num_critical, self.num_layers, "fewer than num_layers"),
            ("first_cutoff", self.first_cutoff, self.first_stopband, "below first_stopband"),
            ("first_cutoff", self.first_cutoff, self.resolution / 2, "below half the resolution"),
        ):
            if got >= limit:
                raise ConfigError(
                    f"{name} in {self.section()} is not valid",
                    got=got, expected=f"{expected}, {limit:g}",
                )  # fmt: skip
        self.plan()
        return self

    def plan(self) -> list[LayerSettings]:
        """Return all synthesis layers, the last of which gives the colours.

        Cutoffs and stopbands rise geometrically, ``f_c[i] = f_c[0] (f_c[N] / f_c[0])^e[i]`` with
        ``e[i] = min(i / (N - critical), 1)``; the rate of a layer is the smallest power of two
        that holds its stopband, at most the resolution; its features fall with its cutoff.
        """
        bands = [self._band(i) for i in range(self.num_layers + 1)]
        shared = {name: getattr(self, name) for name in _GIVEN_TO_LAYERS}
        layers = []
        for i, after in enumerate(bands):
            before = bands[max(i - 1, 0)]
            values = {
                "name": f"L{i}_{after['size']}_{after['channels']}",
                "to_rgb": i == self.num_layers,
                "critically_sampled": i >= self.num_layers - self.num_critical,
                **{f"in_{key}": value for key, value in before.items()},
                **{f"out_{key}": value for key, value in after.items()},
            }
            layers.append(LayerSettings.read(shared | values))
        return layers

    def _band(self, index: int) -> dict[str, float]:
        """Return what layer `index` gives out: rate, cutoff, half width, size and features."""
        last = self.resolution / 2
        exponent = min(index / (self.num_layers - self.num_critical), 1)
        cutoff = self.first_cutoff * (last / self.first_cutoff) ** exponent
        rise = last * self.last_stopband_rel / self.first_stopband
        stopband = self.first_stopband * rise**exponent
        rate = int(2 ** math.ceil(math.log2(min(2 * stopband, self.resolution))))
        cropped = index >= self.num_layers - 1
        features = round(min(self.channel_base / 2 / cutoff, self.channel_max))
        return {
            "sampling_rate": rate,
            "cutoff": cutoff,
            "half_width": max(stopband, rate / 2) - cutoff,
            "size": self.resolution if cropped else rate + 2 * self.margin,
            "channels": self.channels if index == self.num_layers else features,
        }


def check_chain(layers: list[LayerSettings], settings: AliasFreeSettings) -> None:
    """Check that explicit layers follow each other and end in the image.

    Raises:
        ConfigError: naming the first layer that does not fit.
    """
    if not layers:
        raise ConfigError("layers is empty", expected="at least one layer")
    names = [layer.name for layer in layers]
    for before, layer in itertools.pairwise(layers):
        for key in ("channels", "size", "sampling_rate"):
            got, expected = getattr(layer, f"in_{key}"), getattr(before, f"out_{key}")
            if got != expected:
                raise ConfigError(
                    f"layer {layer.name} does not follow {before.name}",
                    got=f"in_{key} {got}", expected=expected,
                )  # fmt: skip
    last = layers[-1]
    colours = [layer.to_rgb for layer in layers]
    if len(set(names)) < len(names) or colours != [False] * (len(names) - 1) + [True]:
        raise ConfigError(
            "layers are not in order", got=names,
            expected="unique names, and to_rgb in the last layer alone",
        )  # fmt: skip
    if (last.out_channels, last.out_size) != (settings.channels, settings.resolution):
        raise ConfigError(
            f"layer {last.name} does not give the image",
            got=f"{last.out_channels} channels of {last.out_size} px",
            expected=f"{settings.channels} channels of {settings.resolution} px",
        )
