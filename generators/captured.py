"""Images of a generator and their derivative as graphs of CUDA, for steps that are all alike.

A generator asks a GPU for hundreds of small operations, each of which costs the host some
microseconds. Where shapes and weights stay, they can be recorded: then a step asks for two graphs,
one for images and one for their derivative, and computes the same. This was not measured on a GPU
yet, so it is off unless ``HPD_GRAPHS=on`` asks for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from generators.base import Generator, LevelState
from generators.ops.cuda import recording
from generators.ops.cuda.recording import Recorder
from generators.prepared import prepared_values

_MOST = 2  # shapes of a level: chunks of images, and what is left of them
_logger = logging.getLogger(__name__)


class Captured:
    """A generator whose images from a level on come from graphs, where that is asked for.

    Recorded are frozen weights only, on a GPU, for inputs that need a gradient. What changes a
    record is looked at each time: shapes, dtypes, level, which inputs need a gradient, weights,
    and in which precision is computed. Images have one derivative, not a second.

    Args:
        generator: which; it is not changed.
    """

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._level: int | None = None
        self._weights: tuple[Any, ...] = ()
        self._recorded: dict[tuple[Any, ...], _Record | None] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Captured:
        import copy

        return Captured(copy.deepcopy(self._generator, memo))

    def images(self, state: LevelState, ws: Tensor, level: int) -> Tensor:
        """Return `Generator.images`, from a record where there can be one."""
        inputs = (ws, *state)
        if level == self._generator.spec.last_level or not self._can_be(inputs):
            return self._generator.images(state, ws, level)
        record = self._record(inputs, level)
        if record is None:
            return self._generator.images(state, ws, level)
        return _Replayed.apply(record, *inputs)

    def _can_be(self, inputs: Sequence[Tensor]) -> bool:
        if not (recording.wants_graphs() and torch.is_grad_enabled()):
            return False
        there = all(t.device.type in recording.DEVICE_TYPES for t in inputs)
        needed = any(t.requires_grad for t in inputs)
        # of layers that nobody has looked at, one may do something else each time
        fixed = self._generator.layers_known and not torch.compiler.is_compiling()
        return there and needed and fixed and self._is_frozen()

    def _is_frozen(self) -> bool:
        return not any(weight.requires_grad for weight in self._generator.parameters())

    def _record(self, inputs: Sequence[Tensor], level: int) -> _Record | None:
        """Return the record for inputs like these, made now if there is none that still holds."""
        weights = self._look_at_weights()
        if (level, weights) != (self._level, self._weights):
            # memory of a level that is left goes with its records
            self._recorded.clear()
            self._level, self._weights = level, weights
        like = [(t.shape, t.stride(), t.dtype, t.device, t.requires_grad) for t in inputs]
        key = (*like, recording.settings(), self._generator.compute_dtype)
        if key not in self._recorded:
            if sum(record is not None for record in self._recorded.values()) >= _MOST:
                return None
            self._recorded[key] = self._made(inputs, level)
        return self._recorded[key]

    def _look_at_weights(self) -> tuple[Any, ...]:
        everything = (*self._generator.parameters(), *self._generator.buffers())
        return tuple((t.data_ptr(), 0 if t.is_inference() else t._version) for t in everything)

    def _made(self, inputs: Sequence[Tensor], level: int) -> _Record | None:
        try:
            return _Record(
                lambda ws, *state: self._generator.images(state, ws, level),
                inputs,
                recording.recorder_of(inputs[0].device),
                lambda: prepared_values(self._generator),
            )
        # of CUDA, of torch, or of memory: without a record all is as it was
        except RuntimeError as error:
            said = " ".join(str(error).split())[:200]
            _logger.warning("the generator is not captured as a graph: %s", said)
            return None


class _Record:
    """Images and their derivative, in memory of their own.

    Args:
        compute: from inputs to images.
        inputs: such as it is recorded for.
        recorder: records for their device.
        kept: gives what else is read and was made before: it must not go while this is here.
    """

    def __init__(
        self, compute: Callable[..., Tensor], inputs: Sequence[Tensor], recorder: Recorder,
        kept: Callable[[], object],
    ) -> None:  # fmt: skip
        self._inputs = [t.detach().clone().requires_grad_(t.requires_grad) for t in inputs]
        wanted = [t for t in self._inputs if t.requires_grad]
        recorder.warm_up(lambda: _derived(compute(*self._inputs), wanted))
        self._kept, self._recorder = kept(), recorder
        images, self._replay_images = recorder.record(lambda: compute(*self._inputs))
        self._grad = torch.zeros_like(images)
        grads, self._replay_grads = recorder.record(lambda: _derived(images, wanted, self._grad))
        self._images, given = images.detach(), iter(grads)
        self._grads = [next(given) if t.requires_grad else None for t in self._inputs]
        self.time = 0

    def images(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return images of inputs: a copy, as the next ones take their place."""
        self._load(inputs)
        return self._images.clone()

    def grads(self, grad: Tensor, inputs: Sequence[Tensor], time: int) -> list[Tensor | None]:
        """Return copies of the derivatives by inputs, whose images were made at a time."""
        if time != self.time:
            # other images were made in between, in the same memory
            self._load(inputs)
        self._grad.copy_(grad)
        self._replay_grads()
        return [None if found is None else found.clone() for found in self._grads]

    def _load(self, inputs: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for own, given in zip(self._inputs, inputs, strict=True):
                own.copy_(given)
        self._replay_images()
        self.time += 1


def _derived(
    images: Tensor, wanted: Sequence[Tensor], grad: Tensor | None = None
) -> tuple[Tensor | None, ...]:
    grad = torch.ones_like(images) if grad is None else grad
    return torch.autograd.grad(images, wanted, grad, allow_unused=True)


class _Replayed(torch.autograd.Function):
    """Images of a record."""

    @staticmethod
    def forward(ctx: Any, record: _Record, *inputs: Tensor) -> Tensor:
        images = record.images(inputs)
        ctx.record, ctx.time = record, record.time
        ctx.save_for_backward(*inputs)
        return images

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (None, *ctx.record.grads(grad, ctx.saved_tensors, ctx.time))
