"""What is asked of the layers of a generator, found out by running it: before a run rests on it.

Each image by itself, the same image twice, nothing drawn, and levels that compose to the bit. A
layer that breaks this is found by comparing what goes into each layer with what comes out of it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from generators.base import Generator, LevelState
from hpd.checks import check_finite, check_shape, check_tensor
from hpd.errors import GeneratorError, HpdError, ShapeError
from hpd.machine.memory import is_out_of_memory
from hpd.rng import no_global_draws

BOUND = 1e-3
"""How far an image may differ by the others beside it, as a share of its largest value: rounding
is a hundredth of that, and a layer that looks at other images a hundred times more."""
FAR = 2.0
"""No image in [-1, 1] of a trained generator goes so far; one normalised by mean and deviation
does."""

# epsilons of the dtype that rounding may come to
_ROUNDING = 64
_NEVER_NEGATIVE = (nn.Sigmoid, nn.Hardsigmoid, nn.ReLU, nn.ReLU6, nn.Softplus, nn.Softmax)
_BY_ITSELF = "each image by itself"
_TO_RANGE = "Add x * 2 - 1 as a layer of its own."
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Probed:
    """What a look at a generator measured.

    Args:
        company: largest difference of an image by the others beside it, as a share of its largest
            value.
        lowest: lowest value of its images.
        highest: highest value of its images.
    """

    company: float
    lowest: float
    highest: float


def probe(generator: Generator) -> Probed:
    """Look at a generator with a few small forwards.

    Args:
        generator: as it will be used: frozen, on any device.

    Returns:
        what was measured. The range of the images is not judged: see `check_range`.

    Raises:
        GeneratorError: if an image depends on others or on chance, or the levels do not compose,
            naming the layer; if the generator fails.
        ShapeError: if ws or a state is not of the shape and dtype that the spec says.
        NumericError: if one of them is not finite.
    """
    probes = _Probes.of(generator)
    with torch.no_grad(), no_global_draws(_drew_globally):
        whole, first = probes.images([0, 1]), probes.by_levels([0, 1])
        _check_same(generator, probes, whole, first)
        company = max(
            _check_alone(generator, probes, whole[1:], [0, 1], beside) for beside in ([2, 1], [1])
        )
    return Probed(company, float(whole.min()), float(whole.max()))


def check_range(generator: Generator, lowest: float, highest: float, *, sure: bool = False) -> None:
    """Check that images can be those of [-1, 1].

    Args:
        generator: that made them, with its layers in the order in which they are run.
        lowest: value of the images.
        highest: value of the images.
        sure: whether there were enough images to tell; of a few, what may be chance is a warning.

    Raises:
        GeneratorError: if they are none: they are never below 0, or go far beyond.
    """
    layers = [m for m in generator.modules() if not any(True for _ in m.children())]
    last = layers[-1] if layers else generator
    furthest = max(abs(lowest), abs(highest))
    if furthest > FAR:
        problem, got = "the images of the generator are not in [-1, 1]", f"up to {furthest:.3g}"
        fix = "Bring them to [-1, 1] by a layer of its own; what lies beyond is clipped."
    elif lowest >= 0:
        problem = "the images of the generator are never below 0: those of [0, 1]?"
        got = f"{lowest:.3g} to {highest:.3g}"
        fix = _TO_RANGE
    else:
        return
    if lowest >= 0 and isinstance(last, _NEVER_NEGATIVE):
        name = type(last).__name__
        raise GeneratorError(
            f"the last layer of the generator, {name}, gives no images in [-1, 1]",
            got=f"{lowest:.3g} to {highest:.3g}", expected="-1 for black, 1 for white",
            fix=_TO_RANGE if highest <= 1 else "",
        )  # fmt: skip
    if sure:
        raise GeneratorError(problem, got=got, expected="-1 for black, 1 for white", fix=fix)
    _logger.warning("%s (got %s). %s", problem, got, fix)


@dataclass(frozen=True)
class _Probes:
    """Three drawn z with labels, and runs of some of them."""

    generator: Generator
    z: Tensor
    labels: Tensor | None

    @classmethod
    def of(cls, generator: Generator) -> _Probes:
        spec, weight = generator.spec, generator._weight()
        # drawn, as z of 0 is none that occurs: its length may be divided by
        z = torch.randn(3, spec.z_dim, generator=torch.Generator().manual_seed(0)).to(weight)
        labels = None
        if spec.num_classes:
            chosen = torch.tensor([0, spec.num_classes - 1, spec.num_classes // 2])
            labels = chosen.to(weight.device)
        return cls(generator, z, labels)

    def ws(self, rows: Sequence[int]) -> Tensor:
        """Return the ws of some of the z."""
        spec, chosen = self.generator.spec, list(rows)
        labels = None if self.labels is None else self.labels[chosen]
        with _named("the mapping of the generator"):
            ws = self.generator.map(self.z[chosen], labels)
        check_tensor(ws, "ws", self.generator._weight().dtype)
        check_shape(ws, "N M D", "ws", N=len(rows), M=spec.num_ws, D=spec.w_dim)
        return check_finite(ws, "what the generator maps z to")

    def images(self, rows: Sequence[int]) -> Tensor:
        """Return images in one go."""
        with _named("the generator"):
            return self.generator(self.ws(rows))

    def by_levels(self, rows: Sequence[int]) -> Tensor:
        """Return images by way of every level, whose states are checked."""
        ws, levels = self.ws(rows), self.generator.spec.levels
        state: LevelState = ()
        for start, level in enumerate(levels[1:]):
            with _named(f"the generator, on the way to its level {start + 1}"):
                state = self.generator.advance(state, ws, start, start + 1)
            name = f"the state of level {start + 1} ({level.name})"
            for part in state:
                check_finite(check_tensor(part, name, ws.dtype), name)
            got = tuple(tuple(part.shape) for part in state)
            wanted = tuple((len(ws), *shape) for shape in level.shapes)
            if got != wanted:
                raise ShapeError(f"{name} has the wrong shape", got=got, expected=wanted)
        return state[0]


def _check_same(generator: Generator, probes: _Probes, first: Tensor, again: Tensor) -> None:
    """Check that an image is the same twice, in one go and by way of the levels."""
    if _is_same(first, again):
        return
    if _is_same(probes.images([0, 1]), first):
        raise GeneratorError(
            "the levels of the generator do not compose: an image by way of every level is another"
            " one", got=f"a difference of {_gap(first, again):.2g}", expected="0",
            fix="Let `_next` depend on state, ws and level alone.",
        )  # fmt: skip
    found = _first_to_differ(probes, [0, 1], [0, 1], 2, 0.0)
    raise GeneratorError(
        f"{_where(generator, found)} gives something else each time, of the same",
        got=f"a difference of {_gap(first, again):.2g}", expected="the same, to the bit",
        fix=_advice(found) or "Draw noise once, and keep it as a buffer.",
    )  # fmt: skip


def _check_alone(
    generator: Generator, probes: _Probes, wanted: Tensor, one: list[int], other: list[int]
) -> float:
    """Check that the last of two batches of images does not depend on those before it."""
    bound = max(BOUND, _ROUNDING * torch.finfo(wanted.dtype).eps)
    difference = _gap(wanted, probes.images(other)[-1:])
    if difference <= bound:
        return difference
    found = _first_to_differ(probes, one, other, 1, bound / 10)
    beside = "alone" if len(other) == 1 else "beside another image"
    raise GeneratorError(
        f"{_where(generator, found)} does not take {_BY_ITSELF}: an image is another one {beside}",
        got=f"a difference of {difference:.2g}", expected=f"at most {bound:.2g}",
        fix=_advice(found) or "Compute nothing over the first dimension of a batch.",
    )  # fmt: skip


def _is_same(a: Tensor, b: Tensor) -> bool:
    """Return whether two images are the same: to the bit, where the order of sums is fixed."""
    return torch.equal(a, b) if a.device.type == "cpu" else _gap(a, b) <= BOUND


def _gap(a: Tensor, b: Tensor) -> float:
    """Return the largest difference, as a share of the largest value."""
    if not a.numel():
        return 0.0
    gap = float((a - b).abs().max() / b.abs().max().clamp_min(torch.finfo(b.dtype).tiny))
    return gap if math.isfinite(gap) else math.inf


@dataclass(frozen=True)
class _Call:
    """One call of a module: what went in and what came out, copied."""

    name: str
    module: nn.Module
    given: list[Tensor]
    made: list[Tensor]


def _first_to_differ(
    probes: _Probes, one: Sequence[int], other: Sequence[int], last: int, bound: float
) -> tuple[str, nn.Module] | str:
    """Return the first module that makes different things of the same, or words for what is none.

    Args:
        probes: what is run.
        one: which z in the first run.
        other: which z in the second one.
        last: number of images, the last of both, that are compared.
        bound: difference that is none, as a share of the largest value.
    """
    calls = [_traced(probes, rows) for rows in (one, other)]
    for a, b in zip(*calls, strict=False):
        if a.name != b.name:
            break
        if _agree(a.given, b.given, last, bound) and not _agree(a.made, b.made, last, bound):
            return a.name, a.module
    if not _agree([probes.ws(one)], [probes.ws(other)], last, bound):
        return "what maps z and labels to the input of the first layer"
    return "the generator"


def _traced(probes: _Probes, rows: Sequence[int]) -> list[_Call]:
    """Return every call of a module, in the order in which they ended."""
    generator = probes.generator
    calls: list[_Call] = []
    started: list[list[Tensor]] = []
    handles = []
    for name, module in generator.named_modules():
        if module is generator:
            continue

        def begin(_: nn.Module, given: Any) -> None:
            # copied: some layers write to what they are given
            started.append([t.clone() for t in _tensors(given)])

        def end(own: nn.Module, _: Any, made: Any, name: str = name) -> None:
            copies = [t.clone() for t in _tensors(made)]
            calls.append(_Call(name, own, started.pop(), copies))

        handles += [module.register_forward_pre_hook(begin), module.register_forward_hook(end)]
    try:
        probes.images(rows)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)


def _agree(one: Sequence[Tensor], other: Sequence[Tensor], last: int, bound: float) -> bool:
    """Return whether the last rows of tensors are the same, up to a share of the largest value."""
    for a, b in zip(one, other, strict=False):
        comparable = a.ndim and a.is_floating_point() and a.shape[1:] == b.shape[1:]
        if comparable and _gap(a[-last:], b[-last:]) > bound:
            return False
    return True


def _where(generator: Generator, found: tuple[str, nn.Module] | str) -> str:
    return found if isinstance(found, str) else generator.name_of_part(*found)


def _advice(found: tuple[str, nn.Module] | str) -> str:
    """Return what to do about a layer that is known for it."""
    module = None if isinstance(found, str) else found[1]
    if isinstance(module, _BatchNorm):
        if module.training:
            return "Put it into eval mode: generator.eval()."
        if module.running_mean is None:
            return "Give it running statistics: track_running_stats=True, as it was trained."
    if isinstance(module, _DropoutNd) and module.training:
        return "Put it into eval mode: generator.eval()."
    return ""


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Say what failed, of what is the user's own."""
    try:
        yield
    except HpdError:
        raise
    except Exception as error:
        # other batches are tried where memory runs out
        if is_out_of_memory(error):
            raise
        raise GeneratorError(f"{what} fails", got=f"{type(error).__name__}: {error}") from error


def _drew_globally() -> GeneratorError:
    return GeneratorError(
        "the generator draws from torch's global random numbers, and images do not show it",
        fix="Draw noise once, and keep it as a buffer.",
    )
