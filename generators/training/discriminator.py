"""The discriminator that StyleGAN2 is trained against, conditional on the class.

Source: Karras et al., Analyzing and Improving the Image Quality of StyleGAN, CVPR 2020 (residual
architecture), and Training Generative Adversarial Networks with Limited Data, NeurIPS 2020
(projection of the class). All operations can be differentiated twice, as R1 needs.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from generators.base import Resolution
from generators.checkpoints.finite import check_all_finite
from generators.families.layers import (
    DenseLayer,
    DenseStack,
    initialise_layers,
    normalise_second_moment,
)
from generators.ops import bias_act, lowpass_filter, upfirdn2d
from generators.ops.bias_act import Activation
from generators.training.widening import fits_within, widened
from hpd.checks import check_labels, check_shape
from hpd.errors import GeneratorError, ShapeError
from hpd.registry import Settings

_HALF = math.sqrt(0.5)
# of its tensors in the state of a training
_PREFIX = "discriminator."
DISCRIMINATOR = "discriminator.safetensors"
"""The file that a training leaves beside its generator: what is needed to go on with both."""


class DiscriminatorSettings(Settings):
    """Constructor arguments of a discriminator."""

    resolution: Resolution = Field(32, ge=8, description="pixels, a power of two")
    channels: int = Field(3, ge=1)
    num_classes: int = Field(0, ge=0, description="0 for an unconditional discriminator")
    channel_base: int = Field(32768, ge=1, description="features times resolution")
    channel_max: int = Field(512, ge=1, description="most features of any layer")
    mapping_layers: int = Field(2, ge=0, description="dense layers between class and projection")
    group_size: int = Field(4, ge=1, description="neighbours in the batch that are compared")
    classifier: bool = Field(False, description="whether it also tells which class it sees")

    def features(self, resolution: int) -> int:
        """Return the number of feature maps at `resolution`."""
        return min(self.channel_base // resolution, self.channel_max)

    def build(self) -> Discriminator:
        """Return the network with uninitialised weights."""
        return Discriminator(self)


def down_convolve(x: Tensor, weight: Tensor, kernel: Tensor) -> Tensor:
    """Low-pass filter [N, I, H, W], then halve its size with a convolution [O, I, k, k].

    The filter removes what the stride would alias. The result is [N, O, H/2, W/2].
    """
    k, filter_size = weight.shape[-1], kernel.shape[-1]
    before, after = k // 2 + (filter_size - 1) // 2, k // 2 + (filter_size - 2) // 2
    padding = (before, after, before, after)
    if k == 1:
        # a 1x1 convolution sees single pixels, so only those that stay need the filter
        return F.conv2d(upfirdn2d(x, kernel, down=2, padding=padding), weight)
    return F.conv2d(upfirdn2d(x, kernel, padding=padding), weight, stride=2)


def add_group_deviation(x: Tensor, group_size: int) -> Tensor:
    """Append a feature map with the mean standard deviation inside groups of the batch.

    ``s[g] = mean_chw sqrt(var_{n in g} x[n, c, h, w] + 1e-8)``, constant over the map and the
    same for all images of a group, so that a generator whose images are all alike is found out.
    A group is `group_size` neighbours: a batch sorted by class compares images of one class.

    Args:
        x: [N, C, H, W].
        group_size: images in a group; all of the batch where it is smaller.

    Returns:
        [N, C + 1, H, W].

    Raises:
        ShapeError: if the batch cannot be divided into groups.

    Source: Karras et al., Progressive Growing of GANs, ICLR 2018, section 3.
    """
    n, c, h, w = x.shape
    size = min(group_size, n)
    if n % size:
        raise ShapeError(
            "the batch cannot be divided into groups", got=n, expected=f"a multiple of {size}"
        )
    groups = x.reshape(n // size, size, c, h, w)
    variance = groups.var(dim=1, unbiased=False)
    deviation = (variance + 1e-8).sqrt().mean(dim=(1, 2, 3)).repeat_interleave(size)
    return torch.cat([x, deviation[:, None, None, None].expand(n, 1, h, w)], dim=1)


class ConvolutionLayer(nn.Module):
    """Convolution with an equalised learning rate, bias and activation.

    Args:
        in_channels: feature maps of the input.
        out_channels: feature maps of the output.
        size: height and width of the weights.
        activation: ``"linear"`` or ``"lrelu"``.
        bias: whether there is one.
        down: whether to halve the image.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: int,
        *,
        activation: Activation = "lrelu",
        bias: bool = True,
        down: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, size, size))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.activation: Activation = activation
        self.resample_filter: Tensor | None
        self.register_buffer("resample_filter", lowpass_filter() if down else None)

    @torch.no_grad()
    def initialise(self, rng: torch.Generator) -> None:
        """Draw fresh weights."""
        self.weight.normal_(generator=rng)
        if self.bias is not None:
            self.bias.zero_()

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        """Map [N, I, H, W] to [N, O, H, W] or, with `down`, to [N, O, H/2, W/2]."""
        weight = self.weight / math.sqrt(self.weight[0].numel())
        if self.resample_filter is None:
            x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        else:
            x = down_convolve(x, weight, self.resample_filter)
        return bias_act(x, self.bias, activation=self.activation, gain=gain)


class DownBlock(nn.Module):
    """The layers of one resolution, with a linear path beside them; halves the image.

    Args:
        resolution: height and width of the input.
        settings: the discriminator's.
    """

    def __init__(self, resolution: int, settings: DiscriminatorSettings) -> None:
        super().__init__()
        inside, out = settings.features(resolution), settings.features(resolution // 2)
        if resolution == settings.resolution:
            self.fromrgb = ConvolutionLayer(settings.channels, inside, 1)
        self.conv0 = ConvolutionLayer(inside, inside, 3)
        self.conv1 = ConvolutionLayer(inside, out, 3, down=True)
        self.skip = ConvolutionLayer(inside, out, 1, activation="linear", bias=False, down=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, I, H, W] (the first block: the image) to [N, O, H/2, W/2]."""
        if hasattr(self, "fromrgb"):
            x = self.fromrgb(x)
        # sqrt(1/2) on both paths keeps the variance of their sum
        return self.conv1(self.conv0(x), _HALF) + self.skip(x, _HALF)


class Head(nn.Module):
    """The layers at 4 px: group deviation, one convolution, two dense layers.

    Args:
        settings: the discriminator's.
        width: features that come out.
    """

    def __init__(self, settings: DiscriminatorSettings, width: int) -> None:
        super().__init__()
        inside = settings.features(4)
        self.group_size = settings.group_size
        self.conv = ConvolutionLayer(inside + 1, inside, 3)
        self.fc = DenseLayer(inside * 16, inside, activation="lrelu")
        self.out = DenseLayer(inside, width)
        if settings.classifier:
            self.classify = DenseLayer(inside, settings.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, I, 4, 4] to [N, width]."""
        return self.out(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """Map [N, I, 4, 4] to what the last dense layers see, [N, I]."""
        x = self.conv(add_group_deviation(x, self.group_size))
        return self.fc(x.flatten(1))


class ClassEmbedding(DenseStack):
    """The vector of each class onto which the final features are projected.

    Args:
        num_classes: number of classes.
        width: width of the vectors.
        depth: dense layers after the embedding.
    """

    def __init__(self, num_classes: int, width: int, depth: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.embed = DenseLayer(num_classes, width)
        self.add_layers(width, width, depth, 0.01)

    def forward(self, labels: Tensor) -> Tensor:
        """Map class indices [N] to vectors [N, width]."""
        one_hot = F.one_hot(labels, self.num_classes).to(self.embed.weight.dtype)
        return self.through(normalise_second_moment(self.embed(one_hot)))


class Discriminator(nn.Module):
    """How real an image looks for its class, as a logit.

    Args:
        settings: constructor arguments.
    """

    def __init__(self, settings: DiscriminatorSettings) -> None:
        super().__init__()
        self.settings = s = settings
        self.resolutions: list[int] = []
        resolution = s.resolution
        while resolution > 4:
            self.add_module(f"b{resolution}", DownBlock(resolution, s))
            self.resolutions.append(resolution)
            resolution //= 2
        width = s.features(4) if s.num_classes else 1
        self.b4 = Head(s, width)
        if s.num_classes:
            self.mapping = ClassEmbedding(s.num_classes, width, s.mapping_layers)

    def initialise(self, rng: torch.Generator) -> None:
        """Draw all weights afresh."""
        initialise_layers(self, rng)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return logits [N], high for images that look real.

        Args:
            images: [N, C, H, W] in [-1, 1].
            labels: class indices [N], int64; None only for an unconditional discriminator.

        Raises:
            ShapeError: for a wrong shape, a label out of range or a batch without whole groups.
            GeneratorError: if labels are missing, or given to an unconditional discriminator.
        """
        return self.judge(images, labels)[0]

    def judge(self, images: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return what `forward` does and, beside it, the logits of all classes [N, K].

        The second is None without a `classifier`; it does not depend on the labels. Source:
        Odena et al., Conditional Image Synthesis with Auxiliary Classifier GANs, ICML 2017.

        Raises:
            ShapeError: as `forward`.
            GeneratorError: as `forward`.
        """
        s = self.settings
        check_shape(images, "N C H W", "images", C=s.channels, H=s.resolution, W=s.resolution)
        if (labels is None) != (s.num_classes == 0):
            raise GeneratorError(
                "labels do not fit the discriminator",
                got="no labels" if labels is None else "labels",
                expected=f"class indices below {s.num_classes}" if s.num_classes else "none",
            )
        x = images
        for resolution in self.resolutions:
            x = self.get_submodule(f"b{resolution}")(x)
        features = self.b4.features(x)
        x = self.b4.out(features)
        classes = self.b4.classify(features) if s.classifier else None
        if labels is None:
            return x[:, 0], classes
        check_labels(check_shape(labels, "N", "labels", N=len(images)), s.num_classes)
        return (x * self.mapping(labels)).sum(dim=1) / math.sqrt(x.shape[1]), classes


def discriminator_tensors(discriminator: Discriminator) -> dict[str, Tensor]:
    """Return its weights as `load_discriminator` reads them, in float16."""
    state = discriminator.state_dict()
    return {f"{_PREFIX}{name}": value.detach().cpu().half() for name, value in state.items()}


def load_discriminator(discriminator: Discriminator, path: Path) -> None:
    """Give a discriminator the weights in a file, of a training's state or of it alone.

    One with fewer features before 4 px is widened: the discriminator's own fresh weights are added.

    Raises:
        GeneratorError: if the file cannot be read, or holds no such discriminator.
    """
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise GeneratorError(f"cannot read {path}", got=str(error).splitlines()[0]) from None
    own = {n.removeprefix(_PREFIX): v for n, v in found.items() if n.startswith(_PREFIX)}
    fresh = discriminator.state_dict()
    # at 4 px all features are compared with those of the group, and with the class
    last = "b4.fc.bias"
    alike = last in own and own[last].shape == fresh[last].shape
    if not alike or not fits_within(own, fresh):
        got = f"{len(own)} tensors of one"
        raise GeneratorError(f"{path} holds no discriminator of this shape", got=got)
    check_all_finite(own, str(path))
    discriminator.load_state_dict(widened(own, fresh))
