"""Steps that take some of the classes: which, for every objective and source, resumed, shared."""

from __future__ import annotations

import pytest
import torch
from conftest import CPU, SMALL_STUDENT
from small_runs import EndsAfter

import hpd
from hpd.engine.rendered import Drawn, SomeClasses
from hpd.errors import ConfigError
from hpd.objectives import OBJECTIVES
from hpd.rng import Streams
from hpd.sources import SOURCES
from hpd.typing import Step


def some(count=2, processes=1, seed=0):
    return SomeClasses(count, processes, Streams(seed))


def test_classes_are_of_the_step_and_all_come_up():
    labels = torch.arange(6).repeat_interleave(3)
    drawn = [some().of(labels, Step(0, i)).tolist() for i in range(30)]
    assert all(len(set(classes)) == 2 and classes == sorted(classes) for classes in drawn)
    assert {c for classes in drawn for c in classes} == set(range(6))
    assert drawn == [some().of(labels, Step(0, i)).tolist() for i in range(30)]
    assert drawn != [some().of(labels, Step(1, i)).tolist() for i in range(30)]
    assert some(6).of(labels, Step(0, 0)) is None
    # each of two processes takes one of its own three
    assert len(some(2, 2).of(labels[:9], Step(0, 0))) == 1
    # nothing said: all up to a hundred, ten of more
    assert some(None).of(torch.arange(100), Step(0, 0)) is None
    assert len(some(None).of(torch.arange(101), Step(0, 0))) == 10
    assert len(some(None, 2).of(torch.arange(60), Step(0, 0))) == 5


@pytest.mark.parametrize("kind", list(SOURCES))
def test_every_source_gives_the_images_of_some_classes(kind, images, source_settings):
    source = SOURCES.parse(source_settings(kind, steps=2)).build_whole(images, CPU, Streams(0))
    source.enter(0)
    drawn = Drawn.of(source, Step(0, 0), some())
    assert not drawn.all
    assert torch.equal(drawn.labels, source.labels[drawn.indices])
    wanted = some().of(source.labels, Step(0, 0))
    assert drawn.labels.unique().tolist() == wanted.tolist()
    every, _ = source.render(torch.arange(len(source.labels)))
    given, pull = source.render(drawn.indices)
    torch.testing.assert_close(given, every[drawn.indices])
    pull(torch.ones_like(given))


@pytest.mark.parametrize("kind", list(OBJECTIVES))
def test_every_objective_matches_them_or_says_that_it_takes_all(kind, images, objective_options):
    settings = OBJECTIVES.parse({"kind": kind, **objective_options[kind]})
    if settings.takes_all_classes:
        assert kind == "trajectory"
        return
    objective = settings.build_whole(images, CPU, Streams(0))
    source = SOURCES.parse({"kind": "pixel", "images_per_class": 2})
    built = source.build(images, CPU, Streams(1))
    built.enter(0)
    drawn = Drawn.of(built, Step(0, 0), some())
    given, pull = built.render(drawn.indices)
    matched = objective(given, drawn.labels, Step(0, 0))
    assert matched.image_grad.shape == given.shape
    assert bool((matched.image_grad.flatten(1).abs().amax(dim=1) > 0).all())
    pull(matched.image_grad)


def config(**options):
    return {
        "data": {"kind": "digits", "classes": ["0", "1", "3", "8"]},
        "source": {"kind": "pixel", "images_per_class": 2, "steps": 8},
        "objective": {"kind": "distribution", "student": SMALL_STUDENT, "real_batch": 4},
        "selection": {"kind": "ridge", "every": 4},
        "classes_per_step": 2,
        **options,
    }  # fmt: skip


def test_a_run_that_goes_on_takes_the_same_ones(tmp_path):
    whole = hpd.distill(config())
    ends = EndsAfter(5)
    with pytest.raises(KeyboardInterrupt):
        hpd.distill(config(checkpoint_every=1), out=tmp_path / "run", observers=[ends])
    again = hpd.distill(config(checkpoint_every=1), out=tmp_path / "run", resume=True)
    assert torch.equal(again.distilled.images, whole.distilled.images)
    moved = (whole.distilled.images - whole.initial.images).abs().amax(dim=(1, 2, 3))
    assert bool((moved > 0).all())
    assert not torch.equal(
        whole.distilled.images, hpd.distill(config(classes_per_step=None)).distilled.images
    )


def test_trajectories_take_no_classes_by_themselves():
    with pytest.raises(ConfigError, match="matches all classes together") as error:
        hpd.load_config("digits", ["objective={kind: trajectory}", "classes_per_step=2"])
    assert "classes_per_step" in str(error.value)
