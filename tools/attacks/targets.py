"""All targets; importing this imports torch, so a process is at its place before."""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
from collections.abc import Sequence

import PIL.Image

import generators
import hpd
from attacks.calls import CALLS
from attacks.checkpoints import CHECKPOINTS
from attacks.commands import COMMANDS
from attacks.configs import CONFIGS
from attacks.datasets import DATA
from attacks.folders import FOLDERS
from attacks.places import Place, empty
from attacks.target import Target
from hpd.errors import ConfigError, nearest

TARGETS: dict[str, type[Target]] = {
    target.name: target for target in (*CHECKPOINTS, *CONFIGS, *FOLDERS, *DATA, *CALLS, *COMMANDS)
}


# what hpd imports where it needs it
_LATE = (
    "accelerate.utils", "accelerate.tracking", "datasets", "jinja2", "lpips", "matplotlib.figure",
    "rich.progress", "scipy.io", "sklearn.datasets", "tensorboard", "torch.distributed.fsdp",
    "torchvision.datasets", "torchvision.models", "torchvision.transforms.functional", "webdataset",
)  # fmt: skip


def prepared(place: Place, names: Sequence[str] = ()) -> dict[str, Target]:
    """Return targets that are ready; all, if none is named.

    Raises:
        ConfigError: for a name that no target has.
    """
    for name in names:
        if name not in TARGETS:
            raise ConfigError(f"no target {name!r}", fix=nearest(name, TARGETS))
    _import_all()
    found = {name: TARGETS[name](place) for name in names or TARGETS}
    for target in found.values():
        target.prepare()
    for folder in (place.current, place.temporary, place.outputs, place.inputs):
        empty(folder)
    return found


def _import_all() -> None:
    """Import what would be imported on the way, so that what is imported later is seen."""
    import torch

    for package in (hpd, generators):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.endswith("__main__"):
                importlib.import_module(found.name)
    for name in _LATE:
        # some are optional
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    PIL.Image.init()
    torch.set_num_threads(1)
