"""Files that are handed on together: what they may be called, and their checksums.

The checksums lie beside the files as `SHA256SUMS`, which `sha256sum -c` reads as well.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

SUMS = "SHA256SUMS"
MOST_FILES = 20_000
MOST_SUMS_BYTES = 8 * 2**20
LONGEST_NAME = 1000
"""Of a name with its folders, in bytes."""
_LONGEST_PART, _MOST_PARTS = 255, 8
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def check_name(name: str) -> None:
    r"""Check that a name stays inside of the folder that it is written to, on any system.

    Raises:
        ValueError: if it leads out of it, is hidden, is too long, or has characters that some
            system gives another meaning.

    >>> check_name("images/cat/000.png")
    >>> check_name("../x")
    Traceback (most recent call last):
    ValueError: the name '../x' leads out of its folder, or is hidden
    """
    parts = name.split("/")
    if not all(parts) or any(part.startswith(".") for part in parts):
        raise ValueError(f"the name {name[:100]!r} leads out of its folder, or is hidden")
    odd = not name.isprintable() or any(c in name for c in '\\:*?"<>|')
    if odd or any(part[-1] in " ." for part in parts):
        raise ValueError(f"the name {name[:100]!r} has characters that no file should have")
    long = len(name.encode("utf-8", "replace")) > LONGEST_NAME or len(parts) > _MOST_PARTS
    if long or any(len(part.encode("utf-8", "replace")) > _LONGEST_PART for part in parts):
        raise ValueError(f"the name {name[:50]!r}... is too long, or too deep")


def check_names(names: Iterable[str]) -> None:
    """Check that files of these names can lie beside each other, on any system.

    Raises:
        ValueError: if one is none, is there twice but for its case, or is the folder of another,
            or if they are too many.
    """
    seen: set[str] = set()
    folders: set[str] = set()
    for name in names:
        check_name(name)
        plain = unicodedata.normalize("NFC", name).casefold()
        if plain in seen:
            raise ValueError(f"the name {name[:100]!r} is there twice")
        seen.add(plain)
        folders.update(str(above) for above in PurePosixPath(plain).parents)
        if len(seen) > MOST_FILES:
            raise ValueError(f"more than {MOST_FILES:,} files")
    if both := sorted(seen & folders):
        raise ValueError(f"{both[0][:100]!r} is a file and a folder")


def as_sums(digests: Mapping[str, str]) -> bytes:
    """Return checksums as `SHA256SUMS` holds them, in the order of the names.

    >>> as_sums({"a": "0" * 64}).decode()[-4:]
    '  a\\n'
    """
    return "".join(f"{digests[name]}  {name}\n" for name in sorted(digests)).encode()


def read_sums(content: bytes) -> dict[str, str]:
    """Return the checksums of `SHA256SUMS` by name.

    Raises:
        ValueError: if it is none, or a name in it is none; see `check_names`.
    """
    if len(content) > MOST_SUMS_BYTES:
        raise ValueError(f"{SUMS} is too large: {len(content):,} bytes")
    try:
        lines = content.decode().split("\n")
    except UnicodeDecodeError:
        raise ValueError(f"{SUMS} is no text") from None
    found = [_LINE.fullmatch(line) for line in lines if line]
    named = [(match[2], match[1]) for match in found if match is not None]
    if len(named) < len(found) or not named:
        raise ValueError(f"{SUMS} is no list of checksums")
    check_names(name for name, _ in named)
    return dict(named)
