"""Sources built by hand: what they are asked and given is theirs, or a short error."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from conftest import CPU, ROOT

from hpd.data import ImageSet, Normalisation
from hpd.errors import RunError, ShapeError
from hpd.sources import SOURCES
from hpd.sources.base import CountedSettings
from hpd.sources.rows import picked

sys.path.insert(0, str(ROOT / "tools"))

from peak_memory import peak_bytes


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


@pytest.mark.parametrize("size", [1, 3, 8, 20])
def test_picked_rows_have_the_gradient_of_an_index_to_the_bit(size, rng):
    values, probe = torch.randn(2, 20, 5, generator=rng)
    order = torch.randperm(20, generator=rng)
    found = []
    for pick in (picked, lambda leaf, chosen: leaf[chosen]):
        leaf = values.clone().requires_grad_()
        for part in order.split(size):
            (pick(leaf, part).sin() * probe[part]).sum().backward()
        found.append(leaf.grad)
    assert torch.equal(*found)
    # nothing is optimised: nothing is kept
    assert not picked(values, order).requires_grad
    with torch.no_grad():
        assert not picked(leaf, order).requires_grad


COUNTED = [kind for kind in SOURCES if issubclass(SOURCES[kind], CountedSettings)]


@pytest.mark.parametrize("kind", COUNTED)
def test_the_way_back_takes_a_gradient_and_a_chunk_and_no_more(kind, streams, source_settings, rng):
    """However many images: beside them and the gradient of what is optimised."""
    pixels = torch.randint(0, 256, (3 * 80, 1, 8, 8), generator=rng).byte()
    train = ImageSet(
        pixels, torch.arange(240) % 3, ("a", "b", "c"), Normalisation.of(pixels)
    )  # fmt: skip
    takes = []
    for count in (8, 80):
        options = source_settings(kind, images_per_class=count, chunk_images=4)
        source = SOURCES.parse(options).build(train, CPU, streams)
        worst = 0
        for stage in range(len(source.stages)):
            tensors = [tensor for group in source.enter(stage) for tensor in group.tensors]
            indices = torch.arange(len(source.labels))

            def step(source=source, indices=indices) -> None:
                images, pullback = source.render(indices)
                pullback(torch.ones_like(images))

            own = sum(tensor.nbytes for tensor in tensors)
            worst = max(worst, peak_bytes(step) - own)
            for tensor in tensors:
                tensor.grad = None
        takes.append(worst)
    images = 3 * 64 * 4
    # images, those of the chunks before they are joined, and their gradient
    assert takes[1] - takes[0] <= (80 - 8) * (3 * images + 200)
