"""Sources built by hand: what they are asked and given is theirs, or a short error."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import CPU

from hpd.errors import RunError, ShapeError
from hpd.sources import SOURCES


@pytest.fixture(params=list(SOURCES))
def source(request, images, streams, source_settings):
    made = SOURCES.parse(source_settings(request.param, images_per_class=2)).build(
        images, CPU, streams
    )
    made.enter(0)
    return made


@pytest.mark.parametrize(
    "indices", [[2, 0], np.array([2, 0], ">i4"), torch.tensor([2, 0], dtype=torch.uint8)]
)
def test_any_array_of_integers_says_which_images(source, indices):
    wanted, _ = source.render(torch.tensor([2, 0]))
    assert torch.equal(source.render(indices)[0], wanted)


@pytest.mark.parametrize(
    "indices",
    [
        None, 2, "2", [0.0], torch.tensor([0.0]), torch.tensor([True, False]), torch.tensor(0),
        torch.tensor([[0, 1]]), torch.tensor([], dtype=torch.int64), torch.tensor([0, 10**6]),
        [0, -1],
    ],
    ids=["None", "number", "text", "list of floats", "floats", "mask", "one index", "rows",
         "nothing", "too large", "below 0"],
)  # fmt: skip
def test_what_says_no_images_is_refused(source, indices):
    with pytest.raises(ShapeError) as error:
        source.render(indices)
    assert len(str(error.value)) <= 600
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("chunk_images", [1, 8])
@pytest.mark.parametrize(
    "change",
    [
        lambda grad: grad[:1], lambda grad: grad[0], lambda grad: grad.double(),
        lambda grad: grad.int(), lambda grad: grad.numpy(), lambda grad: None,
    ],
    ids=["one image", "no batch", "double", "integers", "numpy", "None"],
)  # fmt: skip
def test_a_gradient_of_other_images_is_refused(
    change, chunk_images, images, streams, source_settings
):
    settings = source_settings("pixel", images_per_class=2, chunk_images=chunk_images)
    source = SOURCES.parse(settings).build(images, CPU, streams)
    source.enter(0)
    rendered, pullback = source.render(torch.arange(6))
    with pytest.raises(ShapeError, match="image_grad"):
        pullback(change(torch.ones_like(rendered)))


def test_a_refused_gradient_may_be_followed_by_a_right_one(source):
    rendered, pullback = source.render(torch.arange(2))
    with pytest.raises(ShapeError):
        pullback(torch.ones(1))
    pullback(torch.ones_like(rendered))


@pytest.mark.parametrize("chunk_images", [1, 8])
@pytest.mark.parametrize("kind", list(SOURCES))
def test_a_gradient_is_taken_once(kind, chunk_images, images, streams, source_settings):
    settings = source_settings(kind, images_per_class=2, chunk_images=chunk_images)
    source = SOURCES.parse(settings).build(images, CPU, streams)
    (group, *_) = source.enter(0)
    rendered, pullback = source.render(torch.arange(2))
    pullback(torch.ones_like(rendered))
    first = group.tensors[0].grad.clone()
    with pytest.raises(RunError, match="called before"):
        pullback(torch.ones_like(rendered))
    assert torch.equal(group.tensors[0].grad, first)
