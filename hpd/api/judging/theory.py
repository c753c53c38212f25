"""Experiments on tasks whose answer is known."""

from __future__ import annotations

from pathlib import Path

from hpd.artifacts import check_free
from hpd.artifacts.places import writing_to
from hpd.boundary import public
from hpd.disk.files import write_bytes, write_json
from hpd.given import parse_options
from hpd.theory import MultiIndexResult, MultiIndexSettings, measure
from hpd.theory.multi_index import Report
from hpd.theory.pictures import pictures
from hpd.theory.tables import as_csv, markdown

_AGAIN = "Mend that, and start again."


@public
def multi_index(
    *overrides: str,
    out: str | Path | None = None,
    seed: int = 0,
    report: Report = lambda name, done, total: None,
) -> MultiIndexResult:
    """Distil tasks of which a few directions matter, and measure what the points hold of them.

    A reconstruction; see `hpd.theory.multi_index`.

    Args:
        overrides: ``"examples=5000"``, ...: sizes, see `hpd.theory.MultiIndexSettings`.
        out: folder for `multi_index.md`, `.json` and `.csv` and three pictures; None writes
            nothing.
        seed: root of all randomness.
        report: hears of each task that is done.

    Raises:
        ConfigError: for a wrong override.
        RunError: if `out` holds something, or cannot be written to.
    """
    settings = MultiIndexSettings.read(parse_options(overrides))
    folder = None if out is None else Path(out).expanduser()
    if folder is not None:
        check_free(folder)
        with writing_to(folder, _AGAIN):
            folder.mkdir(parents=True, exist_ok=True)
    result = measure(settings, seed, report)
    if folder is not None:
        with writing_to(folder, _AGAIN):
            for name, content in pictures(result).items():
                write_bytes(folder / name, content)
            write_bytes(folder / "multi_index.md", markdown(result).encode())
            write_bytes(folder / "multi_index.csv", as_csv(result.measured).encode())
            write_json(folder / "multi_index.json", result.as_json())
    return result
