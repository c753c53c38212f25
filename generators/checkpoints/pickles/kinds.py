"""What a file is, by its first bytes: which reader takes it, or what it is instead."""

from __future__ import annotations

import re
import string
from typing import Literal

from generators.checkpoints.pickles.nodes import shown
from generators.checkpoints.pickles.source import ByteSource
from hpd.errors import GeneratorError

Kind = Literal["zip", "torch legacy", "pickle", "safetensors"]

ZIP_START, LEGACY_START = b"PK\x03\x04", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
EXPECTED = "a StyleGAN pickle, a torch file or safetensors"
_HEAD_BYTES = 512
_MAX_HEADER_BYTES = 100 * 2**20
_TAR_MAGIC = slice(257, 262)

_UNPACK = "Unpack it, and give the checkpoint inside."
_OTHER_FRAMEWORK = "hpd reads checkpoints of PyTorch."
_PICTURE = "Give the generator's own file."
AGAIN = "Download it anew, and compare its size with that at its source."
# the first bytes of what people have in the place of a checkpoint: what it is, what to do
_STRANGERS = {
    b"\x1f\x8b": ("a gzip archive", _UNPACK),
    b"BZh": ("a bzip2 archive", _UNPACK),
    b"\xfd7zXZ\x00": ("an xz archive", _UNPACK),
    b"(\xb5/\xfd": ("a Zstandard archive", _UNPACK),
    b"7z\xbc\xaf\x27\x1c": ("a 7-Zip archive", _UNPACK),
    b"Rar!": ("a RAR archive", _UNPACK),
    b"PK\x05\x06": ("a zip archive of no files", AGAIN),
    b"\x89HDF": ("an HDF5 file, as Keras writes them", _OTHER_FRAMEWORK),
    b"GGUF": ("a GGUF file of a language model", _OTHER_FRAMEWORK),
    b"\x93NUMPY": ("a single NumPy array", "Save the whole state dict with `torch.save`."),
    b"\x89PNG": ("a PNG picture", _PICTURE),
    b"\xff\xd8\xff": ("a JPEG picture", _PICTURE),
    b"%PDF": ("a PDF document", _PICTURE),
}


def kind_of(source: ByteSource) -> Kind:
    """Return which reader takes a file; the source is back at its start afterwards.

    Raises:
        GeneratorError: if none does, saying what the file is and what to do.
    """
    head = source.read_at(source.start, min(_HEAD_BYTES, source.size))
    source.read_at(source.start, 0)
    if head.startswith(ZIP_START):
        return "zip"
    if head.startswith(LEGACY_START):
        return "torch legacy"
    if len(head) > 1 and head[0] == 0x80 and 2 <= head[1] <= 5:
        return "pickle"
    if _is_safetensors(head, source.size):
        return "safetensors"
    what, fix = _stranger(head, source.size)
    raise GeneratorError("not a checkpoint", got=what, expected=EXPECTED, fix=fix)


def _is_safetensors(head: bytes, size: int) -> bool:
    length = int.from_bytes(head[:8], "little")
    return 2 <= length <= min(size - 8, _MAX_HEADER_BYTES) and head[8:9] == b"{"


def _stranger(head: bytes, size: int) -> tuple[str, str]:
    """Say what a file is that no reader takes, and what to do."""
    if not size:
        return "an empty file", AGAIN
    for start, found in _STRANGERS.items():
        if head.startswith(start):
            return found
    if head[_TAR_MAGIC] == b"ustar":
        return "a tar archive", _UNPACK
    if not head.strip(b"\0"):
        return "a file that starts with nothing but zeros", AGAIN
    if head[8:9] == b"{" and head[9:10] in (b'"', b"}"):
        return "a truncated safetensors file", AGAIN
    return _text(head) or (f"a file that starts with {head[:16]!r}", "")


def _text(head: bytes) -> tuple[str, str] | None:
    """Say what a text is; None for what is no text."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if re.match(rb"<!doctype html|<html|<\?xml|<head|<!--", start, re.IGNORECASE):
        return "a web page", "Download the file itself: its page may ask for a confirmation first."
    if start.startswith(b"version https://git-lfs"):
        stated = re.search(rb"^size (\d{1,18})$", start, re.MULTILINE)
        of = f" of {int(stated[1]):,} bytes" if stated else ""
        return f"a pointer of Git LFS to a file{of}", "Fetch the file itself with `git lfs pull`."
    text = start[:40].decode("ascii", "replace")
    if text and all(c in string.printable for c in text):
        return f"a text that starts with {shown(text)!r}", ""
    return None
