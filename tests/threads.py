"""Threads in the place of processes: the same exchanges without a start that takes seconds."""

from __future__ import annotations

import functools
import pickle
import threading
from collections.abc import Callable
from typing import Any

import torch

import hpd.machine.board
from hpd.errors import ProcessError
from hpd.machine.device import Processes
from hpd.machine.exchange import Met


class TextBoard(hpd.machine.board.Board):
    """The same texts for all threads, and slots for each to count."""

    def __init__(self, texts: dict[str, str]) -> None:
        super().__init__()
        self._texts = texts


class Board:
    """Where threads leave what they exchange."""

    def __init__(self, count: int) -> None:
        self._count, self._ended = count, False
        self._changed = threading.Condition()
        self._exchanges: dict[int, dict[int, Any]] = {}
        self.texts: dict[str, str] = {}

    def exchange(self, number: int, rank: int, value: Any) -> list[Any]:
        """Return what every thread gives at its exchange of this number."""
        with self._changed:
            found = self._exchanges.setdefault(number, {})
            found[rank] = value
            self._changed.notify_all()
            # one that waits for one that has ended must fail, not hang
            self._changed.wait_for(lambda: len(found) == self._count or self._ended, timeout=60)
        if len(found) < self._count:
            raise ProcessError("another process of the run has ended")
        return [found[i] for i in range(self._count)]

    def end(self) -> None:
        """Hear that a thread exchanges nothing any more."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()


class Threads(Processes):
    def __init__(self, rank: int, count: int, board: Board) -> None:
        super().__init__(rank, count, Met(board=TextBoard(board.texts)))
        self._board = board
        self.exchanges = 0

    def _exchange(self, value):
        self.exchanges += 1
        return self._board.exchange(self.exchanges, self.rank, value)

    def _reduced(self, tensor, reduction):
        total = functools.reduce(torch.add, self._exchange(tensor.clone()))
        return total if reduction == "sum" else total / self.count

    def numbers(self, own):
        return self._exchange([float(number) for number in own])

    def gather(self, rows, counts):
        found = self._exchange(rows.detach().clone())
        assert [len(part) for part in found] == list(counts)
        return found

    def in_turn(self, rows, counts):
        yield from self.gather(rows, counts)

    def objects(self, own):
        return pickle.loads(pickle.dumps(self._exchange(own)))

    def _of_first(self, own):
        return pickle.loads(pickle.dumps(self._exchange(own)[0]))


def in_threads(count: int, work: Callable[[Processes], Any]) -> list[Any]:
    """Return what `work` gives, or the error it ends in, for each of `count` processes."""
    board, results = Board(count), [None] * count

    def run(rank: int) -> None:
        try:
            results[rank] = work(Threads(rank, count, board))
        except BaseException as error:
            results[rank] = error
            board.end()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def together(count: int, work: Callable[[Processes], Any]) -> list[Any]:
    """Return what `work` gives in each process; it must not fail in any."""
    results = in_threads(count, work)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results
