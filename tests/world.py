"""A folder with one of everything that users bring, whole and broken, and any text about it."""

from __future__ import annotations

import importlib
import inspect
import os
import shutil
import signal
import sys
from pathlib import Path
from types import CodeType

import torch
from conftest import SMALL_STUDENT, SMALL_TEACHER, SMALL_TRAINING, tiny_generator
from hypothesis import strategies as st
from small_runs import small_config

import generators
import hpd
from generators import save_generator
from hpd.artifacts import EXPORTS
from hpd.disk.yaml_text import as_yaml

WHOLE = ("matplotlib.pyplot", "sklearn.datasets", "torchvision.datasets", "datasets", "webdataset")
# how long a call may work before it counts as taken
SECONDS = 0.12


# where work is done in steps; what holds locks, imports or writes files is not among it
WORK = tuple(
    str(Path(package.__file__).parent / name)
    for package, names in (
        (hpd, ("courses", "engine", "evaluation", "objectives", "sources", "students", "theory")),
        (generators, ("families", "projection", "sampling", "training")),
    )
    for name in names
)  # fmt: skip


class EnoughError(BaseException):
    """The work has begun: what was given was taken."""


def cut_short(call):
    """Call a function, and end it after a while, as if a function that it calls had failed.

    The timer itself raises nothing: in the middle of an import, or between a lock and the block
    that gives it back, that would break whatever runs next in this process.
    """
    ended = False

    def end(frame, event, argument):
        nonlocal ended
        if event == "call" and _works(frame.f_code):
            ended = True
            raise EnoughError

    # again and again: the first may be raised where nothing lets it pass
    signal.signal(signal.SIGALRM, lambda number, frame: sys.setprofile(end))
    signal.setitimer(signal.ITIMER_REAL, SECONDS, SECONDS)
    try:
        call()
    # it may be wrapped by what it was raised in
    except (EnoughError, Exception):
        if not ended:
            raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        sys.setprofile(None)


def _works(code: CodeType) -> bool:
    """Return whether a call is a step of the work: no end of a block, no rest of a generator."""
    begins = not code.co_name.startswith("__") and not code.co_flags & inspect.CO_GENERATOR
    return begins and code.co_filename.startswith(WORK)


def build_world(folder: Path) -> None:
    """Fill a folder; the names in it are short, and are what `paths` draws from."""
    os.chdir(folder)
    network = tiny_generator()
    save_generator(network, network.settings, Path("g"), licence="MIT", provenance={})
    config = small_config(Path("data"), "g")
    config["source"]["steps"] = 1
    Path("own.yaml").write_text(as_yaml(config), "utf-8")
    run = hpd.distill(config, out="run")
    hpd.evaluate(run)
    hpd.export(run, "npz", "npz")
    hpd.export(run, "safetensors", "st")
    hpd.squeeze(
        "data", f"student={SMALL_TEACHER['student']}", "training={epochs: 1}", out="teacher"
    )
    matching = {"kind": "trajectory", "student": SMALL_STUDENT, "experts": "experts"}
    trained = {"expert_training": {"count": 1, "training": SMALL_TRAINING}}
    hpd.train_experts(config | {"objective": matching | trained})
    shutil.copytree("run", "broken")
    for path in Path("broken").iterdir():
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    Path("empty").mkdir()
    Path("nothing").write_bytes(b"")
    Path("text.txt").write_text("words\n", "utf-8")
    Path("wörk é").mkdir()
    torch.save({"g_ema": {"a": torch.zeros(2)}}, "odd.pt")
    Path("loop").symlink_to("loop")
    # whole, as a module that is cut short while it is imported stays broken
    for module in WHOLE:
        importlib.import_module(module)


NAMES = [
    "own.yaml", "run", "broken", "data", "data/train", "data/train/a", "g", "teacher", "experts",
    "npz", "st", "empty", "nothing", "text.txt", "wörk é", "odd.pt", "loop", "none",
    "run/config.yaml", "digits", "digits-pixel-dm", "digits16", "run/distilled.safetensors", ".",
    "..", "/", "~", "", "~nobody/x", "x" * 300, "\udc80", "http://there", "/dev/null",
    "/proc/self/mem", "C:\\x", "-", "--out", "new", "new/deep", "npz/distilled.npz",
]  # fmt: skip
KINDS = [*hpd.SOURCES, *hpd.OBJECTIVES, *hpd.SELECTORS, *hpd.STUDENTS, "folder", "npz", "csv",
         "webdataset", "hugging_face", "cifar10"]  # fmt: skip
WORDS = [
    *KINDS, "kind", "root", "steps", "generator", "levels", "init", "all", "average", "squared",
    "hard", "soft", "stored", "dc", "idc", "random_real", "cpu", "cuda", "auto", "a", "b", "none",
]  # fmt: skip
KEYS = [
    "seed", "device", "data", "data.root", "data.classes", "data.resolution", "data.channels",
    "source", "source.kind", "source.steps", "source.levels", "source.lr_ws", "source.init",
    "source.images_per_class", "source.generator", "source.generator_classes", "objective",
    "objective.real_batch", "objective.augment", "objective.student.width", "objective.layers",
    "selection", "selection.every", "optimizer.kind", "optimizer.momentum", "evaluation",
    "evaluation.training.lr", "evaluation.seeds", "evaluation.labels", "evaluation.students",
    "evaluation.counts", "evaluation.card", "evaluation.baselines", "checkpoint_every", "base",
    "count", "training", "student", "classes", "resolution", "root", "kind", "betas", "students",
    "shard_images", "constants", "test_fraction", "ground", "psi", "noise", "level", "points",
    "rank", "ranks", "seeds", "a.b.c", "", ".", "=", "é",
]  # fmt: skip

ints = st.sampled_from([0, 1, 2, 3, 7, -1, 10**6, 2**31, 2**63, -(2**70), 10**30]) | st.integers()
floats = st.sampled_from([0.0, 0.5, 1.0, -1.0, 1e-30, 1e30, float("nan"), float("inf")])
# as words of a command are: without zeros
words = (
    st.sampled_from(NAMES) | st.sampled_from(WORDS)
    | st.text(st.characters(exclude_characters="\0"), max_size=8)
)  # fmt: skip
texts = words | st.just("a\0b")
scalars = st.none() | st.booleans() | ints | floats | texts
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS) | texts, inner, max_size=3)
    ),
    max_leaves=6,
)
anything = values | st.sampled_from([b"x", 1j, object(), int, ..., torch.zeros(2), {1: 2}, (1, 2)])


def as_text(value):
    """Return a value as users write it in an override."""
    return str(value).replace("'", "").replace("None", "null").replace("True", "true")


# what runs of the config, evaluations, trainings, exports and data take, in this order
FITTING = [
    "source.steps=2", "seed=3", "source.images_per_class=2", "objective.real_batch=3",
    "data.classes=[a, b]", "evaluation.seeds=1", "students=1", "count=1", "training={epochs: 1}",
    "shard_images=2", "resolution=4", "channels=1", "psi=0.1", "per_class=1", "dimension=4",
]  # fmt: skip
odd = st.builds(lambda key, value: f"{key}={as_text(value)}", st.sampled_from(KEYS), values) | texts
overrides = (
    st.just([]) | st.lists(st.sampled_from(FITTING), max_size=2)
    | st.lists(odd | st.sampled_from(FITTING), max_size=3)
)  # fmt: skip
# what fits, by the name of an argument or an option
GOOD = {
    "config": ["own.yaml"], "run": ["run"], "runs": [["run"], ["run", "run/"]], "out": ["new"],
    "folder": ["new"], "format_name": [*EXPORTS], "per_class": [1, 2], "path": ["run"],
    "teacher": ["teacher"], "where": ["data", "npz/distilled.npz"], "name_or_path": ["g"],
    "name": ["data", "g"], "data": ["data"], "seed": [0, 5], "seeds": [[0], [1, 2]],
    "resume": [True, False], "psi": [0.0, 0.3], "noise": [0.1], "level": [0, 2], "sample": [1, 3],
    "grid": ["new.png"], "budget": [1], "count": [1], "steps": [1, 2], "distance": ["squared"],
    "options": [{}], "device": ["cpu"], "network": ["G_ema"], "file": ["g", "odd.pt"],
    "repository": ["me/none"], "samples": [10], "target": ["new.json"], "student_images": [10],
}  # fmt: skip
