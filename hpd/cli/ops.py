"""The commands of `hpd ops`: build the native operations, and say what runs."""

from __future__ import annotations

import click

from hpd.errors import OpsError


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
    """Say what runs on each type of device, and why not the other.

    \b
    Example:
      hpd ops status
    """
    from generators.ops import native

    records = native.status()
    click.echo(f"{native.VARIABLE}={native.requested_mode()} (of {', '.join(native.MODES)})")
    for record in records:
        reason, *lines = record.reason.splitlines()
        click.echo(f"{record.device_type:<5} {record.path:<10} {reason}")
        rows = [("", line) for line in lines]
        if record.library:
            rows.append(("library", str(record.library)))
        if record.compiler:
            rows += [("compiler", record.compiler), ("flags", " ".join(record.flags))]
        for name, value in rows:
            click.echo(f"      {name:<10} {value}")
