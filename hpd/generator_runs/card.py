"""The card of a generator: its weights, where they come from, and a page about it."""

from __future__ import annotations

import copy
import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from generators import read_generator, save_generator
from generators.families.stylegan2 import StyleGAN2, StyleGAN2Settings
from generators.training.discriminator import DISCRIMINATOR, discriminator_tensors
from generators.training.step import Trainer, sample_grid
from hpd.artifacts.pictures import png_bytes
from hpd.data import DATASETS, ImageSet
from hpd.data.registry import DatasetSettings
from hpd.disk.files import write_bytes, write_tensors
from hpd.disk.yaml_text import as_flow
from hpd.generator_runs.folder import CURVE, GENERATOR, TrainingFolder, without_places
from hpd.generator_runs.measure import curve_picture
from hpd.generator_runs.settings import GeneratorRunSettings, Size, preset
from hpd.generator_runs.stopping import Point

_MOST_ROWS = 12
_MOST_CLASSES = 20


@dataclass(frozen=True)
class About:
    """What a card says beside what the folder of the training knows.

    Args:
        size: name of the size.
        licence: of the weights.
        half: whether weights are stored in float16.
        ended: why the training ended, in words.
    """

    size: Size
    licence: str
    half: bool
    ended: str


def write_generator(
    folder: TrainingFolder, trainer: Trainer, part: ImageSet, about: About
) -> Point:
    """Write the generator of the best state, its page and the curve, and return its point.

    Args:
        folder: of the training.
        trainer: whose settings built the network.
        part: the training part of the data.
        about: what else the page says.

    Raises:
        GeneratorError: if a weight is too large for float16.
    """
    best, out = folder.best(), folder.path / GENERATOR
    generator = copy.deepcopy(trainer.average).cpu()
    generator.load_state_dict(folder.weights(best))
    save_generator(
        generator,
        trainer.generator_settings,
        out,
        licence=about.licence,
        provenance=_provenance(folder, part, best),
        dtype=torch.float16 if about.half else torch.float32,
    )
    write_bytes(out / "samples.png", png_bytes(sample_grid(generator, trainer.streams)))
    write_bytes(out / CURVE, curve_picture(folder.points))
    write_tensors(folder.path / DISCRIMINATOR, discriminator_tensors(trainer.discriminator))
    page = _page(folder, trainer.generator_settings, generator, part, about)
    write_bytes(out / "README.md", page.encode())
    return best


def _provenance(folder: TrainingFolder, part: ImageSet, best: Point) -> dict[str, Any]:
    training = folder.settings.training()
    training["data"] = without_places(training["data"])
    facts: dict[str, Any] = {
        "training": training,
        "data_part": "train",
        "data_images": len(part),
        "data_sha256": folder.data_sha256,
        "images_seen": best.images,
        "seconds": round(folder.seconds_spent),
        "curve": {
            **folder.settings.curve.measure,
            "points": [[point.images, point.distance] for point in folder.points],
        },
        "versions": {
            "hpd": version("hpd"),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
    if folder.settings.start is not None:
        start = read_generator(folder.settings.start)
        # the path that led to it is of no use to others
        training["start"] = start.name
        facts["start"] = {"name": start.name, "sha256": start.sha256}
    return facts


def command_of(settings: GeneratorRunSettings, about: About, part: ImageSet, images: int) -> str:
    """Return the command that trains such a generator again, without the places of the data."""
    size, licence = about.size, about.licence
    options = settings.training()
    del options["data"]
    if settings.start is not None:
        options["start"] = Path(settings.start).name
    fields = type(settings).model_fields
    below = {name: field.get_default() for name, field in fields.items()} | preset(size, part)
    given = [f"{k}={as_flow(v)}" for k, v in options.items() if v != below.get(k)]
    given += [f"curve.{k}={as_flow(v)}" for k, v in settings.curve.changed().items()]
    words = ["--data", _named(settings.data, {"root": "FOLDER"}), "--size", size, *given]
    words += ["--images", str(images), "--licence", licence, *(["--half"] if about.half else [])]
    return shlex.join(["hpd", "generator", "train", *words, "--out", "OUT"])


def _named(data: DatasetSettings, place: Mapping[str, str]) -> str:
    """Return data as the command takes them, with what differs from its default.

    Args:
        data: their settings.
        place: what stands for where they lie, for data that lie somewhere.
    """
    fields = type(data).model_fields
    options = without_places(data.changed(DATASETS)) | {
        k: v for k, v in place.items() if k in fields
    }
    return str(options["kind"]) if options.keys() == {"kind"} else as_flow(options)


_PAGE = """\
# A generator of {num_classes} classes

A class-conditional StyleGAN2, {side} px, {colours}: {classes}.

![Samples](samples.png)

A row per class, ten samples each, not selected, no truncation.

## Data

{count:,} training images, `{data}`. No test image entered training. SHA-256 of images and labels:
`{sha256}`.

## Making

| | |
|---|---|
| generator | {floats:,} parameters in {dtype}; z of {z_dim}, w of {w_dim}; {features} |
| images seen | {images:,} |
| time | {minutes:.1f} minutes of training in all |
| ended | {ended} |
| seed | {seed} |
| versions | hpd {hpd}, torch {torch} |

```bash
{command}
```

All options stand in `generator.json`. Another number of threads, another processor or another
release of torch rounds differently and gives other weights of the same kind.

## Figures

Frechet distance of {samples:,} samples to real images, on features of a ConvNet that learnt these
data. It orders the states of this training and compares to no other figure; the state of the least
distance was kept.

![Distance by images seen](curve.png)

{rows}

## Use

```bash
hpd distill CONFIG source.generator=FOLDER
hpd generator score FOLDER
```

## Licence

Weights: {licence}. The images that they were trained on have a licence of their own.
"""


def _page(
    folder: TrainingFolder, network: StyleGAN2Settings, generator: StyleGAN2, part: ImageSet,
    about: About,
) -> str:  # fmt: skip
    best, settings = folder.best(), folder.settings
    channels, side, _ = part.image_shape
    more = ["..."] if part.num_classes > _MOST_CLASSES else []
    features = f"{network.channel_base} features by the side, at most {network.channel_max}"
    return _PAGE.format(
        num_classes=part.num_classes,
        side=side,
        colours="colour" if channels == 3 else "grey",
        classes=", ".join([*part.classes[:_MOST_CLASSES], *more]),
        count=len(part),
        data=_named(settings.data, {}),
        sha256=folder.data_sha256,
        floats=sum(p.numel() for p in generator.parameters()),
        dtype="float16" if about.half else "float32",
        z_dim=network.z_dim,
        w_dim=network.w_dim,
        features=features,
        images=best.images,
        minutes=folder.seconds_spent / 60,
        ended=about.ended,
        seed=settings.seed,
        hpd=version("hpd"),
        torch=torch.__version__,
        command=command_of(settings, about, part, best.images),
        samples=settings.curve.samples,
        rows="\n".join(_rows(folder.points, best)),
        licence=about.licence,
    )


def _rows(points: Sequence[Point], best: Point) -> list[str]:
    """Return the curve as a table: some points of a long one, the best and the last among them."""
    every = max(1, -(-len(points) // _MOST_ROWS))
    shown = [p for i, p in enumerate(points) if i % every == 0 or p in (best, points[-1])]
    lines = [f"| {p.images:,} | {p.distance:.4g} | {'kept' if p == best else ''} |" for p in shown]
    return ["| images seen | distance | |", "|---|---|---|", *lines]
