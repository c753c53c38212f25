"""How far the samples of a generator are from real images, the same way each time."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from generators import Generator
from hpd.checks import check_finite
from hpd.data import ImageSet
from hpd.disk.files import read_about, write_tensors
from hpd.evaluation.drawn.plots import as_png, blank_figure
from hpd.evaluation.generators import frechet_distance
from hpd.generator_runs.settings import CurveSettings
from hpd.generator_runs.stopping import Point, best_of
from hpd.rng import Streams
from hpd.students import Student, TrainingSettings, train_student
from hpd.students.networks.convnet import ConvNetSettings

_CHUNK = 250
_BATCH = 64
_WIDTH = 32

_logger = logging.getLogger(__name__)


class Measure:
    """Frechet distance of samples to real images on features of a small ConvNet.

    Real images, and the z and the classes of samples, are drawn once, so that two states differ by
    their weights alone. Samples have the classes of the real images beside them, and so the same
    shares of each. The network learns the real images at the start and is kept in a file: a run
    that goes on measures with the same one.

    Distances are for the states of one run; they compare to no published FID.

    Args:
        part: the training part of the data.
        settings: what to measure with.
        streams: of the run; the measure has its own below them.
        device: where to compute.

    Source: Heusel et al., GANs Trained by a Two Time-Scale Update Rule, NeurIPS 2017.
    """

    def __init__(
        self, part: ImageSet, settings: CurveSettings, streams: Streams, device: torch.device
    ) -> None:
        self.part, self.settings, self.device = part, settings, device
        self.streams = streams.fork("measure")
        order = torch.randperm(len(part), generator=self.streams.generator("real"))
        self.chosen = order[: settings.samples]
        self._network: Student | None = None
        self._real: Tensor | None = None

    def prepare(self, file: Path) -> None:
        """Train the network, or read it from its file, and take the features of real images.

        Args:
            file: where the network is kept.
        """
        rng = self.streams.generator("weights")
        network = ConvNetSettings(width=_WIDTH).build(
            self.part.image_shape, self.part.num_classes, rng
        )
        about = {"data_sha256": self.part.sha256, **self.settings.measure}
        if not _read(network, file, about):
            self._train(network.to(self.device))
            write_tensors(file, network.state_dict(), about)
        self._network = network.to(self.device).eval().requires_grad_(False)
        parts = self.chosen.split(_CHUNK)
        self._real = torch.cat([self._features(self.part.unit(p, self.device)) for p in parts])

    def _train(self, network: Student) -> None:
        steps = self.settings.network_images // _BATCH
        if steps:
            training = TrainingSettings(steps=steps, batch_size=_BATCH, schedule="cosine")
            images, labels = self.part.seen_on(self.device), self.part.labels.to(self.device)
            train_student(network, images, labels, training, self.streams.fork("training"))

    @torch.no_grad()
    def distance(self, generator: Generator) -> float:
        """Return the squared Frechet distance of samples to real images; 0 is the best.

        Args:
            generator: on the device of this measure.

        Raises:
            NumericError: if a sample is not finite.
        """
        assert self._real is not None, "prepared before"
        of_sample = torch.arange(self.settings.samples) % len(self.chosen)
        labels = self.part.labels[self.chosen[of_sample]]
        shape = (len(labels), generator.spec.z_dim)
        z = torch.randn(shape, generator=self.streams.generator("z"))
        found = []
        for some, own in zip(z.split(_CHUNK), labels.split(_CHUNK), strict=True):
            images = generator(generator.map(some.to(self.device), own.to(self.device)))
            check_finite(images, "what the generator makes", "Lower the lr.")
            found.append(self._features(((images + 1) / 2).clamp(0, 1)))
        return frechet_distance(torch.cat(found), self._real)

    @torch.no_grad()
    def _features(self, unit: Tensor) -> Tensor:
        """Return the embeddings [N, E] of images in [0, 1], on the CPU."""
        assert self._network is not None, "prepared before"
        return self._network.embed(self.part.normalisation.apply(unit)).cpu()


def _read(network: Student, file: Path, about: dict[str, object]) -> bool:
    """Load the network that is kept in a file, if there is one that measures the same."""
    if not file.is_file():
        return False
    try:
        with safe_open(file, "pt") as opened:
            same = read_about(opened.metadata()) == about
        if same:
            network.load_state_dict(load_file(file))
        return same
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        _logger.warning("%s cannot be read and is made anew (%s).", file, reason)
        return False


def curve_picture(points: Sequence[Point]) -> bytes:
    """Return the curve as PNG: distance by images seen, the best point marked."""
    figure = blank_figure(7, 4)
    axes = figure.subplots()
    axes.plot([p.images for p in points], [p.distance for p in points], marker="o", markersize=3)
    best = best_of(points)
    axes.plot(best.images, best.distance, "o", label=f"kept: {best.images:,} images")
    axes.set(xlabel="images seen", ylabel="Frechet distance", ylim=(0, None))
    axes.legend()
    return as_png(figure)
