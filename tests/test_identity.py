"""Results belong to their data: whatever takes a run refuses data that are not those of the run."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from conftest import SMALL_STUDENT, SMALL_TEACHER
from PIL import Image
from report_runs import Page
from small_runs import SMALL_EVALUATION, check_refused, contents, write_images

import hpd
from hpd.api.identity import DataFacts, EvaluationData, check_data, check_teacher
from hpd.artifacts import DistilledSet, RunFolder
from hpd.cli import main
from hpd.data import Dataset, ImageSet, Normalisation
from hpd.data.kinds.folder import FolderSettings
from hpd.disk.files import write_json
from hpd.disk.seals import sealed
from hpd.errors import ConfigError, DataError, RunError
from hpd.students.teachers import read_teacher

CONFIG = {
    "data": {"kind": "folder", "root": "data", "channels": 1},
    "device": "cpu",
    "source": {"kind": "hmn", "overbudget": 0.5, "steps": 1,
               "decoder": {"kind": "conv", "fit_steps": 1}},
    "objective": {"kind": "distribution", "student": SMALL_STUDENT, "real_batch": 4},
    "selection": "last",
    "evaluation": SMALL_EVALUATION | {"seeds": 1, "training": {"epochs": 1}},
}  # fmt: skip
PRUNING = ("betas=[0]", f"student={SMALL_STUDENT}", "training.epochs=1")
READ_DATA = {
    "evaluate": ["evaluate", "run"],
    "report": ["report", "run", "--data", "data"],
    "prune": ["prune", "run", *PRUNING, "--out", "less"],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory, generator_folder):
    """Three classes of images, an evaluated run of them, one of a generator, and a teacher."""
    root = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        write_images(Path("data"))
        hpd.evaluate(hpd.distill(CONFIG, out="run"))
        gan = {"kind": "gan", "generator": generator_folder, "levels": [0], "steps": 1,
               "average_draws": 2}  # fmt: skip
        hpd.distill(CONFIG | {"source": gan}, out="gan")
        options = f"student={SMALL_TEACHER['student']}", "training={epochs: 1}"
        hpd.squeeze(CONFIG["data"], *options, out="teacher")
    return root


@pytest.fixture
def here(made, tmp_path, monkeypatch):
    """All of it to be changed, in the working directory."""
    here = shutil.copytree(made, tmp_path / "here")
    monkeypatch.chdir(here)
    return here


def call(*arguments):
    return CliRunner().invoke(main, list(arguments))


def each_part(change):
    for part in ("train", "test"):
        change(Path("data") / part)


def add_a_class(patch):
    each_part(lambda part: shutil.copytree(part / "b", part / "aa"))


def remove_a_class(patch):
    each_part(lambda part: shutil.rmtree(part / "c"))


def rename_to_the_end(patch):
    each_part(lambda part: (part / "a").rename(part / "zebra"))


def rename_in_place(patch):
    each_part(lambda part: (part / "b").rename(part / "bee"))


def turn_the_classes(patch):
    """As a data set does that lists them in another order."""
    build = FolderSettings.build

    def turned(settings):
        dataset = build(settings)
        return Dataset(dataset.train.only([1, 0, 2]), dataset.test.only([1, 0, 2]))

    patch.setattr(FolderSettings, "build", turned)


def change_an_image(patch):
    path = sorted(Path("data/train/a").iterdir())[0]
    Image.new("L", (8, 8), 250).save(path)


def add_an_image(patch):
    Image.new("L", (8, 8), 250).save("data/train/a/99.png")


def resize_the_images(patch):
    for path in Path("data").rglob("*.png"):
        Image.new("L", (10, 10), 9).save(path)


CHANGES = {
    add_a_class: "got classes added: 'aa'",
    remove_a_class: "got classes gone: 'c'",
    rename_to_the_end: "got classes gone: 'a'; classes added: 'zebra'",
    rename_in_place: "got classes renamed: 'b' -> 'bee'",
    turn_the_classes: "got classes in another order: 'a', 'b' -> 'b', 'a'",
    change_an_image: "got other pixels or labels: SHA-256 ",
    add_an_image: "got training images: 30 -> 31",
    resize_the_images: "got image shape: [1, 8, 8] -> [1, 10, 10]",
}


def rewrite(path, changed):
    """Write a sealed JSON file again, as another version would have written it."""
    content = json.loads(Path(path).read_text())
    del content["sha256"]
    write_json(Path(path), sealed(changed(content)))


def forget_the_hash():
    """Make the run one of an earlier version."""
    unknown = ("data_sha256", "data_images")
    rewrite("run/manifest.json", lambda told: {k: v for k, v in told.items() if k not in unknown})


@pytest.mark.parametrize("command", READ_DATA.values(), ids=READ_DATA)
def test_the_same_data_are_taken(here, command):
    assert call(*command).exit_code == 0
    # the same in other files, at another place, and a run of an earlier version
    shutil.move("data", "moved")
    shutil.copytree("moved", "data")
    forget_the_hash()
    shutil.rmtree("less", ignore_errors=True)
    assert call(*command).exit_code == 0


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_other_data_are_refused_and_nothing_is_written(here, change, monkeypatch):
    change(monkeypatch)
    before = contents(here)
    for command in READ_DATA.values():
        result = call(*command)
        check_refused(result, f"the data are not those of the run in run: {CHANGES[change]}")
        assert len(result.stderr) < 600
        assert contents(here) == before


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_report_says_why_it_does_without_real_images(here, change, monkeypatch):
    change(monkeypatch)
    assert call("report", "run").exit_code == 0
    written = Path("run/report.html").read_text()
    text = " ".join(Page(written).text.split())
    assert "Without the nearest real images: the data are not those of the run: " in text
    assert CHANGES[change].removeprefix("got ").strip() in text
    assert "data-distance" not in written


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_runs_of_earlier_versions_are_told_by_classes_and_normalisation(here, change, monkeypatch):
    forget_the_hash()
    change(monkeypatch)
    result = call("evaluate", "run")
    said = {
        change_an_image: "other pixels: their mean or deviation is another",
        add_an_image: "other pixels: their mean or deviation is another",
        rename_in_place: "classes gone: 'b'; classes added: 'bee'",
    }.get(change, CHANGES[change])
    check_refused(result, said)


def test_a_run_in_memory_knows_its_classes(here, monkeypatch):
    run = hpd.distill(CONFIG | {"source": {"kind": "pixel", "steps": 0}})
    assert hpd.evaluate(run).rows
    rename_to_the_end(monkeypatch)
    with pytest.raises(DataError, match="those of the run: got classes gone: 'a'; classes added"):
        hpd.evaluate(run)


def test_a_run_in_memory_knows_its_pixels(here, monkeypatch, teacher_folder):
    run = hpd.distill(CONFIG | {"source": {"kind": "pixel", "steps": 0}})
    assert hpd.relabel(run, "teacher").distilled.soft_labels is not None
    with pytest.raises(ConfigError, match="of other images than the run: got other pixels"):
        hpd.relabel(run, teacher_folder)
    change_an_image(monkeypatch)
    with pytest.raises(DataError, match="those of the run: got other pixels or labels: SHA-256"):
        hpd.evaluate(run)


def test_a_report_takes_images_and_names_of_the_same_data_alone(here):
    train = hpd.load_dataset("folder", root="data", channels=1).train
    known = hpd.report("run", train).read_bytes()
    assert b"data-distance" in known
    # by its kind, with the options of the run
    assert hpd.report("run", "folder").read_bytes() == known
    for wrong in (train.only([2, 1, 0]), train.only([0, 1]), "digits"):
        with pytest.raises(DataError, match="not those of the run in run: got classes"):
            hpd.report("run", wrong)
    assert Path("run/report.html").read_bytes() == known


def test_a_teacher_of_the_same_data_relabels(here):
    assert call("relabel", "run", "--teacher", "teacher").exit_code == 0
    forget_the_hash()
    assert call("relabel", "run", "--teacher", "teacher").exit_code == 0


def test_a_teacher_of_other_data_does_not(here, teacher_folder):
    """That of the fixture has seen the test images, too: same classes, other pixels."""
    before = contents(here)
    result = call("relabel", "run", "--teacher", teacher_folder)
    check_refused(
        result, "the teacher is of other images than the run: got other pixels or labels: SHA-256"
    )
    assert contents(here) == before
    # whom nobody can tell of other data is taken
    forget_the_hash()
    assert call("relabel", "run", "--teacher", teacher_folder).exit_code == 0


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"classes": ("b", "a", "c")}, "classes in another order: 'a', 'b' -> 'b', 'a'"),
        ({"classes": ("a", "b", "d")}, "classes gone: 'c'; classes added: 'd'"),
        ({"image_shape": (3, 8, 8)}, "image shape: [1, 8, 8] -> [3, 8, 8]"),
        ({"images_sha256": "0" * 64}, "-> 000000000000..."),
        ({"images_sha256": None}, None),
    ],
)
def test_what_a_teacher_says_of_its_data(here, changed, said):
    known, teacher = (
        DataFacts.of_run(hpd.load_distilled("run"), Path("run")),
        read_teacher("teacher"),
    )
    other = replace(teacher, record=teacher.record.model_copy(update=changed))
    if said is None:
        check_teacher(known, other)
        return
    with pytest.raises(ConfigError) as error:
        check_teacher(known, other)
    assert said in str(error.value)


def evaluated_with(run, **changed):
    """Write which data an evaluation was made with."""
    told = EvaluationData.of(hpd.load_dataset("folder", root="data", channels=1))
    rewrite(
        f"{run}/evaluation.json", lambda found: {**found, "data": {**told.as_json(), **changed}}
    )


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, None),
        # another test set is no fault of a run by itself
        ({"test_sha256": "0" * 64}, None),
        ({"train_sha256": "0" * 64}, "-> 000000000000..."),
        ({"classes": ["a", "b", "c", "d"]}, "got classes added: 'd'"),
        ({"classes": ["a", "b"]}, "got classes gone: 'c'"),
        ({"classes": ["a", "zebra", "c"]}, "got classes gone: 'b'; classes added: 'zebra'"),
        ({"classes": ["a", "c", "b"]}, "got classes in another order: 'b', 'c' -> 'c', 'b'"),
        ({"classes": None}, "cannot read"),
    ],
)
def test_what_was_evaluated_with_other_data_is_not_compared(here, changed, said):
    evaluated_with("run", **changed)
    before = contents(here)
    result = call("compare", "run", "--out", "comparison")
    if said is None:
        assert result.exit_code == 0
        return
    check_refused(result, said)
    assert f"`hpd evaluate {here / 'run'}`" in result.stderr
    assert contents(here) == before


def test_seeds_are_compared_on_one_test_set(here):
    other = hpd.distill(CONFIG, seed=1, out="other")
    hpd.evaluate(other)
    for run in ("run", "other"):
        evaluated_with(run)
    assert len(hpd.compare(["run", "other"])[0].seeds) == 2
    evaluated_with("other", test_sha256="0" * 64)
    result = call("compare", "run", "other")
    check_refused(result, "differ in more than their seed: their evaluations are of different data")
    assert "got test: other pixels or labels: SHA-256 " in result.stderr
    # an evaluation of an earlier version does not say
    rewrite("other/evaluation.json", lambda found: {k: found[k] for k in found if k != "data"})
    assert call("compare", "run", "other").exit_code == 0
    # and by another protocol it is of another group
    evaluated_with("other", test_sha256="0" * 64)
    rewrite("other/evaluation.json", lambda found: {**found, "settings": {"protocol": "glad"}})
    assert call("compare", "run", "other").exit_code == 0


def test_samples_have_the_classes_of_the_run_and_need_no_data(here):
    shutil.rmtree("data")
    made = hpd.sample("gan", 1)
    assert made.classes == ("a", "b", "c")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"classes": ("a", "b", "zebra")}, "got classes gone: 'c'; classes added: 'zebra'. "),
        ({"classes": ("b", "a", "c")}, "got classes in another order: 'a', 'b' -> 'b', 'a'. "),
        ({"classes": ("a", "b", "c", "d")}, "got classes added: 'd'. "),
        ({"images": torch.zeros(3, 1, 4, 4)}, "got image shape: [1, 8, 8] -> [1, 4, 4]. "),
        ({"normalisation": Normalisation((0.9,), (1.0,))}, "mean or deviation"),
    ],
)
def test_a_set_of_another_run_is_not_taken_for_that_of_the_run(here, changed, said):
    """No data are read for new images: classes come from the set that lies there."""
    replace(hpd.load_distilled("gan"), **changed).save(Path("gan/distilled.safetensors"))
    result = call("sample", "gan", "--per-class", "1", "--out", "more")
    check_refused(result, "the distilled set of the run in gan is not the one that its manifest")
    assert said in result.stderr
    assert not Path("more").exists()
    for command in (["evaluate", "gan"], ["report", "gan"], ["report", "gan", "--no-nearest"]):
        check_refused(call(*command), said)


def test_a_message_stays_short_however_many_classes(images):
    """A thousand classes with names of 200 letters."""
    names = tuple(f"{c:04d}" + "x" * 200 for c in range(1000))
    one = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    label, normalisation = torch.tensor([0]), Normalisation((0.0,), (1.0,))
    known = DataFacts(names, (3, 224, 224), normalisation, "0" * 64, 10**6)
    for found in (names[::-1], tuple("y" + name for name in names), names[:2]):
        with pytest.raises(DataError) as error:
            check_data(known, ImageSet(one, label, found, normalisation), Path("runs/photos-0"))
        assert len(str(error.value)) < 600
        assert "\n" not in str(error.value)


def test_the_same_labels_tell_a_new_name_from_a_new_class(images):
    known = DataFacts(images.classes, images.image_shape, images.normalisation, images.sha256)
    assert known.changes(images) == []
    named = replace(images, classes=("a", "c", "b"))
    assert known.changes(named) == ["classes in another order: 'b', 'c' -> 'c', 'b'"]
    assert known.changes(replace(images, classes=("a", "b", "z"))) == [
        "classes renamed: 'c' -> 'z'"
    ]
    # how somebody normalises the same images is not what they are
    assert not known.changes(replace(images, normalisation=Normalisation((0.0,), (1.0,))))
    more = replace(known, images=40)
    assert more.changes(images.at(torch.arange(30))) == ["training images: 40 -> 30"]


def test_an_evaluation_says_which_data_it_is_of(here):
    told = json.loads(Path("run/evaluation.json").read_text())
    data = hpd.load_dataset("folder", root="data", channels=1)
    assert EvaluationData.read(told) == EvaluationData.of(data)
    assert RunFolder("run").read_manifest()["data_sha256"] == data.train.sha256
    assert DistilledSet.load("run").classes == data.train.classes


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda root: shutil.rmtree(root / "test" / "b"), "got no 'b', expected the same"),
        (lambda root: (root / "test" / "b").rename(root / "test" / "B"), "got no 'b'; also 'B'"),
        (lambda root: shutil.copytree(root / "test" / "b", root / "test" / "d"), "got also 'd'"),
    ],
)
def test_test_folders_of_other_classes_are_named(tmp_path, change, said):
    write_images(tmp_path)
    change(tmp_path)
    with pytest.raises(DataError, match=r"test has other classes than .*train") as error:
        hpd.load_dataset(tmp_path)
    assert said in str(error.value)


def test_an_unfinished_run_has_no_facts(here):
    Path("run/manifest.json").unlink()
    with pytest.raises(RunError, match="not finished"):
        DataFacts.of_run(hpd.load_distilled("run"), Path("run"))
