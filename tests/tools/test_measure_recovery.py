"""The tables of recovery and of mutual information: their rows, and that they go on."""

from __future__ import annotations

import json

import measure_mutual_information as mim
import measure_recovery as tool
import pytest
import torch
from conftest import SMALL_STUDENT, TESTS, THREE_DIGITS

import hpd
from hpd.config import load_config
from hpd.errors import ConfigError
from hpd.students import training
from hpd.students.teachers import read_teacher

ROOT = TESTS.parent

EVALUATION = {
    "students": [SMALL_STUDENT], "seeds": 2, "training": {"epochs": 2}, "full_training": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def base(digits_teacher):
    return {
        "data": THREE_DIGITS,
        "device": "cpu",
        "source": {"kind": "pixel", "clip": True},
        "objective": {"kind": "recovery", "teacher": digits_teacher, "roll": 1,
                      "adjustment": {"mode": "directed", "rho": 0.3, "steps": 2}},
        "selection": "last",
        "evaluation": {**EVALUATION, "labels": "stored"},
    }  # fmt: skip


def make(base, out, sizes=("1:1", "2:2"), say=lambda line: None, **options):
    page = out.with_suffix(".md")
    given = {"seeds": 1, "sources": ("pixel", "low_rank"), "rank": 2, "lr": 0.1} | options
    tool.make_table(base, [], out, page, sizes=sizes, test_images=20, say=say, **given)
    return json.loads(out.read_text())["rows"], page.read_text()


def without_times(rows):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def test_recovery_has_a_row_for_each_source_size_and_adjustment(base, tmp_path):
    rows, page = make(base, tmp_path / "whole.json")
    named = [(r["images"], r["source"], r["mode"], r["steps"]) for r in rows]
    assert named == [
        (images, source, mode, 0 if mode == "start" else images)
        for images in (1, 2)
        for source in ("pixel", "low_rank")
        for mode in (("start",) if source == "pixel" else ()) + tool.MODES
    ]
    assert all((row["distance"] is None) == (row["images"] == 1) for row in rows)
    pixels = [row for row in rows if row["source"] == "pixel" and row["images"] == 2]
    # 256 pixels and 3 soft labels each
    assert {(row["stored_floats"], row["label_floats"]) for row in pixels} == {(6 * 256, 6 * 3)}
    assert len({row["teacher_cross_entropy"] for row in pixels}) == len(pixels)
    assert len(page.splitlines()) == 2 + len(rows)
    # in two goes, to the same rows
    heard = []
    make(base, tmp_path / "parts.json", sizes=("1:1",))
    again, _ = make(base, tmp_path / "parts.json", say=heard.append)
    assert len(heard) == len(rows) // 2
    assert without_times(again) == without_times(rows)


@pytest.fixture(scope="module")
def sre2l(base):
    """From noise, with other weights, and without adjustment."""
    objective = {k: v for k, v in base["objective"].items() if k != "adjustment"}
    source = base["source"] | {"init": "noise", "lr": 0.1}
    return base | {"source": source, "objective": objective | {"variance_weight": 2.0}}


def test_a_config_beside_is_measured_as_it_is_and_labels_are_of_each_kind(base, sre2l, tmp_path):
    both = {"sources": ("pixel",), "beside": {"own": sre2l}}
    out = tmp_path / "rows.json"
    rows, page = make(base, out, sizes=("2:2",), labels=("stored", "online"), **both)
    modes = ("start", *tool.MODES, "own")
    assert [(r["mode"], r["labels"]) for r in rows] == [
        (mode, kind) for mode in modes for kind in tool.LABELS
    ]
    teacher = read_teacher(base["objective"]["teacher"])
    weights = sum(value.numel() for value in teacher.network.parameters())
    for stored, online in zip(rows[::2], rows[1::2], strict=True):
        # of the same images, as this is said by the teacher
        assert stored["teacher_cross_entropy"] == online["teacher_cross_entropy"]
        assert (stored["label_floats"], online["label_floats"]) == (6 * 3, weights)
    # nothing of the first config but sizes and evaluation
    own = load_config(sre2l, ["source.images_per_class=2", "source.steps=2"])
    want = hpd.distill(own).distilled.images
    given = tool.Given(load_config(base), {"own": own}, own.data.build(), 0.1, 2)
    plan = tool.Plan("pixel", 2, 2, "own", 0)
    assert torch.equal(tool.distil(tool.settings_of(plan, given), given.data).images, want)
    # those of a kind stand together
    kinds = [line.split(" | ")[4] for line in page.splitlines()[2:]]
    assert kinds == ["stored"] * 5 + ["online"] * 5
    assert "| as `own` | 2 | online | 1,536 + " in page


def test_labels_online_are_those_of_the_teacher(base, monkeypatch, tmp_path):
    """Another teacher teaches otherwise, though images and the first labels are the same."""
    asked = []
    original = training.asked

    def spy(teacher, images, temperature):
        asked.append(len(images))
        return original(teacher, images, temperature)

    monkeypatch.setattr(training, "asked", spy)
    few = {"sources": ("pixel",), "sizes": ("1:1",)}
    make(base, tmp_path / "stored.json", **few)
    assert asked == []
    make(base, tmp_path / "online.json", labels=("online",), **few)
    assert len(asked) >= 4 * 2 * 2  # rows, students, epochs


def test_a_table_of_before_goes_on_with_other_labels(base, tmp_path):
    """What an earlier file holds was measured with stored labels."""
    out, few = tmp_path / "rows.json", {"sources": ("pixel",), "sizes": ("1:1",)}
    rows, _ = make(base, out, **few)
    held = json.loads(out.read_text())
    for row in held["rows"]:
        del row["labels"]
    out.write_text(json.dumps(held))
    heard = []
    make(base, out, say=heard.append, **few)
    assert heard == []
    more, page = make(base, out, labels=("stored", "online"), say=heard.append, **few)
    assert all(line.endswith(" online") for line in heard)
    assert without_times(more[: len(rows)]) == without_times(rows)
    assert [row["labels"] for row in more[len(rows) :]] == ["online"] * 4
    assert page.count("| stored |") == page.count("| online |") == 4


def test_the_table_goes_into_the_place_of_a_page(tmp_path):
    page = tmp_path / "page.md"
    tool.write_table(page, "old\n")
    assert page.read_text() == "old\n"
    text = "before\n<!-- RECOVERY -->\n\nold\n\n<!-- end -->\nafter\n\n<!-- end -->\n"
    page.write_text(text)
    tool.write_table(page, "new\n")
    assert page.read_text() == text.replace("old", "new")


def test_the_page_has_what_was_measured():
    rows = json.loads((ROOT / "docs" / "recovery.json").read_text())["rows"]
    assert tool.markdown(rows) in (ROOT / "docs" / "other-methods.md").read_text()


def test_a_config_of_another_objective_is_refused(base, tmp_path):
    other = base | {"objective": "distribution"}
    with pytest.raises(ConfigError, match="must be of a recovery: got distribution"):
        make(base, tmp_path / "rows.json", beside={"other": other})


def test_a_row_is_what_the_package_distils(base):
    config = load_config(base, ["source.steps=2", "objective.adjustment.mode=directed"])
    ours = tool.distil(config, config.data.build())
    assert torch.equal(ours.images, hpd.distill(config).distilled.images)


def test_the_spread_is_the_mean_distance_within_classes():
    features = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [9, 9]])
    labels = torch.tensor([0, 0, 1, 1, 1, 2])
    assert tool.spread(features, labels) == pytest.approx((5 + 4 / 3) / 2)
    assert tool.spread(features[:1], labels[:1]) is None


@pytest.mark.parametrize("text", ["10", "0:3", "1:x", ":"])
def test_sizes_that_cannot_be_read(text):
    with pytest.raises(ConfigError, match="IMAGES:STEPS"):
        tool.size(text)


def test_gains_are_those_of_pairs(monkeypatch, tmp_path):
    host = {"data": THREE_DIGITS, "objective": {**mim.DM, "real_batch": 4, "augment": []}}
    monkeypatch.setattr(mim, "STUDENT", SMALL_STUDENT)
    monkeypatch.setattr(mim, "hosts", lambda root: {"digits, DM": host})
    out, page = tmp_path / "mim.json", tmp_path / "mim.md"
    options = {"root": "", "steps": 1, "weights": ["digits, DM=0"], "test_images": 20}
    mim.make_table(out, page, seeds=2, **options, say=lambda line: None)
    rows = json.loads(out.read_text())["rows"]
    assert [(r["add_on"], r["seed"]) for r in rows] == [
        ("", 0), ("infonce, weight 0", 0), ("", 1), ("infonce, weight 0", 1)
    ]  # fmt: skip
    # an add-on without weight leaves the pair alike: the same start, batches and students
    assert rows[0]["mean"] == rows[1]["mean"]
    assert "| +0.00 | 0.00 | 2 |" in page.read_text()
    heard = []
    mim.make_table(out, page, seeds=2, **options, say=heard.append)
    assert heard == []
    rows[1]["mean"], rows[3]["mean"] = rows[0]["mean"] + 1, rows[2]["mean"] + 3
    assert "| +2.00 | 1.00 | 2 |" in mim.markdown(rows)
    with pytest.raises(ConfigError, match="no host 'x'"):
        mim.make_table(out, None, seeds=1, **{**options, "weights": ["x=1"]})


def test_the_hosts_can_be_run():
    for host in mim.hosts("nowhere").values():
        for add_on in (None, {"weight": 2.0}):
            config = load_config(mim.config_of(host, 3, add_on))
            assert len(config.objective.add_ons) == (add_on is not None)
