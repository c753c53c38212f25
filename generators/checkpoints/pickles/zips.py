"""Zip files as torch writes them: one pickle, and the bytes of its tensors beside it."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import PurePosixPath
from typing import BinaryIO, cast

from generators.checkpoints.pickles.kinds import AGAIN
from generators.checkpoints.pickles.nodes import shown
from generators.checkpoints.pickles.source import ByteSource
from hpd.errors import GeneratorError

_PICKLE = "data.pkl"
_MAX_PICKLE_BYTES = 256 * 2**20
_CHUNK_BYTES = 2**20
# zipfile reads its list of files at once: some 100,000 of them
_MAX_READ_BYTES = 8 * 2**20
_SHOWN_FILES, _SHOWN_CHARACTERS = 3, 40
# what zipfile raises for damaged, encrypted or exotic archives
_DAMAGES = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, LookupError,
    RuntimeError,
)  # fmt: skip


class TorchZip:
    """A zip file written by ``torch.save``.

    Args:
        source: the file, or a part of it.

    Raises:
        GeneratorError: if it is damaged, or another kind of zip file.
    """

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        try:
            self._archive = zipfile.ZipFile(cast(BinaryIO, _SeekableWindow(source)))
        except _DAMAGES as error:
            raise _damaged(error) from None
        self._infos = {info.filename: info for info in self._archive.infolist()}
        found = [n for n in self._infos if PurePosixPath(n).name == _PICKLE]
        if len(found) != 1:
            raise self._stranger()
        self._pickle, self._folder = found[0], found[0].removesuffix(_PICKLE)

    def pickle(self) -> ByteSource:
        """Return the pickle.

        Raises:
            GeneratorError: if it is damaged, compressed or too large.
        """
        size = self._infos[self._pickle].file_size
        if size > _MAX_PICKLE_BYTES:
            raise GeneratorError(f"the {_PICKLE} is too large", got=f"{size} bytes")
        return ByteSource(io.BytesIO(self._read(self._pickle)), 0, size)

    def storage(self, key: str, size: int) -> bytearray:
        """Return the `size` bytes of a storage.

        Raises:
            GeneratorError: if the file has no such storage, or one of another size.
        """
        order = f"{self._folder}byteorder"
        if order in self._infos and self._infos[order].file_size == len("big"):
            raise GeneratorError("the tensors were written by a big-endian machine")
        name = f"{self._folder}data/{key}"
        info = self._infos.get(name)
        if info is None or info.file_size != size:
            raise GeneratorError(
                f"the storage {shown(key)!r} is damaged or missing",
                got="none" if info is None else f"{info.file_size} bytes",
                expected=f"{size} bytes",
            )
        return self._read(name)

    def _read(self, name: str) -> bytearray:
        """Return a file of the archive, whose checksum is compared on the way."""
        info = self._infos[name]
        # torch never compresses, so a small file cannot become a large one
        if info.compress_type or not 0 <= info.file_size <= self._source.size:
            raise GeneratorError("a file in the zip is compressed or too large", got=shown(name))
        content, position = bytearray(info.file_size), 0
        try:
            with self._archive.open(info) as file:
                while chunk := file.read(_CHUNK_BYTES):
                    content[position : position + len(chunk)] = chunk
                    position += len(chunk)
        except _DAMAGES as error:
            raise _damaged(error) from None
        if position != info.file_size:
            raise GeneratorError("a file in the zip is damaged", got=shown(name))
        return content

    def _stranger(self) -> GeneratorError:
        """Return the error that says what the zip file is instead."""
        names = list(self._infos)
        if names and all(name.endswith(".npy") for name in names):
            what, fix = "NumPy's .npz", "Save the state dict with `torch.save`."
        else:
            what, fix = "a zip archive", "Unpack it, and give the checkpoint inside."
        some = [shown(PurePosixPath(n).name[:_SHOWN_CHARACTERS]) for n in names[:_SHOWN_FILES]]
        more = ", ..." if len(names) > _SHOWN_FILES else ""
        return GeneratorError(
            "a zip file that torch did not write",
            got=f"{what} of {len(names)} files: {', '.join(some)}{more}",
            expected=f"one {_PICKLE} in it", fix=fix,
        )  # fmt: skip


def _damaged(error: Exception) -> GeneratorError:
    got = shown(str(error) or type(error).__name__)
    return GeneratorError("the zip file is truncated or damaged", got=got, fix=AGAIN)


class _SeekableWindow(io.RawIOBase):
    """A `ByteSource` as the file that `zipfile` wants."""

    def __init__(self, source: ByteSource) -> None:
        self._source, self._position = source, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = 0) -> int:
        base = (0, self._position, self._source.size)[whence]
        if base + offset < 0:
            raise OSError("before the start")
        self._position = base + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._source.size - self._position)
        count = left if size is None or size < 0 else min(size, left)
        if count > _MAX_READ_BYTES:
            raise OSError("its list of files is out of all proportion")
        data = self._source.read_at(self._source.start + self._position, count)
        self._position += count
        return data
