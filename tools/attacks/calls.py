"""Every public function of `hpd`, called with arguments that few expect."""

from __future__ import annotations

import importlib
import inspect
import os
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

import hpd
from attacks import damage, values
from attacks.configs import Overrides
from attacks.folders import (
    COURSE,
    RUN,
    STUDENT,
    TEACHER,
    TWO_DIGITS,
    check_distilled,
    files_of,
    put,
    write_folders,
)
from attacks.target import Input, Target
from hpd.artifacts import DistilledSet
from hpd.given import bundled_configs

# what takes longer is called less often
_OFTEN = {
    "load_config": 20, "load_dataset": 12, "load_distilled": 12, "load_generator": 12,
    "load_run": 12, "export": 12, "compare": 8, "inspect_dataset": 8, "DistilledSet": 30,
    "project": 8, "sample": 8, "registries": 10, "RunSettings": 8,
}  # fmt: skip


class Calls(Target):
    """Functions."""

    name = "calls"
    share = 8.0
    about = (
        "every public function of `hpd.__all__`, with one or two arguments of other types, odd "
        "numbers, texts, paths, tensors and arrays; found by its signature"
    )

    def prepare(self) -> None:
        """Find the functions, and arguments that are right."""
        where = self.place.seeds / "own"
        self._seeds = where if where.is_dir() else write_folders(where)["run"].parent
        self._run, self._files = self.place.inputs / "run", files_of(where / "run")
        put(self._run, self._files)
        values.write_odd_places(self.place.inputs)
        self._mark = self._stamp()
        self._distilled = DistilledSet.load(self._run)
        self._generator = hpd.load_generator("digits16")
        self._paths = values.paths(self.place)
        self._image = torch.full((1, 1, 16, 16), 0.5)
        self._good = self._arguments()
        self._overrides = Overrides(self.place)
        self._overrides.prepare()
        self._bundled = frozenset(bundled_configs())
        self._callables = self._find()
        names = [name for name in self._callables for _ in range(_OFTEN.get(name, 1))]
        self._names = sorted(names)
        self._parameters = {
            name: inspect.signature(DistilledSet if name == "DistilledSet" else call).parameters
            for name, call in self._callables.items()
        }

    def _find(self) -> dict[str, Callable[..., Any]]:
        """Return what is public and can be called, by name."""
        found: dict[str, Callable[..., Any]] = {}
        for name in hpd.__all__:
            value = getattr(importlib.import_module(hpd._HOMES[name]), name)
            if inspect.isfunction(value):
                found[name] = value
        return {
            **found, "DistilledSet": self._use_set, "RunSettings": hpd.RunSettings.read,
            "registries": self._use_registry,
        }  # fmt: skip

    def _arguments(self) -> dict[str, Any]:
        """Return right arguments, by the names of parameters."""
        out = self.place.outputs
        return {
            "config": RUN, "values": RUN, "out": out / "new", "resume": False, "seed": 0,
            "generator": None, "processes": None, "observers": (), "run": self._run,
            "runs": [self._run], "format_name": "npz", "folder": out / "export", "provenance": None,
            "options": {}, "where": TWO_DIGITS, "name": TWO_DIGITS, "sample": 1,
            "grid": out / "grid.png", "path": self._run, "name_or_path": "digits16",
            "network": "G_ema", "images": self._image,
            "labels": torch.tensor([1]), "distance": "squared", "steps": 1, "budget": None,
            "teacher": self._seeds / "teacher", "data": TWO_DIGITS, "per_class": 1, "psi": 0.5,
            "noise": 0.0, "level": 0, "seeds": (0,), "resnet20": None, "device": "cpu", "count": 1,
            "kind": "pixel", "student": STUDENT,
        }  # fmt: skip

    def _base(self, name: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return right arguments of a function: those by place, and those by name."""
        special: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
            "continual": ((COURSE,), {"out": self.place.outputs / "new"}),
            "squeeze": ((TWO_DIGITS, *TEACHER), {
                "out": self.place.outputs / "new", "device": "cpu"}),
            "project": ((self._generator, self._image), {
                "labels": torch.tensor([1]), "distance": "squared", "steps": 1}),
            "report": ((self._run,), {"data": None, "out": self.place.outputs / "r.html"}),
            "score_generator": (("digits16",), {
                "samples": 10, "student": STUDENT, "student_images": 1, "batch_size": 1,
                "features_of": 10}),
            "multi_index": (("seeds=1", "ranks=[2]", "point_counts=[9]", "example_counts=[400]",
                             "real_counts=[9]", "dimension=8"), {}),
            "DistilledSet": ((), {
                "images": self._distilled.images, "labels": self._distilled.labels,
                "classes": ("0", "1"), "normalisation": self._distilled.normalisation,
                "stored_floats": 512}),
            "registries": (("SOURCES", {"kind": "pixel"}), {}),
        }  # fmt: skip
        if name in special:
            return special[name]
        arguments: dict[str, Any] = {}
        for parameter in self._parameters[name].values():
            variable = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            needed = parameter.default is parameter.empty
            if not variable and (needed or parameter.name in ("out", "folder", "observers")):
                arguments[parameter.name] = self._good.get(parameter.name)
        return (), arguments

    def make(self, rng: random.Random) -> Input:
        """Call a function with one or two arguments that are odd."""
        name = rng.choice(self._names)
        given, named = self._base(name)
        positional, keywords = list(given), dict(named)
        parameters = self._parameters[name]
        odd = []
        for _ in range(rng.choice((1, 1, 1, 2))):
            odd.append(self._change(rng, parameters, positional, keywords))
        what = f"{name}: " + ", ".join(odd)

        def feed() -> str:
            self._callables[name](*positional, **keywords)
            return "returned"

        return Input(what, lambda: self._with_run(feed), named=True)

    def _change(
        self, rng: random.Random, parameters: Mapping[str, inspect.Parameter],
        positional: list[Any], keywords: dict[str, Any],
    ) -> str:  # fmt: skip
        """Make one argument odd, and say which and how."""
        own = [p for p in parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        variable = {p.kind: p.name for p in parameters.values() if p not in own}
        if inspect.Parameter.VAR_POSITIONAL in variable and rng.random() < 0.3:
            value = values.anything(rng, self.place) if rng.random() < 0.5 else self._override(rng)
            # what comes before must be given by place as well
            for parameter in own[len(positional) :]:
                if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
                    positional.append(keywords.pop(parameter.name, parameter.default))
            positional.append(value)
            return f"*{values.shown(value)}"
        if inspect.Parameter.VAR_KEYWORD in variable and rng.random() < 0.4:
            name = rng.choice(("kind", "classes", "resolution", "root", "x", "steps", "student"))
            keywords[name] = value = values.anything(rng, self.place)
            return f"{name}={values.shown(value)}"
        if not own:
            positional.append(values.anything(rng, self.place))
            return f"*{values.shown(positional[-1])}"
        place = rng.randrange(len(own))
        parameter = own[place]
        value = self._odd(rng, parameter, positional[place] if place < len(positional) else None)
        if place < len(positional):
            positional[place] = value
        else:
            keywords[parameter.name] = value
        return f"{parameter.name}={values.shown(value)}"

    def _override(self, rng: random.Random) -> str:
        said = rng.choice(("source.steps=1", "seed=3", "evaluation.seeds=1", "seeds=1", "x=1"))
        return damage.damage_text(said, rng, ("data", "kind", "null", "9"))

    def _odd(self, rng: random.Random, parameter: inspect.Parameter, given: Any) -> Any:
        """Return a value for a parameter that it may not be made for."""
        given = self._good.get(parameter.name) if given is None else given
        if isinstance(given, dict | list) and rng.random() < 0.5:
            return values.small(damage.damage_value(given, rng))
        if isinstance(given, torch.Tensor) and rng.random() < 0.7:
            return values.tensor(rng)
        if isinstance(given, Path) and rng.random() < 0.6:
            return rng.choice(self._paths)
        value = values.anything(rng, self.place)
        # a bundled configuration takes its minutes, as it should
        named = parameter.name == "config" and isinstance(value, str) and value in self._bundled
        return f"no-{value}" if named else value

    def _use_set(self, **arguments: Any) -> None:
        found = DistilledSet(**arguments)
        check_distilled(found)
        found.tensor_dataset()
        hpd.export(found, "npz", self.place.outputs / "export")

    def _use_registry(self, registry: str, values: Any) -> None:
        names = ("SOURCES", "OBJECTIVES", "SELECTORS", "STUDENTS")
        # which of them is for the attack to choose, and its own to look up
        chosen = registry if isinstance(registry, str) and registry in names else names[0]
        found = getattr(hpd, chosen)
        found.parse(values)

    def _stamp(self) -> list[tuple[str, int, int]]:
        found = []
        for root, _, files in os.walk(self._run):
            for name in files:
                about = os.stat(os.path.join(root, name))  # noqa: PTH116, PTH118 - for each input
                found.append((name, about.st_mtime_ns, about.st_size))
        return found

    def _with_run(self, feed: Callable[[], str]) -> str:
        """Call with a run that is whole."""
        if self._stamp() != self._mark:
            put(self._run, self._files)
            values.write_odd_places(self.place.inputs)
            self._mark = self._stamp()
        return feed()


CALLS = (Calls,)
