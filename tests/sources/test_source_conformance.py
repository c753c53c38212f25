"""What every source promises, run over the registry."""

from __future__ import annotations

import pytest
import torch
from conftest import CPU
from reference import enlarged_part

from hpd.engine.rendered import render_all
from hpd.sources import SOURCES, rows


def as_float64(source):
    """Turn every network and every parameter of a source to float64."""
    for name, value in list(vars(source).items()):
        if name == "inner":
            as_float64(value)
        elif isinstance(value, torch.nn.Module):
            value.double()
        elif torch.is_tensor(value) and value.is_floating_point():
            setattr(source, name, value.detach().double().requires_grad_(value.requires_grad))
    return source


def decode(source, indices):
    """Return images with the graph of autograd; a part of a stored image is cut out by hand."""
    if not hasattr(source, "inner"):
        return source._decode(indices)
    return torch.stack(
        [enlarged_part(decode(source.inner, i[None] // 4)[0], 2, int(i) % 4) for i in indices]
    )


@pytest.fixture(params=SOURCES)
def make(request, images, streams, source_settings):
    def build(**options):
        given = source_settings(request.param, **options)
        return SOURCES.parse(given).build(images, CPU, streams)

    return build


def stages_of(source):
    """Enter every stage in turn and give what is optimised in it."""
    for index in range(len(source.stages)):
        yield index, source.enter(index)


@pytest.mark.parametrize("chunk_images", [1, 2, 4, 6, 7])
def test_any_chunk_size_gives_the_gradient_of_autograd(
    make, float64, rng, chunk_images, monkeypatch
):
    source = as_float64(make(images_per_class=2, chunk_images=chunk_images))
    indices = torch.arange(len(source.labels))
    probe = torch.randn(len(indices), 1, 8, 8, generator=rng)
    for _, groups in stages_of(source):
        tensors = [tensor for group in groups for tensor in group.tensors]
        with monkeypatch.context() as patch:
            # rows are picked as anybody would pick them
            patch.setattr(rows._Picked, "apply", lambda leaf, chosen, device: leaf[chosen])
            wanted = torch.autograd.grad((decode(source, indices) * probe).sum(), tensors)
        for tensor in tensors:
            tensor.grad = None
        images, pullback = source.render(indices)
        pullback(probe)
        for tensor, want in zip(tensors, wanted, strict=True):
            assert float((tensor.grad - want).abs().max()) <= 1e-10 * float(want.abs().max())
        torch.testing.assert_close(images, decode(source, indices).detach(), rtol=0, atol=1e-10)


def test_images_are_in_range_detached_and_of_the_data(make, images):
    source = make(images_per_class=2)
    per_class, rest = divmod(len(source.labels), 3)
    assert (per_class >= 2, rest) == (True, 0)
    assert torch.equal(source.labels, torch.arange(3).repeat_interleave(per_class))
    rendered, _ = source.render(torch.tensor([4, 1]))
    assert rendered.shape == (2, *images.image_shape)
    assert not rendered.requires_grad
    assert source.stored_floats > 0


def test_images_in_any_order_are_the_same_images(make):
    source = make(images_per_class=2)
    everything, order = render_all(source), torch.tensor([4, 1, 1, 5, 0])
    assert torch.equal(source.render(order)[0], everything[order])


def test_the_budget_is_kept(make, images):
    """Nothing stores more than as many whole images would take."""
    for per_class in (1, 2):
        source = make(images_per_class=per_class)
        assert source.stored_floats <= 3 * per_class * images.images[0].numel()


def test_the_gradient_reaches_every_group(make):
    source = make(images_per_class=2)
    for _, groups in stages_of(source):
        rendered, pullback = source.render(torch.arange(len(source.labels)))
        pullback(torch.ones_like(rendered))
        for group in groups:
            assert group.lr > 0
            assert any(float(t.grad.abs().max()) > 0 for t in group.tensors), group.name


def test_what_is_optimised_lies_in_its_order(make):
    """A fused step needs that, and rows of it that a process has lie so whatever it was made of."""
    source = make(images_per_class=2)
    for _, groups in stages_of(source):
        for group in groups:
            rendered, pullback = source.render(torch.arange(len(source.labels)))
            pullback(torch.ones_like(rendered))
            for tensor in group.tensors:
                assert tensor.is_contiguous(), group.name
                assert tensor.grad.is_contiguous(), group.name


def test_entering_a_stage_changes_no_image(make):
    source = make()
    before = render_all(source)
    for _ in stages_of(source):
        assert torch.equal(render_all(source), before)


def test_a_state_is_a_clone_and_restores_to_the_bit(make):
    source = make()
    for _, groups in stages_of(source):
        kept, before = source.state(), render_all(source)
        with torch.no_grad():
            for group in groups:
                for tensor in group.tensors:
                    tensor.add_(1.0)
        assert not torch.equal(render_all(source), before)
        source.load_state(kept)
        assert torch.equal(render_all(source), before)


def test_the_same_streams_give_the_same_images(make):
    assert torch.equal(render_all(make()), render_all(make()))


def test_a_gradient_of_the_wrong_shape_is_refused(make):
    from hpd.errors import ShapeError

    for chunk_images in (1, 8):
        _, pullback = make(chunk_images=chunk_images).render(torch.arange(3))
        with pytest.raises(ShapeError, match="image_grad"):
            pullback(torch.zeros(2, 1, 8, 8))
