"""The commands of `hpd generator`: look into files, convert, sample, list levels; train, score."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpd.cli.commands.generator_score import score
from hpd.cli.commands.generator_train import train
from hpd.cli.own_code import takes_own_code
from hpd.cli.paths import PATH
from hpd.errors import ConfigError, GeneratorError, nearest

if TYPE_CHECKING:
    from generators import GeneratorSpec

_MOST_SEEDS = 10_000


@click.group()
def generator() -> None:
    """Train generators, look into them, convert, sample and measure them.

    \b
    Example:
      hpd generator levels digits16
      hpd generator convert stylegan2-ada.pkl my-generator
    """


generator.add_command(score)
generator.add_command(train)


@generator.command()
@click.argument("name", type=PATH)
def inspect(name: Path) -> None:
    """Say what a generator is, or what is inside a checkpoint file.

    NAME is a bundled name, a folder, or a file. A file is listed without unpickling it, and what
    is read from it is told after that.

    \b
    Example:
      hpd generator inspect cifar32
      hpd generator inspect stylegan2-ada.pkl
    """
    if name.expanduser().is_file():
        _list_file(name)
        return
    from generators import read_generator

    stored = read_generator(str(name))
    spec = stored.generator.spec
    _say_spec(spec)
    if spec.classes:
        click.echo(f"classes  {', '.join(spec.classes)}")
    click.echo(f"licence  {stored.licence}")
    click.echo(f"sha256   {stored.sha256}")
    for key, value in _flat(stored.provenance):
        click.echo(f"{key}  {value}")


def _say_spec(spec: GeneratorSpec) -> None:
    click.echo(
        f"{spec.family}, {spec.channels} x {spec.resolution} x {spec.resolution}, "
        f"{spec.num_classes or 'no'} classes, {len(spec.levels)} levels"
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield nested facts with dotted names."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _list_file(file: Path) -> None:
    from generators.checkpoints import inspect_checkpoint

    found = inspect_checkpoint(file)
    protocol = "" if found.protocol is None else f", protocol {found.protocol}"
    click.echo(f"{found.format}{protocol}, {found.total_bytes:,} bytes")
    click.echo(f"holds {', '.join(found.keys) or 'no names at the top'}")
    for classes, size in found.sources.items():
        click.echo(f"source text of {classes}: {size:,} bytes, never run")
    for use in found.globals:
        place = " in a nested pickle" if use.nested else ""
        click.echo(f"{use.status:<8} {use.name} (named {use.named}, called {use.calls}){place}")
    if found.problem:
        click.echo(f"not read to the end: {found.problem}")
    elif not found.refused:
        _say_read(file)


def _say_read(file: Path) -> None:
    """Say what generator is in a file, if one is."""
    from generators import read_generator

    try:
        stored = read_generator(file)
    except GeneratorError as error:
        click.echo(f"no generator that is known: {error.problem}")
        return
    _say_spec(stored.generator.spec)
    encoder = "with its encoder" if stored.generator.has_encoder else ""
    for line in (encoder, f"licence  {stored.licence}", f"sha256   {stored.sha256}"):
        if line:
            click.echo(line)


@generator.command()
@click.argument("file", type=PATH)
@click.argument("out", type=PATH)
@click.option(
    "--network", default="G_ema", show_default=True, metavar="NAME",
    help="Averaged (G_ema), as trained (G), or the name above it in the file.",
)  # fmt: skip
@click.option("--classes", help="Names of the classes in order, with commas.")
@click.option("--licence", help="Licence of the weights, kept with them.")
def convert(file: Path, out: Path, network: str, classes: str | None, licence: str | None) -> None:
    """Convert a checkpoint to a folder of safetensors and JSON.

    Reads official StyleGAN2-ADA, StyleGAN3 and StyleGAN-XL pickles, and pickles, torch files and
    safetensors with the tensors of a StyleGAN2 in rosinality's or the official names, wherever in
    the file they stand; tiny autoencoders, and folders of autoencoders as diffusers writes them. No
    code in it is run.

    \b
    Example:
      hpd generator convert stylegan2-ada.pkl my-generator --classes cat,dog
    """
    from dataclasses import replace

    from generators import read_generator, save_generator
    from hpd.artifacts import check_free

    check_free(out)
    stored = read_generator(file, network)
    network_spec, settings = stored.generator.spec, stored.settings
    if settings is None or not stored.provenance.get("original"):
        raise GeneratorError(f"{file} is no checkpoint file: nothing to convert")
    names = tuple(classes.split(",")) if classes else ()
    if names and len(names) != network_spec.num_classes:
        raise GeneratorError(
            "wrong number of class names", got=len(names), expected=network_spec.num_classes
        )
    stored.generator.spec = replace(network_spec, classes=names)
    licence = licence or stored.licence
    save_generator(stored.generator, settings, out, licence=licence, provenance=stored.provenance)
    click.echo(f"{network_spec.family}, {network_spec.resolution} px: {out}")


@generator.command()
@click.argument("name")
@takes_own_code
def levels(name: str) -> None:
    """List the levels of a generator: their names, shapes and floats per image.

    \b
    Example:
      hpd generator levels digits16
    """
    from generators import read_generator

    spec = read_generator(name).generator.spec
    _say_spec(spec)
    ws = spec.num_ws * spec.w_dim
    for index, level in enumerate(spec.levels):
        last = index == spec.last_level
        floats = (0 if last else ws) + sum(math.prod(shape) for shape in level.shapes)
        parts = [] if last else [f"ws [{spec.num_ws}, {spec.w_dim}]"]
        parts += [str(list(shape)) for shape in level.shapes]
        click.echo(f"{index:>3}  {level.name:<14} {floats:>9,} floats  {' + '.join(parts)}")


@generator.command()
@click.argument("name")
@takes_own_code
@click.option("--classes", help="Names or indices, with commas.  [all]")
@click.option("--seeds", default="0-7", show_default=True, help="Numbers and ranges, with commas.")
@click.option("--psi", default=1.0, show_default=True, help="Truncation; 1 for none.")
@click.option("--out", type=PATH, required=True, help="A PNG file.")
def sample(name: str, classes: str | None, seeds: str, psi: float, out: Path) -> None:
    """Draw samples as a grid: a row per class, a column per seed.

    \b
    Example:
      hpd generator sample digits16 --classes 3,8 --seeds 0-9 --out samples.png
    """
    import torch
    from rich.console import Console

    from generators import read_generator
    from generators.sampling import draw_samples, tile
    from hpd.artifacts.pictures import png_bytes
    from hpd.cli.progress import ProgressBar
    from hpd.disk.files import write_bytes
    from hpd.machine.device import open_device
    from hpd.progress import told

    chosen = _parse_seeds(seeds)
    network = read_generator(name).generator.to(open_device("auto"))
    asked = _parse_classes(classes, network.spec.classes, network.spec.num_classes)
    with ProgressBar(Console(), None):
        rows = [
            draw_samples(network, label, chosen, truncation_psi=psi).cpu()
            for label in told("drawing samples", asked)
        ]
    out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(out, png_bytes(tile(torch.cat(rows), len(chosen))))
    click.echo(f"{len(rows)} x {len(chosen)} samples: {out}")


def _parse_seeds(text: str) -> list[int]:
    """Turn ``"0-3,7"`` into [0, 1, 2, 3, 7]."""
    try:
        parts = [part.partition("-") for part in text.split(",")]
        wanted = [range(int(a), int(b if dash else a) + 1) for a, dash, b in parts]
    except ValueError:
        wanted = []
    # asked of the ranges, as a list of so many may not fit into memory
    if any(part[_MOST_SEEDS:] for part in wanted) or sum(map(len, wanted)) > _MOST_SEEDS:
        raise ConfigError(
            "so many samples make no picture", got=repr(text),
            expected=f"at most {_MOST_SEEDS:,} seeds",
        )  # fmt: skip
    if not any(wanted):
        raise ConfigError("cannot read seeds", got=repr(text), expected="such as 0-7 or 1,5,9")
    return [seed for part in wanted for seed in part]


def _parse_classes(text: str | None, names: tuple[str, ...], count: int) -> list[int | None]:
    """Turn names or indices into indices; None stands for an unconditional generator."""
    if count == 0:
        if text is not None:
            raise GeneratorError("the generator has no classes", got=text)
        return [None]
    if text is None:
        return list(range(count))
    chosen: list[int | None] = []
    for part in text.split(","):
        if part in names:
            chosen.append(names.index(part))
        elif part.isdigit() and int(part) < count:
            chosen.append(int(part))
        else:
            fix = nearest(part, names) if names else f"Give indices below {count}."
            raise GeneratorError(f"the generator has no class {part!r}", fix=fix)
    return chosen
