"""Images that users give.

Float images are nominally in [0, 1], and optimised ones leave it. Of 88 runs on digits,
Fashion-MNIST, CIFAR-10 and photographs, with pixels, generators and memories, those that got
anywhere have at most 2.2 % of their values more than a quarter outside, all between -0.98 and 1.61.
Others go further: generators without training (-1.6 to 1.0, 18 %), and pixels at a rate of 5 (-2.1
to 5.0, 9 %). Normalised images, and those in [-1, 1], have a third and more there, or reach -1.

So images are taken to be in [0, 1] if no more than `BEYOND_SHARE` of their values are more than
`NEAR` outside, and all of them are between -1 and 2, both excluded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hpd.arrays.tensors import CPU, FLOATS, as_tensor, check_finite_extremes, dtype_of
from hpd.errors import ShapeError

NEAR = 0.25
"""How far outside of [0, 1] any number of values may lie."""
BEYOND_SHARE = 0.05
"""Most of the values that may lie further out, between -1 and 2."""


def as_images(
    images: Any,
    name: str = "images",
    *,
    shape: Sequence[int] | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device = CPU,
    any_range: bool = False,
    way_out: str = "",
) -> Tensor:
    """Return images in [0, 1] (nominally), [N, C, H, W], without a graph.

    ``x / 255`` of uint8, ``x`` of floats; see the top of this module.

    Args:
        images: an array.
        name: how it is called in messages.
        shape: (C, H, W) that they must have; None: any.
        dtype: of what is returned.
        device: where that lies.
        any_range: whether floats may lie anywhere, as those of a run do; they are finite even so.
        way_out: what else to do about a wrong range, as a sentence.

    Raises:
        ShapeError: for a wrong shape, dtype or range, saying what they look like.
        NumericError: for NaN or Inf.

    >>> as_images(torch.tensor([[[[0, 51]]]], dtype=torch.uint8))
    tensor([[[[0.0000, 0.2000]]]])
    """
    tensor = as_tensor(images, name).detach()
    _check_image_shape(tensor, name, shape)
    if tensor.dtype == torch.uint8:
        return tensor.to(device).to(dtype).div_(255)
    if tensor.dtype not in FLOATS:
        raise ShapeError(
            f"{name} are of a dtype without a range",
            got=dtype_of(tensor),
            expected="floats in [0, 1], or uint8 from 0 to 255",
            fix="Divide them by the value of white, such as x / 255.",
        )
    ready = tensor.to(device, dtype)
    low, high = check_finite_extremes(ready, name)
    if not any_range:
        _check_range(ready, name, low, high, way_out)
    return ready


def _check_image_shape(tensor: Tensor, name: str, wanted: Sequence[int] | None) -> None:
    shape, fix = list(tensor.shape), ""
    fits = len(shape) == 4 and 0 not in shape
    if len(shape) == 4 and shape[1] not in (1, 3) and shape[3] in (1, 3, 4):
        fits, fix = False, "The channels are last: permute(0, 3, 1, 2), of numpy transpose."
    elif len(shape) == 3:
        one = shape[0] in (1, 3)
        fix = "A single image: x[None]." if one else "Grey images without channels: x[:, None]."
    elif 0 in shape:
        fix = "There are none."
    if fits and (wanted is None or shape[1:] == list(wanted)):
        return
    expected = "[N, C, H, W]"
    if wanted is not None:
        expected = f"[N, {', '.join(map(str, wanted))}]"
    raise ShapeError(f"{name} has the wrong shape", got=shape, expected=expected, fix=fix)


def _check_range(images: Tensor, name: str, low: float, high: float, way_out: str) -> None:
    """Check that images of these extremes are in [0, 1], as the top of this module says."""
    if low >= -NEAR and high <= 1 + NEAR:
        return
    share = float(((images < -NEAR) | (images > 1 + NEAR)).double().mean())
    if low > -1 and high < 2 and share <= BEYOND_SHARE:
        return
    raise ShapeError(
        f"{name} are not in [0, 1]",
        got=f"{low:.4g} to {high:.4g}, {share:.0%} of the values far outside",
        expected="floats in [0, 1], or uint8",
        fix=f"{_looks_like(low, high)} {way_out}",
    )


def _looks_like(low: float, high: float) -> str:
    """Return what images of these extremes seem to be, and how to have them in [0, 1]."""
    if -1 <= low < 0 and high <= 1:
        return "They look like [-1, 1]: (x + 1) / 2."
    if low < 0:
        return "They look normalised: undo it with x * std + mean."
    if 8 < high <= 255:
        return "They look like 0 to 255: x / 255."
    return "Divide them by the value of white."
