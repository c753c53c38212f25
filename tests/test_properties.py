"""Whatever is given to a public function or a command: a result, or one short line."""

from __future__ import annotations

import os
import shutil
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner
from conftest import TESTS, tiny_generator
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_boundary import FUNCTIONS
from world import (
    GOOD,
    anything,
    build_world,
    cut_short,
    floats,
    ints,
    overrides,
    texts,
    values,
    words,
)

import hpd
from generators import projection
from hpd.boundary import _hints
from hpd.cli.entry import main
from hpd.errors import LONGEST, GeneratorError, HpdError

# functions of the user's own, whose errors are their own; and processes, which there are not
HOOKS = ("processes", "report", "on_setup", "on_estimate")
FEW = settings(
    max_examples=240, deadline=None, derandomize=True, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
# what is done whole at every call
FEWER = {"report": 80, "inspect_dataset": 80, "multi_index": 80}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    before, asked = Path.cwd(), dict(os.environ)
    # nothing is fetched, and nobody's cache is touched
    os.environ |= {
        "HPD_CACHE": str(folder / "cache"), "HPD_OPS": "reference", "HF_HUB_OFFLINE": "1",
        "TORCH_HOME": str(folder / "torch"), "https_proxy": "http://127.0.0.1:9",
    }  # fmt: skip
    build_world(folder)
    with pytest.MonkeyPatch.context() as patch:
        # a backbone that is not there, and that takes long to make
        patch.setattr(projection, "_load_lpips", _no_lpips)
        # where something imported the library before the variable was set
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield folder
    os.chdir(before)
    os.environ.clear()
    os.environ |= asked


def _no_lpips():
    raise GeneratorError("LPIPS needs AlexNet's weights")


def argument(name, wanted):
    """Return a strategy of values for an argument, most of which it could be."""
    kinds = [typing.get_origin(k) or k for k in typing.get_args(wanted) or (wanted,)]
    some = []
    if int in kinds:
        some.append(ints)
    if float in kinds:
        some.append(floats)
    if bool in kinds:
        some.append(st.booleans())
    if str in kinds or Path in kinds:
        some += [texts, texts.map(Path)]
    if any(isinstance(k, type) and issubclass(k, Mapping) for k in kinds):
        some.append(st.dictionaries(texts, values, max_size=3))
    if any(isinstance(k, type) and issubclass(k, Sequence) and k is not str for k in kinds):
        some.append(st.lists(texts | ints, max_size=3))
    if torch.Tensor in kinds or name == "images":
        some.append(st.sampled_from([
            torch.zeros(1, 1, 8, 8), torch.full((2, 1, 8, 8), 0.4),
            torch.zeros(2, dtype=torch.int64),
            torch.full((1, 1, 8, 8), float("nan")), torch.zeros(0), torch.zeros(1, 8, 8, 1),
        ]))  # fmt: skip
    if hpd.api.loading.Generator in kinds:
        some.append(st.builds(tiny_generator))
    if any(k in (Callable, typing.Callable) for k in kinds) or not some:
        return anything
    if type(None) in kinds:
        some.append(st.none())
    some = st.one_of(*some, *some, anything)
    # most of them fit, or nearly all calls would end at the first argument
    fits = st.sampled_from(GOOD[name]) if name in GOOD else some
    return st.integers(0, 7).flatmap(lambda n: some if n == 0 else fits)


def arguments(function):
    """Return a strategy of the arguments of a function; it need not draw those with a default."""
    hints = _hints(function.__wrapped__)
    default = dict.fromkeys(function.__wrapped__.__kwdefaults__ or {})
    needed = {n: argument(n, h) for n, h in hints.items() if n not in default and n != "overrides"}
    asked = {n: argument(n, h) for n, h in hints.items() if n in default}
    asked = {n: s for n, s in asked.items() if n not in HOOKS}
    return st.fixed_dictionaries(needed, optional=asked)


def fresh(folder):
    """Remove what calls wrote."""
    for name in ("new", "out"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for path in folder.glob("new.*"):
        path.unlink()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_returns_or_raises_one_short_line(name, world):
    function = FUNCTIONS[name]
    several = "overrides" in _hints(function.__wrapped__)

    @settings(FEW, max_examples=FEWER.get(name, FEW.max_examples))
    @given(arguments(function), overrides if several else st.just([]))
    def call(given_, options):
        fresh(world)
        try:
            if name == "load_config":
                cut_short(lambda: function(**given_, overrides=options))
            else:
                cut_short(lambda: _call(function, given_, options))
        except HpdError as error:
            assert len(str(error)) <= LONGEST
            assert str(error).isprintable()

    call()


def _call(function, given_, options):
    """Call with overrides between the first argument and those with names."""
    hints = list(_hints(function.__wrapped__))
    first = [given_.pop(n) for n in hints[: hints.index("overrides")]] if options else []
    function(*first, *options, **given_)


def commands(group=main, before=()):
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from commands(command, (*before, name))
        else:
            yield (*before, name), command


COMMANDS = dict(commands())
# takes minutes, in another process, whatever is given
COMMANDS.pop(("ops", "build"), None)


def printable(lists):
    """Return lists of words as a command can have them."""
    return lists.map(lambda found: [word.replace("\0", "") for word in found])


def fitting(parameter, value, before):
    """Return a strategy of an option's words, most of which fit."""
    good = [str(v) for v in GOOD.get(parameter.name, []) if not isinstance(v, list | dict)]
    some = st.sampled_from(good) if good else value
    return (
        st.integers(0, 7).flatmap(lambda n: value if n == 0 else some).map(lambda v: [*before, v])
    )


def line(command):
    """Return a strategy of the words after a command."""
    parts = []
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            options = parameter.name in ("overrides", "options")
            several = printable(overrides) if options else st.lists(words, max_size=2)
            parts.append(several if parameter.nargs == -1 else fitting(parameter, words, []))
        elif parameter.is_flag:
            parts.append(st.sampled_from([[], [parameter.opts[0]]]))
        else:
            value = words | ints.map(str) | values.map(lambda v: str(v).replace("\0", ""))
            there = fitting(parameter, value, [parameter.opts[0]])
            parts.append(there if parameter.required else st.just([]) | there)
    return st.tuples(*parts).map(lambda groups: [word for group in groups for word in group])


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_a_command_ends_in_0_or_2_with_one_line(path, world):
    @settings(FEW, max_examples=110)
    @given(line(COMMANDS[path]))
    def call(given_):
        fresh(world)
        cut_short(lambda: _command([*path, *given_]))

    call()


def _command(words_):
    result = CliRunner().invoke(main, words_)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code in (0, 2), result.output
    if result.exit_code == 2 and "Error: " not in result.stderr:
        last = result.stderr.splitlines()[-1]
        assert last.startswith("hpd: ")
        assert len(last) <= LONGEST + 30


def test_there_are_ten_thousand_examples():
    assert len(FUNCTIONS) * 350 + len(COMMANDS) * 160 >= 10_000


def test_the_suite_sees_what_is_wrong(world):
    """Or the tests above would show nothing."""

    def broken(n: int) -> None:
        raise KeyError(n)

    @FEW
    @given(st.integers())
    def call(n):
        cut_short(lambda: broken(n))

    with pytest.raises(KeyError):
        call()
    assert (TESTS / "world.py").is_file()
