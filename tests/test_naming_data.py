"""Data are named alike wherever they are named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import SMALL_STUDENT, SMALL_TEACHER
from small_runs import SMALL_EVALUATION, write_images

import hpd
from hpd.cli import main
from hpd.errors import ConfigError, DataError

RUN = {
    "source": {"kind": "pixel", "steps": 1},
    "objective": {"kind": "distribution", "student": SMALL_STUDENT, "real_batch": 4},
    "selection": "last", "device": "cpu", "evaluation": {**SMALL_EVALUATION, "scores": False},
}  # fmt: skip
TEACHER = [f"student={SMALL_TEACHER['student']}", "training={epochs: 1}"]


@pytest.fixture(autouse=True)
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "photos")
    return tmp_path / "photos"


def invoke(*arguments):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result.output


WAYS = {
    "folder": (["photos", "channels=1", "resolution=8"], {}),
    "mapping": ([], {"kind": "folder", "root": "photos", "channels": 1, "resolution": 8}),
    "yaml": (["{kind: folder, root: photos, channels: 1, resolution: 8}"], {}),
    "place": (["{kind: photos, channels: 1}", "resolution=8"], {}),
}


def digest(dataset):
    return dataset.train.sha256, dataset.train.classes, dataset.train.image_shape


@pytest.mark.parametrize("way", WAYS)
def test_every_way_names_the_same_data_in_every_function(way):
    texts, mapping = WAYS[way]
    where, overrides = (mapping or texts[0]), texts[1:]
    options = {name: int(value) for name, value in (text.split("=") for text in overrides)}
    expected = digest(hpd.load_dataset("photos", channels=1, resolution=8))
    assert digest(hpd.load_dataset(where, **options)) == expected
    in_full = [f"data.{override}" for override in overrides]
    assert hpd.inspect_dataset(where, *overrides).shape == (1, 8, 8)
    assert hpd.inspect_dataset(where, *in_full).shape == (1, 8, 8)
    teacher = hpd.squeeze(where, *in_full, *TEACHER, out="teacher")
    assert teacher.record.classes == expected[1]
    given = {**RUN, "data": where}
    run = hpd.distill(given, *in_full)
    assert tuple(run.distilled.images.shape[1:]) == expected[2]


def test_every_way_names_the_same_data_in_every_command():
    asked = ["data.channels=1", "data.resolution=8"]
    invoke("squeeze", "--data", "photos", *asked, *TEACHER, "--out", "one")
    invoke("squeeze", "data=photos", *asked, *TEACHER, "--out", "two")
    text = "{kind: folder, root: photos, channels: 1, resolution: 8}"
    invoke("squeeze", "--data", text, *TEACHER, "--out", "three")
    names = ("one", "two", "three")
    assert len({Path(name, "teacher.safetensors").read_bytes() for name in names}) == 1
    for options in (asked, ["channels=1", "resolution=8"]):
        facts = json.loads(invoke("data", "inspect", "photos", *options, "--json"))
        assert facts["shape"] == [1, 8, 8]


def test_data_that_moved_are_named_by_their_new_place_alone(photos, tmp_path):
    data = {"kind": "folder", "root": str(photos), "channels": 1, "resolution": 8}
    run = hpd.distill({**RUN, "data": data}, out="run")
    shutil.move(photos, tmp_path / "moved")
    with pytest.raises(DataError):
        hpd.evaluate("run")
    for override in ("data=moved", "data.root=moved", "data={kind: folder, root: moved, "
                     "channels: 1, resolution: 8}"):  # fmt: skip
        rows = hpd.evaluate("run", override, "seeds=1").rows
        assert rows[0].name == "distilled"
    for options in (["--data", "moved"], ["data=moved"], ["data.root=moved"]):
        assert "report: " in invoke("report", run.folder, *options)
    # options of the run stay: at their full size they would be other images
    assert hpd.report("run", "moved").is_file()
    with pytest.raises(ConfigError, match="a report takes options of the data alone"):
        hpd.report("run", "auto", "seeds=1")


def test_what_names_no_data_is_one_line():
    for call in (
        lambda: hpd.squeeze(out="teacher"),
        lambda: hpd.inspect_dataset(),
        lambda: hpd.squeeze("data.resolution=8", out="teacher"),
    ):
        with pytest.raises(ConfigError, match=r"no data|unknown data set"):
            call()


def test_options_of_an_evaluation_may_be_given_in_full():
    data = {"kind": "folder", "root": "photos", "channels": 1}
    run = hpd.distill({**RUN, "data": data}, out="run")
    assert len(hpd.evaluate(run, "evaluation.seeds=1").rows[0].seeds) == 1


def test_data_that_are_named_twice_are_refused():
    """Or one of the two would be passed over without a word."""
    for call in (
        lambda: hpd.squeeze("digits", "data=photos", out="teacher"),
        lambda: hpd.squeeze("digits", "data.kind=npz", out="teacher"),
        lambda: hpd.inspect_dataset("photos", "data=digits"),
    ):
        with pytest.raises(ConfigError, match="the data are named twice"):
            call()
    assert hpd.inspect_dataset("digits", "data=digits").shape == (1, 16, 16)
