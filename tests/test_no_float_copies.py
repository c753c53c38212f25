"""Nobody makes a copy of a whole real set, in numbers or in bytes: images are read in batches.

A set is a view of rows that may be a file many times larger than the memory. Here all that reads
real images goes through a set of 6,000 images, and no tensor of a third of them may be made.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import get_args

import pytest
import torch
from conftest import ROOT, SMALL_STUDENT, SMALL_TEACHER, SMALL_TRAINING
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import hpd
from generators import read_generator
from hpd import api
from hpd.courses.buffers import BUFFERS
from hpd.data import Dataset, ImageSet, Normalisation
from hpd.data import images as images_module
from hpd.data import nearest as nearest_module
from hpd.data import normalisation as normalisation_module
from hpd.data.classes import chosen_classes
from hpd.data.kinds.digits import DigitsSettings
from hpd.engine import SELECTORS
from hpd.evaluation import generators, settings
from hpd.evaluation.generators import ScoreSettings, score_generator
from hpd.objectives import ADD_ONS, OBJECTIVES
from hpd.sources import SOURCES

TRAIN, TEST, CLASSES = 6000, 3000, ("a", "b", "c")
# of a view that holds each image once; a batch of a tiny student's maps has fewer values
LEAST = 2000 * 64
HOMES = tuple(str(ROOT / part) + "/" for part in ("hpd", "generators", "tools"))


class Watch(TorchDispatchMode):
    """Hears of every tensor that takes the memory of `LEAST` values or more when it is made."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        made = operation(*args, **(kwargs or {}))
        known = {_memory(given) for given in tree_leaves((args, kwargs)) if torch.is_tensor(given)}
        for tensor in tree_leaves(made):
            if not torch.is_tensor(tensor) or tensor.device.type != "cpu":
                continue
            values = tensor.untyped_storage().nbytes() // tensor.element_size()
            if values >= LEAST and _memory(tensor) not in known:
                shape = f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
                self.found.append(f"{shape} by {operation} in {_line()}")
        return made


def _memory(tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _line() -> str:
    """The line of the project that is being run, and the one that asked the set of images."""
    frame, lines = sys._getframe(), []
    while frame is not None:
        if frame.f_code.co_filename.startswith(HOMES):
            place = Path(frame.f_code.co_filename).relative_to(ROOT)
            lines.append(f"{place}:{frame.f_lineno}")
            if place.parts[:2] != ("hpd", "data"):
                break
        frame = frame.f_back
    return " for ".join(dict.fromkeys([*lines[:1], *lines[-1:]])) or "a test"


def rows_of(count: int, seed: int) -> ImageSet:
    """Images whose class a small student learns in an epoch, as a view of shuffled rows."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % len(CLASSES)
    values = torch.rand(count, 1, 8, 8, generator=rng) * 0.4
    for label in range(len(CLASSES)):
        values[labels == label, :, 2 * label : 2 * label + 3] += 0.5
    pixels = (values * 255).to(torch.uint8)
    order = torch.randperm(count, generator=rng)
    return ImageSet(pixels, labels, CLASSES, Normalisation((0.0,), (1.0,))).at(order)


def build(options: DigitsSettings) -> Dataset:
    """What `digits` are here."""
    train, test = BIG.train, BIG.test
    if options.classes is not None:
        chosen = chosen_classes(options.classes, CLASSES)
        train, test = train.only(chosen), test.only(chosen)
    return Dataset(train, test)


BIG = Dataset(rows_of(TRAIN, 0).measured(), rows_of(TEST, 1))


@pytest.fixture(autouse=True)
def parts_are_small(monkeypatch):
    """Bytes that are read at a time are few, as the set is small for a large one."""
    monkeypatch.setattr(images_module, "_READ_BYTES", 1 << 16)
    monkeypatch.setattr(normalisation_module, "_CHUNK_BYTES", 1 << 16)
    monkeypatch.setattr(generators, "_CHUNK", 100)
    monkeypatch.setattr(generators, "_VARIANCE_VALUES", 1 << 16)
    monkeypatch.setattr(nearest_module, "_CHUNK_VALUES", 1 << 15)
    monkeypatch.setattr(DigitsSettings, "build", build)


@pytest.fixture
def watch():
    """Nothing in the test makes a tensor as large as many images."""
    with Watch() as own:
        yield own
    assert not own.found, "\n".join(dict.fromkeys(own.found))


SHORT = {"epochs": 1, "batch_size": 64}
DM = {"kind": "distribution", "student": SMALL_STUDENT, "real_batch": 8}
CONFIG = {
    "data": "digits",
    "device": "cpu",
    "source": {"kind": "pixel", "images_per_class": 2, "steps": 2},
    "objective": DM,
    "selection": "last",
}
EVALUATION = {
    "students": [SMALL_STUDENT], "seeds": 1, "training": {"epochs": 2}, "full_training": SHORT,
}  # fmt: skip


def small(fields, **options):
    """Options of a component that has a student or trains one."""
    own = {"student": SMALL_STUDENT, "training": SHORT, "every": 1}
    return {key: value for key, value in own.items() if key in fields} | options


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Experts and a teacher of the large set, and what was made on the way."""
    root = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch, Watch() as seen:
        patch.setattr(DigitsSettings, "build", build)
        patch.setattr(images_module, "_READ_BYTES", 1 << 16)
        training = SMALL_TRAINING | {"epochs": 2, "batch_size": 64}
        matching = {"kind": "trajectory", "student": SMALL_STUDENT, "experts": str(root / "e")}
        matching["expert_training"] = {"count": 1, "training": training}
        hpd.train_experts(CONFIG | {"objective": matching})
        teacher = SMALL_TEACHER | {"training": training}
        api.squeeze("digits", *(f"{k}={v}" for k, v in teacher.items()), out=root / "teacher")
    return {"experts": str(root / "e"), "teacher": str(root / "teacher"), "seen": seen.found}


def test_experts_and_teachers_are_trained(folders):
    assert not folders["seen"], "\n".join(dict.fromkeys(folders["seen"]))


@pytest.mark.parametrize("kind", list(SOURCES))
def test_sources(kind, source_settings, watch):
    hpd.distill(CONFIG | {"source": source_settings(kind, images_per_class=2, steps=1)})


@pytest.mark.parametrize("kind", list(OBJECTIVES))
def test_objectives(kind, objective_options, folders, watch):
    own = {k: folders.get(k, value) for k, value in objective_options[kind].items()}
    hpd.distill(CONFIG | {"objective": {"kind": kind, **own}})


@pytest.mark.parametrize("kind", list(ADD_ONS))
def test_add_ons(kind, watch):
    added = {"kind": kind, **small(ADD_ONS[kind].model_fields), "real_batch": 4}
    hpd.distill(CONFIG | {"objective": DM | {"add_ons": [added]}})


@pytest.mark.parametrize("kind", list(SELECTORS))
def test_selectors(kind, watch):
    fields = SELECTORS[kind].model_fields
    every = {"images_per_class": None, "images": TRAIN, "held_out": 0.5}
    own = small(fields) | {key: value for key, value in every.items() if key in fields}
    hpd.distill(CONFIG | {"selection": {"kind": kind, **own}})


@pytest.mark.parametrize("labels", ["hard", "soft", "online"])
def test_evaluation_and_report(labels, tmp_path, source_options, watch):
    source = {"kind": "gan", **source_options["gan"], "images_per_class": 2, "steps": 1}
    evaluation = EVALUATION | {
        "baselines": list(get_args(settings.Baseline)), "counts": [1], "labels": labels,
        "prior_limit": 4, "scores": labels == "hard",
        "card": {
            "steps": 1, "images": None, "membership_images": TEST, "corruptions": ["rotation"],
        },
    }  # fmt: skip
    run = hpd.distill(CONFIG | {"source": source, "evaluation": evaluation}, out=tmp_path / "run")
    rows = {row.name for row in hpd.evaluate(run).rows}
    assert {"full", "herding", "k_centre", "random_real", "prior_same_count"} <= rows
    assert hpd.report(run).is_file()


def test_pruning(tmp_path, watch):
    decoder = {"kind": "conv", "fit_steps": 1}
    source = {"kind": "hmn", "overbudget": 0.5, "steps": 1, "decoder": decoder}
    run = hpd.distill(CONFIG | {"source": source}, out=tmp_path / "run")
    options = (f"student={SMALL_STUDENT}", "training.epochs=1", "betas=[0, 1]", "held_out=0.5")
    hpd.prune(run.folder, *options, out=tmp_path / "less")


@pytest.mark.parametrize("kind", list(BUFFERS))
def test_buffers_of_a_course(kind, watch):
    fields = BUFFERS[kind].model_fields
    own = {"kind": kind, **small(fields)}
    if "source" in fields:
        own |= {key: CONFIG[key] for key in ("source", "objective", "selection")}
        own["source"] = own["source"] | {"images_per_class": 1}
    rehearsal = {"students": [SMALL_STUDENT], "seeds": 1, "training": SHORT}
    course = {
        "data": "digits", "device": "cpu", "orders": 1, "classes_per_step": 3,
        "buffers": {"one": own}, "rehearsal": rehearsal | {"full_training": SHORT},
    }  # fmt: skip
    (cell,) = api.continual(course).cells
    assert cell.images == (TRAIN if kind == "everything" else 3)


def test_the_score_of_a_generator(generator_folder, watch):
    options = ScoreSettings.read(
        {
            "samples": 100, "student": SMALL_STUDENT, "student_images": TRAIN,
            "features_of": TRAIN,
        }
    )  # fmt: skip
    score_generator(read_generator(generator_folder).generator, BIG, options)
