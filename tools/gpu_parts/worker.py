"""Runs one part in this process, and writes what it finds as it finds it.

python -m gpu_parts.worker MODULE:FUNCTION --device cpu --folder F --limit 60 --answer A.json
"""

from __future__ import annotations

import faulthandler
import importlib
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from gpu_parts.part import Place, Row, failure
from hpd.disk.files import write_json


def _rows(run: str, place: Place) -> Iterator[Row]:
    module, function = run.split(":")
    try:
        yield from getattr(importlib.import_module(module), function)(place)
    # whatever it is belongs into the answer
    except Exception as error:
        yield failure("the part itself", error)


def _peaks() -> dict[str, int]:
    """Return the most memory in use so far, of the process and of a GPU's tensors."""
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return {}
    from hpd.machine.memory import peak_bytes

    found = {"process_bytes": peak_bytes(torch.device("cpu")) or 0}
    if torch.cuda.is_initialized():
        found["gpu_bytes"] = peak_bytes(torch.device("cuda")) or 0
    return found


@click.command()
@click.argument("run")
@click.option("--device", required=True)
@click.option("--folder", type=click.Path(path_type=Path), required=True)
@click.option("--limit", type=float, required=True)
@click.option("--answer", type=click.Path(path_type=Path), required=True)
def main(run: str, device: str, folder: Path, limit: float, answer: Path) -> None:
    """Run a part."""
    faulthandler.enable()
    # where it hangs, said just before it is ended
    faulthandler.dump_traceback_later(max(0.8 * limit, limit - 3))
    started, rows = time.perf_counter(), []
    found: dict[str, Any] = {"rows": rows, "ended": False}
    for row in _rows(run, Place(device, folder, limit)):
        rows.append(asdict(row))
        found |= {"seconds": time.perf_counter() - started, "peak": _peaks()}
        write_json(answer, found)
    found |= {"seconds": time.perf_counter() - started, "peak": _peaks(), "ended": True}
    write_json(answer, found)


if __name__ == "__main__":
    main()
