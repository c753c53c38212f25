"""Graphs of CUDA on a CPU: what was asked for while recording is asked for again, in its memory.

As on a GPU, no code of Python runs when a record is replayed, results are written where they were
when it was made, and nothing may ask for a value meanwhile.
"""

from __future__ import annotations

from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

from generators.ops.cuda import recording

ASKS = {"_local_scalar_dense", "nonzero", "equal", "masked_select"}


class _Recording(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().split("::")[1].split(".")[0]
        if name in ASKS:
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self.calls.append((func, args, kwargs, result))
        return result


def _place(tensor):
    return tensor.untyped_storage().data_ptr()


def _tensors(values):
    return [v for v in tree_flatten(values)[0] if isinstance(v, torch.Tensor)]


class PretendedRecorder:
    """Records operations of a CPU.

    Args:
        limit: after so many records there is no memory for more; None: there is.
    """

    def __init__(self, device, limit=None):
        self.limit, self.warm_ups, self.records, self.replays = limit, 0, 0, 0

    def warm_up(self, call):
        self.warm_ups += 1
        call()

    def record(self, call):
        if self.limit is not None and self.records >= self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.records += 1
        with _Recording() as mode:
            result = call()

        def replay():
            self.replays += 1
            with torch.no_grad():
                for func, args, kwargs, wanted in mode.calls:
                    _again(func, args, kwargs, wanted)

        return result, replay


def _again(func, args, kwargs, wanted):
    # what autograd hung on them is none of a graph's
    bare_args, bare_kwargs = tree_map_only(torch.Tensor, torch.Tensor.detach, (args, kwargs))
    found = func(*bare_args, **bare_kwargs)
    read = {_place(t) for t in _tensors((args, kwargs))}
    for old, new in zip(_tensors(wanted), _tensors(found), strict=True):
        # a view, or what was changed in place, has what its base has
        if _place(old) not in read and old.numel():
            old.detach().copy_(new)


@contextmanager
def pretending_graphs(monkeypatch, limit=None):
    """Record on the CPU in a block; gives the recorders."""
    recorders = []

    def recorder_of(device):
        recorders.append(PretendedRecorder(device, limit))
        return recorders[-1]

    with monkeypatch.context() as patch:
        patch.setenv("HPD_GRAPHS", "on")
        patch.setattr(recording, "DEVICE_TYPES", {"cpu"})
        patch.setattr(recording, "recorder_of", recorder_of)
        yield recorders
