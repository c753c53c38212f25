"""The command `hpd sample`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from hpd.cli.own_code import takes_own_code
from hpd.cli.paths import PATH


@click.command()
@click.argument("run", type=PATH)
@click.argument("options", nargs=-1, metavar="[KEY=VALUE]...")
@takes_own_code
@click.option("--per-class", type=click.IntRange(min=1), required=True, help="New images a class.")
@click.option("--out", type=PATH, required=True, help="A new folder.")
@click.option(
    "--psi",
    type=click.FloatRange(0, 1),
    help="0: the distilled latents, 1: the generator's own.  [0.5]",
)
@click.option(
    "--noise",
    type=click.FloatRange(min=0),
    help="On the features, in parts of their RMS.  [0]",
)
@click.option(
    "--level",
    type=click.IntRange(min=0),
    help="Level of the latents.  [the first]",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--format", "format_name", default="imagefolder", show_default=True)
def sample(
    run: Path, options: tuple[str, ...], per_class: int, out: Path, psi: float | None,
    noise: float | None,    level: int | None, seed: int, format_name: str,
) -> None:  # fmt: skip
    """Make new images around the distilled ones of RUN, with its generator.

    For who wants more images than were distilled. KEY=VALUE sets options of the format, as for
    hpd export.

    \b
    Example:
      hpd sample runs/digits-0 --per-class 50 --psi 0.3 --out digits-more
    """
    from rich.console import Console

    from hpd import api
    from hpd.artifacts import EXPORTS, Provenance, check_free
    from hpd.cli.progress import ProgressBar
    from hpd.given import parse_options
    from hpd.sources.sampling import SamplingSettings

    chosen = parse_options(options)
    EXPORTS[format_name].read(chosen)
    check_free(out.expanduser())
    asked = {"per_class": per_class, "psi": psi, "noise": noise, "level": level, "seed": seed}
    how = SamplingSettings.read({k: v for k, v in asked.items() if v is not None}).model_dump()
    with ProgressBar(Console(), None):
        made = api.sample(run, **how)
    known = Provenance.read(run)
    known = replace(known, manifest={**known.manifest, "sampled_around": how})
    api.export(made, format_name, out, provenance=known, options=chosen)
    click.echo(f"{len(made)} new images as {format_name}: {out}")
