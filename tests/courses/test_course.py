"""Class-incremental learning: what is kept of which class, what is learned from it, and when."""

from __future__ import annotations

import logging
import os

import pytest
import torch
from conftest import SMALL_STUDENT
from kills import FORK, count_events, die_at
from small_runs import contents

import hpd
from hpd.api import continual
from hpd.config import load_config
from hpd.courses import buffers
from hpd.courses import course as course_module
from hpd.courses.estimate import CourseEstimator, Task
from hpd.courses.folder import CourseFolder
from hpd.courses.settings import load_continual
from hpd.disk.files import write_json
from hpd.disk.locks import held
from hpd.disk.seals import read_sealed, sealed
from hpd.engine.stage import StageRun
from hpd.errors import ConfigError, DataError, RunError

DISTILLED = {
    "kind": "distilled",
    "source": {"kind": "pixel", "steps": 2},
    "objective": {"kind": "distribution", "student": SMALL_STUDENT, "real_batch": 4},
    "selection": {"kind": "last"},
}
CONFIG = {
    "data": {"kind": "digits", "classes": ["0", "1", "3", "7"]},
    "device": "cpu",
    "orders": 2,
    "buffers": {"random": {"kind": "random"}, "pixel": DISTILLED},
    "rehearsal": {"students": [SMALL_STUDENT], "seeds": 2, "training": {"epochs": 2}},
}  # fmt: skip
FILES = 3 + 2 + 2 * 2 * 2 * 2  # result, config and facts, a buffer and a cell each


def with_buffers(**buffers):
    return CONFIG | {"buffers": buffers}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A course without interruption."""
    out = tmp_path_factory.mktemp("courses") / "whole"
    return continual(CONFIG, out=out), contents(out)


@pytest.fixture
def lessons(monkeypatch):
    """The buffer, the test images and the classes of each lesson, which nobody takes."""
    heard = []

    def listen(contenders, dataset, protocol, **options):
        images, labels = contenders[0].draw(0)
        heard.append((contenders[0].name, images, labels, dataset))
        return real(contenders, dataset, protocol, **options)

    real = course_module.compare
    monkeypatch.setattr(course_module, "compare", listen)
    return heard


def test_every_buffer_is_learned_from_after_every_step(whole):
    result, files = whole
    assert [(c.order, c.step, c.buffer) for c in result.cells] == [
        (order, step, name) for order in (0, 1) for step in (0, 1) for name in ("random", "pixel")
    ]
    for cell in result.cells:
        seen = 2 * (cell.step + 1)
        assert (len(cell.classes), cell.images) == (seen, seen)
        assert cell.stored_floats == seen * 256
        assert len(cell.accuracies) == 2
        assert all(0 <= score <= 100 for score in cell.accuracies)
    assert len(files) == FILES


def test_orders_are_drawn_and_steps_take_in_what_is_new(whole):
    result, _ = whole
    orders = {c.order: c.classes for c in result.cells if c.step == 1}
    assert all(sorted(classes) == ["0", "1", "3", "7"] for classes in orders.values())
    for cell in result.cells:
        assert cell.classes == orders[cell.order][: 2 * (cell.step + 1)]
    many = continual(CONFIG | {"orders": 6} | with_buffers(random="random") | {"orders": 6})
    assert len({tuple(c.classes) for c in many.cells if c.step == 1}) >= 4


def test_images_keep_their_class_and_their_place(lessons):
    """What is learned are real images of the classes seen, under the labels of the test."""
    continual(with_buffers(random={"kind": "random"}), "orders=1", "budget_images=3")
    train = hpd.load_dataset("digits").train
    before = None
    for step, (_, images, labels, dataset) in enumerate(lessons):
        assert len(images) == 6 * (step + 1)
        assert dataset.train.classes == dataset.test.classes
        for image, label in zip(images, labels.tolist(), strict=True):
            name = dataset.train.classes[label]
            own = dataset.train.normalisation.apply(train.unit(train.by_class[int(name)]))
            assert bool((own == image).flatten(1).all(dim=1).any())
        unit = dataset.train.normalisation.undo(images)
        if before is not None:
            # what was kept before stays as it was
            torch.testing.assert_close(unit[: len(before)], before)
        before = unit


def test_images_are_normalised_by_what_was_seen(lessons):
    continual(with_buffers(random={"kind": "random"}), "orders=1")
    measured = []
    for _, _, _, dataset in lessons:
        assert dataset.test.normalisation == dataset.train.normalisation
        seen = dataset.train.normalised()
        assert float(seen.mean()) == pytest.approx(0, abs=1e-4)
        assert float(seen.std()) == pytest.approx(1, abs=1e-3)
        measured.append(dataset.train.normalisation)
    assert measured[0] != measured[1]


def test_buffers_differ_by_what_they_hold_alone():
    """Students of equal buffers start alike and come to the same."""
    result = continual(with_buffers(a={"kind": "random"}, b={"kind": "random"}), "orders=1")
    scores = {name: [c.accuracies for c in result.cells if c.buffer == name] for name in "ab"}
    assert scores["a"] == scores["b"]


def test_a_buffer_of_everything_learns_all_classes():
    """Labels of later steps are other classes: a mistake there could not come to this."""
    full = {"epochs": 8, "batch_size": 32, "lr": 0.05}
    rehearsal = CONFIG["rehearsal"] | {"full_training": full, "seeds": 1}
    settings = with_buffers(all={"kind": "everything"}) | {"rehearsal": rehearsal, "orders": 1}
    last = continual(settings).cells[-1]
    assert last.images > 500
    assert last.accuracy > 85


def test_coresets_are_of_each_class_and_of_their_selection(monkeypatch, lessons):
    small = {"student": SMALL_STUDENT, "training": {"epochs": 1}}
    chosen = []

    def last_ones(features, count):
        chosen.append(features.shape)
        return torch.arange(len(features))[-count:]

    monkeypatch.setitem(buffers.SELECTIONS, "k_centre", last_ones)
    buffer = {"kind": "coreset", "selection": "k_centre", **small}
    continual(with_buffers(core=buffer), "orders=1", "budget_images=2")
    assert len(chosen) == 4
    train = hpd.load_dataset("digits").train
    _, images, labels, dataset = lessons[-1]
    for k, name in enumerate(dataset.train.classes):
        expected = train.unit(train.by_class[int(name)][-2:])
        torch.testing.assert_close(dataset.train.normalisation.undo(images[labels == k]), expected)
    with pytest.raises(ConfigError, match="herding or k_centre"):
        continual(with_buffers(core={"kind": "coreset", "selection": "random"}))


def test_a_distilled_buffer_is_what_an_ordinary_run_gives(whole, tmp_path):
    result, _ = whole
    out = tmp_path / "again"
    again = continual(CONFIG, out=out)
    buffer = hpd.load_distilled(out / "buffers" / "order-01-step-01-pixel.safetensors")
    seed = hpd.rng.Streams(0).fork("continual", "order", 1, "step", 1).seed("distil")
    sections = {k: v for k, v in DISTILLED.items() if k != "kind"}
    data = CONFIG["data"] | {"classes": list(buffer.classes)}
    run = hpd.distill(sections | {"data": data, "device": "cpu"}, seed=seed)
    assert torch.equal(run.distilled.images, buffer.images)
    assert buffer.classes == tuple(again.cells[-1].classes[2:])
    assert again.cells == result.cells


def test_without_a_folder_the_figures_are_the_same(whole, tmp_path):
    assert continual(CONFIG).cells == whole[0].cells


def test_a_buffer_that_is_too_large_is_refused(tmp_path):
    two_each = DISTILLED | {"source": DISTILLED["source"] | {"images_per_class": 2}}
    with pytest.raises(ConfigError, match=r"'big' does not fit .* 1,024 floats .* at most 512"):
        continual(with_buffers(big=two_each), out=tmp_path / "out")
    assert not (tmp_path / "out" / "cells").exists()


def test_classes_must_make_whole_steps():
    with pytest.raises(DataError, match="expected 2 or 4"):
        continual(CONFIG, "classes_per_step=3")


def interrupted(monkeypatch, owner, name, at):
    """Let a function fail with Ctrl-C the so-many-th time that it is called."""
    real, calls = getattr(owner, name), []

    def call(*arguments, **options):
        calls.append(None)
        if len(calls) == at:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(owner, name, call)
    return lambda: monkeypatch.setattr(owner, name, real)


@pytest.mark.parametrize(
    ("owner", "name", "at"),
    [
        (course_module, "compare", 1),
        (course_module, "compare", 6),
        (StageRun, "_step", 4),
        (CourseFolder, "keep_buffer", 6),
        (CourseFolder, "keep_cell", 8),
        (CourseFolder, "write_result", 1),
    ],
)
def test_a_course_that_was_interrupted_goes_on_to_the_same_bytes(
    owner, name, at, whole, tmp_path, monkeypatch
):
    mend = interrupted(monkeypatch, owner, name, at)
    with pytest.raises(KeyboardInterrupt):
        continual(CONFIG, out=tmp_path / "out")
    mend()
    before = contents(tmp_path / "out")
    assert "continual.json" not in before
    heard = []
    again = continual(
        CONFIG, out=tmp_path / "out", resume=True, report=lambda *call: heard.append(call)
    )
    assert contents(tmp_path / "out") == whole[1]
    assert again.lines == whole[0].lines
    assert heard[-1] == ("order 2, step 2, pixel", 8, 8)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
def test_a_course_that_is_killed_anywhere_goes_on_to_the_same_bytes(whole, tmp_path):
    events = [0]
    for wanted in (2, 6, 9, 30, 60, 100, 160):
        out = tmp_path / f"killed-{wanted}"

        def child(out=out, wanted=wanted):
            torch.set_num_threads(1)
            count_events(out, die_at(wanted))
            continual(CONFIG, out=out, resume=True)

        process = FORK.Process(target=child)
        process.start()
        process.join()
        assert process.exitcode in (0, -9)
        events.append(len(contents(out)))
        continual(CONFIG, out=out, resume=True)
        assert contents(out) == whole[1], wanted
    # the kills came at different times
    assert len(set(events)) >= 5


def test_orders_can_be_added(whole, tmp_path):
    out = tmp_path / "out"
    first = continual(CONFIG, "orders=1", out=out)
    assert first.cells == [cell for cell in whole[0].cells if cell.order == 0]
    assert continual(CONFIG, out=out, resume=True).lines == whole[0].lines
    assert contents(out) == whole[1]


def test_nothing_is_done_twice(whole, tmp_path, monkeypatch):
    out = tmp_path / "out"
    continual(CONFIG, out=out)

    def refuse(*arguments, **options):
        raise AssertionError

    monkeypatch.setattr(course_module, "compare", refuse)
    monkeypatch.setattr(CourseFolder, "keep_buffer", refuse)
    assert continual(CONFIG, out=out, resume=True).cells == whole[0].cells


def test_files_that_were_damaged_are_made_again(whole, tmp_path, caplog):
    out = tmp_path / "out"
    continual(CONFIG, out=out)
    for name in ("buffers/order-00-step-00-pixel.safetensors", "cells/order-00-step-00-pixel.json",
                 "cells/order-01-step-01-random.json"):  # fmt: skip
        path = out / name
        path.write_bytes(path.read_bytes()[:-9] + b"123456789")
    with caplog.at_level(logging.WARNING):
        continual(CONFIG, out=out, resume=True)
    assert sum("made again" in record.message for record in caplog.records) >= 3
    assert contents(out) == whole[1]


def test_another_course_is_refused(whole, tmp_path):
    out = tmp_path / "out"
    continual(CONFIG, out=out)
    before = contents(out)
    with pytest.raises(RunError, match="already holds a course"):
        continual(CONFIG, out=out)
    for change, said in (
        ("buffers.pixel.source.steps=3", "buffers.pixel.source.steps: 2 -> 3"),
        ("rehearsal.training.lr=0.1", "rehearsal.training.lr: 0.01 -> 0.1"),
        ("seed=1", "seed: 0 -> 1"),
    ):
        with pytest.raises(RunError, match="another config") as caught:
            continual(CONFIG, change, out=out, resume=True)
        assert said in str(caught.value)
    facts = read_sealed(out / "facts.json")
    write_json(out / "facts.json", sealed(facts | {"test": "0"}))
    with pytest.raises(RunError, match=r"data of the course .* test"):
        continual(CONFIG, out=out, resume=True)
    write_json(out / "facts.json", sealed(facts))
    assert contents(out) == before
    # what decides nothing may change
    other = continual(CONFIG, "description=other", out=out, resume=True)
    assert other.cells == whole[0].cells
    assert contents(out).keys() == before.keys()
    with (
        held(out, "goes through a course in"),
        pytest.raises(RunError, match="another process works in it"),
    ):
        continual(CONFIG, out=out, resume=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(RunError, match="already holds other files"):
        continual(CONFIG, out=tmp_path / "other")


def test_a_distilled_buffer_takes_the_rest_from_a_config():
    buffer = {"kind": "distilled", "config": "digits-pixel-dm", "source": {"steps": 7}}
    settings = load_continual(
        with_buffers(pixel=buffer), ["buffers.pixel.objective.student.width=8"]
    )
    made, base = settings.buffers["pixel"], load_config("digits-pixel-dm")
    assert made.source == base.source.model_copy(update={"steps": 7})
    assert made.objective.student.width == 8
    assert made.objective.augment == base.objective.augment
    assert made.optimizer == base.optimizer
    other = buffer | {"source": {"kind": "low_rank", "steps": 3}, "selection": "last"}
    made = load_continual(with_buffers(x=other)).buffers["x"]
    assert (made.source.steps, made.source.lr) == (3, 0.02)
    assert made.selection.every == 10
    # what is resolved is complete: the config could change
    again = type(settings).read(settings.model_dump(mode="json"))
    assert again == settings


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["buffers.pixel.sauce.steps=1"], "Did you mean 'source'?"),
        (["buffers.pixel.source.stepps=1"], "Did you mean 'steps'?"),
        (["buffers.random.kind=randon"], "Did you mean 'random'?"),
        (["buffers={}"], "buffers in the config"),
        (["buffers={'a b': random}"], "name that is not valid"),
        (["buffers={x: {kind: distilled}}"], "missing key 'source'"),
        (["buffers={x: {kind: distilled, config: nothing}}"], "no config 'nothing'"),
        (["orders=0"], "orders in the config"),
        (["rehersal.seeds=1"], "Did you mean 'rehearsal'?"),
    ],
)
def test_wrong_options_are_named(overrides, message):
    with pytest.raises(ConfigError) as caught:
        load_continual(CONFIG, overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings_take_no_overrides():
    settings = load_continual(CONFIG)
    assert load_continual(settings) is settings
    with pytest.raises(ConfigError, match="belong in the settings"):
        load_continual(settings, ["seed=1"])


def test_the_rest_is_estimated_once_each_buffer_was_measured():
    tasks = [Task(0, step, name) for step in (0, 1) for name in "ab"]
    told = []
    estimator = CourseEstimator(tasks, told.append)
    estimator.done(tasks[0], 10.0, 2.0)
    assert told == []
    estimator.done(tasks[1], 0.0, 3.0)
    # twice the classes take twice as long to learn; a buffer takes as long as before
    assert estimator.seconds == pytest.approx(10 + 4 + 6)
    assert told == [
        "about 20 s for the 2 buffers and steps that are left, 10 s of it to make buffers"
    ]
    estimator.done(tasks[2], 1.0, 1.0)
    estimator.done(tasks[3], 1.0, 1.0)
    assert len(told) == 1
