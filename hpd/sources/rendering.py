"""Rendering in chunks: flat memory in the number of images, the same gradient."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hpd.checks import check_shape
from hpd.typing import Pullback


def render_in_chunks(
    decode: Callable[[Tensor], Tensor], indices: Tensor, chunk_images: int
) -> tuple[Tensor, Pullback]:
    """Decode images and return them with the pullback of their gradient.

    Where the images fit in one chunk the graph is kept: one forward. Otherwise they are decoded
    without a graph, and once more, chunk by chunk, when the gradient comes: two forwards, and
    memory for the activations of one chunk only.

    Args:
        decode: maps indices [n] to images [n, C, H, W], differentiably in the parameters, each
            image by itself.
        indices: which images [N], int64.
        chunk_images: most images to decode with a graph at a time.

    Returns:
        images [N, C, H, W], detached, and the pullback, to be called at most once.
    """
    if len(indices) <= chunk_images:
        with torch.enable_grad():
            kept = decode(indices)

        def pull_through_graph(image_grad: Tensor) -> None:
            kept.backward(check_shape(image_grad, "N C H W", "image_grad", **sizes(kept)))

        return kept.detach(), pull_through_graph

    with torch.no_grad():
        images = torch.cat([decode(part) for part in indices.split(chunk_images)])

    def pull_by_rendering_again(image_grad: Tensor) -> None:
        check_shape(image_grad, "N C H W", "image_grad", **sizes(images))
        parts = zip(indices.split(chunk_images), image_grad.split(chunk_images), strict=True)
        for part, grad in parts:
            with torch.enable_grad():
                decode(part).backward(grad)

    return images, pull_by_rendering_again


def sizes(images: Tensor) -> dict[str, int]:
    """Return the lengths of images [N, C, H, W] by letter."""
    return dict(zip("NCHW", images.shape, strict=True))
