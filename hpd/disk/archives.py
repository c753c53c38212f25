"""Many files in one: a zip archive without compression, the same bytes for the same content.

Any zip program opens what is written here. Read is only what could have been written here: every
byte of a header has one value that it may have, so nothing in an archive from elsewhere is a link,
lies outside, is there twice, or is larger than the file that it came in.

Source: PKWARE, APPNOTE.TXT - .ZIP File Format Specification, 6.3.10, sections 4.3 and 4.5.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from typing_extensions import Self

from hpd.disk.bundles import LONGEST_NAME, MOST_FILES, check_names

MAGIC = b"PK\x03\x04"
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_END = struct.Struct("<4s4H2IH")
_TWO_SIZES = struct.Struct("<2H2Q")
# of a member: names in UTF-8, no compression, midnight of 1 January 1980, an ordinary file
_UTF8, _STORED, _TIME, _DATE, _MODE = 0x800, 0, 0, 0x21, 0o100644 << 16
_PLAIN_VERSION, _LARGE_VERSION, _UNIX = 20, 45, 3 << 8
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF
_BLOCK_BYTES = 2**20


@dataclass(frozen=True)
class _Member:
    """A file in an archive: where its header begins, and what that says."""

    name: bytes
    size: int
    crc: int
    offset: int

    @property
    def header(self) -> bytes:
        """What stands before its content."""
        large = self.size >= _FULL32
        extra = _TWO_SIZES.pack(1, 16, self.size, self.size) if large else b""
        size = _FULL32 if large else self.size
        version = _LARGE_VERSION if large else _PLAIN_VERSION
        return (
            _LOCAL.pack(
                MAGIC, version, _UTF8, _STORED, _TIME, _DATE, self.crc, size, size,
                len(self.name), len(extra),
            )
            + self.name + extra
        )  # fmt: skip

    @property
    def listed(self) -> bytes:
        """What the list at the end of an archive says of it."""
        wide = ([self.size] * 2 if self.size >= _FULL32 else []) + (
            [self.offset] if self.offset >= _FULL32 else []
        )
        extra = struct.pack(f"<2H{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
        version = _LARGE_VERSION if wide else _PLAIN_VERSION
        size, offset = min(self.size, _FULL32), min(self.offset, _FULL32)
        return (
            _CENTRAL.pack(
                b"PK\x01\x02", _UNIX | version, version, _UTF8, _STORED, _TIME, _DATE, self.crc,
                size, size, len(self.name), len(extra), 0, 0, 0, _MODE, offset,
            )
            + self.name + extra
        )  # fmt: skip

    @property
    def start(self) -> int:
        """Where its content begins."""
        return self.offset + len(self.header)


def _tail(members: Sequence[_Member], start: int) -> bytes:
    """Return what stands at the end of an archive, behind the content of its last member."""
    listed = b"".join(member.listed for member in members)
    count, size = len(members), len(listed)
    end64 = b""
    if count >= _FULL16 or size >= _FULL32 or start >= _FULL32:
        end64 = _END64.pack(
            b"PK\x06\x06", _END64.size - 12, _UNIX | _LARGE_VERSION, _LARGE_VERSION, 0, 0,
            count, count, size, start,
        ) + _LOCATOR.pack(b"PK\x06\x07", 0, start + size, 1)  # fmt: skip
    few, short, near = min(count, _FULL16), min(size, _FULL32), min(start, _FULL32)
    return listed + end64 + _END.pack(b"PK\x05\x06", 0, 0, few, few, short, near, 0)


class ArchiveWriter:
    """Writes members one after another.

    Args:
        file: an empty file, opened for writing; where one goes back in it, what is written there
            replaces what was.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._members: list[_Member] = []

    def add(self, name: str, content: Path | bytes) -> str:
        """Write a member, and return its SHA-256."""
        blocks = iter([content]) if isinstance(content, bytes) else _blocks_of(content)
        encoded, offset = name.encode(), self._file.tell()
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        self._file.write(_Member(encoded, size, 0, offset).header)
        digest, crc, written = hashlib.sha256(), 0, 0
        for block in blocks:
            digest.update(block)
            crc = zlib.crc32(block, crc)
            written += self._file.write(block)
        if written != size:
            raise OSError(f"{name} changed while it was read")
        member = _Member(encoded, size, crc, offset)
        self._file.seek(offset)
        self._file.write(member.header)
        self._file.seek(0, os.SEEK_END)
        self._members.append(member)
        return digest.hexdigest()

    def close(self) -> None:
        """Write the list of the members.

        Raises:
            ValueError: if nobody could read it again; see `hpd.disk.bundles.check_names`.
        """
        check_names(member.name.decode() for member in self._members)
        self._file.write(_tail(self._members, self._file.tell()))


class Archive(AbstractContextManager["Archive"]):
    """An archive that `ArchiveWriter` wrote, opened for reading.

    Args:
        path: the file.

    Raises:
        ValueError: if it is another kind of file, damaged, cut short, or hostile.
        OSError: if it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._size = path.stat().st_size
        self._file = path.open("rb")
        try:
            self._members = {member.name.decode(): member for member in self._walk()}
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    @property
    def names(self) -> list[str]:
        """Of the members, in their order; safe to be written to any folder."""
        return list(self._members)

    def size(self, name: str) -> int:
        """Return how many bytes a member has."""
        return self._members[name].size

    def blocks(self, name: str) -> Iterator[bytes]:
        """Yield the content of a member, part by part.

        Raises:
            ValueError: after the last part, if the checksum in its header is another.
        """
        member, crc = self._members[name], 0
        for start in range(0, member.size, _BLOCK_BYTES):
            self._file.seek(member.start + start)
            block = self._file.read(min(_BLOCK_BYTES, member.size - start))
            crc = zlib.crc32(block, crc)
            yield block
        if crc != member.crc:
            raise ValueError(f"{name} is not as it was packed")

    def read(self, name: str, most_bytes: int) -> bytes:
        """Return the content of a member.

        Raises:
            ValueError: if it is larger than `most_bytes`, or was changed.
        """
        if self.size(name) > most_bytes:
            raise ValueError(f"{name} is too large: {self.size(name):,} bytes")
        return b"".join(self.blocks(name))

    def digest(self, name: str) -> str:
        """Return the SHA-256 of a member.

        Raises:
            ValueError: if it was changed.
        """
        digest = hashlib.sha256()
        for block in self.blocks(name):
            digest.update(block)
        return digest.hexdigest()

    def _walk(self) -> list[_Member]:
        """Return the members, after every byte between their contents was looked at."""
        found: list[_Member] = []
        position = 0
        while (member := self._member_at(position)) is not None:
            found.append(member)
            position = member.start + member.size
            if position > self._size:
                raise ValueError("it is cut short")
            if len(found) > MOST_FILES:
                raise ValueError(f"more than {MOST_FILES:,} members")
        check_names(member.name.decode() for member in found)
        wanted = _tail(found, position)
        self._file.seek(position)
        got = self._file.read(len(wanted) + 1)
        if got != wanted:
            short = len(got) < len(wanted) and wanted.startswith(got)
            what = "it is cut short" if short else "its list of members is not that of its members"
            raise ValueError(what)
        return found

    def _member_at(self, position: int) -> _Member | None:
        """Return the member whose header stands somewhere; None where the list begins."""
        self._file.seek(position)
        head = self._file.read(_LOCAL.size)
        if not head.startswith(MAGIC):
            if not position:
                raise ValueError("it is no archive")
            return None
        if len(head) < _LOCAL.size:
            raise ValueError("it is cut short")
        fields = _LOCAL.unpack(head)
        crc, size, length, extra = fields[6], fields[8], fields[9], fields[10]
        if fields[3] != _STORED or fields[2] & 1:
            raise ValueError("a member is compressed or encrypted")
        if length > LONGEST_NAME or extra > _TWO_SIZES.size:
            raise ValueError("a header is not as hpd writes it")
        rest = self._file.read(length + extra)
        if len(rest) < length + extra:
            raise ValueError("it is cut short")
        if extra == _TWO_SIZES.size:
            size = _TWO_SIZES.unpack(rest[length:])[3]
        try:
            rest[:length].decode()
        except UnicodeDecodeError:
            raise ValueError("the name of a member is no text") from None
        member = _Member(rest[:length], size, crc, position)
        if member.header != head + rest:
            raise ValueError("a header is not as hpd writes it")
        return member


def _blocks_of(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            yield block


def is_archive(path: Path) -> bool:
    """Return whether a path is a file that begins as a zip archive does."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except (OSError, ValueError):
        return False
