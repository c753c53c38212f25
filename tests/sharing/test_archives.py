"""The archive: any zip program reads it, and nothing but what was written there is read."""

from __future__ import annotations

import io
import random
import struct
import zipfile
import zlib

import pytest

from hpd.disk import archives
from hpd.disk.archives import Archive, ArchiveWriter, is_archive
from hpd.disk.bundles import check_name, check_names, read_sums

CONTENT = {"README.md": b"# words\n", "images/\u00fc/000.png": b"\x89PNG" * 700, "z": b""}


def write(path, content=CONTENT):
    with path.open("xb") as file:
        writer = ArchiveWriter(file)
        for name, value in content.items():
            writer.add(name, value)
        writer.close()
    return path


def members(path):
    with Archive(path) as archive:
        return {name: b"".join(archive.blocks(name)) for name in archive.names}


def test_what_was_written_is_read(tmp_path):
    assert members(write(tmp_path / "a")) == CONTENT


def test_any_zip_program_reads_it(tmp_path):
    with zipfile.ZipFile(write(tmp_path / "a")) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == CONTENT
        for info in archive.infolist():
            assert info.date_time == (1980, 1, 1, 0, 0, 0)
            assert info.external_attr >> 16 == 0o100644
            assert info.compress_type == zipfile.ZIP_STORED


def test_the_same_content_gives_the_same_bytes(tmp_path):
    assert write(tmp_path / "a").read_bytes() == write(tmp_path / "b").read_bytes()


def test_files_go_in_part_by_part(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_BLOCK_BYTES", 7)
    (tmp_path / "file").write_bytes(bytes(range(100)))
    write(tmp_path / "a", {"x": tmp_path / "file", "y": b"behind"})
    assert members(tmp_path / "a") == {"x": bytes(range(100)), "y": b"behind"}


@pytest.mark.parametrize(("full16", "full32"), [(2, 2**32 - 1), (2**16 - 1, 100), (2, 100)])
def test_large_archives_have_the_wider_fields(tmp_path, monkeypatch, full16, full32):
    """As with smaller limits: the fields are full then, and the numbers stand elsewhere."""
    plain = write(tmp_path / "plain").stat().st_size
    monkeypatch.setattr(archives, "_FULL16", full16)
    monkeypatch.setattr(archives, "_FULL32", full32)
    path = write(tmp_path / "a")
    assert path.stat().st_size > plain
    assert members(path) == CONTENT


def test_numbers_of_four_gigabytes_are_written_as_zip_programs_read_them():
    member = archives._Member(b"large", 2**32 + 5, 7, 2**33)
    with zipfile.ZipFile(io.BytesIO(archives._tail([member], 0))) as archive:
        (info,) = archive.infolist()
    assert (info.file_size, info.compress_size, info.header_offset) == (2**32 + 5,) * 2 + (2**33,)


# what is refused


def zipped(path, *entries, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path


def as_written(path, *names):
    """An archive that is right in every byte, of names that no writer takes."""
    found, data = [], b""
    for name in names:
        content = name[:3]
        member = archives._Member(name, len(content), zlib.crc32(content), len(data))
        found.append(member)
        data += member.header + content
    path.write_bytes(data + archives._tail(found, len(data)))
    return path


NAMES = [
    (b"../outside",), (b"/outside",), (b"a/../../outside",), (b"a//b",), (b"./a",), (b"a/",),
    (b"",), (b"..\\outside",), (b"C:\\outside",), (b"c:outside",), (b"a\nb",), (b"a\x00b",),
    (b"a\x1b[31m",), (b"a", b"a"), (b"a", b"A"), (b"a", b"a/b"),
    ("\u00e9".encode(), "e\u0301".encode()),
    (b"\xff\xfe",), (b"x" * 300,), (b"/".join([b"d"] * 20),), (b".hidden",), (b".cache/x",),
    (b"nul.",), (b"a ",), (b"a|b",), ("a\u202eb".encode(),), (b"x" * 2000,), (b"~/a", b".."),
]  # fmt: skip


@pytest.mark.parametrize("names", NAMES, ids=lambda names: names[0][:12].decode("latin1").strip())
def test_names_that_lead_out_or_mean_two_things_are_refused(tmp_path, names):
    with pytest.raises(ValueError, match=r"."):
        Archive(as_written(tmp_path / "a", *names))


def test_the_archive_of_the_tests_above_is_otherwise_right(tmp_path):
    assert members(as_written(tmp_path / "a", b"one", b"two/deep")) == {
        "one": b"one", "two/deep": b"two"
    }  # fmt: skip


def test_a_small_file_that_would_become_a_large_one_is_refused(tmp_path):
    path = zipped(tmp_path / "a", ("a", bytes(10**8)), compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10**6
    with pytest.raises(ValueError, match="compressed"):
        Archive(path)


def test_members_that_share_their_bytes_are_refused(tmp_path):
    """As in a bomb without compression: many names, one content."""
    member = archives._Member(b"a", 1000, zlib.crc32(bytes(1000)), 0)
    data = member.header + bytes(1000)
    again = [member, archives._Member(b"b", 1000, member.crc, 0)]
    path = tmp_path / "a"
    path.write_bytes(data + archives._tail(again, len(data)))
    with pytest.raises(ValueError, match="its list of members"):
        Archive(path)


def test_a_link_is_refused(tmp_path):
    info = zipfile.ZipInfo("link", (1980, 1, 1, 0, 0, 0))
    info.create_system, info.external_attr, info.flag_bits = 3, 0o120777 << 16, 0x800
    path = zipped(tmp_path / "a", (info, b"/etc/passwd"))
    with pytest.raises(ValueError, match=r"not as hpd writes it|its list of members"):
        Archive(path)
    content = as_written(tmp_path / "b", b"link").read_bytes()
    mode = struct.pack("<I", archives._MODE)
    assert content.count(mode) == 1
    (tmp_path / "b").write_bytes(content.replace(mode, struct.pack("<I", 0o120777 << 16)))
    with pytest.raises(ValueError, match="its list of members"):
        Archive(tmp_path / "b")


def test_an_encrypted_member_is_refused(tmp_path):
    content = bytearray(write(tmp_path / "a").read_bytes())
    content[6] |= 1
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match="encrypted"):
        Archive(tmp_path / "a")


@pytest.mark.parametrize("size", [2**31, 2**32 - 2])
def test_a_size_that_is_not_there_is_refused_before_it_is_read(tmp_path, size):
    member = archives._Member(b"a", size, 0, 0)
    data = member.header + b"x"
    (tmp_path / "a").write_bytes(data + archives._tail([member], len(data)))
    with pytest.raises(ValueError, match="cut short"):
        Archive(tmp_path / "a")


def test_too_many_members_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MOST_FILES", 50)
    path = as_written(tmp_path / "a", *(b"%d" % i for i in range(60)))
    with pytest.raises(ValueError, match="more than 50"):
        Archive(path)


@pytest.mark.parametrize("extra", [b"x", b"PK\x05\x06", bytes(1000)])
@pytest.mark.parametrize("place", ["before", "behind"])
def test_nothing_may_stand_before_or_behind_it(tmp_path, extra, place):
    content = write(tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(extra + content if place == "before" else content + extra)
    with pytest.raises(ValueError, match=r"no archive|its list of members"):
        Archive(tmp_path / "a")


def test_wherever_it_is_cut_it_is_refused(tmp_path):
    content = write(tmp_path / "a").read_bytes()
    for length in range(len(content)):
        (tmp_path / "a").write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"cut short|no archive|list of members"):
            Archive(tmp_path / "a")


def test_no_bit_can_change_unseen(tmp_path):
    """Of headers and lists all are looked at, of contents a few."""
    content = write(tmp_path / "a").read_bytes()
    draw = random.Random(0)
    spots = {*range(300), *range(len(content) - 300, len(content))}
    spots |= {draw.randrange(len(content)) for _ in range(100)}
    for spot in sorted(spot for spot in spots if spot < len(content)):
        changed = bytearray(content)
        changed[spot] ^= 1 << draw.randrange(8)
        (tmp_path / "a").write_bytes(changed)
        try:
            found = members(tmp_path / "a")
        except ValueError:
            continue
        # a letter of a name, in both places at once, cannot be
        pytest.fail(f"byte {spot} of {len(content)} was changed: {found.keys()}")


def test_what_is_no_archive_is_not_taken_for_one(tmp_path):
    (tmp_path / "short").write_bytes(b"PK")
    (tmp_path / "text").write_text("words", "utf-8")
    assert not any(is_archive(tmp_path / n) for n in ("short", "text", "none", "x" * 5000, "."))
    assert is_archive(write(tmp_path / "a"))


def test_checksums_read_as_coreutils_write_them():
    good = b"0" * 64 + b"  a\n" + b"1" * 64 + b"  b/c\n"
    assert read_sums(good) == {"a": "0" * 64, "b/c": "1" * 64}
    for wrong in (
        b"", b"\xff", good + b"x", b"0" * 63 + b"  a\n", b"0" * 64 + b"  ../a\n", good + good,
        b"0" * 64 + b" a\n", b"0" * (9 * 2**20),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"."):
            read_sums(wrong)


def test_names_of_every_language_are_taken():
    check_names(["\u732b/000.png", "0_T-shirt_top/000.png", "a b/c.png", "README.md"])
    with pytest.raises(ValueError, match="file and a folder"):
        check_names(["A", "a/b"])
    with pytest.raises(ValueError, match="leads out"):
        check_name("..")


def test_a_file_that_grows_while_it_is_read_is_no_member(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"123")
    monkeypatch.setattr(archives, "_blocks_of", lambda path: iter([b"123", b"4"]))
    with pytest.raises(OSError, match="changed while it was read"):
        ArchiveWriter(io.BytesIO()).add("x", tmp_path / "file")
