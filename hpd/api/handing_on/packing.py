"""A run in one file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hpd.api.runs import Run, folder_of, opened
from hpd.artifacts.packed.contents import contents_of
from hpd.artifacts.packed.packing import write_pack
from hpd.artifacts.places import check_can_be_made
from hpd.boundary import public
from hpd.disk.locks import held
from hpd.errors import RunError

SUFFIX = ".hpd"


@dataclass(frozen=True)
class Packed:
    """A packed run.

    Args:
        path: the file.
        sha256: of it: what to cite it by.
        size_bytes: of it.
    """

    path: Path
    sha256: str
    size_bytes: int


@public
def pack(run: Run | str | Path, out: str | Path | None = None, *, latents: bool = False) -> Packed:
    """Write all that it takes to repeat and to judge a run to one file, whole or not at all.

    The file is a zip archive without compression, which any zip program opens: the set, its codes
    where it is stored in few bits, pictures, configuration, manifest with the versions and the
    hashes of data and generator, evaluations, curves and cost, a card (`README.md`), and the
    SHA-256 of each of them (`SHA256SUMS`). The same run gives the same bytes.

    Checkpoints and the report, which may hold real images, are left out. The first images of a
    source that starts from real ones are real, and are in it: the evaluation rests on them.
    Wherever a run is read, the file stands for its folder.

    Args:
        run: a finished run with a folder, or its folder.
        out: the file; None: named like the folder, beside it, with ``.hpd`` at its end.
        latents: also what each stage ended with, which `sample` and `prune` need.

    Raises:
        RunError: if there is no finished run, it is not as it was written, another process works in
            its folder, or there is a file already.
    """
    run = opened(run)
    folder = folder_of(run)
    target = _beside(run) if out is None else Path(out).expanduser()
    if target.exists() or not target.name:
        raise RunError(f"{target} is already there", fix="Choose another file with --out.")
    check_can_be_made(target)
    with held(folder.path, "pack"):
        contents = contents_of(folder, latents=latents)
        sha256 = write_pack(target, contents.files, contents.known)
    return Packed(target, sha256, target.stat().st_size)


def _beside(run: Run) -> Path:
    """Return the file that a run is packed to where none is named."""
    if run.home is None:
        raise RunError(f"{run.origin} is packed already", fix="Name the file: --out FILE.")
    home = run.home.absolute()
    return home.with_name(home.name + SUFFIX)
