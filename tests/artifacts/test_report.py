"""The report: what it says, and that names in it stay names."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from report_runs import HOSTILE, Page, real_images, write_run

import hpd
from hpd.artifacts import DistilledSet, RunFolder
from hpd.artifacts.report import render_report, write_report
from hpd.artifacts.report.gallery import gallery
from hpd.artifacts.report.nearest import nearest_real
from hpd.cli import main
from hpd.data import Normalisation
from hpd.errors import DataError, RunError


@pytest.fixture
def run(distilled, tmp_path):
    return write_run(tmp_path / "run", distilled)


def test_it_says_what_the_run_was(run, distilled):
    page = Page(render_report(run, real_images(distilled.classes)))
    for words in (
        "digits, distilled", "Trial & error", "91.2", "60.0", "6 images", "1,152 floats",
        "1 min 35 s", "10.0%", "HLR", "36,864", "370,008",
        "nitial: what the source gave before its first step",
        "1 b4.conv1", "with a score of 1.75", "MIT <i>", "12.5 % outside", "T-shirt/top",
        "data:\n  kind: digits",
    ):  # fmt: skip
        assert words in page.text, words
    assert "my rows <b>" in page.text
    pictures = [v for tag, name, v in page.attributes if (tag, name) == ("img", "src")]
    # six pairs, and two places in the dialog
    assert len([v for v in pictures if v.startswith("data:image/png;base64,")]) == 12
    assert len(pictures) == 14


def test_it_says_what_else_was_measured(distilled, tmp_path):
    """What newer evaluations and budgets hold, and names of rows in words."""
    rows = [("k_centre_floats", 50.0), ("distilled_5", 40.0)]
    similarity = {"nearest_real": {"usual_rms": 0.123}, "lpips": {"diversity": 0.456}}
    whole = [
        {"student": {"kind": "convnet", "width": 128}, "training": {"epochs": 3}, "accuracy": 84.56}
    ]
    account = {
        "lines": [{"item": "memories <b>", "count": 7, "floats_each": 11, "floats": 77}],
        "budget": 99, "total": 77, "left_over": 22, "images_per_class": 2,
    }  # fmt: skip
    folder = write_run(
        tmp_path / "run",
        distilled,
        rows=rows,
        more={"similarity": similarity, "whole_sets": whole},
        account=account,
    )
    text = " ".join(Page(render_report(folder, real_images(distilled.classes))).text.split())
    for words in (
        "centre floats: real images chosen by k-centre, of as many floats",
        "distilled 5: the first 5 a class",
        "it is 0.123 as a rule", "0.456 apart", "memories <b>", "a budget of 99",
        "convnet of width 128 84.6 (3 epochs)",
    ):  # fmt: skip
        assert words in text, words
    left_out = {"similarity": {"nearest_real": {}, "lpips": "left out: no weights"}}
    folder = write_run(tmp_path / "other", distilled, more=left_out)
    assert "apart" not in Page(render_report(folder, real_images(distilled.classes))).text


def test_an_evaluation_of_an_earlier_version_is_shown(distilled, tmp_path):
    """It told of one number of floats, and of no scores."""
    old = {
        "name": "distilled", "network": "convnet", "images_per_class": 2.0, "stored_floats": 1234,
        "accuracy_mean": 91.2, "accuracy_std": 1.5, "seeds": [0, 1, 2],
    }  # fmt: skip
    folder = write_run(tmp_path / "run", distilled, more={"rows": [old]})
    text = Page(render_report(folder)).text
    assert "1,234" in text
    assert "39,488" in text
    assert "HLR" not in text


def test_the_same_run_gives_the_same_bytes(run, distilled, monkeypatch):
    real = real_images(distilled.classes)
    first = write_report(run, real).read_bytes()
    monkeypatch.setattr("time.time", lambda: 2e9)
    assert write_report(run, real).read_bytes() == first
    assert write_report(run).read_bytes() != first


def test_names_stay_names(distilled, tmp_path):
    """Class names, descriptions and configurations are foreign: no element comes out of them."""
    config = {"description": HOSTILE[0], "data": {"kind": HOSTILE[1]}, "note": HOSTILE[2]}
    rows = [(name, 50.0) for name in HOSTILE]
    clean = Page(
        render_report(write_run(tmp_path / "a", distilled, rows=[(n, 50.0) for n in "abc"]))
    )
    foreign = replace(distilled, classes=HOSTILE)
    folder = write_run(tmp_path / "b", foreign, config=config, rows=rows)
    text = render_report(folder, note=HOSTILE[0])
    page = Page(text)
    assert {tag: page.elements.count(tag) for tag in ("script", "img", "style", "dialog")} == {
        tag: clean.elements.count(tag) for tag in ("script", "img", "style", "dialog")
    }
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    for name in HOSTILE:
        assert name in page.text
    assert "49" not in re.findall(r"alert\(1\); //(\S+)", page.text)


def test_nothing_is_asked_of_a_network(run, distilled):
    page = Page(render_report(run, real_images(distilled.classes)))
    addresses = [v for _, name, v in page.attributes if name in ("src", "href", "srcset", "action")]
    assert addresses
    assert all(address.startswith("data:") for address in addresses)
    text = render_report(run)
    assert "http:" not in text
    assert "https:" not in text
    policy = next(v for tag, name, v in page.attributes if tag == "meta" and "default-src" in v)
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "script-src 'sha256-" in policy


def test_the_nearest_real_image_is_found(distilled):
    """Against a loop over all pairs."""
    real = real_images(distilled.classes, each=9)
    indices = torch.tensor([4, 0, 3])
    found = nearest_real(distilled, indices, real)
    for i, nearest in zip(indices.tolist(), found, strict=True):
        distances = {
            j: float(((distilled.images[i] - real.images[j].float() / 255) ** 2).mean().sqrt())
            for j in range(len(real))
            if real.labels[j] == distilled.labels[i]
        }
        assert nearest.index == min(distances, key=distances.__getitem__)
        assert nearest.distance == pytest.approx(min(distances.values()), rel=1e-5)
        assert torch.equal(nearest.image, real.images[nearest.index])


def test_classes_are_matched_by_name(distilled):
    real = real_images(distilled.classes[::-1])
    found = nearest_real(distilled, torch.tensor([0]), real)
    assert real.classes[int(real.labels[found[0].index])] == distilled.classes[0]


def test_real_images_that_do_not_fit_are_refused(distilled):
    with pytest.raises(DataError, match="none of class 'T-shirt/top'"):
        gallery(distilled, real_images(("a", "b", "c")))
    with pytest.raises(DataError, match="another shape"):
        gallery(distilled, real_images(distilled.classes, size=16))


@pytest.mark.parametrize(
    ("classes", "each", "size"), [(3, 60, 8), (1000, 1, 4), (10, 4, 128), (2, 1, 512)]
)
def test_the_page_stays_small(classes, each, size, tmp_path):
    """Hundreds of images a class, a thousand classes, large images: bounded, and said so."""
    rng = torch.Generator().manual_seed(0)
    many = DistilledSet(
        torch.rand(classes * each, 3, size, size, generator=rng).half().float(),
        torch.arange(classes).repeat_interleave(each),
        tuple(f"class {c}" for c in range(classes)),
        Normalisation((0.5,) * 3, (0.5,) * 3),
        1,
    )
    shown = gallery(many, None)
    encoded = sum(len(tile.source) for own in shown.classes for tile in own.tiles)
    assert encoded < 12e6
    assert shown.classes
    assert all(own.tiles for own in shown.classes)
    assert shown.shown == sum(len(own.tiles) for own in shown.classes) <= 600
    if each == 60:
        folder = RunFolder.create(tmp_path / "run", "data: {kind: x}\n")
        folder.write_result(many, many, {})
        assert "Showing 150 of 180 images" in " ".join(Page(render_report(folder)).text.split())


def test_a_run_without_metrics_or_evaluation_has_a_report(distilled, tmp_path):
    folder = RunFolder.create(tmp_path / "run", "data: {kind: x}\n")
    folder.write_result(distilled, distilled, {})
    text = render_report(folder)
    assert "Not measured yet" in text
    assert "Curves" not in text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.jsonl", "{\n"), ("metrics.jsonl", "[1]\n"), ("metrics.jsonl", '{"step": 1}\n'),
        ("evaluation.json", "{}"), ("evaluation.json", '{"rows": [{"name": "x"}]}'),
        ("evaluation.json", "\udcff"), ("cost.json", "nonsense"),
    ],
)  # fmt: skip
def test_a_broken_file_is_named(run, name, content):
    (run.path / name).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(RunError, match=f"cannot read .*{re.escape(name)}"):
        render_report(run)


def test_no_report_of_what_is_no_finished_run(tmp_path):
    result = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    RunFolder.create(tmp_path / "run", "data: {kind: x}\n")
    result = CliRunner().invoke(main, ["report", str(tmp_path / "run")])
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    assert not (tmp_path / "run" / "report.html").exists()
    arguments = ["report", str(tmp_path / "run"), "--no-nearest", "--data", "digits"]
    result = CliRunner().invoke(main, arguments)
    assert (result.exit_code, result.output.count("\n")) == (2, 1)


@pytest.fixture
def digits_run(tmp_path):
    """A run whose data can be read again: real digits as its result."""
    train = hpd.load_dataset("digits").train
    chosen = torch.cat([own[:2] for own in train.by_class])
    distilled = DistilledSet(
        train.unit(chosen), train.labels[chosen], train.classes, train.normalisation, 5120
    )
    # the configuration is complete in a real run; its data decide here
    values = {"data": {"kind": "digits"}, "source": {"kind": "pixel"}}
    return write_run(tmp_path / "run", distilled, config=values)


def test_report_reads_the_data_of_the_run(digits_run):
    """The command, whole: the nearest of real images are they themselves."""
    shown = CliRunner().invoke(main, ["report", str(digits_run.path)])
    assert shown.exit_code == 0, shown.output
    assert str(digits_run.path / "report.html") in shown.output
    text = (digits_run.path / "report.html").read_text()
    assert text.count("distance 0.000") == 20
    out = digits_run.path.parent / "deep" / "alone.html"
    shown = CliRunner().invoke(
        main, ["report", str(digits_run.path), "--no-nearest", "--out", str(out)]
    )
    assert shown.exit_code == 0, shown.output
    assert "distance 0.000" not in out.read_text()
    assert "real training images" not in Page(out.read_text()).text


def test_data_that_are_gone_are_done_without(distilled, tmp_path):
    values = {"data": {"kind": "folder", "root": str(tmp_path / "gone")}, "source": "pixel"}
    folder = write_run(tmp_path / "run", distilled, config=values)
    text = Page(hpd.report(folder.path).read_text()).text
    assert "Without the nearest real images: no such data folder" in " ".join(text.split())
    with pytest.raises(DataError):
        hpd.report(folder.path, "digits")
    # the same photos at another place
    for name in distilled.classes:
        for i in range(4):
            place = tmp_path / "moved" / name.replace("/", " ") / f"{i}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (i * 60, 0, 0)).save(place)
    with pytest.raises(DataError, match=r"not those of the run in .*classes gone: 'T-shirt/top'"):
        hpd.report(folder.path, tmp_path / "moved")
    (tmp_path / "other").mkdir()
    # where they were lie others now: no reason to fail
    (tmp_path / "moved").rename(tmp_path / "gone")
    text = Page(hpd.report(folder.path).read_text()).text
    assert "Without the nearest real images: the data are not those of the run" in text
    (tmp_path / "gone").rename(tmp_path / "moved")
    train = hpd.load_dataset(tmp_path / "moved").train
    theirs = replace(distilled, classes=train.classes, normalisation=train.normalisation)
    folder = write_run(tmp_path / "other" / "run", theirs, config=values)
    assert "data-distance" in hpd.report(folder.path, tmp_path / "moved").read_text()
