"""Damage at random: to bytes, to texts, to what JSON holds, to what a zip file holds.

Every function draws from the `random.Random` that it is given and from nothing else, so that the
same number makes the same input again.
"""

from __future__ import annotations

import io
import json
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

Random = random.Random

NUMBERS: tuple[int | float, ...] = (
    0, 1, -1, 2, 3, 7, 16, 255, 256, -2, 65_536, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63,
    -(2**63), 2**64, 10**30, 0.5, -0.5, 1e-8, 1e-320, 1e30, 1e308, -0.0,
    float("nan"), float("inf"), float("-inf"),
)  # fmt: skip
TEXTS = (
    "", " ", "\0", "a\nb", "a\r\nb", "\x1b[31mred", "\u2028", "\x85", "é", "\u202e", "\ud800", "🙂",
    "x" * 700, "x" * 5000, "..", "../..", ".", "/", "~", "~nobody/x", "%s%n", "{0}", "null", "nan",
    "-", "--help", "None", "True", "1e400", "0x10", "os.system", "__import__('os')", "a/b", "a\\b",
    "kind", "[", "{", "'", '"', "\ufeff", "\uff11", "\u017f", "\u0130",
)  # fmt: skip
_LENGTHS = (0, 1, 2, 0x7F, 0x80, 0xFE, 0xFF)
_TOKEN = re.compile(r"\s+|[\w.+-]+|[^\w\s]")


def number(rng: Random) -> int | float:
    """Return a number that is odd, or near zero."""
    return rng.choice(NUMBERS) if rng.random() < 0.8 else rng.randint(-10, 1000)


def text(rng: Random) -> str:
    """Return a text that few expect."""
    return rng.choice(TEXTS)


def damage_bytes(content: bytes, rng: Random, parts: Sequence[bytes] = ()) -> bytes:
    """Damage bytes in one to four ways.

    Args:
        content: the bytes.
        rng: decides how.
        parts: what may be put in, beside parts of `content` itself.
    """
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 4))):
        # what is left over may be nothing
        data = data or bytearray(b"\0")
        _damage_once(data, rng, parts)
    return bytes(data)


def _damage_once(data: bytearray, rng: Random, parts: Sequence[bytes]) -> None:
    place, kind = _place(data, rng), rng.randrange(10)
    stop = min(len(data), place + rng.choice((1, 2, 4, 8, 40, 400)))
    if kind == 0:
        data[place] ^= 1 << rng.randrange(8)
    elif kind == 1:
        data[place] = rng.randrange(256)
    elif kind == 2:
        data[place:stop] = bytes(rng.choice(_LENGTHS) for _ in range(place, stop))
    elif kind == 3:
        del data[place:stop]
    elif kind == 4:
        del data[place:]
    elif kind == 5:
        to = _place(data, rng)
        data[to:to] = data[place:stop]
    elif kind == 6:
        part = _number_bytes(rng)
        data[place : place + len(part)] = part
    elif kind == 7 and parts:
        other = rng.choice(parts)
        data[place : place + rng.choice((0, len(other)))] = other
    elif kind == 8:
        data[place:place] = rng.choice((b"\0", b"\n", b"\xff\xfe", b"\xef\xbb\xbf", b" " * 99))
    else:
        to = _place(data, rng)
        data[place], data[to] = data[to], data[place]


def _place(data: bytearray, rng: Random) -> int:
    """Return a place, often near the beginning, where headers are, or the end."""
    kind = rng.randrange(4)
    if kind == 0:
        return rng.randrange(min(len(data), 64))
    if kind == 1:
        return len(data) - 1 - rng.randrange(min(len(data), 64))
    return rng.randrange(len(data))


def _number_bytes(rng: Random) -> bytes:
    kind = rng.choice(("<B", "<H", ">H", "<I", ">I", "<Q", ">Q", "<f", "<d"))
    if kind[1] in "fd":
        value = rng.choice((float("nan"), float("inf"), -1.0, 0.0, 1e30))
        return struct.pack(kind, value)
    most = 256 ** struct.calcsize(kind) - 1
    return struct.pack(
        kind, rng.choice((0, 1, most, most // 2, most // 2 + 1, rng.randint(0, most)))
    )


def damage_text(content: str, rng: Random, words: Sequence[str] = ()) -> str:
    """Damage a text in one to four ways: its tokens, lines and characters.

    Args:
        content: the text.
        rng: decides how.
        words: what may stand in the place of a token.
    """
    for _ in range(rng.choice((1, 1, 2, 4))):
        tokens = _TOKEN.findall(content)
        content = _damage_tokens(tokens, rng, words) if tokens else text(rng)
    return content


def _damage_tokens(tokens: list[str], rng: Random, words: Sequence[str]) -> str:
    kind, place = rng.randrange(9), rng.randrange(len(tokens))
    if kind == 0:
        del tokens[place]
    elif kind == 1:
        tokens.insert(place, tokens[rng.randrange(len(tokens))])
    elif kind == 2:
        tokens[place] = str(number(rng))
    elif kind == 3:
        tokens[place] = text(rng)
    elif kind == 4 and words:
        tokens[place] = rng.choice(words)
    elif kind == 5:
        other = rng.randrange(len(tokens))
        tokens[place], tokens[other] = tokens[other], tokens[place]
    elif kind == 6:
        tokens.insert(place, rng.choice("\t\n\0\r:,-[]{}#&*!|>'\"%@`? "))
    elif kind == 7:
        lines = "".join(tokens).splitlines(keepends=True)
        line, to = rng.randrange(len(lines)), rng.randrange(len(lines) + 1)
        lines.insert(to, lines[line])
        return "".join(lines)
    else:
        del tokens[place : place + rng.randrange(1, 9)]
    return "".join(tokens)


def damage_value(value: Any, rng: Random) -> Any:
    """Damage one place of what JSON holds: another value, another key, one less, one nested."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        kind = rng.randrange(8)
        rest = {k: v for k, v in value.items() if k != key}
        if kind == 0:
            return rest
        if kind == 1:
            return {**rest, text(rng): value[key]}
        if kind == 2:
            return {**value, text(rng): odd(rng)}
        return {**value, key: damage_value(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.85:
        place, kind = rng.randrange(len(value)), rng.randrange(5)
        if kind == 0:
            return value[:place] + value[place + 1 :]
        if kind == 1:
            return [*value, value[place]]
        return [*value[:place], damage_value(value[place], rng), *value[place + 1 :]]
    return rng.choice((odd(rng), [value], {"kind": value}, str(value), None))


def odd(rng: Random, depth: int = 0) -> Any:
    """Return a value that JSON and YAML can hold, of any type."""
    kind = rng.randrange(9)
    if kind < 3:
        return number(rng)
    if kind < 6:
        return text(rng)
    if kind == 6:
        return rng.choice((None, True, False))
    if depth > 2 or rng.random() < 0.3:
        return rng.choice(([], {}))
    if kind == 7:
        return [odd(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {text(rng): odd(rng, depth + 1) for _ in range(rng.randrange(4))}


def damage_json(content: bytes, rng: Random) -> bytes:
    """Damage a JSON file: what it holds, or its text."""
    if rng.random() < 0.6:
        value = json.loads(content)
        for _ in range(rng.choice((1, 1, 2))):
            value = damage_value(value, rng)
        # NaN and lone surrogates are written as Python writes and reads them
        return json.dumps(value, indent=rng.choice((None, 2))).encode()
    if rng.random() < 0.1:
        return rng.choice((b"[" * 100_000, b'{"a":' * 50_000, b"9" * 5000, b'"' + b"\\u0000" * 999))
    if rng.random() < 0.5:
        return damage_text(content.decode(), rng).encode("utf-8", "surrogatepass")
    return damage_bytes(content, rng)


def damage_safetensors(content: bytes, rng: Random) -> bytes:
    """Damage a safetensors file: its header as JSON, the length of it, or any bytes."""
    if rng.random() < 0.4:
        return damage_bytes(content, rng)
    (length,) = struct.unpack("<Q", content[:8])
    header, body = json.loads(content[8 : 8 + length]), content[8 + length :]
    kind = rng.randrange(6)
    if kind == 0 and "about" in header.get("__metadata__", {}):
        about = damage_json(header["__metadata__"]["about"].encode(), rng)
        header["__metadata__"]["about"] = about.decode("utf-8", "replace")
    elif kind == 1:
        body = damage_bytes(body, rng)
    else:
        header = _damage_tensor_entry(header, rng) if kind < 4 else damage_value(header, rng)
    written = json.dumps(header).encode()
    said = len(written) if rng.random() < 0.9 else rng.choice((0, 1, 2**31, 2**40, 2**63))
    return struct.pack("<Q", said) + written + body


def _damage_tensor_entry(header: dict[str, Any], rng: Random) -> dict[str, Any]:
    """Change what a header says of one tensor, in ways that another tensor could have."""
    names = [name for name in header if name != "__metadata__"]
    if not names:
        return header
    name, changed = rng.choice(names), dict(header)
    entry, kind = dict(header[name]), rng.randrange(4)
    if kind == 0:
        entry["dtype"] = rng.choice(
            "BOOL U8 I8 F8_E5M2 F8_E4M3 I16 U16 F16 BF16 I32 U32 F32 F64 I64 U64 F4 F6 F128".split()
        )
    elif kind == 1:
        shape = list(entry["shape"])
        entry["shape"] = rng.choice(
            (shape[::-1], [1, *shape], shape[1:], [0], [-1], [2**40, 2**40])
        )
    elif kind == 2:
        entry["data_offsets"] = [number(rng), number(rng)]
    else:
        changed[rng.choice(names)] = changed.pop(name)
        return changed
    return {**changed, name: entry}


def damage_zip(content: bytes, rng: Random, bombs: Mapping[str, bytes]) -> bytes:
    """Damage a zip file: its members, their names and sizes, or any bytes.

    Args:
        content: the file.
        rng: decides how.
        bombs: raw deflate streams that become very large.
    """
    kind = rng.randrange(6)
    if kind == 0:
        return damage_bytes(content, rng)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    place = rng.randrange(len(members))
    name, data = members[place]
    if kind == 1:
        members[place] = (rng.choice((text(rng)[:400], "/etc/x", "../" + name, name.upper())), data)
    elif kind == 2:
        members.insert(rng.randrange(len(members) + 1), (name, damage_bytes(data, rng)))
    elif kind == 3:
        del members[place]
    elif kind == 4:
        members[place] = (name, damage_bytes(data, rng))
    packed = rng.random() < 0.3
    written = write_zip(members, deflate=packed)
    if kind == 5:
        bomb = bombs[rng.choice(sorted(bombs))]
        return write_zip(members, bombs={name: bomb})
    return _damage_records(written, rng) if rng.random() < 0.5 else written


def write_zip(
    members: Sequence[tuple[str, bytes]], *, deflate: bool = False,
    bombs: Mapping[str, bytes] = {},
) -> bytes:  # fmt: skip
    """Return a zip file of members, which may repeat a name; bombs stand as they are."""
    buffer, central = io.BytesIO(), io.BytesIO()
    for name, data in members:
        said, body, size, check = name.encode("utf-8", "surrogatepass"), data, len(data), 0
        method = 8 if deflate else 0
        if name in bombs:
            method, body, size = 8, bombs[name][8:], *struct.unpack("<Q", bombs[name][:8])
        elif deflate:
            packer = zlib.compressobj(1, zlib.DEFLATED, -15)
            body = packer.compress(data) + packer.flush()
        check = zlib.crc32(data)
        fixed = struct.pack(
            "<HHHHHIII", 20, 0x800, method, 0, 33, check, len(body), min(size, 2**32 - 1)
        )
        place = buffer.tell()
        buffer.write(b"PK\3\4" + fixed + struct.pack("<HH", len(said), 0) + said + body)
        central.write(
            b"PK\1\2\x14\0" + fixed + struct.pack("<HHHHHII", len(said), 0, 0, 0, 0, 0, place)
        )
        central.write(said)
    index, start = central.getvalue(), buffer.tell()
    end = struct.pack("<HHHHIIH", 0, 0, len(members), len(members), len(index), start, 0)
    return buffer.getvalue() + index + b"PK\5\6" + end


def _damage_records(content: bytes, rng: Random) -> bytes:
    """Change a field of the records of a zip file: flags, method, sizes, places."""
    places = [m.start() for m in re.finditer(rb"PK(?:\x01\x02|\x03\x04|\x05\x06)", content)]
    data, start = bytearray(content), rng.choice(places)
    part = _number_bytes(rng)
    place = min(start + 4 + rng.randrange(40), len(data) - 1)
    data[place : place + len(part)] = part
    return bytes(data)


def bomb(size: int) -> bytes:
    """Return a deflate stream of zeros for `write_zip`, behind the size that it becomes."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    # after a full flush a stream starts anew, so that its parts can be repeated
    part = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return struct.pack("<Q", size) + part * (size >> 20) + zlib.compressobj(9, 8, -15).flush()
