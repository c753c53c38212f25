"""How often a step makes the host wait for the device, what it dispatches, what the device does."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bench_step import OBJECTIVES_TIMED, XL_STEM, Stepper, Work
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from gpu_parts.part import Place, Row, guarded, judged
from hpd.machine.device import open_device

MOST_WAITS = 3
"""Of a step, which the tests count on a CPU that pretends to be an accelerator."""

# of the same tests, by objective
MOST_DISPATCHES = {"dm": 700, "dc": 2000, "regression without a pool": 1000}
TINY_STEM = XL_STEM | {"z_dim": 8, "w_dim": 16, "channel_base": 512, "channel_max": 16}
TINY_STUDENT = {"student": {"kind": "convnet", "width": 4}}
_WARM_UP, _STEPS = 4, 2
_PLACES = 5


class Dispatches(TorchDispatchMode):
    """Counts operations that take a tensor of a device.

    Args:
        device_type: of the tensors.
    """

    def __init__(self, device_type: str) -> None:
        super().__init__()
        self.device_type, self.counted = device_type, Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = (v for v in tree_iter((args, kwargs)) if isinstance(v, torch.Tensor))
        if any(tensor.device.type == self.device_type for tensor in tensors):
            self.counted[func.name().split("::")[-1]] += 1
        return func(*args, **kwargs)


def objectives(tiny: bool) -> dict[str, dict[str, Any]]:
    """Return the objectives that are counted, by name."""
    found = dict(OBJECTIVES_TIMED)
    found["regression without a pool"] = found["regression"] | {"pool": None}
    if tiny:
        found = {name: values | TINY_STUDENT for name, values in found.items()}
        for name in ("regression", "regression without a pool"):
            found[name]["real_batch"] = 20
    return found


def work_of(objective: Mapping[str, Any], tiny: bool) -> Work:
    """Return a step on the stem of a StyleGAN-XL; a tiny one in few channels."""
    if tiny:
        return Work(TINY_STEM, objective, real_batch=5)
    return Work(XL_STEM, objective)


def waits(place: Place) -> Iterator[Row]:
    """Count what a step of each objective does, after its first ones."""
    device = open_device(place.device)
    for name, objective in objectives(place.tiny).items():
        work = work_of(objective, place.tiny)
        yield from guarded(name, partial(_counted, name, work, device))


def _counted(name: str, work: Work, device: torch.device) -> Row:
    stepper = Stepper(work, {"precision": "float32", "compile": False}, device)
    for _ in range(_WARM_UP):
        stepper.take()
    with Dispatches(device.type) as mode:
        for _ in range(_STEPS):
            stepper.take()
    dispatches = mode.counted.total() / _STEPS
    bound = MOST_DISPATCHES.get(name)
    figures: dict[str, Any] = {"dispatches": dispatches, "most_dispatches": bound}
    figures["operations"] = dict(mode.counted.most_common(20))
    says = f"{dispatches:.0f} dispatches"
    if device.type != "cuda":
        # a CPU takes classes one by one, which accelerators do not
        return Row(name, "told", f"{says}, class by class; a CPU is not waited for", figures)
    if bound is not None:
        says += f" (tests: at most {bound})"
    found, where = synchronisations(stepper)
    figures |= {"waits": found, "most_waits": MOST_WAITS, "places": where}
    said = f"{found:.1f} waits (at most {MOST_WAITS}); {says}; {_busy(stepper, figures)}"
    if found > MOST_WAITS:
        said += "; waits at " + ", ".join(f"{at} {count}" for at, count in where.items())
    return Row(name, judged(found <= MOST_WAITS), said, figures)


def synchronisations(stepper: Stepper) -> tuple[float, dict[str, int]]:
    """Return how often the host waits in a step, as torch warns of it, and most frequent places."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            for _ in range(_STEPS):
                stepper.take()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    # not what it says once of the mode itself
    told = [w for w in heard if "called a synchronizing" in str(w.message)]
    where = Counter(f"{Path(w.filename).name}:{w.lineno}" for w in told)
    return len(told) / _STEPS, dict(where.most_common(_PLACES))


def _busy(stepper: Stepper, figures: dict[str, Any]) -> str:
    """Say how long kernels run in a step, by torch's profiler, beside how long it takes."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    whole = sum(stepper.step()["seconds_per_step"] for _ in range(_STEPS)) / _STEPS
    figures["seconds_per_step"] = whole
    try:
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            for _ in range(_STEPS):
                stepper.take()
            torch.cuda.synchronize()
        events = [e for e in profiler.events() if e.device_type == DeviceType.CUDA]
    except RuntimeError as error:
        return f"{whole * 1e3:.1f} ms, not profiled: {error}"
    busy = sum(event.time_range.elapsed_us() for event in events) / 1e6 / _STEPS
    figures |= {"kernels": len(events) / _STEPS, "busy_seconds": busy}
    share = busy / whole
    return f"{figures['kernels']:.0f} kernels busy for {share:.0%} of {whole * 1e3:.1f} ms"
