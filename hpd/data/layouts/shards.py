"""Tar files of pictures and labels, as WebDataset has them: an index, without unpacking."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from hpd.data.layouts.scanning import is_passed_over, is_picture_suffix, shown, unreadable
from hpd.data.listing import FileEntry
from hpd.data.pictures.opening import open_picture
from hpd.disk.files import parse_json
from hpd.errors import DataError

_KEYS = ("label", "cls", "class")
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MOST_SHARDS = 100_000


class TarEntry(NamedTuple):
    """A picture that is a member of a tar file.

    Args:
        file: the tar file.
        member: its name in it.
        offset: where its bytes begin.
        size: how many there are.
    """

    file: FileEntry
    member: str
    offset: int
    size: int

    @property
    def name(self) -> str:
        """File and member."""
        return f"{self.file.name}:{self.member}"

    @property
    def stamp(self) -> str:
        """That of the file, and the place in it."""
        return f"{self.file.stamp}\0{self.offset}\0{self.size}"

    def open(self) -> Image.Image:
        """Read the member and open it; see `hpd.data.listing.Entry.open`."""
        with Path(self.file.name).open("rb") as shard:
            shard.seek(self.offset)
            return open_picture(io.BytesIO(shard.read(self.size)))


@dataclass
class Sample:
    """What a shard has of one key.

    Args:
        picture: its picture.
        label: an index, or a name.
        class_name: the name of the class, where it is said beside an index.
    """

    picture: TarEntry | None = None
    label: int | str | None = None
    class_name: str | None = None


def expanded(path: Path) -> list[Path]:
    """Return the files of a pattern with numbers in braces, ``data-{000..009}.tar``.

    Raises:
        DataError: if the pattern cannot be read.

    >>> [str(path) for path in expanded(Path("a-{08..10}.tar"))]
    ['a-08.tar', 'a-09.tar', 'a-10.tar']
    """
    text = str(path)
    match = _BRACES.search(text)
    if match is None:
        if "{" in text and not path.exists():
            raise DataError(
                f"cannot read the pattern {shown(text)}",
                expected="numbers: data-{000000..000009}.tar",
            )
        return [path]
    first, last = (int(number) for number in match.groups())
    if not 0 <= last - first < _MOST_SHARDS:
        raise DataError(f"cannot read the pattern {shown(text)}", got=f"{first} to {last}")
    width = len(match[1])
    return [
        shard
        for number in range(first, last + 1)
        for shard in expanded(
            Path(f"{text[: match.start()]}{number:0{width}}{text[match.end() :]}")
        )
    ]


def read_shard(path: Path) -> list[Sample]:
    """Return the samples of a tar file: pictures that have a label.

    Files with the same name up to the first dot are a sample. What is neither picture nor label is
    passed over.

    Raises:
        DataError: if the file is missing, broken or compressed, a member is a link, or a picture
            has no label.
    """
    samples: dict[str, Sample] = {}
    try:
        file = FileEntry.of(path)
        with tarfile.open(path, "r:") as shard:
            for member in shard:
                _add(samples, shard, member, file)
    except FileNotFoundError as error:
        raise unreadable(path, error) from None
    except (OSError, tarfile.TarError, EOFError) as error:
        fix = "Shards are read without unpacking: decompress it." if _is_packed(path) else ""
        raise DataError(f"broken or compressed shard: {shown(path)}", got=error, fix=fix) from None
    pictured = {key: sample for key, sample in samples.items() if sample.picture is not None}
    bare = [key for key, sample in pictured.items() if sample.label is None]
    if bare:
        raise DataError(
            f"{len(bare)} pictures of {shown(path)} have no label",
            got=f"none beside {bare[0]!r}",
            expected=f"{bare[0]}.cls, or {bare[0]}.json with the key 'label'",
        )
    return list(pictured.values())


def _add(
    samples: dict[str, Sample], shard: tarfile.TarFile, member: tarfile.TarInfo, file: FileEntry
) -> None:
    """Add a member of a tar file to the samples."""
    folder, _, base = member.name.rpartition("/")
    if member.isdir() or is_passed_over(base):
        return
    stem, _, ending = base.partition(".")
    suffix = f".{ending.rpartition('.')[2].lower()}"
    if suffix not in (".cls", ".json") and not is_picture_suffix(suffix):
        return
    if not member.isreg() or member.issparse():
        raise DataError(
            f"{shown(file.name)} has a member that is no plain file",
            got=repr(member.name),
            fix="Write the shard anew, without links and holes.",
        )
    key = f"{folder}/{stem}" if folder else stem
    sample = samples.setdefault(key, Sample())
    if is_picture_suffix(suffix):
        if sample.picture is not None:
            raise DataError(
                f"{shown(file.name)} has two pictures of one key",
                got=f"{sample.picture.member!r} and {member.name!r}",
            )
        sample.picture = TarEntry(file, member.name, member.offset_data, member.size)
        return
    content = shard.extractfile(member)
    text = content.read() if content else b""
    _label(sample, suffix, text, f"{file.name}:{member.name}")


def _label(sample: Sample, suffix: str, content: bytes, where: str) -> None:
    """Note what a member says of the label; what `.cls` says goes first."""
    try:
        text = content.decode("utf-8-sig").strip()
        if suffix == ".cls":
            sample.label = _as_label(text)
            return
        about = parse_json(text)
        if not isinstance(about, Mapping):
            return
        name = about.get("class_name")
        sample.class_name = name if isinstance(name, str) else None
        given = next((about[key] for key in _KEYS if key in about), None)
        if sample.label is None and isinstance(given, (int, str)) and not isinstance(given, bool):
            sample.label = _as_label(given)
    # numbers of thousands of digits are ValueErrors, brackets as deep are RecursionErrors
    except (ValueError, RecursionError) as error:
        raise DataError(f"cannot read {shown(where)}", got=error) from None


def _as_label(value: int | str) -> int | str | None:
    text = str(value).strip()
    return int(text) if re.fullmatch(r"-?\d+", text, re.ASCII) else text or None


def _is_packed(path: Path) -> bool:
    """Return whether a file begins as gzip, bzip2, xz or zstd does."""
    try:
        with path.open("rb") as file:
            head = file.read(6)
    except OSError:
        return False
    return head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"))
