"""Every kernel of CUDA there is: its name, and the line of C++ that defines it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch

Act = Literal["kActivate", "kRecord", "kDerivative"]
Full = Literal["kNeither", "kFirst", "kSecond", "kAsked"]

ACTS: tuple[Act, ...] = ("kActivate", "kRecord", "kDerivative")
_TYPES = {
    torch.float32: ("float32", "float"),
    torch.float16: ("float16", "hpd::Half"),
    torch.bfloat16: ("bfloat16", "hpd::BFloat16"),
}
DTYPES = tuple(_TYPES)
_ANY = (0, 0, 0, 0)
# factors up and down and taps before and after, of layers of StyleGAN3 and StyleGAN-XL
_VECTORS = ((2, 2, 12, 12), (4, 2, 24, 12), (2, 4, 12, 24))
# with a matrix behind the activation, as StyleGAN3-R has it, and before it, in its derivative
_MATRIX_AFTER = ((2, 2, 12, 12), (4, 2, 24, 12))
_MATRIX_BEFORE = ((2, 2, 12, 12), (2, 4, 12, 24))
_RATES = ((1, 1), (2, 1), (1, 2), (0, 0))


@dataclass(frozen=True)
class Kernel:
    """One kernel.

    Args:
        name: of the function in compiled code.
        definition: what defines it, after ``kernels.h``.
    """

    name: str
    definition: str


def _defined(macro: str, name: str, *arguments: object) -> Kernel:
    values = ", ".join(map(str, (name, *arguments)))
    return Kernel(name, f"HPD_{macro}({values})")


def filtered(
    dtype: torch.dtype, act: Act, factors: tuple[int, int, int, int], full: Full
) -> Kernel:
    """Return the kernel of filtered leaky ReLU that fits: one of its own, or one for all filters.

    Args:
        dtype: of images.
        act: what is done at the raised rate.
        factors: up, down, and the taps in either direction of both filters; 0 for a filter whose
            directions differ.
        full: which filter is a matrix; ``kAsked`` where both are.
    """
    known = (factors, full) in _known(act)
    return _filtered(dtype, act, factors if known else _ANY, full if known else "kAsked")


def _filtered(
    dtype: torch.dtype, act: Act, factors: tuple[int, int, int, int], full: Full
) -> Kernel:
    name, type_ = _TYPES[dtype]
    words = ("hpd_filtered", name, act[1:].lower(), full[1:].lower(), *factors)
    return _defined("FILTERED", "_".join(map(str, words)), type_, act, *factors, full)


def _known(act: Act) -> list[tuple[tuple[int, int, int, int], Full]]:
    found: list[tuple[tuple[int, int, int, int], Full]] = [(f, "kNeither") for f in _VECTORS]
    if act == "kDerivative":
        return found + [(factors, "kFirst") for factors in _MATRIX_BEFORE]
    return found + [(factors, "kSecond") for factors in _MATRIX_AFTER]


def resample(dtype: torch.dtype, up: int, down: int) -> Kernel:
    """Return the kernel of upfirdn2d for these factors, or for all."""
    name, type_ = _TYPES[dtype]
    rates = (up, down) if (up, down) in _RATES else (0, 0)
    return _defined("RESAMPLE", f"hpd_resample_{name}_{rates[0]}_{rates[1]}", type_, *rates)


def bias_act(dtype: torch.dtype) -> Kernel:
    """Return the kernel of bias with activation, and of its derivative."""
    name, type_ = _TYPES[dtype]
    return _defined("BIAS_ACT", f"hpd_bias_act_{name}", type_)


def totals(dtype: torch.dtype) -> Kernel:
    """Return the kernel that adds up what tiles have told."""
    name, type_ = _TYPES[dtype]
    return _defined("TOTALS", f"hpd_totals_{name}", type_)


RAISED = _defined("RAISED", "hpd_raised")
"""The activation of raised planes in memory."""


def every_kernel() -> list[Kernel]:
    """Return all kernels, as they stand in csrc/cuda/kernels.cu."""
    return list(_every())


def _every() -> Iterator[Kernel]:
    for dtype in DTYPES:
        for act in ACTS:
            for factors, full in _known(act):
                yield _filtered(dtype, act, factors, full)
            yield _filtered(dtype, act, _ANY, "kAsked")
        for up, down in _RATES:
            yield resample(dtype, up, down)
        yield bias_act(dtype)
        yield totals(dtype)
    yield RAISED
