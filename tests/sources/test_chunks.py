"""Chunks that are measured: as many images as the memory holds, the same images and gradients."""

from __future__ import annotations

import pytest
import torch
from conftest import CPU

from hpd.engine.rendered import render_all
from hpd.machine.launch import Launch
from hpd.machine.memory import total_bytes
from hpd.sources import SOURCES
from hpd.sources import base as base_module
from hpd.sources import chunks as chunks_module

PER_CLASS = 2


@pytest.fixture
def memory(monkeypatch):
    def is_of(size):
        monkeypatch.setattr(chunks_module, "total_bytes", lambda device: size)

    return is_of


@pytest.fixture
def found(monkeypatch):
    """What was measured."""
    sizes, measure = [], chunks_module.most_at_once

    def most(source):
        sizes.append(measure(source))
        return sizes[-1]

    monkeypatch.setattr(base_module, "most_at_once", most)
    return sizes


@pytest.fixture(params=SOURCES)
def make(request, images, streams, source_settings):
    def build(**options):
        given = source_settings(request.param, images_per_class=PER_CLASS, **options)
        return SOURCES.parse(given).build_whole(images, CPU, streams)

    return build


def gradients(source):
    groups = source.enter(0)
    rendered, pullback = source.render(torch.arange(len(source.labels)))
    pullback(rendered.cos())
    return [tensor.grad for group in groups for tensor in group.tensors]


def test_the_memory_of_this_machine_is_known():
    assert total_bytes(CPU) > 2**28


def test_little_memory_holds_one_image_and_much_holds_all(make, memory, found):
    memory(2**20)
    fixed = make(chunk_images=64)
    assert found == []
    wanted = gradients(fixed)
    for size, least in ((8, 1), (2**45, len(fixed.labels))):
        memory(size)
        source = make(chunk_images="auto")
        assert found.pop() == least
        # other chunks round otherwise
        torch.testing.assert_close(render_all(source), render_all(fixed), rtol=1e-5, atol=1e-6)
        for own, other in zip(gradients(source), wanted, strict=True):
            torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-6)


def test_a_quarter_of_the_memory_is_what_images_keep(
    images, streams, generator_folder, memory, found, monkeypatch
):
    """Twice the memory, twice the images, shared by processes; layers count, not images alone."""

    def measured(size, **options):
        memory(size)
        given = {
            "kind": "gan", "generator": generator_folder, "init": "sample",
            "images_per_class": 1000, "chunk_images": "auto", **options,
        }  # fmt: skip
        SOURCES.parse(given).build_whole(images, CPU, streams)
        return found.pop()

    one, two = (measured(size) for size in (2**20, 2**21))
    assert one >= 2
    assert abs(two - 2 * one) <= 1
    assert measured(2**20, levels=[3]) > one
    monkeypatch.setattr(chunks_module, "read_launch", lambda: Launch(1, 4, 0, local_count=2))
    assert measured(2**21) == one
    monkeypatch.setattr(chunks_module, "read_launch", lambda: Launch(1, 4, 0, local_count=None))
    assert measured(2**21) == two


def test_what_is_given_is_not_measured():
    settings = SOURCES.parse({"kind": "pixel", "chunk_images": "auto"})
    assert settings.chunk == 64
    assert settings.in_chunks_of(5).chunk == 5
    assert settings.in_chunks_of(5).in_chunks_of(7).chunk == 5
