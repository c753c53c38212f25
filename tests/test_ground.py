"""Errors, checks, random streams and registries."""

from __future__ import annotations

import math
import sys
from typing import Annotated

import pytest
import torch
from conftest import ROOT
from pydantic import Field

from hpd.checks import check_finite, check_labels, check_shape
from hpd.errors import ConfigError, HpdError, NumericError, ShapeError
from hpd.registry import Registry, Settings
from hpd.rng import Streams, isolated

sys.path.insert(0, str(ROOT / "tools"))

from peak_memory import peak_bytes


def test_an_error_says_problem_got_expected_and_fix():
    error = HpdError("levels out of order", got=3, expected="0 to 2", fix="Sort them.")
    assert str(error) == "levels out of order: got 3, expected 0 to 2. Sort them."


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4, 4, 1), (2, 3, 4, 5)])
def test_shapes_that_do_not_fit_are_named(shape):
    with pytest.raises(ShapeError, match=r"images has the wrong shape: got .* expected \[N, C"):
        check_shape(torch.zeros(shape), "N C H H", "images")


def test_labels_are_checked():
    check_labels(torch.tensor([0, 2]), 3)
    check_labels(torch.zeros(0, dtype=torch.long), 3)
    with pytest.raises(ShapeError, match=r"0\.\.3, expected 0\.\.2"):
        check_labels(torch.tensor([0, 3]), 3)
    with pytest.raises(ShapeError, match="class indices"):
        check_labels(torch.tensor([0.0]), 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_value_that_is_not_finite_is_found_wherever_it_is(bad, dtype):
    for count in (1, 7, 8, 33, 4097):
        for place in {0, count // 2, count - 1}:
            values = torch.full((count,), -3.0, dtype=dtype)
            assert check_finite(values, "values") is values
            values[place] = bad
            with pytest.raises(NumericError, match="1 NaN or Inf"):
                check_finite(values, "values")
    assert check_finite(torch.empty(0), "nothing").numel() == 0
    assert check_finite(torch.ones(2, dtype=torch.int64), "counts").sum() == 2


def test_finite_values_are_looked_at_without_a_copy():
    values = torch.zeros(1 << 20)
    assert peak_bytes(lambda: check_finite(values, "values")) < 1 << 12


def test_finite_values_are_counted():
    with pytest.raises(NumericError, match="2 NaN or Inf of 3"):
        check_finite(torch.tensor([1.0, float("nan"), float("inf")]), "loss")


def test_streams_are_independent_and_repeatable():
    streams = Streams(7)
    paths = [("a",), ("b",), ("a", 0), ("a", "0"), ("a", 0, 1), ("a", 1, 0), ()]
    assert len({streams.seed(*path) for path in paths}) == len(paths)
    assert len({Streams(root).seed("a") for root in range(100)}) == 100
    assert streams.fork("a", 1).seed(2) == Streams(7).seed("a", 1, 2)
    # a stream must not change between versions: runs are repeated from their seed alone
    assert Streams(0).seed("student", 0, 3) == 3355447008522118283


class Inner(Settings):
    size: int = 3


SHAPES: Registry[Settings] = Registry("shape")


@SHAPES.register("square")
class SquareSettings(Settings):
    side: float = Field(1.0, gt=0)
    inner: Inner = Inner()


class Outer(Settings):
    shape: Annotated[Settings, SHAPES]


DEVICES = ["cpu"]
if torch.accelerator.is_available():
    DEVICES.append(str(torch.accelerator.current_accelerator()))


@pytest.mark.parametrize("name", DEVICES)
def test_isolated_draws_repeat_and_leave_no_trace(name):
    device = torch.device(name)

    def draws(seed):
        with isolated(seed, device):
            return torch.rand(4), torch.rand(4, device=device).cpu()

    def state():
        module = torch.random if name == "cpu" else torch.get_device_module(device)
        return module.get_rng_state()

    before = state()
    first, again, other = draws(1), draws(1), draws(2)
    for a, b, c in zip(first, again, other, strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
    with pytest.raises(KeyError), isolated(3, device):
        torch.rand(1, device=device)
        raise KeyError
    assert torch.equal(state(), before)


def test_a_registry_reads_what_it_dumps():
    settings = SHAPES.parse({"kind": "square", "side": 2})
    assert SHAPES.parse(SHAPES.dump(settings)) == settings
    assert SHAPES.parse("square").side == 1.0
    outer = Outer.read({"shape": settings})
    assert Outer.read(outer.model_dump(mode="json")) == outer


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"shape": {"kind": "squar"}}, "unknown shape 'squar'. Did you mean 'square'?"),
        ({"shape": {"kind": "square", "sid": 1}}, "Did you mean 'side'?"),
        ({"shape": {"kind": "square", "side": "2"}}, "side in shape 'square' is not valid"),
        ({"shape": {"kind": "square", "side": True}}, "got True"),
        ({"shape": {"kind": "square", "side": 0}}, "greater than 0"),
        ({"shape": {"kind": "square", "inner": {"size": 1.5}}}, "inner.size in shape 'square'"),
        ({"shape": {"kind": "square", "inner": {"sizes": 1}}}, "Did you mean 'size'?"),
        ({"shape": {"side": 1}}, "shape needs a kind"),
        ({"shape": None}, "shape needs a kind"),
        ({}, "missing key 'shape'"),
        ({"shap": "square"}, "Did you mean 'shape'?"),
    ],
)
def test_wrong_settings_are_named(values, message):
    with pytest.raises(ConfigError) as caught:
        Outer.read(values)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        SquareSettings().side = 2.0


def test_a_name_is_registered_once():
    with pytest.raises(ConfigError, match="'square' is registered twice"):
        SHAPES.register("square")(Outer)


def test_a_class_that_is_defined_again_takes_the_place_of_the_one_before(monkeypatch):
    """As in a notebook, where a cell is run again."""
    monkeypatch.setattr(SHAPES, "_classes", dict(SHAPES._classes))
    again = type("SquareSettings", (SquareSettings,), {"__module__": SquareSettings.__module__})
    SHAPES.register("square")(again)
    assert SHAPES["square"] is again


@pytest.mark.parametrize("what", [None, 3, int, "square", SquareSettings()])
def test_what_is_no_class_of_settings_is_not_registered(what):
    with pytest.raises(ConfigError, match=r"'round' cannot be registered: got .*derived from Set"):
        SHAPES.register("round")(what)
    assert "round" not in SHAPES
