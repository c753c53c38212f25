from __future__ import annotations

import json
import os
import signal
from collections import defaultdict
from pathlib import Path

# before torch starts its threads: several workers share the cores
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    _own = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, _own)))

import pytest
import torch
from safetensors.torch import load_file

from generators import save_generator
from generators.families.stylegan2 import StyleGAN2, StyleGAN2Settings
from generators.ops.build import build
from generators.ops.native import load, requested_mode
from generators.ops.toolchain import read_recipe
from hpd import api
from hpd.data import Dataset, ImageSet, Normalisation
from hpd.engine.experts import train_experts
from hpd.engine.teachers import squeeze
from hpd.errors import OpsError
from hpd.rng import Streams
from hpd.students import STUDENTS
from hpd.students.experts.record import ExpertSettings, ExpertsWanted
from hpd.students.teachers import SqueezeSettings

TESTS = Path(__file__).parent
ROOT = TESTS.parent
GOLDEN = TESTS / "golden"
# real data that may not be passed on lie beside the checkout, or where this variable says
SHARED = Path(os.environ.get("HPD_SHARED", ROOT.parent / "shared"))
CPU = torch.device("cpu")


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_is_heard():
    """A shell starts what runs in its background deaf to Ctrl-C, children included."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def global_random_state_is_untouched():
    """Nothing in the library may draw from torch's global generator, whatever the test."""
    before = torch.random.get_rng_state()
    yield
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.fixture(autouse=True)
def rows_of_pictures_are_kept_elsewhere(tmp_path_factory, monkeypatch):
    """No test leaves images in the user's own cache, or finds those of another one there."""
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setattr("hpd.data.row_cache.cache_folder", lambda name: folder / name)


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def float64():
    """Compute in float64 for the length of a test."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def native_cpu() -> Path:
    """The library of native operations for the CPU, loaded; from the user's own cache."""
    if requested_mode() == "reference":
        pytest.skip("HPD_OPS=reference")
    try:
        recipe = read_recipe("cpu")
    except OpsError as error:
        pytest.skip(str(error))
    # what does not compile is no reason to skip
    library = build(recipe, retry=True)
    load(library)
    return library


class Golden:
    """Numbers of the official code for one tiny network."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = json.loads((folder / "config.json").read_text())
        self.weights = load_file(folder / "state_dict.safetensors")
        self.values = load_file(folder / "golden.safetensors")


def tiny_generator(architecture="skip", **options) -> StyleGAN2:
    """A random StyleGAN2 of 8 px with three classes, in which every term is active."""
    settings = StyleGAN2Settings.read(
        {
            "resolution": 8, "channels": 1, "z_dim": 8, "w_dim": 8, "num_classes": 3,
            "mapping_layers": 2, "channel_base": 64, "channel_max": 12,
            "architecture": architecture, **options,
        }
    )  # fmt: skip
    network = settings.build(("a", "b", "c")[: settings.num_classes])
    network.initialise(torch.Generator().manual_seed(1))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("noise_strength"):
                parameter.fill_(0.3)
    return network.requires_grad_(False)


@pytest.fixture(scope="session")
def generator_folder(tmp_path_factory) -> str:
    """A stored generator that fits `images`."""
    folder = tmp_path_factory.mktemp("generators") / "tiny"
    network = tiny_generator()
    save_generator(network, network.settings, folder, licence="MIT", provenance={})
    return str(folder)


@pytest.fixture(scope="session")
def images() -> ImageSet:
    return random_images()


def random_images() -> ImageSet:
    """Random images of 8 px, three classes of different brightness, 12 images each."""
    rng = torch.Generator().manual_seed(2)
    labels = torch.arange(3).repeat_interleave(12)
    values = torch.rand(36, 1, 8, 8, generator=rng) * 0.4 + 0.2 * labels[:, None, None, None]
    pixels = (values * 255).to(torch.uint8)
    return ImageSet(pixels, labels, ("a", "b", "c"), Normalisation.of(pixels))


@pytest.fixture
def streams() -> Streams:
    return Streams(0)


@pytest.fixture(scope="session")
def source_options(generator_folder) -> dict[str, dict]:
    """Options that a source cannot do without; sources with defaults need no entry."""
    return {
        "gan": {"generator": generator_folder},
        "latents": {"generator": generator_folder},
        # the fit to real images is part of the start, and a long one
        "hmn": {"decoder": {"kind": "conv", "fit_steps": 3}},
    }


@pytest.fixture(scope="session")
def source_settings(source_options):
    """Makes settings of a source: what it needs, and options that every source understands."""

    def settings(kind, **options):
        if kind == "multi_formation":
            # the counts and steps are those of the source inside
            return {"kind": kind, "factor": 2, "of": {"kind": "pixel", **options}}
        return {"kind": kind, **source_options.get(kind, {}), **options}

    return settings


SMALL_STUDENT = {"kind": "convnet", "width": 4, "depth": 2}
# three epochs that teach SMALL_STUDENT the classes of `images`
SMALL_TRAINING = {"epochs": 3, "lr": 0.2, "batch_size": 12, "augment": ["crop", "flip"]}


@pytest.fixture(scope="session")
def experts_folder(images, tmp_path_factory) -> str:
    """Two experts of three epochs: SMALL_STUDENT on `images`. Not to be changed: copy it."""
    folder = tmp_path_factory.mktemp("experts") / "small"
    settings = ExpertSettings.read({"count": 2, "training": SMALL_TRAINING})
    wanted = ExpertsWanted(str(folder), STUDENTS.parse(SMALL_STUDENT), settings)
    train_experts(wanted, images, device=CPU, seed=0)
    return str(folder)


THREE_DIGITS = {"kind": "digits", "classes": ["0", "1", "8"]}
SMALL_TEACHER = {
    "student": SMALL_STUDENT | {"norm": "batch"},
    "training": {"epochs": 4, "lr": 0.1, "batch_size": 12, "augment": ["crop"]},
}


@pytest.fixture(scope="session")
def teacher_folder(images, tmp_path_factory) -> str:
    """A teacher of four epochs: SMALL_TEACHER on `images`. Not to be changed: copy it."""
    folder = tmp_path_factory.mktemp("teachers") / "small"
    settings = SqueezeSettings.read(SMALL_TEACHER)
    squeeze(folder, settings, Dataset(images, images), device=CPU, seed=0)
    return str(folder)


@pytest.fixture(scope="session")
def digits_teacher(tmp_path_factory) -> str:
    """A teacher of one epoch on THREE_DIGITS. Not to be changed: copy it."""
    folder = tmp_path_factory.mktemp("teachers") / "digits"
    student = f"student={SMALL_TEACHER['student']}"
    api.squeeze(THREE_DIGITS, student, "training={epochs: 1, batch_size: 64}", out=folder)
    return str(folder)


@pytest.fixture(scope="session")
def objective_options(experts_folder, teacher_folder) -> dict[str, dict]:
    """Options with which each objective suits `images`: small, and exact in its gradient.

    One that is not named matches through a student, and needs no others.
    """
    small = {"student": SMALL_STUDENT}
    matching = small | {"real_batch": 8}
    return defaultdict(lambda: matching, {
        # one step with each network, so that any step can be taken first
        "gradient": matching | {"network": {"steps": 1}},
        "distribution": matching,
        # a fresh network at each step, so that any step can be taken first
        "regression": small | {"real_batch": 24, "pool": None},
        "trajectory": small
        | {
            "experts": experts_folder, "student_steps": 3, "expert_epochs": 1,
            "max_start_epoch": 2, "student_lr": 0.1, "method": "checkpointed",
        },
        # one block, as its images meet in the statistics; directed by images that are not its own
        "recovery": {
            "teacher": teacher_folder, "roll": 1, "block_images": None,
            "adjustment": {"mode": "directed", "view": "real", "rho": 0.3, "steps": 2},
        },
    })  # fmt: skip


# files of minutes, so that none of them is begun when the others are done
LONG = (
    "test_readme.py", "test_properties.py", "test_docs.py", "test_real.py", "test_fuzz.py",
    "test_cluster.py", "test_processes.py", "test_bench_scale.py", "test_kill.py", "test_kills.py",
    "test_walk.py", "test_imagenet_run.py", "test_response.py", "test_nvrtc.py",
    "test_many_rows.py",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    """Begin with the files that take longest; the order within each stays."""
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONG)))
