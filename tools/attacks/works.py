"""Small work of each kind that can be killed, and what may differ after it."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import hpd.api
from attacks.folders import files_of
from hpd.artifacts import RunFolder
from hpd.errors import ConfigError, nearest
from hpd.machine.device import Processes

Options = dict[str, Any]
_STUDENT: Options = {"kind": "convnet", "width": 4, "depth": 2}
_DATA: Options = {"kind": "digits", "classes": ["0", "1", "8"]}
_EVALUATION: Options = {
    "students": [_STUDENT], "seeds": 2, "training": {"epochs": 2}, "full_training": None,
}  # fmt: skip
_DISTIL: Options = {
    "data": _DATA, "device": "cpu",
    "source": {"kind": "gan", "generator": "digits16", "levels": [0, 6], "steps": 4,
               "average_draws": 2},
    # two steps of a network with momentum: there is something to remember
    "objective": {"kind": "gradient", "student": _STUDENT, "real_batch": 4,
                  "network": {"steps": 3, "epochs": 1, "momentum": 0.9}},
    "selection": {"kind": "loss", "every": 2},
    "evaluation": _EVALUATION, "checkpoint_every": 1,
}  # fmt: skip
_TOGETHER: Options = {
    **_DISTIL, "source": {"kind": "pixel", "steps": 6},
    "objective": {"kind": "distribution", "student": _STUDENT, "real_batch": 8},
}  # fmt: skip
_EXPERTS: Options = {
    **_DISTIL, "objective": {
        "kind": "trajectory", "student": _STUDENT, "student_steps": 1, "expert_epochs": 1,
        "max_start_epoch": 1,
        "expert_training": {"count": 2, "training": {"epochs": 3, "batch_size": 64}},
    },
}  # fmt: skip
_PRUNED: Options = {
    "data": _DATA, "device": "cpu",
    "source": {"kind": "hmn", "overbudget": 0.5, "steps": 1,
               "decoder": {"kind": "conv", "fit_steps": 2}},
    "objective": {"kind": "distribution", "student": _STUDENT, "real_batch": 8},
    "selection": "last", "evaluation": {**_EVALUATION, "seeds": 1},
}  # fmt: skip
_COURSE: Options = {
    "data": {"kind": "digits", "classes": ["0", "1", "3", "7"]}, "device": "cpu", "orders": 1,
    "buffers": {
        "random": {"kind": "random"},
        "pixel": {"kind": "distilled", "source": {"kind": "pixel", "steps": 2},
                  "objective": {"kind": "distribution", "student": _STUDENT, "real_batch": 8},
                  "selection": {"kind": "last"}},
    },
    "rehearsal": {"students": [_STUDENT], "seeds": 1, "training": {"epochs": 1},
                  "full_training": {"epochs": 1}},
}  # fmt: skip


@dataclass(frozen=True)
class Work:
    """Work that goes on where it was killed.

    Args:
        name: on the command line and the page.
        about: what is killed.
        run: does it into a folder, or goes on with it.
        begin: puts what it starts from into a folder, if anything.
        ranks: processes that do it together.
    """

    name: str
    about: str
    run: Callable[[Path], object]
    begin: Callable[[Path], object] = lambda out: None
    ranks: int = 1


def works(shared: Path) -> dict[str, Work]:
    """Return all work by name.

    Args:
        shared: gets the runs that some of it starts from.
    """
    finished, large = shared / "finished", shared / "large"
    if not RunFolder(finished).finished:
        hpd.api.distill(_DISTIL, out=finished)
    if not RunFolder(large).finished:
        hpd.api.distill(_PRUNED, out=large)
    teacher = (f"student={_STUDENT | {'norm': 'batch'}}", "training={epochs: 4, batch_size: 64}")
    found = (
        Work("distil", "`distill` and `evaluate`", _distil),
        Work("distil-on-two", "`distill` on two processes", _together, ranks=2),
        Work("experts", "`train_experts`", lambda out: hpd.api.train_experts(_EXPERTS, out=out)),
        Work("squeeze", "`squeeze`", lambda out: hpd.api.squeeze(_DATA, *teacher, out=out)),
        Work("continual", "`continual`",
             lambda out: hpd.api.continual(_COURSE, out=out, resume=True)),
        Work("evaluate", "`evaluate`", _evaluate, lambda out: shutil.copytree(finished, out)),
        Work("prune", "`prune`", lambda out: _prune(large, out)),
    )  # fmt: skip
    return {f"kill-{work.name}": work for work in found}


def chosen(shared: Path, names: Sequence[str]) -> dict[str, Work]:
    """Return work by name; all, if none is named.

    Raises:
        ConfigError: for a name that no work has.
    """
    known = works(shared)
    for name in names:
        if name not in known:
            raise ConfigError(f"no work {name!r}", fix=nearest(name, known))
    return {name: known[name] for name in names or known}


def _distil(out: Path) -> None:
    run = hpd.api.distill(_DISTIL, out=out, resume=True)
    if not RunFolder(out).evaluated:
        hpd.api.evaluate(run)


def _evaluate(out: Path) -> None:
    if not RunFolder(out).evaluated:
        hpd.api.evaluate(out)


def _together(out: Path) -> None:
    processes = Processes.started(cpu=True)
    hpd.api.distill(_TOGETHER, out=out, resume=True, processes=processes)
    processes.end()


def _prune(large: Path, out: Path) -> None:
    if not RunFolder(out).finished:
        options = ("betas=[0, 1]", f"student={_STUDENT}", "training.epochs=2")
        hpd.api.prune(large, *options, out=out)


def environment(rank: int, count: int, port: int) -> dict[str, str]:
    """Return what a launcher says to one of several processes."""
    if count == 1:
        return {}
    return {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip


def free_port() -> int:
    """Return a port that nobody listens to."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


# files that say how long something took, and files that seal those; by the end of their names
_OF_ITS_TIME = ("metrics.jsonl", "cost.json", "evaluation.json", "continual.json")
# and of how many parts a run was made
_TIMES = ("seconds", "bytes", "share", "sha256", "parts")


def contents(folder: Path) -> dict[str, object]:
    """Return what a folder holds: bytes, and values without times where a file tells of time."""
    return {name: _without_times(name, content) for name, content in files_of(folder).items()}


def _without_times(name: str, content: bytes) -> object:
    last_checkpoint = name.startswith("checkpoints/step-") and name.endswith(".json")
    if not (name.endswith(_OF_ITS_TIME) or last_checkpoint):
        return content
    lines = content.decode().splitlines() if name.endswith("jsonl") else [content.decode()]
    return [_stripped(json.loads(line)) for line in lines]


def _stripped(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            k: _stripped(v) for k, v in value.items() if not any(time in k for time in _TIMES)
        }  # fmt: skip
    return [_stripped(v) for v in value] if isinstance(value, list) else value


def differences(got: Mapping[str, object], want: Mapping[str, object]) -> list[str]:
    """Return what tells a folder from the one that it should equal."""
    lacking = [f"lacks {name}" for name in want if name not in got]
    surplus = [f"has {name}" for name in got if name not in want]
    other = [f"another {name}" for name in want if name in got and got[name] != want[name]]
    return [*lacking, *surplus, *other]


def be_one_of(rank: int, count: int, port: int) -> None:
    """Become one of several processes; to be called in a process of its own."""
    os.environ.update(environment(rank, count, port))
    torch.set_num_threads(1)
