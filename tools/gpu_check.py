"""Say in ten minutes what of hpd works on a GPU, how exactly and how fast.

    python tools/gpu_check.py --out runs/gpu-check

Each part runs in a process of its own with a limit of time, so that one that fails, crashes, hangs
or runs out of memory ends no other. What was found is kept in check.json in the folder, part by
part: started again, the check goes on with the parts that are missing, and --again repeats. The
page check.md has a verdict for each part and why: good, bad, skipped, or told where nothing is
asked of the figures. On a CPU sizes are tiny, and it is only seen that everything runs. Exit code 1
says that a part is bad.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
import torch
from commands import tool
from gpu_parts.page import page, table
from gpu_parts.parts import PARTS
from gpu_parts.running import Record, run_part

from hpd.errors import DeviceError

_LEAST_SECONDS = 5.0


def device_of(wanted: str) -> str:
    """Return the device to check; ``auto`` is a GPU where torch finds one.

    Raises:
        DeviceError: if a GPU is wanted, and torch finds none.
    """
    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise DeviceError("torch finds no GPU", got=torch.__version__, fix="Try --device cpu.")
    return ("cuda" if there else "cpu") if wanted == "auto" else wanted


def machine_of(device: str) -> dict[str, str]:
    """Return what figures depend on: those of two machines are not put together."""
    name = torch.cuda.get_device_properties(0).name if device == "cuda" else "CPU"
    return {"device": name, "torch": torch.__version__}


def environment_of(device: str, out: Path) -> dict[str, str]:
    """Return variables of the parts: on a GPU all is built anew, in a cache of the check's own."""
    return {"HPD_CACHE": str(out / "cache")} if device == "cuda" else {}


def check(record: Record, names: list[str], device: str, out: Path, end: float) -> None:
    """Run parts one after another, until the time is over."""
    for name in names:
        left = end - time.monotonic()
        if left < _LEAST_SECONDS:
            click.echo(f"{name:17} not started: the time is over")
            continue
        click.echo(f"{name:17} ...", nl=False)
        found = run_part(PARTS[name], device, out, left, environment_of(device, out))
        record.keep(name, found)
        (out / "check.md").write_text(page(record.machine, PARTS, record.parts), "utf-8")
        click.echo(f" {found['verdict']}, {found.get('seconds', 0):.1f} s")


@tool(__doc__)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=Path("runs/gpu-check"),
    show_default=True, help="Folder of check.json, of the page and of what is built.",
)  # fmt: skip
@click.option(
    "--device", type=click.Choice(["auto", "cuda", "cpu"]), default="auto", show_default=True
)
@click.option(
    "--parts", "chosen", default="", help=f"Only these, with commas between: {', '.join(PARTS)}."
)
@click.option("--minutes", type=click.FloatRange(0.05), default=10.0, show_default=True)
@click.option("--again", is_flag=True, help="Repeat parts that are done.")
def main(out: Path, device: str, chosen: str, minutes: float, again: bool) -> None:
    """Run the parts, write the page, print the table."""
    end = time.monotonic() + 60 * minutes
    names = chosen.replace(",", " ").split() or [*PARTS]
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        raise click.BadParameter(f"no part {unknown[0]!r}: {', '.join(PARTS)}")
    out, device = out.absolute(), device_of(device)
    out.mkdir(parents=True, exist_ok=True)
    record = Record.open(out / "check.json", machine_of(device))
    wanted = [name for name in names if again or not record.is_done(name)]
    check(record, wanted, device, out, end)
    click.echo(f"\n{table(PARTS, record.parts)}\n\n{out / 'check.md'}")
    _end(record.parts, names)


def _end(parts: dict[str, Any], names: list[str]) -> None:
    if any(parts[name]["verdict"] == "bad" for name in names if name in parts):
        raise click.exceptions.Exit(1)


if __name__ == "__main__":
    main()
