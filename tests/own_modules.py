"""Modules that users write, with one component of each kind, and a process that knows none."""

from __future__ import annotations

import sys
from pathlib import Path

from click.testing import CliRunner

from generators import GENERATORS
from hpd import plugins
from hpd.cli import main
from hpd.data import DATASETS
from hpd.engine import SELECTORS
from hpd.objectives import OBJECTIVES
from hpd.sources import SOURCES
from hpd.students import STUDENTS

REGISTRIES = (OBJECTIVES, SELECTORS, SOURCES, STUDENTS, DATASETS)

OBJECTIVE = '''
import torch
from hpd.objectives.base import OBJECTIVES, ObjectiveSettings, Stateless
from hpd.typing import Matched

class ToMean(Stateless):
    def __init__(self, train):
        rows = [train.unit(own).mean(0) for own in train.by_class]
        self.means = torch.stack(rows)

    def __call__(self, images, labels, step):
        gaps = images - self.means.to(images)[labels]
        return Matched(float(gaps.square().sum()), 2 * gaps)

@OBJECTIVES.register("to_mean")
class ToMeanSettings(ObjectiveSettings):
    """The distance to the mean image of each class."""
    strength: float = 1.0

    def build(self, train, device, streams):
        return ToMean(train)
'''

SELECTOR = '''
from hpd.engine.selection.base import SELECTORS, SelectorSettings

@SELECTORS.register("brightness")
class BrightnessSettings(SelectorSettings):
    """How far the mean of the images is from that of the real ones."""

    def build(self, train, device, streams, objective):
        mean = float(train.unit().mean())
        return lambda images, labels: abs(float(images.mean()) - mean)
'''

STUDENT = '''
from torch import nn
from hpd.students import STUDENTS, Student, StudentSettings

class Flat(Student):
    def __init__(self, image_shape, num_classes):
        super().__init__()
        channels, height, width = image_shape
        self.conv = nn.Conv2d(channels, 2, 3, padding=1)
        self.head = nn.Linear(2 * height * width, num_classes)

    def features(self, x):
        return self.conv(x).relu()

    def pool(self, features):
        return features.flatten(1)

@STUDENTS.register("flat")
class FlatSettings(StudentSettings):
    """One convolution and a linear layer."""

    def make(self, image_shape, num_classes):
        return Flat(image_shape, num_classes)
'''

SOURCE = '''
from hpd.sources.base import SOURCES
from hpd.sources.pixel import PixelSettings

@SOURCES.register("my_pixels")
class MyPixelSettings(PixelSettings):
    """Pixels, by another name."""
'''

DATA = '''
from hpd.data import DATASETS
from hpd.data.kinds.digits import DigitsSettings

@DATASETS.register("my_digits")
class MyDigitsSettings(DigitsSettings):
    """Digits, by another name."""
'''

GENERATOR = """
import torch
from torch import nn
from generators import GENERATORS
from generators.adapter import LayeredGenerator

@GENERATORS.register("mine")
def mine():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [
            nn.Sequential(nn.Linear(12, 4 * 4 * 4), nn.Unflatten(1, (4, 4, 4)), nn.ReLU()),
            nn.Sequential(nn.ConvTranspose2d(4, 4, 4, 2, 1), nn.ReLU()),
            nn.Sequential(nn.ConvTranspose2d(4, 1, 4, 2, 1), nn.Tanh()),
        ]
        embed = nn.Embedding(10, 4)
    return LayeredGenerator(
        layers, lambda z, labels: torch.cat([z, embed(labels)], 1), z_dim=8, num_classes=10,
        classes=[str(c) for c in range(10)],
    )
"""

EVERYTHING = "\n".join([OBJECTIVE, SELECTOR, STUDENT, SOURCE, DATA, GENERATOR])


class Elsewhere:
    """A process in which nothing of the user's own is known, in a folder of its own."""

    def __init__(self, folder: Path, monkeypatch) -> None:
        self.folder, self._patch = folder, monkeypatch
        self._known = {registry: dict(registry._classes) for registry in REGISTRIES}
        self._modules, self._path = set(sys.modules), list(sys.path)

    def forget(self) -> None:
        """Be a process that has imported nothing yet."""
        for registry, classes in self._known.items():
            self._patch.setattr(registry, "_classes", dict(classes))
        self._patch.setattr(GENERATORS, "_makers", {})
        self._patch.setattr(plugins, "_IMPORTED", plugins._Imported())
        for name in set(sys.modules) - self._modules:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(self.folder)):
                del sys.modules[name]
        sys.path[:] = self._path

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def run(self, *words: str):
        """Run a command in a process that knows nothing yet."""
        self.forget()
        return CliRunner().invoke(main, [str(word) for word in words])
