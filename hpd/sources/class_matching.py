"""Which class of a generator is meant for each class of the data: by number or by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import Field

from generators import GeneratorSpec
from hpd.data.kinds.imagenet import NUM_CLASSES, imagenet_names, is_wnid
from hpd.errors import GeneratorError, cut, nearest

GeneratorClass = int | str
GeneratorClasses = Annotated[
    list[GeneratorClass] | dict[str, GeneratorClass] | None,
    Field(
        description="the generator's class for each class of the data, by number, name or wnid: a"
        " list in the order of the data's classes, or {data's class: generator's class}; null: by"
        " their own names",
    ),
]
"""Type of the option `generator_classes`."""

_OPTION = "source.generator_classes"


def match_classes(
    spec: GeneratorSpec,
    classes: Sequence[str],
    given: Sequence[GeneratorClass] | Mapping[str, GeneratorClass] | None,
) -> list[int | None]:
    """Return the generator's class index for each class of the data.

    Args:
        spec: facts about the generator. One of a thousand classes without names is of ImageNet:
            names and wnids then say which are meant.
        classes: names of the data's classes.
        given: what the user gave, see `GeneratorClasses`; a mapping may leave out classes of the
            data that the generator has by the same name.

    Raises:
        GeneratorError: for a class that the generator does not have, with those that it has and
            an example of what to write.
    """
    if spec.num_classes == 0:
        if given is not None:
            raise GeneratorError(
                "the generator has no classes",
                got=f"generator_classes {given}",
                fix="Leave generator_classes out.",
            )
        return [None] * len(classes)
    known = _indices(spec)
    if isinstance(given, Mapping):
        strangers = [name for name in given if name not in classes]
        if strangers:
            raise GeneratorError(
                f"generator_classes names {strangers[0]!r}, which is no class of the data",
                fix=nearest(strangers[0], classes),
            )
        wanted: list[GeneratorClass] = [given.get(name, name) for name in classes]
    else:
        wanted = [*classes] if given is None else [*given]
    if len(wanted) != len(classes):
        raise GeneratorError(
            "generator_classes needs one class of the generator for each class of the data",
            got=f"{len(wanted)} for {len(classes)}, in the order {_some(classes)}",
            fix=_example(spec, classes),
        )
    return [_index(spec, known, name, classes) for name in wanted]


def _indices(spec: GeneratorSpec) -> dict[str, int]:
    """Return the index of each name that a class of the generator goes by."""
    names = {name: index for index, name in enumerate(spec.classes)}
    pairs = list(imagenet_names().items())
    # the published generators of ImageNet do not name their thousand classes
    if not spec.classes and spec.num_classes == NUM_CLASSES:
        wnids = {wnid: index for index, (wnid, _) in enumerate(pairs)}
        return {**{name: index for index, (_, name) in enumerate(pairs)}, **wnids}
    # one that was trained on folders of wnids, or on their names, goes by both
    also: dict[str, int] = {}
    for wnid, name in pairs:
        if wnid in names or name in names:
            index = names.get(wnid, names.get(name, 0))
            also |= {wnid: index, name: index}
    return {**also, **names}


def _index(
    spec: GeneratorSpec, known: Mapping[str, int], name: GeneratorClass, classes: Sequence[str]
) -> int:
    """Return the index of one class of the generator."""
    if isinstance(name, int):
        if 0 <= name < spec.num_classes:
            return name
        problem = f"the generator has no class {name}"
        fix = f"It has the numbers 0 to {spec.num_classes - 1}."
        raise GeneratorError(problem, fix=f"{fix} {_example(spec, classes)}")
    if name in known:
        return known[name]
    if not known:
        hint = f"Its classes have no names, but the numbers 0 to {spec.num_classes - 1}."
    elif is_wnid(name):
        # two wnids that look alike have nothing in common
        hint = f"It has: {_some(list(known))}."
    else:
        hint = nearest(name, known)
    raise GeneratorError(
        f"the generator has no class {name!r}", fix=f"{cut(hint, 200)} {_example(spec, classes)}"
    )


def _example(spec: GeneratorSpec, classes: Sequence[str]) -> str:
    """Return what to write, for the classes of these data that the generator does not know.

    Which of its classes is meant is for the reader to say: one that stood here would be pasted.
    """
    known = _indices(spec)
    names = [name for name in classes if name not in known] or classes
    pairs = [f"{_quoted(name)}: CLASS" for name in names]
    shown = ", ".join(pairs[:2]) + (", ..." if len(pairs) > 2 else "")
    return f'Say which are meant: "{_OPTION}={{{shown}}}".'


def _quoted(name: GeneratorClass) -> str:
    """Return a class as it is written in YAML, where a bare number is no name."""
    plain = isinstance(name, int) or name.replace("_", "a").replace("-", "a").isidentifier()
    return str(name) if plain else repr(name)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
