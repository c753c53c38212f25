"""Training a generator on one's own data."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from generators import StoredGenerator, read_generator
from generators.training.step import Trainer
from hpd.api.naming import Where, data_from, split_data
from hpd.artifacts.places import writing_to
from hpd.boundary import public
from hpd.disk.locks import held
from hpd.generator_runs.card import About, write_generator
from hpd.generator_runs.folder import GENERATOR, TrainingFolder
from hpd.generator_runs.loop import TrainingLoop, TrainingReport
from hpd.generator_runs.measure import Measure
from hpd.generator_runs.settings import (
    Limits,
    Size,
    augmentation_text,
    check_images,
    settings_of,
)
from hpd.given import parse_options
from hpd.machine.device import Processes, open_device
from hpd.machine.interrupts import Interrupts

_GO_ON = "Make room, and give the same command again: it goes on from the last state."

_logger = logging.getLogger(__name__)


@public
def train_generator(
    data: Where | None = None,
    *overrides: str,
    out: str | Path,
    size: Size = "tiny",
    minutes: float | None = None,
    images: int | None = None,
    seed: int | None = None,
    device: str = "auto",
    licence: str = "unknown",
    half: bool = False,
    processes: Processes | None = None,
    report: Callable[[TrainingReport], None] = lambda report: None,
    say: Callable[[str], None] = _logger.info,
) -> StoredGenerator:
    """Train a class-conditional StyleGAN2 on a training set, and keep the best state as a folder.

    At each save the Frechet distance of samples to real images is taken. The training ends when it
    has not fallen for `curve.patience` saves, or at `minutes` or `images`; kept is the generator of
    the least distance. An interrupted training goes on from its last state, to the same bytes on a
    CPU. Ctrl-C and SIGTERM write one first, and then go on as `KeyboardInterrupt`.

    Several processes that a launcher started call this at once and share each batch.

    Args:
        data: as for `load_dataset`, square images of 16, 32 or 64 px; None: the overrides name
            them, ``"data=photos"``.
        overrides: ``"mirror=true"``, ``"curve.patience=5"``, ...: see `GeneratorRunSettings`;
            ``"data.resolution=32"``: options of the data.
        out: folder of the training; the generator is in its folder ``generator``.
        size: of the networks, with the options that suit it.
        minutes: of training, over all its parts, at the most.
        images: real images that are seen at the most, repetitions included.
        seed: root of all randomness, in place of that of the overrides.
        device: where to train.
        licence: of the weights, kept with them.
        half: whether weights are stored in float16.
        processes: that share the work, ``Processes()`` for this one; None: all that were started.
        report: hears of each step.
        say: hears lines for people: what was chosen, how long it will take, why it ended.

    Returns:
        the generator, as `read_generator` reads it.

    Raises:
        ConfigError: for an option that is wrong, or a generator to go on from of another shape.
        DataError: if the images are not square, or of another size; if a class has none.
        RunError: if the folder holds something else, or a training with other options or data.
        HpdError: for what is wrong with the data; `NumericError` if the training diverges.
    """
    of_data, own = split_data(overrides)
    given = parse_options(own) | ({} if seed is None else {"seed": seed})
    processes = processes or Processes.started(cpu=device == "cpu")
    with processes.together():
        found = data_from(data, of_data)
        where, part = open_device(device), found.build().train
        check_images(found, part)
        settings = settings_of(found, part, size, given)
        limits = Limits.of(images, minutes, settings.curve)
        trainer = Trainer(settings, part, device=where, processes=processes)
    path, first = Path(out).expanduser(), processes.is_first
    if not first:
        report, say = _hush, _hush
    say(augmentation_text(settings, len(part)))
    with ExitStack() as stack:
        hold = held(path, "train a generator in")
        processes.first(lambda: stack.enter_context(hold))
        stack.enter_context(writing_to(path, _GO_ON))
        # the launcher of several passes on what the terminal tells each of them, too
        interrupts = stack.enter_context(Interrupts(repeated=processes.count > 1))
        with processes.together():
            folder = TrainingFolder(path, settings, part.sha256, writes=first)
        measure = Measure(part, settings.curve, trainer.streams, where)
        loop = TrainingLoop(
            trainer, folder, measure, settings=settings, limits=limits, report=report, say=say
        )
        ended = loop.run(interrupts)
        about = About(size, licence, half, ended)
        best = processes.first(lambda: write_generator(folder, trainer, part, about))
        say(f"ended: {ended}; kept: {best.images:,} images, distance {best.distance:.4g}")
        return read_generator(path / GENERATOR)


def _hush(heard: object) -> None:
    """Hear something and do nothing."""
