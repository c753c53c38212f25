"""Images as cameras, codecs and people spoil them: kinds of corruption, each at three strengths.

In the spirit of Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common
Corruptions and Perturbations, ICLR 2019: a selection of kinds made with torch, torchvision and
Pillow, with strengths of our own. It is not CIFAR-10-C, and its numbers do not compare with those.

Lengths are shares of an image's shorter side, so that 16 px and 128 px suffer alike.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from hpd.artifacts.pictures import to_picture
from hpd.checks import check_shape
from hpd.errors import ConfigError, ShapeError, nearest

Spoil = Callable[[Tensor, float, torch.Generator], Tensor]
"""Takes images [N, C, H, W] in [0, 1], an amount and what random numbers come from; it returns
images of the same shape, which may leave [0, 1]."""

STRENGTHS = (1, 2, 3)


@dataclass(frozen=True)
class Corruption:
    """One kind.

    Args:
        spoil: the function.
        amounts: its parameter at each strength.
        unit: what the parameter is.
    """

    spoil: Spoil
    amounts: tuple[float, float, float]
    unit: str

    def __call__(self, images: Tensor, strength: int, rng: torch.Generator) -> Tensor:
        """Return corrupted images.

        Args:
            images: [N, C, H, W] in [0, 1], with one channel or three.
            strength: 1, 2 or 3.
            rng: a CPU generator, so that every device sees the same numbers.

        Returns:
            [N, C, H, W] in [0, 1], of the same dtype.

        Raises:
            ShapeError: for another number of channels.
            ConfigError: for another strength.
        """
        check_shape(images, "N C H W", "images")
        if images.shape[1] not in (1, 3):
            raise ShapeError("channels of images", got=images.shape[1], expected="1 or 3")
        if strength not in STRENGTHS:
            raise ConfigError("strength of a corruption", got=strength, expected="1, 2 or 3")
        return self.spoil(images, self.amounts[strength - 1], rng).clamp(0, 1)


def find_corruption(name: str) -> Corruption:
    """Return a kind of `CORRUPTIONS`.

    Raises:
        ConfigError: with the nearest known name.
    """
    if name not in CORRUPTIONS:
        raise ConfigError(f"unknown corruption {name!r}", fix=nearest(name, CORRUPTIONS))
    return CORRUPTIONS[name]


def gaussian_noise(images: Tensor, deviation: float, rng: torch.Generator) -> Tensor:
    """Add to each value a normal number of this standard deviation."""
    noise = torch.randn(images.shape, generator=rng, dtype=images.dtype)
    return images + deviation * noise.to(images.device)


def shot_noise(images: Tensor, photons: float, rng: torch.Generator) -> Tensor:
    """Count photons: ``Poisson(photons * x) / photons``, of which white has so many on average."""
    return torch.poisson(images.cpu() * photons, generator=rng).to(images.device) / photons


def impulse_noise(images: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Set this share of all values to 0 or 1, as often the one as the other."""
    draw = torch.rand(images.shape, generator=rng, dtype=images.dtype).to(images.device)
    spoilt = torch.where(draw < share / 2, 0.0, images)
    return torch.where(draw > 1 - share / 2, 1.0, spoilt)


def gaussian_blur(images: Tensor, sigma: float, rng: torch.Generator) -> Tensor:
    """Blur by a Gaussian of ``sigma * side`` pixels; the border mirrors what is within."""
    pixels, vision = sigma * _side(images), _vision()
    # reflection takes less than a side
    size = 2 * min(math.ceil(3 * pixels), _side(images) - 1) + 1
    # torchvision convolves with the whole square, whose two sides come to the same sooner
    across = vision.gaussian_blur(images, [size, 1], [pixels, pixels])
    return vision.gaussian_blur(across, [1, size], [pixels, pixels])


def pixelate(images: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Shrink to this share of the side, antialiased, and grow again by repeating pixels."""
    size = list(images.shape[2:])
    small = [max(1, round(share * length)) for length in size]
    coarse = _vision().resize(images, small, antialias=True)
    return F.interpolate(coarse, size, mode="nearest-exact")


def jpeg(images: Tensor, quality: float, rng: torch.Generator) -> Tensor:
    """Write as JPEG of this quality, from 1 to 100, and read again."""
    # Pillow, since torchvision 0.29 says that its codec will go
    read = [_through_jpeg(own, int(quality)) for own in (images * 255).round().byte().cpu()]
    return torch.stack(read).to(images) / 255


def _through_jpeg(pixels: Tensor, quality: int) -> Tensor:
    """Return an image, uint8 [C, H, W], as it comes back."""
    buffer = io.BytesIO()
    to_picture(pixels).save(buffer, format="JPEG", quality=quality)
    with Image.open(buffer) as picture:
        array = np.array(picture)
    return torch.from_numpy(array).reshape(*pixels.shape[1:], -1).permute(2, 0, 1)


def brightness(images: Tensor, factor: float, rng: torch.Generator) -> Tensor:
    """Multiply by a factor above 1; what comes above white is white."""
    return _vision().adjust_brightness(images, factor)


def contrast(images: Tensor, factor: float, rng: torch.Generator) -> Tensor:
    """Draw each image to the mean of its grey values: ``factor * x + (1 - factor) * mean``."""
    return _vision().adjust_contrast(images, factor)


def gamma(images: Tensor, power: float, rng: torch.Generator) -> Tensor:
    """Darken what is neither black nor white: ``x ** power``."""
    return _vision().adjust_gamma(images, power)


def posterize(images: Tensor, bits: float, rng: torch.Generator) -> Tensor:
    """Keep so many bits of each value, cut off below."""
    return _vision().posterize(images, int(bits))


def rotation(images: Tensor, degrees: float, rng: torch.Generator) -> Tensor:
    """Turn each image by this angle, to a side that is drawn; what comes in repeats the border."""
    sign = torch.randint(0, 2, (len(images),), generator=rng) * 2 - 1
    turn = sign.to(images) * math.radians(degrees)
    height, width = images.shape[2:]
    zero, cos, sin = torch.zeros_like(turn), turn.cos(), turn.sin()
    # the frame is 2 x 2 whatever the shape: without the ratio an oblong image would be sheared
    rows = [cos, -sin * height / width, zero, sin * width / height, cos, zero]
    return _sampled(images, torch.stack(rows, dim=1).view(-1, 2, 3))


def elastic(images: Tensor, shift: float, rng: torch.Generator) -> Tensor:
    """Move pixels by a smooth random field, a new one for each image: ``shift * side`` px (RMS).

    The field is bicubic between 5 x 5 normal numbers for each direction, and what comes in repeats
    the border.

    Source: Simard et al., Best Practices for Convolutional Neural Networks, ICDAR 2003, who blur
    a field of all pixels.
    """
    knots = torch.randn(len(images), 2, 5, 5, generator=rng, dtype=images.dtype).to(images.device)
    field = F.interpolate(knots, images.shape[2:], mode="bicubic", align_corners=True)
    length = field.square().sum(dim=1, keepdim=True).mean(dim=(2, 3), keepdim=True).sqrt()
    pixels = field * (shift * _side(images) / length)
    height, width = images.shape[2:]
    frame = torch.tensor([2 / width, 2 / height], dtype=images.dtype, device=images.device)
    none = torch.eye(2, 3).to(images).expand(len(images), 2, 3)
    return _sampled(images, none, pixels.permute(0, 2, 3, 1) * frame)


def occlusion(images: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Hide a square of this share of the side, at a random place within, behind mid-grey."""
    height, width = images.shape[2:]
    size = max(1, round(share * _side(images)))
    top = torch.randint(0, height - size + 1, (len(images), 1, 1, 1), generator=rng)
    left = torch.randint(0, width - size + 1, (len(images), 1, 1, 1), generator=rng)
    y, x = torch.arange(height)[:, None], torch.arange(width)
    hidden = (y >= top) & (y < top + size) & (x >= left) & (x < left + size)
    return torch.where(hidden.to(images.device), 0.5, images)


CORRUPTIONS: Mapping[str, Corruption] = {
    "gaussian_noise": Corruption(gaussian_noise, (0.06, 0.12, 0.2), "standard deviation"),
    "shot_noise": Corruption(shot_noise, (60, 20, 8), "photons of white"),
    "impulse_noise": Corruption(impulse_noise, (0.03, 0.08, 0.16), "share of the values"),
    "gaussian_blur": Corruption(gaussian_blur, (0.03, 0.05, 0.08), "sigma, of the side"),
    "pixelate": Corruption(pixelate, (0.75, 0.5, 0.35), "pixels that are left, of the side"),
    "jpeg": Corruption(jpeg, (40, 15, 5), "quality, of 100"),
    "brightness": Corruption(brightness, (1.3, 1.7, 2.2), "factor"),
    "contrast": Corruption(contrast, (0.6, 0.4, 0.25), "factor"),
    "gamma": Corruption(gamma, (1.5, 2.2, 3.2), "power"),
    "posterize": Corruption(posterize, (3, 2, 1), "bits"),
    "rotation": Corruption(rotation, (10, 20, 30), "degrees"),
    "elastic": Corruption(elastic, (0.03, 0.06, 0.09), "shift, of the side"),
    "occlusion": Corruption(occlusion, (0.2, 0.35, 0.5), "side of the square, of the side"),
}
"""All kinds; each means something for grey images, too."""


def _side(images: Tensor) -> int:
    return min(images.shape[2:])


def _vision() -> Any:
    # importing torchvision takes as long as importing torch
    from torchvision.transforms.v2 import functional

    return functional


def _sampled(images: Tensor, turns: Tensor, moves: Tensor | float = 0.0) -> Tensor:
    """Return images seen through affine maps [N, 2, 3] and moves [N, H, W, 2] of their frame."""
    grid = F.affine_grid(turns, list(images.shape), align_corners=False) + moves
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
