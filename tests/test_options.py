"""An option does something, or it is an error to set it."""

from __future__ import annotations

import importlib
import pkgutil
from types import NoneType
from typing import Annotated, Literal, get_args, get_origin

import pytest
from conftest import SMALL_STUDENT, SMALL_TRAINING, tiny_generator
from small_runs import SMALL_EVALUATION, small_config

import generators
import hpd
from generators import save_generator
from hpd import api
from hpd.config import RunSettings, load_config
from hpd.engine import SELECTORS
from hpd.errors import ConfigError, GeneratorError
from hpd.objectives import OBJECTIVES
from hpd.registry import Settings
from hpd.sources import SOURCES
from hpd.students import TrainingSettings

for _package in (hpd, generators):
    for _module in pkgutil.walk_packages(_package.__path__, _package.__name__ + "."):
        if not _module.name.endswith("__main__"):
            importlib.import_module(_module.name)


def every_settings(cls=Settings):
    for inner in cls.__subclasses__():
        yield inner
        yield from every_settings(inner)


CONDITIONS = sorted(
    {(cls, name, only.option) for cls in every_settings() for name, only in cls.conditions()},
    key=str,
)
# what there is no default for
NEEDED = {
    "generator": "digits16", "root": "there", "data": "digits", "count_generator": True,
}  # fmt: skip


def some_values(annotation):
    """Yield values that an option of this type may have."""
    if get_origin(annotation) is Annotated:
        yield from some_values(get_args(annotation)[0])
    elif get_origin(annotation) is Literal:
        yield from get_args(annotation)
    elif annotation is NoneType:
        yield None
    elif annotation is bool:
        yield from (True, False)
    elif annotation in (int, float):
        yield from (annotation(n) for n in (0.0, 0.25, 0.5, 1.0, 3.0, 20.0, 500.0))
    elif annotation is str:
        yield from ("a", "b")
    elif get_origin(annotation) in (list, tuple):
        yield []
        yield from ([value] for value in some_values(get_args(annotation)[0]))
        yield from ([value] for value in (0.25, "crop"))
    elif isinstance(annotation, type) and issubclass(annotation, TrainingSettings):
        yield {"epochs": 3, "lr": 0.3}
    else:
        for part in get_args(annotation):
            yield from some_values(part)


def made(cls, **options):
    """Return settings, or None if they are not valid."""
    needed = {k: v for k, v in NEEDED.items() if k in cls.model_fields}
    try:
        return cls.read(needed | options)
    except ConfigError as error:
        if error.because:
            raise
        return None


def groups_with_defaults():
    for cls in sorted({*every_settings()}, key=str):
        fields = cls.model_fields
        if any(field.is_required() for name, field in fields.items() if name not in NEEDED):
            continue
        for name in fields.keys() - NEEDED.keys():
            default = fields[name].get_default(call_default_factory=True)
            if isinstance(default, Settings):
                yield pytest.param(cls, name, default, id=f"{cls.__name__}.{name}")


@pytest.mark.parametrize(("cls", "name", "default"), sorted(groups_with_defaults(), key=str))
def test_a_group_of_which_nothing_is_said_is_its_default_at_every_depth(cls, name, default):
    """An option may be as its own class has it where the group above has it otherwise."""
    settings = made(cls, **{name: {}})
    assert settings is not None
    assert vars(settings)[name] == default
    for inner, value in vars(default).items():
        if isinstance(value, Settings):
            assert vars(vars(made(cls, **{name: {inner: {}}}))[name])[inner] == value


def test_there_are_conditions():
    assert len(CONDITIONS) > 20


@pytest.mark.parametrize(("cls", "name", "other"), CONDITIONS, ids=str)
def test_an_option_is_refused_where_it_does_nothing_and_taken_where_it_does(cls, name, other):
    """Each with every value of the option that it depends on."""
    only = {n: o for n, o in cls.conditions() if o.option == other}[name]
    default = cls.model_fields[name].get_default(call_default_factory=True)
    without = made(cls)
    values = [v for v in some_values(cls.model_fields[name].annotation) if v != default]
    refused = taken = 0
    for there in some_values(cls.model_fields[other].annotation):
        if made(cls, **{other: there}) is None:
            continue
        for value in values:
            try:
                if made(cls, **{other: there, name: value}) is not None:
                    taken += 1
                    assert only.holds(there)
            except ConfigError as error:
                assert not only.holds(there)
                assert f"{name} in" in str(error)
                assert "does nothing" in str(error)
                assert (error.option, error.because) == (name, other)
                refused += 1
    assert without is not None
    assert taken, "nothing was taken"
    assert refused, "nothing was refused"


def test_what_does_nothing_is_refused_though_the_base_made_it_so():
    with pytest.raises(ConfigError, match="project_steps in source 'gan' does nothing"):
        load_config("digits", ["source.project_steps=3"])


def test_what_a_base_sets_is_left_out_where_an_override_makes_it_do_nothing():
    base = {"base": "digits", "source": {"init": "project", "project_steps": 3}}
    assert load_config(base).source.project_steps == 3
    settings = load_config(base, ["source.init=sample"])
    assert (
        settings.source.project_steps == type(settings.source).model_fields["project_steps"].default
    )
    with pytest.raises(ConfigError, match="does nothing"):
        load_config(base, ["source.init=sample", "source.project_steps=4"])


def test_what_a_protocol_sets_is_left_out_where_an_override_makes_it_do_nothing():
    cosine = load_config(
        "digits", ["evaluation.protocol=idc", "evaluation.training.schedule=cosine"]
    ).evaluation.training
    assert cosine.drops == TrainingSettings().drops
    hard = load_config("digits", ["evaluation.protocol=soft", "evaluation.labels=hard"])
    assert hard.evaluation.labels == "hard"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["evaluation.training.temperature=3.0"], "temperature does nothing with hard labels"),
        (["selection={kind: validation, training: {temperature: 3.0}}"], "temperature does"),
        (["evaluation.teacher=there"], "teacher in evaluation does nothing with labels hard"),
        (["evaluation.training={algorithm: adamw, momentum: 0.5}"], "does nothing with algorithm"),
        (["source={kind: pixel, generator: digits16}"], "unknown key 'generator'"),
        (["source.images_per_clas=3"], "Did you mean 'images_per_class'"),
        (["tracking.project=mine"], "project in tracking does nothing"),
    ],
)  # fmt: skip
def test_options_that_do_nothing_are_named(overrides, words):
    with pytest.raises(ConfigError, match=words):
        load_config("digits", overrides)


def test_classes_for_a_generator_without_classes_are_refused(tmp_path):
    network = tiny_generator(num_classes=0)
    save_generator(network, network.settings, tmp_path / "g", licence="MIT", provenance={})
    config = small_config(tmp_path / "data", str(tmp_path / "g"))
    config["source"]["generator_classes"] = [0, 1, 2]
    with pytest.raises(GeneratorError, match="the generator has no classes"):
        api.distill(config)


class Reads:
    """Notes which options of any settings are read."""

    def __init__(self, monkeypatch) -> None:
        self.of: dict[type, set[str]] = {}
        names = {cls: frozenset(cls.model_fields) for cls in every_settings()}
        seen = self.of

        def noting(settings, name):
            cls = type(settings)
            if name in names.get(cls, ()):
                seen.setdefault(cls, set()).add(name)
            return object.__getattribute__(settings, name)

        monkeypatch.setattr(Settings, "__getattribute__", noting, raising=False)


def parts_of(settings):
    """Yield all settings inside of settings, themselves first."""
    yield settings
    for value in vars(settings).values():
        for part in value if isinstance(value, list | tuple) else [value]:
            if isinstance(part, Settings):
                yield from parts_of(part)


# which others it stands for
NAMES = {"EvaluationSettings.protocol"}
VARIANTS = [
    *(("source", kind) for kind in SOURCES),
    *(("objective", kind) for kind in OBJECTIVES),
    *(("selection", kind) for kind in SELECTORS),
    ("optimizer", "adam"),
    ("evaluation", "card"),
]


def config_of(axis, kind, tmp_path, generator_folder, source_settings, objective_options):
    values = small_config(tmp_path / "data", generator_folder)
    values["source"] = {"kind": "pixel", "steps": 2}
    values["objective"] = {"kind": "distribution", **objective_options["distribution"]}
    if axis == "source":
        values["source"] = source_settings(kind, steps=2)
    elif axis == "objective":
        values["objective"] = {"kind": kind, **objective_options[kind]}
        if kind == "gradient":
            values["objective"]["network"] = {"steps": 2}
        if kind == "trajectory":
            # those of the fixture know other images
            values["objective"]["experts"] = str(tmp_path / "experts")
            values["objective"]["expert_training"] = {"count": 1, "training": SMALL_TRAINING}
            api.train_experts(values)
            # a run compares them whole
            del values["objective"]["expert_training"]
    elif axis == "selection":
        values["selection"] = {"kind": kind, "every": 1}
        if "student" in SELECTORS[kind].model_fields:
            values["selection"]["student"] = SMALL_STUDENT
    elif axis == "evaluation":
        card = {"steps": 1, "images": 4, "membership_images": 2, "corruptions": ["gaussian_noise"]}
        values["evaluation"] = SMALL_EVALUATION | {"card": card}
        values["source"] = source_settings("gan", steps=1)
    return values


@pytest.mark.parametrize(("axis", "kind"), VARIANTS)
def test_an_option_that_a_run_does_not_read_is_refused_there(
    axis, kind, tmp_path, monkeypatch, generator_folder, source_settings, objective_options
):
    values = config_of(axis, kind, tmp_path, generator_folder, source_settings, objective_options)
    settings = RunSettings.read(values)
    reads = Reads(monkeypatch)
    run = api.distill(settings, out=tmp_path / "run")
    if axis == "evaluation":
        api.evaluate(run)
    monkeypatch.undo()
    unread = set()
    for part in parts_of(getattr(settings, axis)):
        cls = type(part)
        conditional = {
            name for name, only in cls.conditions() if not only.holds(getattr(part, only.option))
        }
        names = set(cls.model_fields) - reads.of.get(cls, set()) - conditional
        unread |= {f"{cls.__name__}.{name}" for name in names}
    assert not unread - NAMES
