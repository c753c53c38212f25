"""Checking a component before a run rests on it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from generators import Generator, read_generator
from hpd.arrays import as_count
from hpd.boundary import public
from hpd.checking import (
    CheckReport,
    Examiner,
    check_generator,
    check_objective,
    check_selector,
    check_source,
    check_student,
)
from hpd.data import ImageSet
from hpd.data.finding import data_settings
from hpd.engine import SELECTORS, SelectorSettings
from hpd.errors import ConfigError, shown
from hpd.given import parse_options
from hpd.objectives import OBJECTIVES, ObjectiveSettings
from hpd.objectives.distribution import DistributionSettings
from hpd.registry import Registry, Settings
from hpd.rng import Streams
from hpd.sources import SOURCES, SourceSettings
from hpd.sources.base import ChunkedSettings
from hpd.students import STUDENTS, Student, StudentSettings
from hpd.students.networks.convnet import ConvNetSettings

AXES: Mapping[str, Registry[Any]] = {
    "objective": OBJECTIVES,
    "source": SOURCES,
    "selector": SELECTORS,
    "student": STUDENTS,
}
_CPU = torch.device("cpu")
_DIGITS = {"kind": "digits", "classes": ["0", "1", "8"]}
_IMAGES = 12
_EXPECTED = (
    "a generator, a class of settings or settings of an objective, source, selector or student, "
    "one of these itself, or a name such as 'objective.mine'"
)


@public
def check(
    thing: Any, *overrides: str, data: str | Path | Mapping[str, Any] | None = None, seed: int = 0
) -> CheckReport:
    """Check that a component does what is asked of its kind, on a small task.

    Gradients are held against differences, draws against the streams, states against what they
    restore. A generator is run in batches, by all its levels, alone and in company.

    Args:
        thing: a generator, in memory, by name or path; or an objective, a source, a selector or a
            student: its class of settings, settings, the name under which it is registered
            (``"objective.mine"``), or one that is made already.
        overrides: ``"key=value"`` each, of a component that is given by its class or name.
        data: real images, as `load_dataset` takes them, twelve of each class; None: three digits.
            For an objective that is made already, those that it was made with.
        seed: root of all draws.

    Returns:
        what was found, a line for each; its text shows them all.

    Raises:
        CheckError: for the first thing that is not as asked, naming it.
        ConfigError: for what is no component, or an option that is wrong.
        HpdError: from the component, in its own words.
    """
    if isinstance(thing, str | Path) and not _names_component(thing):
        if overrides:
            raise ConfigError("a generator takes no options", got=overrides[0])
        thing = read_generator(thing).generator
    settings = _settings(thing, overrides)
    say = Examiner(_subject(thing, settings))
    if isinstance(thing, Generator):
        check_generator(say, thing)
        return say.report
    train = _some(data_settings(_DIGITS if data is None else data).build().train)
    if settings is None:
        _check_made(say, thing, train)
    else:
        _check_settings(say, settings, train, Streams(as_count(seed, "seed")).fork("check"))
    return say.report


def _names_component(thing: str | Path) -> bool:
    """Return whether a text is the name of a component, as ``axis.kind``."""
    return isinstance(thing, str) and thing.partition(".")[0] in AXES and "." in thing


def _settings(thing: Any, options: tuple[str, ...]) -> Settings | None:
    """Return the settings of what is given as such, None of what is made already."""
    given = parse_options(options)
    if isinstance(thing, str):
        axis, _, kind = thing.partition(".")
        found: Settings = AXES[axis].parse({**given, "kind": kind})
        return found
    if isinstance(thing, type) and issubclass(thing, Settings):
        return thing.read(given)
    if options:
        raise ConfigError(
            "options are for a class of settings or a name", got=options[0],
            fix="Set them where it is made.",
        )  # fmt: skip
    return thing if isinstance(thing, Settings) else None


def _subject(thing: Any, settings: Settings | None) -> str:
    if settings is not None:
        return settings.section()
    return thing.__name__ if isinstance(thing, type) else f"the {type(thing).__name__}"


def _some(train: ImageSet) -> ImageSet:
    """Return a few images of each class."""
    return train.at(torch.cat([own[:_IMAGES] for own in train.by_class]).sort().values)


def _check_settings(say: Examiner, settings: Settings, train: ImageSet, streams: Streams) -> None:
    """Check what settings build."""
    if isinstance(settings, ObjectiveSettings):
        check_objective(say, lambda: settings.build_whole(train, _CPU, streams), train)
    elif isinstance(settings, SourceSettings):
        in_chunks: Callable[[], Any] | None = None
        if isinstance(settings, ChunkedSettings):
            small = settings.model_copy(update={"chunk_images": 1})
            in_chunks = lambda: small.build(train, _CPU, streams)  # noqa: E731
        check_source(say, lambda: settings.build(train, _CPU, streams), train, in_chunks)
    elif isinstance(settings, SelectorSettings):
        seen, held = settings.split(train)
        matched = DistributionSettings(student=ConvNetSettings(width=8))
        objective = matched.build(seen, _CPU, streams.fork("objective"))
        check_selector(say, lambda: settings.build(held, _CPU, streams, objective), held)
    elif isinstance(settings, StudentSettings):
        shape, classes = train.image_shape, train.num_classes
        check_student(say, lambda rng: settings.build(shape, classes, rng), train)
    else:
        raise ConfigError("nothing is asked of it", got=say.subject, expected=_EXPECTED)


def _check_made(say: Examiner, thing: Any, train: ImageSet) -> None:
    """Check what is made already, from the state in which it is."""
    if isinstance(thing, Student):
        check_student(say, thing, train)
    elif callable(thing) and hasattr(thing, "load_state"):
        check_objective(say, _afresh(thing), train)
    elif hasattr(thing, "render") and hasattr(thing, "load_state"):
        check_source(say, _afresh(thing), train)
    elif callable(thing) and not isinstance(thing, type):
        check_selector(say, lambda: thing, train)
    else:
        raise ConfigError("nothing is asked of it", got=shown(thing), expected=_EXPECTED)


def _afresh(thing: Any) -> Callable[[], Any]:
    """Return a function that gives copies of a component, as it is now."""
    kept = copy.deepcopy(thing)
    return lambda: copy.deepcopy(kept)
