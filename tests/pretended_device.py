"""A CPU that pretends to be an accelerator: says where its host would have waited, and how often.

Tensors are told apart by where they would lie: what the host makes lies on the host until it is
sent, and what an operation makes of a tensor on the device lies there. Counted are the operations
that make a host wait: asking for a value, shapes that depend on values, and copies from or to
memory that is not pinned.
"""

from __future__ import annotations

import traceback
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.weak import WeakTensorKeyDictionary

from hpd.data import normalisation
from hpd.machine import host
from hpd.students import footprint

# shapes that depend on values
_DYNAMIC = {"nonzero", "masked_select", "_unique2", "unique_dim", "bincount", "equal"}
# what turns a tensor into values of Python
_ASKS = {"item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__"}
# made of nothing, on a device that is named
_MAKERS = {"zeros", "ones", "empty", "full", "arange", "linspace", "eye"}


@dataclass
class Meter:
    """What was counted.

    Args:
        waits: times that the host waited, by what for.
        dispatches: operations on tensors of the device.
        on_host: operations on others.
        places: lines of code where the host waited.
    """

    waits: Counter = field(default_factory=Counter)
    places: Counter = field(default_factory=Counter)
    dispatches: int = 0
    on_host: int = 0
    operations: Counter = field(default_factory=Counter)
    counts: bool = False
    still: bool = False
    called: list = field(default_factory=list)
    there: WeakTensorKeyDictionary = field(default_factory=WeakTensorKeyDictionary)

    def wait(self, what):
        # a GPU's optimiser keeps its count of steps on the host, a CPU's fused one does not
        if (
            not self.counts
            or self.still
            or any("/torch/optim/" in f.filename for f in traceback.extract_stack())
        ):
            return
        self.waits[what] += 1
        frames = [f for f in traceback.extract_stack() if "/hpd/" in f.filename or
                  "/generators/" in f.filename]  # fmt: skip
        if frames:
            self.places[f"{frames[-1].filename.split('/')[-1]}:{frames[-1].lineno} {what}"] += 1

    @contextmanager
    def paused(self):
        """Count nothing, and let what is made lie on the host."""
        self.still = True
        try:
            yield
        finally:
            self.still = False

    def is_there(self, value):
        return isinstance(value, torch.Tensor) and value in self.there

    def put(self, values):
        for value in tree_flatten(values)[0]:
            if isinstance(value, torch.Tensor):
                self.there[value] = True

    @property
    def total(self):
        return sum(self.waits.values())


class _Functions(TorchFunctionMode):
    def __init__(self, meter):
        super().__init__()
        self.meter = meter

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs, name, meter = kwargs or {}, getattr(function, "__name__", ""), self.meter
        first = args[0] if args else None
        if name in _ASKS and meter.is_there(first):
            meter.wait(name)
            with torch._C.DisableTorchFunction(), meter.paused():
                return first.detach().clone() if name == "cpu" else function(*args, **kwargs)
        if name == "__set__" and meter.is_there(args[1]):
            # `data` of a parameter
            meter.put(first)
        meter.called.append(name)
        try:
            found = function(*args, **kwargs)
        finally:
            meter.called.pop()
        named = any(isinstance(a, torch.device) for a in (*args, *kwargs.values()))
        if name == "to" and named and isinstance(first, torch.Tensor):
            if not meter.is_there(first):
                meter.wait("to")
                found = found.view_as(found) if found is first else found
            meter.put(found)
        elif name == "tensor" and kwargs.get("device") is not None:
            meter.wait("tensor")
            meter.put(found)
        elif name in _MAKERS and kwargs.get("device") is not None:
            meter.put(found)
        return found


class _Dispatches(TorchDispatchMode):
    def __init__(self, meter):
        super().__init__()
        self.meter = meter

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs, meter = kwargs or {}, self.meter
        found = function(*args, **kwargs)
        if meter.still:
            return found
        tensors = [v for v in tree_flatten((args, kwargs))[0] if isinstance(v, torch.Tensor)]
        there = [v for v in tensors if meter.is_there(v)]
        if not there:
            meter.on_host += 1
            if not tensors and (not meter.called or meter.called[-1] in ("grad", "backward")):
                # made by autograd itself
                meter.put(found)
            return found
        meter.dispatches += 1
        meter.operations[function.name().split("::")[1]] += 1
        name = function.name().split("::")[1].split(".")[0]
        if name in _DYNAMIC or name == "_local_scalar_dense":
            meter.wait(name)
            if name in ("_local_scalar_dense", "equal"):
                return found
        if name in ("index", "index_put", "index_put_"):
            indices = [i for i in args[1] if i is not None]
            if any(i.dtype == torch.bool for i in indices):
                meter.wait("index by a mask")
            if any(not meter.is_there(i) for i in indices):
                meter.wait("index from the host")
        elif any(v.ndim and not meter.is_there(v) for v in tensors):
            # a kernel cannot read the host's memory
            meter.wait(f"{name} with a tensor of the host")
        meter.put(found)
        return found


@contextmanager
def pretending(monkeypatch, free_bytes=2**34):
    """Make the host send, and nothing lie at hand, in a block; what is counted says `counting`.

    Args:
        monkeypatch: of pytest.
        free_bytes: memory of the device.
    """
    meter = Meter()

    def copied(tensor, device):
        if meter.is_there(tensor):
            return tensor
        found = tensor.clone()
        meter.put(found)
        return found

    def fetched(tensor):
        meter.wait("fetch")
        with meter.paused():
            return tensor.detach().clone()

    # what another one was sent
    normalisation._kept_channels.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(host, "_HOSTS", frozenset())
        patch.setattr(host, "_copied", copied)
        patch.setattr(host, "_fetched", fetched)
        patch.setattr(footprint, "free_bytes", lambda device: free_bytes)
        patch.setattr("hpd.objectives.real_rows.free_bytes", lambda device: free_bytes)
        with _Functions(meter), _Dispatches(meter):
            yield meter


@contextmanager
def counting(meter):
    """Count in a block, from zero."""
    meter.waits.clear()
    meter.places.clear()
    meter.operations.clear()
    meter.dispatches = meter.on_host = 0
    meter.counts = True
    try:
        yield
    finally:
        meter.counts = False
