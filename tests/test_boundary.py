"""Public functions take what their annotations say, and fail in one way."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import tiny_generator
from small_runs import small_config

import hpd
from hpd import api
from hpd.boundary import _hints, public
from hpd.cli import main
from hpd.errors import LONGEST, ConfigError, HpdError, OutOfMemoryError, RunError

FUNCTIONS = {
    name: getattr(hpd, name)
    for name in hpd.__all__
    if callable(getattr(hpd, name)) and not isinstance(getattr(hpd, name), type)
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_public_function_checks_its_arguments(name):
    function = FUNCTIONS[name]
    assert hasattr(function, "__wrapped__"), "not marked by hpd.boundary.public"
    assert _hints(function.__wrapped__)


def kinds_of(name):
    return {one.kind for one in inspect.signature(FUNCTIONS[name]).parameters.values()}


@pytest.mark.parametrize(
    "name", [name for name in FUNCTIONS if inspect.Parameter.VAR_KEYWORD not in kinds_of(name)]
)
def test_an_argument_that_there_is_not_is_refused_with_those_that_there_are(name):
    with pytest.raises(TypeError, match=rf"^hpd\.{name}: .*\. It takes \w+") as refused:
        FUNCTIONS[name](steps_of_mine=1)
    of_text = inspect.Parameter.VAR_POSITIONAL in kinds_of(name)
    assert ('Options are text: "steps_of_mine=1".' in str(refused.value)) == of_text


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_public_function_names_its_errors(name):
    text = FUNCTIONS[name].__doc__
    assert "Raises:" in text
    errors = {error.__name__ for error in [HpdError, *HpdError.__subclasses__()]}
    assert any(error in text.split("Raises:")[1] for error in errors)


class Odd:
    def __repr__(self):
        raise ValueError("no name")


@pytest.mark.parametrize(
    "value", [3.5, True, b"x", [], {}, Odd(), torch.zeros(3), float("nan"), "a\0b", -1, 1j]
)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_argument_of_another_kind_is_refused_in_one_line(name, value, tmp_path, monkeypatch):
    """As each argument in turn, the others being such as they may be."""
    monkeypatch.chdir(tmp_path)
    function = FUNCTIONS[name]
    for argument in _hints(function.__wrapped__):
        if argument in ("overrides", "images", "labels"):
            continue
        needed = {"config": "none", "run": "none", "runs": ["none"], "where": "none",
                  "name": "none", "out": "out", "path": "none", "data": "none",
                  "name_or_path": "none", "teacher": "none", "format_name": "npz",
                  "folder": "there", "repository": "me/none", "per_class": 1,
                  "thing": "student.convnet",
                  "generator": tiny_generator(),
                  "images": torch.zeros(1, 1, 8, 8)}  # fmt: skip
        hints = _hints(function.__wrapped__)
        if name == "multi_index" and argument == "seed":
            continue
        given = {k: v for k, v in needed.items() if k in hints and (
            k != "generator" or name == "project")}  # fmt: skip
        try:
            function(**given | {argument: value})
        except HpdError as error:
            assert len(str(error)) <= LONGEST
            assert str(error).isprintable()
        else:
            pytest.fail(f"{argument}={value!r} was taken")
        assert not list(tmp_path.iterdir())


def test_numbers_of_numpy_are_numbers():
    assert hpd.load_config("digits", seed=np.int64(3)).seed == 3


def test_what_the_system_refuses_is_an_error_of_a_run():
    @public
    def write(path: str) -> None:
        Path(path).write_text("", "utf-8")

    with pytest.raises(RunError, match=r"hpd.write: No such file or directory: got /none/there"):
        write("/none/there")


def test_a_defect_keeps_its_traceback():
    @public
    def broken(n: int) -> None:
        {}["a"]

    with pytest.raises(KeyError):
        broken(1)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "got MemoryError"),
        (torch.OutOfMemoryError("CUDA out of memory.\nmore"), "got CUDA out of memory"),
    ],
)
def test_memory_that_runs_out_is_said_of_every_function(error, said):
    @public
    def large() -> None:
        raise error

    with pytest.raises(OutOfMemoryError, match=rf"hpd\.large: the memory ran out: {said}"):
        large()

    @public
    def defect() -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        defect()


@pytest.mark.parametrize(
    "source",
    [
        {"kind": "pixel", "images_per_class": 10**12},
        {"kind": "latents", "generator": "digits16", "store": "seed", "budget_bits": 10**17},
        {"kind": "hmn", "budget_images": 10**14},
        {"kind": "linear_bases", "budget_images": 10**11},
        {"kind": "low_rank", "budget_images": 10**11},
    ],
    ids=lambda source: source["kind"],
)
def test_sets_that_no_machine_holds_are_one_line(source):
    """Sizes that no address space has, so that the system refuses them at once."""
    result = CliRunner().invoke(main, ["distill", "digits", f"source={source}", "--dry-run"])
    assert result.exit_code == 2, result.output
    assert "OutOfMemoryError: the memory ran out" in result.output
    assert "Traceback" not in result.output


def test_a_run_is_on_the_generator_that_is_named(tmp_path, generator_folder):
    config = small_config(tmp_path / "data", "digits16")
    run = api.distill(config, "source.steps=1", generator=generator_folder)
    assert run.config.source.generator == generator_folder
    named = api.distill(small_config(tmp_path / "data", generator_folder), "source.steps=1")
    assert torch.equal(run.distilled.images, named.distilled.images)


def test_a_generator_for_a_source_without_one_is_refused(tmp_path):
    config = small_config(tmp_path / "data", "digits16") | {"source": {"kind": "pixel", "steps": 1}}
    with pytest.raises(ConfigError, match="the source takes no generator"):
        api.distill(config, generator="digits16")
    run = api.distill(config, out=tmp_path / "run")
    with pytest.raises(ConfigError, match="the source of the run has no generator"):
        api.evaluate(run, generator="digits16")


@pytest.mark.parametrize("kind", ["gan", "hmn", "multi_formation"])
def test_every_source_with_a_generator_takes_another_name(kind, generator_folder):
    options = {
        "gan": {"kind": "gan", "generator": "digits16"},
        "hmn": {"kind": "hmn", "decoder": {"kind": "stylegan", "generator": "digits16"}},
        "multi_formation": {"kind": kind, "of": {"kind": "gan", "generator": "digits16"}},
    }[kind]
    settings = hpd.SOURCES.parse(options).on("mine")
    assert "mine" in str(settings.model_dump())
    assert "digits16" not in str(settings.model_dump())
