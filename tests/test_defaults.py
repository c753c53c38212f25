"""What is given is laid over the defaults of its group, whose kind it keeps."""

from __future__ import annotations

import json

import pytest

from hpd import load_config
from hpd.courses.settings import load_continual
from hpd.disk.yaml_text import flatten
from hpd.engine.selection.class_relevant import ClassRelevantSettings
from hpd.errors import ConfigError
from hpd.objectives import OBJECTIVES
from hpd.students.experts.record import ExpertSettings
from hpd.students.teachers import SqueezeSettings

PIXELS = {"data": "digits", "source": "pixel"}
# they cannot be told from others by their value alone, or stand for what is not set
LENGTHS = ("epochs", "steps", "min_steps")


@pytest.mark.parametrize("name", ["digits", "digits-hmn", "digits-glad", "cifar10-sre2l"])
def test_every_key_that_a_dry_run_prints_is_taken_as_it_is_printed(name):
    settings = load_config(name)
    for key, value in flatten(settings.model_dump(mode="json")).items():
        if key.rpartition(".")[2] in LENGTHS and "training" in key:
            continue
        override = f"{key}={json.dumps(value)}"
        # a description of other data is left out, whatever they are
        changed = load_config(name, [override, f"description={json.dumps(settings.description)}"])
        assert changed == settings, override


def test_a_description_goes_with_what_it_describes():
    """That of a bundled config is of other data, another source or another objective."""
    about = load_config("digits").description
    for override in ("seed=3", "source.steps=3", "device=cpu", "objective.real_batch=9"):
        assert load_config("digits", [override]).description == about
    for override in ("data=cifar10", "data.classes=['1']", "source=pixel", "objective=gradient"):
        assert load_config("digits", [override]).description == ""
    own = {"base": "digits", "data": "cifar10"}
    assert load_config(own).description == ""
    assert load_config({**own, "description": "mine"}).description == "mine"
    assert load_config({**own, "description": "mine"}, ["source=pixel"]).description == ""
    assert load_config(own, ["description=mine", "source=pixel"]).description == "mine"


@pytest.mark.parametrize("kind", list(OBJECTIVES))
def test_a_group_without_a_kind_keeps_the_kind_of_the_default(kind):
    if "student" not in OBJECTIVES[kind].model_fields:
        return
    if not OBJECTIVES[kind].model_fields["student"].default:
        return
    given = {"kind": kind, "student": {"width": 8}}
    if kind == "recovery":
        given["teacher"] = "x"
    assert OBJECTIVES.parse(given).student.width == 8


def test_overrides_merge_into_a_default_that_no_file_names():
    settings = load_config(PIXELS, ["objective.student.width=32", "selection.student.depth=1"])
    assert settings.objective.student.width == 32
    # the selector's student is narrower than that of others, and stays so
    assert settings.selection.student.width == load_config(PIXELS).selection.student.width
    assert settings.selection.student.depth == 1


def test_another_kind_takes_nothing_of_the_default():
    resnet = load_config(PIXELS, ["objective.student={kind: resnet18}"]).objective.student
    assert resnet == OBJECTIVES.parse({"kind": "distribution", "student": "resnet18"}).student
    with pytest.raises(ConfigError, match="unknown key 'depth' in student 'resnet18'"):
        load_config(PIXELS, ["objective.student={kind: resnet18, depth: 8}"])


def test_a_group_in_a_file_is_laid_over_the_default_of_its_place():
    """And not over that of its class: one's own learning rate leaves the length as it was."""
    given = ClassRelevantSettings.read({"training": {"lr": 0.5}}).training
    assert given == ClassRelevantSettings().training.model_copy(update={"lr": 0.5})
    for cls in (SqueezeSettings, ExpertSettings):
        given = cls.read({"training": {"batch_size": 32}}).training
        assert given == cls().training.model_copy(update={"batch_size": 32})
    full = load_config(PIXELS, ["evaluation.full_training.lr=0.5"]).evaluation.full_training
    assert (full.epochs, full.lr) == (30, 0.5)


def test_a_length_that_is_given_replaces_that_of_the_default():
    full = load_config(PIXELS, ["evaluation.full_training.steps=7"]).evaluation.full_training
    assert (full.epochs, full.steps, full.min_steps) == (None, 7, 0)


def test_the_buffers_of_a_file_are_not_added_to_those_of_its_base():
    own = {"base": "digits-continual", "buffers": {"mine": "random"}}
    assert list(load_continual(own).buffers) == ["mine"]
    base = load_continual("digits-continual").buffers
    more = load_continual("digits-continual", ["buffers.mine=random"]).buffers
    assert list(more) == [*base, "mine"]
    changed = load_continual("digits-continual", ["buffers.pixel.source.steps=3"]).buffers
    assert list(changed) == list(base)
    assert changed["pixel"].source.steps == 3
