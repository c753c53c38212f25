"""Folders, packed files and names on the hub side by side; a frontier, and a leaderboard."""

from __future__ import annotations

import hashlib
import io
import re
import shutil
from dataclasses import replace

import pytest
from click.testing import CliRunner
from conftest import ROOT, SMALL_STUDENT, THREE_DIGITS
from PIL import Image
from sharing_config import CONFIG

import hpd
from hpd.cli import main
from hpd.errors import ConfigError, RunError
from hpd.evaluation import Row
from hpd.evaluation.comparison import markdown
from hpd.evaluation.leaderboard import leaderboard
from hpd.evaluation.summary import Result, ordered, summarise
from hpd.storage import Amount, Storage


@pytest.fixture(scope="module")
def others(tmp_path_factory, original):
    """Another run of the same kind by its seed, and one of more images."""
    folder = tmp_path_factory.mktemp("others")
    for name, overrides, seed in (
        ("digits-1", [], 1),
        ("more-0", ["source.images_per_class=2"], 0),
    ):
        hpd.evaluate(hpd.distill(CONFIG, *overrides, seed=seed, out=folder / name))
    return folder


def test_a_packed_run_is_one_with_its_folder(original, packed, others, tmp_path):
    path = hpd.pack(others / "digits-1", tmp_path / "digits-1.hpd").path
    lines = hpd.compare([original, packed, path, others / "digits-1", others / "more-0"])
    own = {line.run: line for line in lines if line.set == "distilled"}
    assert own.keys() == {"digits", "more"}
    assert (own["digits"].seeds, own["digits"].folders) == ([0, 1], ["digits-0", "digits-1"])
    # of copies the first that was given
    assert own["digits"].origins == [None, str(path)]
    assert own["digits"].sha256 == [None, hashlib.sha256(path.read_bytes()).hexdigest()]
    assert hpd.compare([hpd.load_run(packed)]) == hpd.compare([packed])


def test_all_three_kinds_read_alike(original, packed, hub):
    hpd.push(original, "me/digits")
    given = [original, packed, "hub:me/digits"]
    plain = [
        [replace(line, run="", folders=[], origins=[], sha256=[]) for line in hpd.compare([one])]
        for one in given
    ]
    assert plain[0] == plain[1] == plain[2]
    assert [hpd.compare([one])[0].run for one in given] == ["digits", "digits", "me/digits"]
    result = CliRunner().invoke(main, ["compare", str(packed), "hub:me/digits"])
    assert result.exit_code == 0, result.output


def test_an_audit_of_others_stands_beside_runs(original, packed, tmp_path):
    """Of the same set, so that it can be told what stands there."""
    hpd.export(original, "npz", tmp_path / "theirs")
    settings = [
        f"students=[{SMALL_STUDENT}]", "seeds=2", "training.epochs=2", "full_training=null",
        "find.rows=200", "baselines=[random_real]",
    ]  # fmt: skip
    hpd.audit(tmp_path / "theirs", THREE_DIGITS, *settings, out=tmp_path / "audit")
    lines = hpd.compare([packed, tmp_path / "audit", tmp_path / "audit"])
    own = {line.run: line for line in lines if line.set == "distilled"}
    assert own.keys() == {"digits", "audit"}
    assert {line.table for line in own.values()} == {1}
    assert own["audit"].source == "audit"
    assert own["audit"].seeds == [0]
    assert own["audit"].accuracy_mean == own["digits"].accuracy_mean
    # what it stores, the export says
    assert own["audit"].bits == own["digits"].bits
    page = leaderboard(lines)
    assert "| `audit` | `audit` |" in page
    # of equals the one that was given first stands first
    order = ["digits", "audit"]
    assert list(own) == order
    assert page.index("| 1 | `digits`") < page.index("| 2 | `audit`")
    evaluation = tmp_path / "audit" / "evaluation.json"
    evaluation.write_text(evaluation.read_text("utf-8").replace('"settings": {', '"settings": [{'))
    result = CliRunner().invoke(main, ["compare", str(tmp_path / "audit")])
    assert result.exit_code == 2
    assert len(result.output.splitlines()) == 1


@pytest.mark.parametrize(("name", "format_name"), [("f.png", "PNG"), ("f.SVG", None)])
def test_the_frontier_is_a_picture_of_its_own(packed, others, tmp_path, name, format_name):
    for path in (tmp_path / name, tmp_path / f"again-{name}"):
        hpd.compare([packed, others / "more-0"], picture=path)
    content = (tmp_path / name).read_bytes()
    # the same numbers give the same bytes
    assert content == (tmp_path / f"again-{name}").read_bytes()
    if format_name is None:
        assert b"<svg" in content[:1000]
        assert b"pixel" in content
        return
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.format == format_name


def test_what_is_there_stays(packed, tmp_path):
    (tmp_path / "f.png").write_bytes(b"mine")
    (tmp_path / "page.md").write_text("mine", "utf-8")
    with pytest.raises(RunError, match="already there"):
        hpd.compare([packed], picture=tmp_path / "f.png")
    with pytest.raises(RunError, match="already there"):
        hpd.compare([packed], leaderboard=tmp_path / "page.md")
    with pytest.raises(ConfigError, match="no format"):
        hpd.compare([packed], picture=tmp_path / "f.pdf")
    assert (tmp_path / "f.png").read_bytes() == b"mine"


def test_a_leaderboard_has_what_it_takes_to_verify_each_row(packed, others, tmp_path):
    page = tmp_path / "leaderboard.md"
    result = CliRunner().invoke(
        main, ["compare", str(packed), str(others / "more-0"), "--markdown", str(page)]
    )
    assert result.exit_code == 0, result.output
    text = page.read_text("utf-8")
    line = next(line for line in hpd.compare([packed]) if line.set == "distilled")
    assert f"**{line.accuracy_mean:.1f} \u00b1 {line.spread:.1f}**" in text
    assert f"| {line.bits:,} |" in text
    assert hashlib.sha256(packed.read_bytes()).hexdigest() in text
    # the command that stands there is one
    (command,) = set(re.findall(r"`hpd (verify [^`]*)`", text))
    copy = shutil.copy(packed, tmp_path / packed.name)
    words = command.split()
    words[1] = str(copy)
    assert words == ["verify", str(tmp_path / "digits-0.hpd"), "--evaluate"]
    ended = CliRunner().invoke(main, words)
    assert ended.exit_code == 0, ended.output
    assert "a folder: pack it" in text


def test_the_best_stand_first_and_tables_apart():
    def result(name, accuracy, bits, **settings):
        storage = Storage(Amount(bits, bits), generator=Amount.of(3 if name == "b" else 0))
        rows = [Row("distilled", "convnet", 1.0, storage, accuracy, 1.0, [0, 1]),
                Row("random_real_bits", "convnet", 1.0, storage, 9.0, 1.0, [0, 1])]  # fmt: skip
        config = {"seed": 0, "source": {"kind": name}}
        return Result(name, config, {"settings": settings}, rows, f"/x/{name}.hpd", "f" * 64)

    hard, soft = {"labels": "hard", "protocol": "dc"}, {"labels": "soft", "protocol": "dc"}
    lines = summarise(
        [result("a", 50, 10, **hard), result("b", 60, 20, **hard), result("c", 70, 5, **soft)]
    )
    page = leaderboard(ordered(lines))
    assert page.count("## dc") == 2
    places = [page.index(f"| {n} | `{name}`") for n, name in ((1, "b"), (2, "a"))]
    assert places == sorted(places)
    assert "| 1 | `c`" in page
    assert "| 20 and the generator | **60.0" in page
    assert "The tables do not compare: labels: hard \\| soft." in page
    # the others' folders are nobody's business
    assert "/x/" not in page


HOSTILE = "<img src=x onerror=alert(1)> `a` | [b](javascript:c) **d**\n# e"


def test_names_from_elsewhere_mean_nothing_in_the_page():
    row = Row("distilled", HOSTILE, 1.0, Storage(Amount(1, 1)), 50.0, 1.0, [0, 1], labels=HOSTILE)
    config = {"seed": 0, "source": {"kind": HOSTILE}}
    record = {"settings": {"protocol": HOSTILE, "labels": HOSTILE}}
    lines = summarise([Result(HOSTILE, config, record, [row], f"{HOSTILE}.hpd", "0" * 64)])
    outside = re.sub(r"`[^`\n]*`", "", leaderboard(lines))
    assert "<img" not in outside.replace("\\<", "")
    assert "](" not in outside.replace("\\]", "")
    assert "\n# e" not in outside
    assert outside.count("\n# ") == 0
    # a table of as many columns in each of its lines
    tables = [line for line in leaderboard(lines).splitlines() if line.startswith("|")]
    widths = {re.sub(r"\\\|", "", line).count("|") for line in tables}
    assert len(widths) <= 2
    assert markdown(lines)


def test_a_file_that_is_damaged_is_named(packed, tmp_path):
    (tmp_path / "cut.hpd").write_bytes(packed.read_bytes()[:-10])
    with pytest.raises(RunError, match=r"cut\.hpd is no packed run, or damaged: got it is cut"):
        hpd.compare([packed, tmp_path / "cut.hpd"])


PAGE = ROOT / "docs" / "leaderboard.md"


def test_the_page_of_the_docs_is_of_the_files_beside_it(tmp_path):
    files = sorted((ROOT / "docs" / "leaderboard").glob("*.hpd"))
    assert len(files) == 5
    hpd.compare(files, leaderboard=tmp_path / "page.md")
    assert (tmp_path / "page.md").read_text("utf-8") == PAGE.read_text("utf-8")
    assert all(hpd.verify(path).whole for path in files)
    # what they were made on is no concern of a reader
    content = b"".join(path.read_bytes() for path in files)
    assert not re.search(rb"/(root|home|tmp|Users)/", content)
