"""Damage to what hpd itself wrote: runs, sets, experts, teachers, courses."""

from __future__ import annotations

import contextlib
import itertools
import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import hpd
from attacks import damage
from attacks.target import Input, Target
from attacks.watch import WrongResultError
from hpd import api
from hpd.artifacts import DistilledSet
from hpd.config import load_config
from hpd.disk.files import write_json

Options = dict[str, Any]
STUDENT: Options = {"kind": "convnet", "width": 4, "depth": 1}
TWO_DIGITS: Options = {"kind": "digits", "classes": ["0", "1"]}
RUN: Options = {
    "data": TWO_DIGITS, "device": "cpu", "source": {"kind": "pixel", "steps": 1},
    "objective": {"kind": "distribution", "student": STUDENT, "real_batch": 4},
    "selection": {"kind": "last"},
    "evaluation": {
        "students": [STUDENT], "seeds": 1, "training": {"epochs": 1}, "full_training": None,
        "baselines": [],
    },
}  # fmt: skip
COURSE: Options = {
    "data": TWO_DIGITS, "device": "cpu", "orders": 1, "buffers": {"random": {"kind": "random"}},
    "rehearsal": {"students": [STUDENT], "seeds": 1, "training": {"epochs": 1},
                  "full_training": {"epochs": 1}},
}  # fmt: skip
TEACHER = ("student={kind: convnet, width: 4, depth: 1, norm: batch}", "training={epochs: 1}")
EXPERTS: Options = {
    **RUN, "objective": {
        "kind": "trajectory", "student": STUDENT, "student_steps": 1, "expert_epochs": 1,
        "max_start_epoch": 1, "expert_training": {"count": 1, "training": {"epochs": 2}},
    },
}  # fmt: skip


class _Stops:
    """An observer that ends a run after its first step, as Ctrl-C does."""

    def on_step(self, report: object) -> None:
        raise KeyboardInterrupt

    def on_stage(self, report: object) -> None:
        pass


def write_folders(where: Path) -> dict[str, Path]:
    """Write one folder of each kind, the same bytes each time, and return them by name."""
    ticks = itertools.count()
    folders = {name: where / name for name in ("run", "left", "experts", "teacher", "course")}
    # seconds and bytes would differ from time to time, and with them what damage falls on
    with mock.patch("time.perf_counter", lambda: next(ticks) / 8):
        run = hpd.distill(RUN, out=folders["run"])
        hpd.evaluate(run)
        slow = {**RUN, "source": {"kind": "pixel", "steps": 3}, "checkpoint_every": 1}
        with contextlib.suppress(KeyboardInterrupt):
            hpd.distill(slow, out=folders["left"], observers=[_Stops()])
        hpd.train_experts(load_config(EXPERTS), out=folders["experts"])
        hpd.squeeze(TWO_DIGITS, *TEACHER, out=folders["teacher"], device="cpu")
        api.continual(COURSE, out=folders["course"])
    cost = {"seconds": 0.5, "selection_seconds": 0.1, "selection_share": 0.2, "peak_bytes": 2**20}
    write_json(folders["run"] / "cost.json", cost)
    return folders


def files_of(folder: Path) -> dict[str, bytes]:
    """Return all files of a folder by their names in it."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def put(folder: Path, files: Mapping[str, bytes]) -> None:
    """Make a folder hold these files and nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def damage_file(name: str, content: bytes, rng: random.Random) -> bytes | None:
    """Damage a file as its kind is damaged; None: it is gone."""
    if rng.random() < 0.03:
        return None
    if name.endswith((".json", ".jsonl")) and b"\n{" not in content:
        return damage.damage_json(content, rng)
    if name.endswith(".safetensors"):
        return damage.damage_safetensors(content, rng)
    if name.endswith((".yaml", ".jsonl", ".md")) and rng.random() < 0.7:
        said = damage.damage_text(content.decode(), rng)
        return said.encode("utf-8", "surrogatepass")
    return damage.damage_bytes(content, rng)


class _OwnFolder(Target):
    """Folders of which one file is damaged."""

    def prepare(self) -> None:
        """Write them."""
        where = self.place.seeds / "own"
        made = {p.name: p for p in where.iterdir()} if where.is_dir() else write_folders(where)
        self._files = {name: files_of(folder) for name, folder in made.items()}
        self._folder = self.place.inputs / "folder"
        self._whole = DistilledSet.load(made["run"])
        self._is: tuple[str, str] | None = None

    def put(self, kind: str, name: str, content: bytes | None) -> None:
        """Have a folder with a damaged file; the one before is mended where that is enough."""
        files = self._files[kind]
        if self._is is not None and self._is[0] == kind and not self._touched:
            put_one(self._folder / self._is[1], files[self._is[1]])
        else:
            put(self._folder, files)
        self._is, self._touched = (kind, name), False
        put_one(self._folder / name, content)

    _touched = False

    def damaged(self, kind: str, rng: random.Random) -> tuple[str, bytes]:
        """Damage a file of a folder, and return its name and content."""
        files = self._files[kind]
        name = rng.choice(sorted(files))
        content = damage_file(name, files[name], rng)
        self.put(kind, name, content)
        return name, content or b""

    def check_set(self, got: DistilledSet) -> None:
        """Check that a set is the one that was written, which its seal promises."""
        want = self._whole
        same = got.classes == want.classes and got.normalisation == want.normalisation
        if not (
            same and torch.equal(got.images, want.images) and torch.equal(got.labels, want.labels)
        ):
            raise WrongResultError("a set that was changed and not refused")


def put_one(path: Path, content: bytes | None) -> None:
    """Write a file, or remove it."""
    if content is None:
        path.unlink(missing_ok=True)
    else:
        path.write_bytes(content)


class Runs(_OwnFolder):
    """Runs."""

    name = "runs"
    share = 4.0
    about = (
        "each file of a finished run and of one that was left half-way, damaged; `load_run`, "
        "`export`, `compare`, `report`, `sample`, `evaluate`, and `distill` with `resume`"
    )

    def make(self, rng: random.Random) -> Input:
        """Damage a file of one."""
        if rng.random() < 0.1:
            name, content = self.damaged("left", rng)
            return Input(f"{name} of a run that was left", self._resume_left, content)
        name, content = self.damaged("run", rng)
        how = rng.random()
        if how < 0.6:
            use: Callable[[], str] = self._load
        elif how < 0.85:
            use = self._compare if rng.random() < 0.5 else self._export
        elif how < 0.9:
            use = self._report
        elif how < 0.93:
            use = self._sample
        elif how < 0.95:
            use = self._evaluate
        else:
            use = self._resume
        return Input(f"{name} of a finished run: {use.__name__[1:]}", use, content)

    def _load(self) -> str:
        self.check_set(hpd.load_run(self._folder).distilled)
        return "loaded"

    def _compare(self) -> str:
        hpd.compare([self._folder])
        return "compared"

    def _export(self) -> str:
        hpd.export(self._folder, "npz", self.place.outputs / "export")
        return "exported"

    def _report(self) -> str:
        self._touched = True
        hpd.report(self._folder)
        return "reported"

    def _evaluate(self) -> str:
        self._touched = True
        hpd.evaluate(self._folder)
        return "evaluated"

    def _sample(self) -> str:
        hpd.sample(self._folder, 1)
        return "sampled"

    def _resume(self) -> str:
        self._touched = True
        self.check_set(hpd.distill(RUN, out=self._folder, resume=True).distilled)
        return "resumed"

    def _resume_left(self) -> str:
        self._touched = True
        slow = {**RUN, "source": {"kind": "pixel", "steps": 3}, "checkpoint_every": 1}
        hpd.distill(slow, out=self._folder, resume=True)
        return "resumed"


class Sets(_OwnFolder):
    """Distilled sets."""

    name = "sets"
    share = 4.0
    about = (
        "`distilled.safetensors` by itself, sealed and of before there were seals: header, "
        "offsets, types, shapes, NaN and body; read by `load_distilled`, then used and exported"
    )

    def prepare(self) -> None:
        """Write a set with its seal, and one without."""
        super().prepare()
        self._sealed = self._files["run"]["distilled.safetensors"]
        self._old = without_seal(self._sealed)
        self._path = self.place.inputs / "distilled.safetensors"

    def make(self, rng: random.Random) -> Input:
        """Damage one."""
        old = rng.random() < 0.6
        content = damage.damage_safetensors(self._old if old else self._sealed, rng)
        self._path.write_bytes(content)
        use = self._use if rng.random() < 0.8 else self._export
        return Input(f"a distilled set {'without' if old else 'with'} a seal", use, content)

    def _use(self) -> str:
        check_distilled(hpd.load_distilled(self._path))
        return "loaded"

    def _export(self) -> str:
        hpd.export(self._path, "npz", self.place.outputs / "export")
        return "exported"


def without_seal(content: bytes) -> bytes:
    """Return a set as versions of before checksums wrote it."""
    import json
    import struct

    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    about = json.loads(header["__metadata__"]["about"])
    kept = {k: v for k, v in about.items() if k not in ("sha256", "tensors")}
    header["__metadata__"]["about"] = json.dumps(kept)
    written = json.dumps(header).encode()
    return struct.pack("<Q", len(written)) + written + content[8 + length :]


def check_distilled(found: DistilledSet) -> None:
    """Check that a set is one: of finite images, labels of its classes, as many as there are.

    Raises:
        WrongResultError: where it is not.
    """
    images, labels = found.images, found.labels
    if images.ndim != 4 or images.dtype != torch.float32 or not len(images):
        raise WrongResultError(f"images of no images: {images.dtype} {list(images.shape)}")
    if not bool(torch.isfinite(images).all()):
        raise WrongResultError("images that are not finite")
    if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
        raise WrongResultError(f"labels that do not fit: {labels.dtype} {list(labels.shape)}")
    if int(labels.min()) < 0 or int(labels.max()) >= len(found.classes):
        raise WrongResultError("labels of no class")
    found.normalised()
    found.uint8()
    str(found.storage)


class Trained(_OwnFolder):
    """Experts, teachers, courses."""

    name = "trained"
    share = 3.0
    about = (
        "each file of a folder of experts, of a teacher and of a course, damaged; read as "
        "`distill` and `relabel` read them, and gone on with by `squeeze` and `continual`"
    )

    def make(self, rng: random.Random) -> Input:
        """Damage a file of one."""
        from hpd.students.teachers import read_teacher

        kind = rng.choice(("experts",) * 6 + ("teacher",) * 6 + ("course",))
        name, content = self.damaged(kind, rng)
        uses: dict[str, Callable[[], object]] = {
            "experts": self._experts, "course": self._course,
            "teacher": self._squeeze if rng.random() < 0.2 else lambda: read_teacher(self._folder),
        }  # fmt: skip

        def feed() -> str:
            uses[kind]()
            return "used"

        return Input(f"{name} of a {kind}", feed, content)

    def _experts(self) -> None:
        from hpd.students.experts.trajectories import ExpertFolder

        found = ExpertFolder.open(self._folder)
        found.result(0)
        if not bool(torch.isfinite(found.parameters(0, 0)).all()):
            raise WrongResultError("weights that are not finite")

    def _squeeze(self) -> None:
        self._touched = True
        hpd.squeeze(TWO_DIGITS, *TEACHER, out=self._folder, device="cpu")

    def _course(self) -> None:
        self._touched = True
        api.continual(COURSE, out=self._folder, resume=True)


FOLDERS = (Runs, Sets, Trained)
