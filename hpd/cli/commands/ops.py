"""The commands of `hpd ops`: build the native operations, and say what runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hpd.errors import OpsError

if TYPE_CHECKING:
    from generators.ops.status import Card, Status

_WAYS = {
    "library": "a library that a compiler makes once",
    "NVRTC": "kernels that NVRTC makes as they are asked for",
    "reference": "plain torch",
    "none": "nothing",
}


@click.group()
def ops() -> None:
    """Build the native operations of generators, and see which run.

    They are built on first use. HPD_OPS=auto, the default, goes on with the slower reference
    where that fails, native insists on them, and reference does without.

    \b
    Example:
      hpd ops status
      HPD_OPS=native hpd distill digits
    """


@ops.command()
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    help="Only for this.  [cpu, and cuda where there is one]",
)
@click.option("--clean", is_flag=True, help="Then remove all libraries but the current ones.")
def build(device: str | None, clean: bool) -> None:
    """Build the native operations now, also what failed before.

    HPD_CUDA_ARCHS, such as 80;90;100, builds for GPUs that are not here, HPD_CACHE names another
    folder for the result, and CXX and CUDA_HOME another compiler.

    \b
    Example:
      hpd ops build
      HPD_CUDA_ARCHS="80;90" hpd ops build --device cuda
    """
    from generators.ops import build as builds
    from generators.ops.native import load
    from generators.ops.toolchain import DEVICE_TYPES, read_recipe, wants_cuda

    chosen = [name for name in DEVICE_TYPES if name == device]
    for device_type in chosen or (DEVICE_TYPES if wants_cuda() else DEVICE_TYPES[:1]):
        recipe = read_recipe(device_type)
        click.echo(f"{device_type}: {recipe.version} {' '.join(recipe.flags)}")
        try:
            library = builds.build(recipe, retry=True)
        except OpsError as error:
            for line in error.lines:
                click.echo(line, err=True)
            error.lines = ()
            raise
        load(library)
        click.echo(f"{device_type}: {library}")
    if clean:
        click.echo(f"old libraries removed: {builds.clean()}")


@ops.command()
def status() -> None:
    """Say what runs on each type of device, by which way, and why not the other.

    Of each GPU: what of its shared memory the blocks of a layer take, and in which tiles.

    \b
    Example:
      hpd ops status
    """
    from generators.ops import native
    from generators.ops.status import NOT_COMPILED, graphs_told
    from generators.ops.status import status as look

    records = look()
    click.echo(f"{native.VARIABLE}={native.requested_mode()} (of {', '.join(native.MODES)})")
    for record in records:
        click.echo(f"\n{record.device_type:<9} {record.path}")
        for name, value in _rows(record):
            click.echo(f"  {name:<9} {value}")
        for card in record.cards:
            _show_card(card)
    click.echo(f"\n{NOT_COMPILED}\n\n{graphs_told()}")


def _rows(record: Status) -> list[tuple[str, str]]:
    """Return what is told of a type of device, name by name."""
    reason, *lines = record.reason.splitlines()
    rows = [("by", _WAYS[record.way]), ("why", reason), *(("", line) for line in lines)]
    if record.library:
        rows.append(("library", str(record.library)))
    if record.compiler:
        rows.append(("compiler", record.compiler))
    if record.flags:
        rows.append(("flags", " ".join(record.flags)))
    if record.path == "native":
        inside = "inside of" if record.device_type == "cuda" else "before and behind"
        rows.append(("scales", f"of planes {inside} filtered_lrelu"))
    return rows


def _show_card(card: Card) -> None:
    shared = card.room.shared_bytes / 1024
    click.echo(
        f"  {card.name}: {card.room.processors} processors, blocks of {shared:.0f} KiB of shared "
        f"memory at most\n  {'filtered_lrelu, a layer of':34} {'tile':>9} {'KiB':>5} "
        f"{'products a value':>17}"
    )
    for tile in card.tiles:
        size = f"{tile.outputs[0]} x {tile.outputs[1]}"
        click.echo(
            f"  {tile.layer:34} {size:>9} {tile.shared_bytes / 1024:5.0f} {tile.products:17.0f}"
        )
