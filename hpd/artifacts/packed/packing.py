"""A run in one file: a zip archive of what it takes to repeat and to judge it, with checksums."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from shlex import quote

from hpd.artifacts.places import drafted
from hpd.disk.archives import Archive, ArchiveWriter
from hpd.disk.bundles import MOST_SUMS_BYTES, SUMS, as_sums, read_sums
from hpd.disk.seals import digest_file
from hpd.errors import RunError

WHOLE, CHANGED, MISSING, UNLISTED = "whole", "changed", "missing", "not in the list"
"""What may be said of a file."""
_AGAIN = "Fetch it again; what another program packed is read as a folder, once it is unpacked."
_NOT_NPZ = "hpd reads runs, and exports as safetensors; `hpd audit` reads others."


def write_pack(out: Path, files: Mapping[str, Path | bytes], known: Mapping[str, str]) -> str:
    """Write files to one, with their checksums as its last member; whole or not at all.

    Args:
        out: where nothing is.
        files: by name.
        known: checksums that they should have, of those of which they are known.

    Returns:
        the SHA-256 of the file.

    Raises:
        RunError: if a file is not as it should be, or is called as none should be.
    """
    with drafted(out) as draft:
        with draft.open("xb") as file:
            writer = ArchiveWriter(file)
            digests = {name: writer.add(name, content) for name, content in files.items()}
            if wrong := [
                name for name, digest in digests.items() if known.get(name, digest) != digest
            ]:
                raise RunError(
                    "the run is not as it was written", got=f"another {wrong[0]}",
                    fix="`hpd distill RUN --resume` writes it again.",
                )  # fmt: skip
            writer.add(SUMS, as_sums(digests))
            try:
                writer.close()
            except ValueError as error:
                raise RunError(f"cannot write {out}", got=error) from None
            file.flush()
            os.fsync(file.fileno())
        return digest_file(draft)


@contextmanager
def opened_pack(path: Path) -> Iterator[Archive]:
    """Open a packed file.

    Raises:
        RunError: if it is none, or cannot be read, also within the block.
    """
    try:
        with Archive(path) as archive:
            yield archive
    except ValueError as error:
        fix = _NOT_NPZ if path.suffix == ".npz" else _AGAIN
        raise RunError(f"{path} is no packed run, or damaged", got=error, fix=fix) from None
    except OSError as error:
        raise RunError(f"cannot read {path}", got=error.strerror or error) from None


def unpack(path: Path, folder: Path) -> None:
    """Write the members of a packed file to an empty folder, where each is as it was packed.

    Raises:
        RunError: if one is not, or the file is no packed run.
    """
    with opened_pack(path) as archive:
        states = pack_states(archive)
        if wrong := [name for name, state in states.items() if state != WHOLE]:
            raise ValueError(f"{wrong[0]} is {states[wrong[0]]}")
        for name in archive.names:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                for block in archive.blocks(name):
                    file.write(block)


def pack_states(archive: Archive) -> dict[str, str]:
    """Return of each member of a packed file, and each that should be one, what is true of it.

    Raises:
        ValueError: if there are no checksums.
    """
    if SUMS not in archive.names:
        raise ValueError(f"there is no {SUMS}")
    sums = read_sums(archive.read(SUMS, MOST_SUMS_BYTES))
    states = {name: _state(archive, name, sums.get(name)) for name in archive.names if name != SUMS}
    return states | {name: MISSING for name in sums if name not in states}


def folder_states(folder: Path) -> dict[str, str]:
    """Return the same of the files in a folder that was unpacked or pulled.

    Files that are not listed, such as those of a later evaluation, are nobody's business.

    Raises:
        RunError: if there are no checksums.
    """
    try:
        with (folder / SUMS).open("rb") as file:
            sums = read_sums(file.read(MOST_SUMS_BYTES + 1))
    except FileNotFoundError:
        packed = quote(str(folder))
        fix = f"`hpd pack {packed}` makes a file that has." if folder.is_dir() else ""
        problem = f"{folder} has no checksums" if folder.is_dir() else f"there is no {folder}"
        raise RunError(
            problem, expected=f"a packed file, or a folder with {SUMS}", fix=fix
        ) from None
    except (OSError, ValueError) as error:
        raise RunError(
            f"{folder} has no checksums that can be read", got=error,
            expected=f"a packed file, or a folder with {SUMS}", fix="`hpd pack RUN` writes them.",
        ) from None  # fmt: skip
    found = {}
    for name, wanted in sums.items():
        path = folder / name
        found[name] = MISSING
        if path.is_file():
            found[name] = WHOLE if digest_file(path) == wanted else CHANGED
    return found


def _state(archive: Archive, name: str, wanted: str | None) -> str:
    if wanted is None:
        return UNLISTED
    try:
        return WHOLE if archive.digest(name) == wanted else CHANGED
    except ValueError:
        return CHANGED
