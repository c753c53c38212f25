"""Random streams derived from one root seed: nothing global, nothing to save.

Every draw comes from a `torch.Generator` whose seed is a hash of the root seed and of what the
draw is for. So a resumed run draws what the uninterrupted one would have drawn, and the order in
which parts run changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Streams:
    """All random streams of one run.

    Args:
        root: the seed that the user gave.
        path: the names and numbers that lead to these streams.

    >>> a = Streams(0).generator("student", 3)
    >>> b = Streams(0).generator("student", 3)
    >>> bool((torch.rand(4, generator=a) == torch.rand(4, generator=b)).all())
    True
    """

    root: int
    path: tuple[str | int, ...] = ()

    def fork(self, *path: str | int) -> Streams:
        """Return the streams below `path`, independent of all others."""
        return Streams(self.root, (*self.path, *path))

    def seed(self, *path: str | int) -> int:
        """Return the 63-bit seed for `path`: the head of a SHA-256 of root and path."""
        # repr keeps 1 and "1" apart, and the separator keeps ("ab",) and ("a", "b") apart
        text = "\x1f".join(repr(part) for part in (self.root, *self.path, *path))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1

    def generator(self, *path: str | int) -> torch.Generator:
        """Return a fresh CPU generator for `path`.

        Draws are made on the CPU and moved, so that every device sees the same numbers.
        """
        return torch.Generator().manual_seed(self.seed(*path))


@contextmanager
def isolated(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators for a block, and put them back as they were after it.

    For operations that take no generator, such as dropout. Unlike a `Streams.generator`, the
    generator of an accelerator draws other numbers than that of the CPU.

    Args:
        seed: from `Streams.seed`, or drawn from a stream.
        device: where the block computes; the generators of this device and of the CPU are seeded.

    >>> with isolated(7, torch.device("cpu")):
    ...     a = torch.rand(4)
    >>> with isolated(7, torch.device("cpu")):
    ...     b = torch.rand(4)
    >>> bool((a == b).all())
    True
    """
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would seed every accelerator, and only the block's is put back
        torch.default_generator.manual_seed(seed)
        if device.type == "cpu":
            yield
            return
        module = torch.get_device_module(device)
        # torch.mps has one device and takes no name of it
        where = () if device.type == "mps" else (device,)
        before = module.get_rng_state(*where)
        module.set_rng_state(torch.Generator(device).manual_seed(seed).get_state(), *where)
        try:
            yield
        finally:
            module.set_rng_state(before, *where)


@contextmanager
def no_global_draws(refusal: Callable[[], Exception]) -> Iterator[None]:
    """Put torch's global generator of the CPU back after a block, and refuse one that drew from it.

    Args:
        refusal: makes the error; a block that fails keeps its own.
    """
    with torch.random.fork_rng(devices=[]):
        before = torch.random.get_rng_state()
        yield
        if not torch.equal(torch.random.get_rng_state(), before):
            raise refusal()
