"""The folder of a training: states to go on from, the best generators, metrics, pictures."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from generators.families.stylegan2 import StyleGAN2
from generators.training.step import Trainer, sample_grid
from hpd.artifacts.pictures import png_bytes
from hpd.disk.files import is_leftover, read_about, remove_leftovers, write_bytes, write_tensors
from hpd.errors import RunError
from hpd.generator_runs.settings import GeneratorRunSettings
from hpd.generator_runs.stopping import Point, best_of

GENERATOR = "generator"
MEASURE = "measure.safetensors"
CURVE = "curve.png"
_METRICS = "metrics.jsonl"
_STATES, _BESTS = "state-*.safetensors", "best-*.safetensors"
_KEPT_STATES = 2
# where data lie, which may change between two parts of a run
_PLACES = frozenset({"root", "download"})
_OURS = (_STATES, _BESTS, "samples-*.png", _METRICS, MEASURE, CURVE, GENERATOR)

_logger = logging.getLogger(__name__)


class TrainingFolder:
    """What a training leaves on disk, each file written whole.

    A state has its step in its name; the last two are kept, and with them the generators of their
    best points. A run goes on from the newest state that can be read. In a state stand, beside the
    tensors, its curve and its final point: that of the moment at which the training ended, which
    is none of the curve, so that who goes on later ends where one would that never stopped.

    Args:
        path: where.
        settings: options of the run.
        data_sha256: of the training images.
        writes: whether this process writes; of several, one does and all read.

    Raises:
        RunError: if the folder holds something else, or a run with other options or other data.
    """

    def __init__(
        self, path: Path, settings: GeneratorRunSettings, data_sha256: str, *, writes: bool = True
    ) -> None:
        self.path, self.writes = path, writes
        self.settings, self.data_sha256 = settings, data_sha256
        self.state: Path | None = None
        # those of the state that this part of the run begins with, and of all of it so far
        self.steps, self.seconds, self.seconds_spent = 0, 0.0, 0.0
        self.curve: list[Point] = []
        self.final: Point | None = None
        found = self._newest()
        if found is None:
            _check_others(path)
            return
        self.state, about = found
        self._check(about)
        self._take(about)

    def _newest(self) -> tuple[Path, dict[str, Any]] | None:
        """Return the newest state that can be read, with what stands in it."""
        for path in sorted(self.path.glob(_STATES), reverse=True):
            try:
                with safe_open(path, "pt") as file:
                    return path, read_about(file.metadata())
            except (OSError, SafetensorError, KeyError, ValueError) as error:
                reason = (str(error) or type(error).__name__).splitlines()[0]
                _logger.warning("%s cannot be read and is left out (%s).", path, reason)
        return None

    def _check(self, about: Mapping[str, Any]) -> None:
        """Check that the state is one of a run with these options and data."""
        mine = _comparable(self.settings)
        # an option that is newer than the run had its default
        theirs = _comparable(GeneratorRunSettings.read(about["settings"]))
        if not about.get("curve"):
            # of nothing that was measured yet; older runs measured nothing
            theirs["measure"] = mine["measure"]
        differing = [key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key)]
        if differing:
            keys = sorted(differing)
            raise RunError(
                f"{self.path} holds a training with other options",
                got=", ".join(f"{key}={mine.get(key)!r}" for key in keys),
                expected=", ".join(f"{key}={theirs.get(key)!r}" for key in keys),
                fix="Give the same options, or another folder.",
            )
        if about.get("data_sha256", self.data_sha256) != self.data_sha256:
            raise RunError(
                f"{self.path} holds a training on other images",
                fix="Bring the data back, or give another folder.",
            )

    def _take(self, about: Mapping[str, Any]) -> None:
        self.steps, self.seconds = int(about["steps"]), float(about["seconds"])
        self.seconds_spent = self.seconds
        final = None if about.get("final") is None else Point(*about["final"])
        if final is not None and self._best_file(final).is_file():
            self.final = final
        self.curve = [Point(*pair) for pair in about.get("curve", [])]
        if self.curve and not self._best_file(best_of(self.curve)).is_file():
            _logger.warning("%s lacks its best generator: the curve begins anew.", self.path)
            self.curve = []

    def restore(self, trainer: Trainer) -> None:
        """Bring a trainer, and the metrics, to where the state is; a fresh one stays as it is."""
        if self.writes:
            remove_leftovers(self.path)
        if self.state is not None:
            trainer.load(load_file(self.state), self.steps)
        if not self.writes:
            return
        log = self.path / _METRICS
        if self.state is None:
            log.unlink(missing_ok=True)
            return
        self._tidy(self.state)
        # what was logged after the state will be logged again
        lines = log.read_text("utf-8").splitlines() if log.is_file() else []
        kept = [line for line in lines if _images_in(line) <= trainer.images_seen]
        write_bytes(log, "".join(f"{line}\n" for line in kept).encode())

    def log(self, line: Mapping[str, float]) -> None:
        """Append one line to the metrics."""
        if self.writes:
            with (self.path / _METRICS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def add(self, trainer: Trainer, point: Point, *, final: bool = False) -> None:
        """Take in what the averaged generator came to, and keep that if it is the best so far."""
        known = [*self.curve, *([self.final] if final and self.final else [])]
        if self.writes and (final or not known or point.distance < best_of(known).distance):
            about = {"images": point.images, "distance": point.distance}
            write_tensors(self._best_file(point), trainer.average.state_dict(), about)
        if final:
            self.final = point
        else:
            self.curve.append(point)

    def save(self, trainer: Trainer, seconds: float) -> None:
        """Write a picture of samples and the state; keep the state before it, drop others."""
        # never less than it was, or a time that is over would not be
        self.seconds_spent = math.ceil(seconds * 10) / 10
        if not self.writes:
            return
        picture = sample_grid(trainer.average, trainer.streams)
        write_bytes(self.path / f"samples-{trainer.images_seen:09d}.png", png_bytes(picture))
        path = self.path / f"state-{trainer.steps:08d}.safetensors"
        about = {
            "settings": self.settings.model_dump(mode="json"),
            "data_sha256": self.data_sha256,
            "steps": trainer.steps,
            "images": trainer.images_seen,
            "seconds": self.seconds_spent,
            "curve": [[point.images, point.distance] for point in self.curve],
            "final": None if self.final is None else [self.final.images, self.final.distance],
        }
        write_tensors(path, trainer.tensors(), about)
        self._tidy(path)

    @property
    def points(self) -> list[Point]:
        """The curve, with the final point."""
        return [*self.curve, *([] if self.final is None else [self.final])]

    def best(self) -> Point:
        """Return the best point there is."""
        return best_of(self.points)

    def weights(self, point: Point) -> dict[str, Tensor]:
        """Return the weights of the generator of the best point."""
        return load_file(self._best_file(point))

    def _best_file(self, point: Point) -> Path:
        return self.path / f"best-{point.images:09d}.safetensors"

    def _tidy(self, newest: Path) -> None:
        """Drop all states but the newest and the one before it, and what is best for neither."""
        states = sorted(self.path.glob(_STATES))
        kept = [path for path in states if path <= newest][-_KEPT_STATES:]
        # the state before has one point less
        curves: list[Sequence[Point]] = [self.curve, self.curve[:-1]]
        kept += [self._best_file(best_of(points)) for points in curves if points]
        kept += [] if self.final is None else [self._best_file(self.final)]
        for other in {*states, *self.path.glob(_BESTS)} - set(kept):
            other.unlink()


def load_weights(generator: StyleGAN2, weights: Mapping[str, Tensor]) -> StyleGAN2:
    """Return a generator with weights of `TrainingFolder.weights`."""
    generator.load_state_dict(dict(weights))
    return generator


def without_places(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of data without where they lie, which is of no use to others."""
    return {key: value for key, value in data.items() if key not in _PLACES}


def _comparable(settings: GeneratorRunSettings) -> dict[str, Any]:
    """Return the options that two parts of one run have in common."""
    options = settings.training()
    return options | {"data": without_places(options["data"]), "measure": settings.curve.measure}


def _check_others(path: Path) -> None:
    """Check that a folder without a state holds nothing of somebody else's.

    Raises:
        RunError: if it does, or is a file.
    """
    fix = "Choose another folder with --out."
    if path.exists() and not path.is_dir():
        raise RunError(f"{path} is a file", fix=fix)
    there = sorted(path.iterdir()) if path.is_dir() else []
    others = [
        found.name
        for found in there
        if not is_leftover(found.name) and not any(found.match(ours) for ours in _OURS)
    ]
    if others:
        raise RunError(f"{path} already holds other files", got=others[0], fix=fix)


def _images_in(line: str) -> float:
    """Return the images of a line of the log; infinite where a kill cut the line off."""
    try:
        return float(json.loads(line)["images"])
    except (ValueError, KeyError, TypeError):
        return math.inf
