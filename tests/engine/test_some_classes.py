"""Steps that take some of the classes: which, for every objective and source, resumed, shared."""

from __future__ import annotations

import pytest
import torch
from conftest import CPU, SMALL_STUDENT
from small_runs import EndsAfter
from threads import together

import hpd
from hpd.data import ImageSet, Normalisation
from hpd.engine import OptimizerSettings, optimise
from hpd.engine.rendered import Drawn, SomeClasses
from hpd.errors import ConfigError
from hpd.machine.device import Processes
from hpd.objectives import OBJECTIVES
from hpd.rng import Streams
from hpd.sources import SOURCES
from hpd.typing import Step


def some(count=2, classes=6, seed=0):
    return SomeClasses(count, torch.arange(classes), Streams(seed))


def test_classes_are_of_the_step_and_all_come_up():
    labels = torch.arange(6).repeat_interleave(3)
    drawn = [some().of(labels, Step(0, i)).tolist() for i in range(30)]
    assert all(len(set(classes)) == 2 and classes == sorted(classes) for classes in drawn)
    assert {c for classes in drawn for c in classes} == set(range(6))
    assert drawn == [some().of(labels, Step(0, i)).tolist() for i in range(30)]
    assert drawn != [some().of(labels, Step(1, i)).tolist() for i in range(30)]
    assert some(6).of(labels, Step(0, 0)) is None
    # nothing said: all up to a hundred, ten of more
    assert some(None, 100).of(torch.arange(100), Step(0, 0)) is None
    assert len(some(None, 101).of(torch.arange(101), Step(0, 0))) == 10


@pytest.mark.parametrize(("count", "classes"), [(10, 101), (8, 1000), (7, 9), (100, 101), (1, 5)])
def test_processes_draw_the_same_classes_and_have_as_many_each(count, classes):
    every, seen = torch.arange(classes), torch.zeros(classes)
    for i in range(200):
        drawn = some(count, classes).drawn(Step(0, i))
        assert len(drawn.unique()) == count
        seen[drawn] += 1
        for processes in (2, 3, 4, 8):
            own = [every[rank::processes] for rank in range(processes)]
            parts = [some(count, classes).of(part, Step(0, i)) for part in own]
            assert torch.equal(torch.cat(parts).sort().values, drawn)
            if processes in (2, 4, 8) and count >= processes and classes % processes == 0:
                sizes = [len(part) for part in parts]
                assert max(sizes) - min(sizes) <= 1
    # each as often, but for luck: over all classes the mean is exact
    expected = 200 * count / classes
    assert (seen - expected).abs().max() <= 6 * expected**0.5 + 1


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


class Hears:
    def __init__(self):
        self.losses, self.curve = [], []

    def on_step(self, report):
        self.losses.append(report.loss)
        self.curve.append(report.fixed_loss)

    def on_stage(self, report):
        pass


def shared(processes, images, source, objective, count):
    """What a run of some classes a step comes to, in one of several processes."""
    streams, hears = Streams(0), Hears()
    built = SOURCES.parse(source).build_whole(images, CPU, streams.fork("source"))
    outcome = optimise(
        built, OBJECTIVES.parse(objective).build(images, CPU, streams.fork("objective")),
        lambda images, labels: None, OptimizerSettings(), hears, select_every=100, curve_every=2,
        processes=processes, some_classes=SomeClasses(count, torch.arange(5), Streams(3)),
    )  # fmt: skip
    return outcome, hears


@pytest.mark.parametrize(
    "objective",
    [
        {"kind": "distribution", "student": SMALL_STUDENT, "real_batch": 4},
        {
            "kind": "gradient", "student": SMALL_STUDENT, "real_batch": 4,
            "network": {"steps": 3, "epochs": 1, "train_on": "real"},
        },
        {
            "kind": "gradient", "student": SMALL_STUDENT, "real_batch": 4,
            "network": {"steps": 3, "epochs": 1},
        },
    ],
    ids=["distribution", "real", "synthetic"],
)  # fmt: skip
@pytest.mark.parametrize("labels", [None, {}], ids=["hard", "learnt"])
@pytest.mark.parametrize("count", [1, 2])
def test_several_processes_come_to_what_one_does_also_where_one_has_nothing_to_do(
    count, labels, objective, source_settings
):
    if labels is not None and objective["kind"] == "distribution":
        return
    pixels = torch.randint(256, (40, 1, 8, 8), dtype=torch.uint8, generator=Streams(5).generator())
    labels_of_real = torch.arange(5).repeat_interleave(8)
    images = ImageSet(pixels, labels_of_real, tuple("abcde"), Normalisation.of(pixels))
    source = source_settings("pixel", images_per_class=2, steps=5) | {"learnt_labels": labels}
    wanted, heard = shared(Processes(), images, source, objective, count)
    assert not torch.equal(wanted.images, wanted.initial_images)
    for processes in (2, 3):
        found = together(processes, lambda p: shared(p, images, source, objective, count))
        for outcome, _ in found:
            assert torch.equal(outcome.images, wanted.images)
        assert found[0][1].losses == pytest.approx(heard.losses, rel=1e-5)
        assert [c for c in found[0][1].curve if c] == pytest.approx([c for c in heard.curve if c])
