"""Rendering in chunks: flat memory in the number of images, the same gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hpd.arrays import as_labels
from hpd.checks import check_shape, check_tensor
from hpd.errors import RunError, ShapeError
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
        indices: which images [N], int64; an array of other integers is converted.
        chunk_images: most images to decode with a graph at a time.

    Returns:
        images [N, C, H, W], detached, and the pullback, to be called at most once. It takes the
        gradient in the shape and dtype of the images.

    Raises:
        ShapeError: for what are no indices, and on a CPU for one that no image has; from the
            pullback for a gradient of another shape or dtype.
        RunError: from the pullback, if it is called again.
    """
    indices = as_indices(indices)
    if len(indices) <= chunk_images:
        with torch.enable_grad():
            kept = _decoded(decode, indices)
        return kept.detach(), pullback_of(kept, kept.backward)

    with torch.no_grad():
        images = _in_parts(decode, indices.split(chunk_images), len(indices))

    def pull_by_rendering_again(image_grad: Tensor) -> None:
        parts = zip(indices.split(chunk_images), image_grad.split(chunk_images), strict=True)
        for part, grad in parts:
            with torch.enable_grad():
                decode(part).backward(grad)

    return images, pullback_of(images, pull_by_rendering_again)


def pullback_of(images: Tensor, pull: Pullback) -> Pullback:
    """Return a pullback that takes one gradient, of these images; its values are not looked at.

    Args:
        images: [N, C, H, W].
        pull: what is done with the gradient.
    """
    return _once(images, pull, "N C H W", "image_grad")


def pullback_of_labels(probabilities: Tensor) -> Pullback:
    """Return a pullback that takes one gradient, of these probabilities [N, K], with a graph."""
    return _once(probabilities, probabilities.backward, "N K", "label_grad")


def _once(values: Tensor, pull: Pullback, shape: str, name: str) -> Pullback:
    left, lengths = [pull], dict(zip(shape.split(), values.shape, strict=True))

    def pullback(grad: Tensor) -> None:
        check_tensor(grad, name, values.dtype)
        check_shape(grad, shape, name, **lengths)
        if not left:
            raise RunError("the pullback was called before", fix="Render again.")
        left.pop()(grad)

    return pullback


def as_indices(indices: Any) -> Tensor:
    """Return which images are wanted, int64 [N]; a tensor of them as it is, unlooked at.

    Raises:
        ShapeError: if they are no indices, or there are none.
    """
    plain = isinstance(indices, Tensor) and indices.dtype == torch.int64 and indices.ndim == 1
    if plain and len(indices):
        return indices
    device = indices.device if isinstance(indices, Tensor) else torch.device("cpu")
    return as_labels(indices, "indices", device=device)


def _in_parts(decode: Callable[[Tensor], Tensor], parts: Sequence[Tensor], count: int) -> Tensor:
    # each where it belongs: parts that are joined are in memory twice for a moment
    first = _decoded(decode, parts[0])
    images = first.new_empty(count, *first.shape[1:])
    images[: len(first)] = first
    done = len(first)
    for part in parts[1:]:
        images[done : done + len(part)] = _decoded(decode, part)
        done += len(part)
    return images


def _decoded(decode: Callable[[Tensor], Tensor], indices: Tensor) -> Tensor:
    try:
        return decode(indices)
    except IndexError as error:
        # says which index, and how many images there are
        raise ShapeError("an index is that of no image", got=error) from error
