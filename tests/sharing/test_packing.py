"""A run in one file: all is in it, it stands for the folder, and nothing hostile gets out."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import subprocess
import tempfile
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import hpd
from hpd.artifacts.packed import opening
from hpd.cli import main
from hpd.disk.archives import ArchiveWriter
from hpd.disk.bundles import SUMS, as_sums
from hpd.errors import LONGEST, ConfigError, HpdError, RunError


def files_below(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_everything_to_repeat_and_to_judge_is_in_it(original, packed):
    with zipfile.ZipFile(packed) as archive:
        inside = {name: archive.read(name) for name in archive.namelist()}
    assert {
        "README.md", SUMS, "config.yaml", "manifest.json", "evaluation.json", "metrics.jsonl",
        "cost.json", "distilled.safetensors", "initial.safetensors", "codes.safetensors",
        "grid.png", "images/8/000.png",
    } <= inside.keys()  # fmt: skip
    for name, content in inside.items():
        if name not in ("README.md", SUMS):
            assert content == (original / name).read_bytes(), name
    manifest = json.loads(inside["manifest.json"])
    assert {"data_sha256", "versions", "seed", "storage"} <= manifest.keys()
    machine = json.loads(inside["evaluation.json"])["machine"]
    assert machine["threads"] == torch.get_num_threads()


def test_real_images_and_checkpoints_stay(run):
    hpd.report(run)
    assert {"report.html"} <= files_below(run)
    with zipfile.ZipFile(hpd.pack(run).path) as archive:
        names = archive.namelist()
    assert not [name for name in names if name.startswith("checkpoints") or name == "report.html"]


def test_the_checksums_are_those_of_coreutils(packed, tmp_path):
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(tmp_path)
    if shutil.which("sha256sum"):
        done = subprocess.run(["sha256sum", "--quiet", "-c", SUMS], cwd=tmp_path, check=False)
        assert done.returncode == 0
    listed = dict(line.split("  ")[::-1] for line in (tmp_path / SUMS).read_text().splitlines())
    assert listed.keys() == files_below(tmp_path) - {SUMS}
    for name, digest in listed.items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest


def test_the_same_run_gives_the_same_bytes_wherever_it_lies(original, packed, tmp_path):
    other = shutil.copytree(original, tmp_path / "elsewhere" / "other")
    again = hpd.pack(other)
    assert again.path == other.with_name("other.hpd")
    assert again.path.read_bytes() == packed.read_bytes()
    assert again.sha256 == hashlib.sha256(packed.read_bytes()).hexdigest()
    assert again.size_bytes == packed.stat().st_size


def test_a_packed_run_packs_to_itself(packed, tmp_path):
    again = hpd.pack(packed, tmp_path / "again.hpd")
    assert again.path.read_bytes() == packed.read_bytes()


def test_the_card_says_what_a_reader_needs(packed):
    with zipfile.ZipFile(packed) as archive:
        card = archive.read("README.md").decode()
    for words in (
        "# digits, distilled", "grid.png", "| `distilled` | `convnet` | 1 |", "## Licence",
        "## How to cite", "hpd verify . --evaluate", "26bf", "dc, convnet of width 4",
    ):  # fmt: skip
        assert (words in card) == (words != "26bf"), words
    assert "data_sha256" in card


# wherever a run is read


def test_it_stands_for_the_folder(original, packed, tmp_path):
    run, there = hpd.load_run(packed), hpd.load_run(original)
    assert torch.equal(run.distilled.images, there.distilled.images)
    assert torch.equal(hpd.load_distilled(packed).images, there.distilled.images)
    assert torch.equal(hpd.decode(packed).images, there.distilled.images)
    assert run.evaluations.keys() == there.evaluations.keys()
    assert run.data_facts == there.data_facts
    assert hpd.load_config(packed) == hpd.load_config(original)
    ours, theirs = (hpd.export(p, "npz", tmp_path / n) for p, n in ((packed, "a"), (original, "b")))
    assert (ours / "about.json").read_text() == (theirs / "about.json").read_text()
    report = hpd.report(packed, None, out=tmp_path / "report.html")
    assert "digits" in report.read_text()
    (line, *_), (other, *_) = hpd.compare([packed]), hpd.compare([original])
    assert (line.run, line.accuracy_mean) == (other.run, other.accuracy_mean)


def test_nothing_is_written_to_it(packed):
    before, run = packed.read_bytes(), hpd.load_run(packed)
    files = files_below(run.folder)
    evaluation = hpd.evaluate(packed, "seeds=1")
    assert evaluation.name == ""
    assert len(evaluation.rows[0].seeds) == 1
    assert files_below(run.folder) == files
    assert packed.read_bytes() == before
    with pytest.raises(RunError, match="is a run to read"):
        hpd.report(packed)


def test_labels_are_not_stored_in_it(packed, digits_teacher):
    with pytest.raises(RunError, match="is a run to read"):
        hpd.relabel(packed, digits_teacher)


def test_it_is_repeated_from_its_file(packed, original, tmp_path):
    out = tmp_path / "again"
    result = CliRunner().invoke(main, ["distill", str(packed), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert (out / "distilled.safetensors").read_bytes() == (
        original / "distilled.safetensors"
    ).read_bytes()


def test_commands_take_it(packed, tmp_path):
    for arguments in (
        ["evaluate", packed, "seeds=1"], ["compare", packed],
        ["export", packed, "--format", "npz", "--out", tmp_path / "npz"],
        ["report", packed, "--no-nearest", "--out", tmp_path / "r.html"],
    ):  # fmt: skip
        result = CliRunner().invoke(main, [str(word) for word in arguments])
        assert result.exit_code == 0, result.output
    assert "nothing is kept" in CliRunner().invoke(main, ["evaluate", str(packed)]).output


def test_latents_come_along_where_they_are_asked_for(tmp_path, generator_folder):
    from small_runs import small_config

    hpd.distill(small_config(tmp_path / "data", generator_folder), out=tmp_path / "gan")
    bare = hpd.pack(tmp_path / "gan").path
    for call in (lambda: hpd.sample(bare, 2), lambda: hpd.sample(hpd.load_run(bare), 2)):
        with pytest.raises(RunError, match="holds no latents"):
            call()
    whole = hpd.pack(tmp_path / "gan", tmp_path / "latents.hpd", latents=True).path
    assert torch.equal(hpd.sample(whole, 2).images, hpd.sample(tmp_path / "gan", 2).images)


def test_it_is_unpacked_once_and_again_when_it_changes(packed, tmp_path):
    path = tmp_path / "a.hpd"
    shutil.copy(packed, path)
    first = opening.folder_at(path)
    assert opening.folder_at(path) == first
    path.unlink()
    shutil.copy(packed, path)
    assert opening.folder_at(path) != first


# what is refused


def test_what_is_no_finished_run_is_not_packed(run, tmp_path):
    for folder, words in ((tmp_path / "none", "not a run folder"), (tmp_path, "not a run folder")):
        with pytest.raises(RunError, match=words):
            hpd.pack(folder)
    (run / "manifest.json").rename(tmp_path / "kept")
    with pytest.raises(RunError, match="is not finished"):
        hpd.pack(run)
    assert not list(tmp_path.glob("*.hpd"))


@pytest.mark.parametrize(
    "name", ["images/8/000.png", "initial.safetensors", "codes.safetensors", "grid.png"]
)
@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_run_that_is_not_whole_is_not_packed(run, name, damage):
    content = (run / name).read_bytes()
    (run / name).unlink()
    if damage == "changed":
        (run / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(RunError, match=r"."):
        hpd.pack(run)
    assert not [path for path in run.parent.iterdir() if path.name.startswith((".", "digits-0.h"))]


def test_a_file_that_is_there_stays(run):
    there = run.with_name("digits-0.hpd")
    there.write_bytes(b"mine")
    with pytest.raises(RunError, match="already there"):
        hpd.pack(run)
    assert there.read_bytes() == b"mine"
    with pytest.raises(RunError, match="cannot be made"):
        hpd.pack(run, there / "below")


def test_a_run_that_is_worked_on_is_not_packed(run):
    from surroundings import HPD, start

    from hpd.disk.locks import held

    with held(run, "evaluate"):
        ended = start([*HPD, "pack", str(run)])
    assert ended.returncode == 2
    assert b"another process works in it" in ended.stderr


def rebuilt(packed, path, change):
    """Write an archive that is right in every byte, of other members."""
    with zipfile.ZipFile(packed) as archive:
        inside = {name: archive.read(name) for name in archive.namelist()}
    change(inside)
    with path.open("xb") as file:
        writer = ArchiveWriter(file)
        for name, content in inside.items():
            writer.add(name, content)
        writer.close()
    return path


def with_sums(inside):
    """Make the checksums those of the members."""
    inside.pop(SUMS, None)
    inside[SUMS] = as_sums({n: hashlib.sha256(c).hexdigest() for n, c in inside.items()})


def no_sums(inside):
    del inside[SUMS]


def one_more(inside):
    inside["more.txt"] = b"more"


def one_less(inside):
    del inside["grid.png"]


def other_pictures(inside):
    inside["grid.png"] = b"other"


def other_set(inside):
    inside["distilled.safetensors"] = inside["initial.safetensors"]
    with_sums(inside)


def no_run(inside):
    for name in list(inside):
        if name != "README.md":
            del inside[name]
    with_sums(inside)


def endless_sums(inside):
    inside[SUMS] = inside[SUMS] * 100_000


HOSTILE = [no_sums, one_more, one_less, other_pictures, other_set, no_run, endless_sums]


def raw(path, *entries, **options):
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", **options) as archive:
        warnings.simplefilter("ignore")
        for name, content in entries:
            archive.writestr(name, content)
    return path


def link(target):
    info = zipfile.ZipInfo("images")
    info.create_system, info.external_attr = 3, 0o120777 << 16
    return info, target.encode()


def hostile_files(folder, packed):
    content = packed.read_bytes()
    for change in HOSTILE:
        yield rebuilt(packed, folder / f"{change.__name__}.hpd", change)
    yield raw(folder / "up.hpd", ("config.yaml", b""), ("../up.txt", b"out"))
    yield raw(folder / "root.hpd", (f"{folder}/root.txt", b"out"))
    yield raw(folder / "twice.hpd", ("config.yaml", b"a"), ("config.yaml", b"b"))
    yield raw(folder / "link.hpd", link(str(folder)), ("images/linked.txt", b"out"))
    bomb = ("config.yaml", bytes(10**8))
    yield raw(folder / "bomb.hpd", bomb, compression=zipfile.ZIP_DEFLATED)
    yield raw(folder / "foreign.hpd", ("config.yaml", b"seed: 0"))
    for part in (4, len(content) // 2, len(content) - 1):
        (folder / f"cut-{part}.hpd").write_bytes(content[:part])
        yield folder / f"cut-{part}.hpd"
    (folder / "empty.zip").write_bytes(b"PK\x05\x06" + bytes(18))
    yield folder / "empty.zip"


def test_hostile_files_are_one_line_and_write_nothing(packed, tmp_path, monkeypatch):
    temporary, place = tmp_path / "temporary", tmp_path / "place"
    temporary.mkdir()
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.chdir(place)
    for path in hostile_files(place, packed):
        before = files_below(tmp_path)
        # the configuration beside another set is whole, and does not rest on it
        more = [] if path.name.startswith("other_set") else [["distill"]]
        for arguments in (["verify"], ["compare"], ["evaluate"], *more):
            result = CliRunner().invoke(main, [*arguments, str(path)])
            assert result.exit_code == 2, (path, arguments, result.output)
            said = [line for line in result.output.splitlines() if line.startswith("hpd: ")]
            assert len(said) == 1, (path, result.output)
            assert len(said[0]) <= LONGEST + 20
            if arguments != ["verify"]:
                assert len(result.output.splitlines()) == 1, (path, arguments, result.output)
        # what was unpacked whole before something else was found wrong lies where it may
        left = {name for name in files_below(tmp_path) - before if "temporary/" not in name}
        assert not left, path
    assert not (tmp_path / "up.txt").exists()


def test_damage_to_any_member_is_named(packed, tmp_path):
    """Each member in turn, in its content, where the archive itself looks right."""
    with zipfile.ZipFile(packed) as archive:
        infos = archive.infolist()
    for info in infos:
        content = bytearray(packed.read_bytes())
        start = info.header_offset + 30 + len(info.filename)
        content[start + info.file_size // 2] ^= 4
        path = tmp_path / "damaged.hpd"
        path.write_bytes(content)
        if info.filename == SUMS:
            with pytest.raises(RunError, match=SUMS):
                hpd.verify(path)
            continue
        found = hpd.verify(path)
        assert not found.whole
        changed = [name for name, state in found.members.items() if state == "changed"]
        assert changed == [info.filename]
        with pytest.raises(RunError, match="damaged"):
            hpd.load_run(path)


def test_no_bit_of_it_can_change_unseen(packed, tmp_path):
    content, draw = packed.read_bytes(), random.Random(1)
    for _ in range(200):
        changed = bytearray(content)
        changed[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        (tmp_path / "a.hpd").write_bytes(changed)
        try:
            assert not hpd.verify(tmp_path / "a.hpd").whole
        except HpdError:
            continue


def test_verify_names_what_is_wrong(packed, tmp_path):
    for change, state, member in (
        (one_more, "not in the list", "more.txt"), (one_less, "missing", "grid.png"),
        (other_pictures, "changed", "grid.png"), (other_set, "changed", "distilled.safetensors"),
    ):  # fmt: skip
        path = rebuilt(packed, tmp_path / f"{change.__name__}.hpd", change)
        found = hpd.verify(path)
        wrong = {name: said for name, said in found.members.items() if said != "whole"}
        assert wrong == {member: state}
        result = CliRunner().invoke(main, ["verify", str(path)])
        assert result.exit_code == 2
        assert f"{state}: {member}" in result.output


def test_a_folder_that_it_was_unpacked_to_is_verified_as_well(packed, tmp_path):
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(tmp_path / "run")
    assert hpd.verify(tmp_path / "run").whole
    assert hpd.verify(tmp_path / "run").sha256 is None
    (tmp_path / "run" / "later.txt").write_text("mine", "utf-8")
    assert hpd.verify(tmp_path / "run").whole
    (tmp_path / "run" / "grid.png").write_bytes(b"other")
    assert hpd.verify(tmp_path / "run").members["grid.png"] == "changed"
    with pytest.raises(RunError, match="hpd pack"):
        hpd.verify(tmp_path)


def test_verify_of_anything_else_is_an_error(original, tmp_path):
    for path, said in (
        (tmp_path / "none", r"there is no .*none: expected a packed file"),
        (original, rf"has no checksums: .*`hpd pack {original}` makes a file that has"),
        (original / "config.yaml", "has no checksums that can be read"),
    ):
        with pytest.raises(RunError, match=said):
            hpd.verify(path)
    with pytest.raises(ConfigError, match="its own settings"):
        hpd.verify(original, "seeds=3", evaluate=True)
    with pytest.raises(ConfigError, match="to evaluate"):
        hpd.verify(original, "data.root=x")


def test_the_temporary_copy_ends_with_the_process(packed):
    from surroundings import start

    code = "import hpd, sys; print(hpd.load_run(sys.argv[1]).folder)"
    import sys

    ended = start([sys.executable, "-c", code, str(packed)])
    assert ended.returncode == 0, ended.stderr
    folder = Path(ended.stdout.decode().strip())
    assert folder.name == "digits-0"
    assert not folder.parent.exists()
