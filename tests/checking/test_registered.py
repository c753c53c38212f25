"""All that comes with hpd does what is asked of its kind."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner
from conftest import CPU, SMALL_STUDENT

import hpd
from generators import bundled_generators
from hpd.checking import (
    Examiner,
    check_generator,
    check_objective,
    check_selector,
    check_source,
    check_student,
)
from hpd.cli import main
from hpd.engine import SELECTORS
from hpd.objectives import OBJECTIVES
from hpd.rng import Streams
from hpd.sources import SOURCES
from hpd.students import STUDENTS

SMALL = {
    "convnet": {"width": 8}, "vit": {"width": 16, "depth": 2, "heads": 2, "mlp_width": 24},
}  # fmt: skip
SELECTORS_SMALL = {
    "class_relevant": {"student": SMALL_STUDENT}, "ridge": {"student": SMALL_STUDENT},
    "validation": {"student": SMALL_STUDENT, "held_out": 0.25,
                   "training": {"epochs": 30, "lr": 0.05, "batch_size": 6}},
}  # fmt: skip


@pytest.mark.parametrize("kind", list(OBJECTIVES))
def test_objectives(kind, images, streams, objective_options):
    settings = OBJECTIVES.parse({"kind": kind, **objective_options[kind]})
    say = Examiner(kind)
    check_objective(say, lambda: settings.build_whole(images, CPU, streams), images)
    lines = "\n".join(say.report.lines)
    assert "central differences in float64" in lines
    assert len(say.findings) >= 14


@pytest.mark.parametrize("kind", list(SOURCES))
def test_sources(kind, images, source_settings):
    settings, small = (
        SOURCES.parse(source_settings(kind, images_per_class=2, chunk_images=chunk))
        for chunk in (64, 1)
    )
    say = Examiner(kind)
    check_source(
        say,
        lambda: settings.build(images, CPU, Streams(0)),
        images,
        lambda: small.build(images, CPU, Streams(0)),
    )
    assert "chunks of any size" in "\n".join(say.report.lines)


@pytest.mark.parametrize("kind", list(SELECTORS))
def test_selectors(kind, images, streams, objective_options):
    settings = SELECTORS.parse({"kind": kind, **SELECTORS_SMALL.get(kind, {})})
    seen, held = settings.split(images)
    matched = OBJECTIVES.parse({"kind": "distribution", **objective_options["distribution"]})
    objective = matched.build(seen, CPU, streams)
    say = Examiner(kind)
    check_selector(say, lambda: settings.build(held, CPU, streams, objective), held)
    assert ("lower is better" in "\n".join(say.report.lines)) == (kind != "last")


@pytest.mark.parametrize("kind", list(STUDENTS))
def test_students(kind, images):
    settings = STUDENTS.parse({"kind": kind, **SMALL.get(kind, {})})
    images = hpd.load_dataset("digits", classes=["0", "1", "8"]).train
    say = Examiner(kind)
    check_student(say, lambda rng: settings.build(images.image_shape, 3, rng), images)
    assert len(say.findings) >= 16


@pytest.mark.parametrize("name", bundled_generators())
def test_generators(name):
    say = Examiner(name)
    check_generator(say, hpd.load_generator(name))
    assert len(say.findings) == 10


@pytest.mark.parametrize(
    "words",
    [
        ["generator", "digits16"],
        ["generator.digits16"],
        ["objective.distribution", "real_batch=8", "student={kind: convnet, width: 8}"],
        ["source.pixel", "--data", "digits"],
        ["selector.ridge", "networks=2", "--seed", "3"],
        ["student.convnet", "student.width=8"],
    ],
    ids=lambda words: words[0],
)
def test_the_command(words):
    done = CliRunner().invoke(main, ["check", *words])
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[-1].endswith("is as asked")
    assert len(lines) > 5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["objective.nothing"], "unknown objective 'nothing'"),
        (["objectives.gradient"], "Did you mean 'objective.gradient'?"),
        (["digits16"], "nothing to check is named 'digits16'"),
        (["generator"], "Write: hpd check generator NAME"),
        (["generator", "nothing"], "no generator 'nothing'"),
        (["student.convnet", "widht=3"], "Did you mean 'width'?"),
        (["source.pixel", "--data", "nowhere"], "unknown data set 'nowhere'"),
    ],
)
def test_what_cannot_be_checked_is_said(words, said):
    done = CliRunner().invoke(main, ["check", *words])
    assert (done.exit_code, said in done.output) == (2, True), done.output


def test_a_report_is_lines(float64):
    report = hpd.check("student.convnet", "width=4")
    assert report.subject == "student 'convnet'"
    assert str(report).splitlines()[0] == "student 'convnet':"
    assert [f"  {line}" for line in report.lines] == str(report).splitlines()[1:]
    assert "forward is head of embed: 0, at most 1e-05" in report.lines


def test_what_is_made_already_is_checked_too(images, streams, source_settings):
    """As it is, and it is left so."""
    train = hpd.load_dataset("digits", classes=["0", "1", "8"]).train
    source = SOURCES.parse({"kind": "pixel"}).build(train, CPU, streams)
    before = source.pixels.clone()
    assert hpd.check(source).subject == "the PixelSource"
    assert torch.equal(source.pixels, before)
    assert source.pixels.grad is None
    small = {"kind": "distribution", "student": SMALL_STUDENT, "real_batch": 4}
    hpd.check(OBJECTIVES.parse(small).build(train, CPU, streams))
    hpd.check(OBJECTIVES.parse(small))
    hpd.check(SELECTORS["last"])
    selector = SELECTORS.parse({"kind": "ridge", "networks": 1}).build(train, CPU, streams, None)
    hpd.check(selector)
    hpd.check(STUDENTS.parse(SMALL_STUDENT).build(train.image_shape, 3, torch.Generator()))
