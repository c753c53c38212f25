"""Folders of any layout to a listing: parts, classes and pictures, or what is not understood."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from hpd.data import DATASETS
from hpd.errors import ConfigError, DataError


def place(root, *files):
    """Writes empty files; a listing opens none of them."""
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def by_class(root, classes=("cat", "dog"), count=3):
    place(root, *(f"{name}/{i}.png" for name in classes for i in range(count)))


def listed(root, **options):
    return DATASETS.parse({"kind": "folder", "root": str(root), **options}).listing()


def files(part, root):
    return [Path(entry.name).relative_to(root).as_posix() for entry in part.entries]


def error(root, **options):
    with pytest.raises(DataError) as caught:
        listed(root, **options)
    text = str(caught.value)
    assert "\n" not in text and len(text) <= 600
    return text


@pytest.mark.parametrize("train", ["train", "Train", "TRAINING"])
@pytest.mark.parametrize("test", ["test", "Testing", "eval", "evaluation", "Val", "valid", "dev"])
def test_parts_go_by_the_names_that_people_use(tmp_path, train, test):
    by_class(tmp_path / train)
    by_class(tmp_path / test, count=2)
    found = listed(tmp_path)
    assert found.classes == ("cat", "dog") and found.notes == ()
    assert files(found.train, tmp_path)[:2] == [f"{train}/cat/0.png", f"{train}/cat/1.png"]
    assert found.train.labels == [0, 0, 0, 1, 1, 1]
    assert files(found.test, tmp_path)[-1] == f"{test}/dog/1.png"


def test_test_goes_before_val(tmp_path):
    for part in ("train", "val", "test"):
        by_class(tmp_path / part)
    found = listed(tmp_path)
    assert {name.split("/")[0] for name in files(found.test, tmp_path)} == {"test"}
    assert any("val is passed over" in note for note in found.notes)


def test_a_test_folder_without_classes_is_passed_over_for_val(tmp_path):
    by_class(tmp_path / "train")
    by_class(tmp_path / "val")
    place(tmp_path / "test", "images/0.png", "images/1.png")
    found = listed(tmp_path)
    assert {name.split("/")[0] for name in files(found.test, tmp_path)} == {"val"}
    assert any("test is passed over: it is not by class" in note for note in found.notes)


def test_an_unlabelled_test_alone_is_refused_and_a_split_can_be_said_by_hand(tmp_path):
    by_class(tmp_path / "train")
    place(tmp_path / "test", "0.png", "1.png")
    text = error(tmp_path)
    assert "test is not by class" in text and "data.train=train" in text
    assert len(listed(tmp_path, train="train").test) == 2


def test_pictures_lie_at_any_depth_below_a_class(tmp_path):
    place(tmp_path, "cat/0.png", "cat/a/b/1.JPEG", "dog/2.webp", "dog/3.tif")
    found = listed(tmp_path)
    both = files(found.train, tmp_path) + files(found.test, tmp_path)
    assert sorted(both) == ["cat/0.png", "cat/a/b/1.JPEG", "dog/2.webp", "dog/3.tif"]


def test_a_train_folder_alone_is_split_with_a_note(tmp_path):
    by_class(tmp_path / "train", count=10)
    found = listed(tmp_path, test_fraction=0.3)
    assert (len(found.train), len(found.test)) == (14, 6)
    assert any("no test part" in note for note in found.notes)


def test_other_folders_beside_the_parts_are_passed_over_with_a_note(tmp_path):
    for part in ("Train", "Test", "Meta"):
        by_class(tmp_path / part)
    found = listed(tmp_path)
    assert found.classes == ("cat", "dog")
    assert any("Meta is passed over" in note for note in found.notes)


def test_stray_pictures_beside_the_classes_are_passed_over_with_a_note(tmp_path):
    by_class(tmp_path)
    place(tmp_path, "preview.png")
    assert any("1 pictures in root itself" in note for note in listed(tmp_path).notes)


def test_the_split_of_a_class_depends_on_its_own_name_and_number_alone(tmp_path):
    by_class(tmp_path / "few", ("cat", "dog"), count=20)
    by_class(tmp_path / "many", ("ant", "cat", "dog"), count=20)

    def kept(root, name, **options):
        names = files(listed(root, **options).test, root)
        return [own for own in names if own.startswith(f"{name}/")]

    for name in ("cat", "dog"):
        alone = kept(tmp_path / "many", name, classes=[name, "ant"])
        assert kept(tmp_path / "few", name) == kept(tmp_path / "many", name) == alone
    numbers = {tuple(Path(f).name for f in kept(tmp_path / "few", n)) for n in ("cat", "dog")}
    assert len(numbers) == 2


def test_only_folders_of_wanted_classes_are_opened(tmp_path, monkeypatch):
    for part in ("train", "test"):
        by_class(tmp_path / part, [f"c{c:02}" for c in range(30)])
        (tmp_path / part / "empty").mkdir()
    opened = Counter()
    scandir = os.scandir

    def counting(path):
        opened[str(path)] += 1
        return scandir(path)

    monkeypatch.setattr(os, "scandir", counting)
    found = listed(tmp_path, classes=["c07", "c03"])
    assert found.classes == ("c07", "c03")
    assert files(found.train, tmp_path)[0] == "train/c07/0.png"
    inner = sorted(Path(path).name for path in opened if Path(path).name.startswith("c"))
    assert inner == ["c03", "c03", "c07", "c07"]
    assert not any(path.endswith("empty") for path in opened)


def test_what_systems_leave_is_skipped_at_every_depth(tmp_path):
    by_class(tmp_path, count=4)
    for below in ("", "cat/", "cat/more/"):
        place(
            tmp_path, f"{below}.ipynb_checkpoints/0.png", f"{below}._0.png", f"{below}Thumbs.db",
            f"{below}desktop.ini", f"{below}__MACOSX/0.png", f"{below}lost+found/0.png",
        )  # fmt: skip
    found = listed(tmp_path)
    assert found.classes == ("cat", "dog")
    assert len(found.train) + len(found.test) == 8


def test_a_linked_folder_is_followed_once_and_a_circle_ends(tmp_path):
    by_class(tmp_path / "set")
    place(tmp_path, "store/a.png", "store/b.png")
    for name in ("one", "two"):
        (tmp_path / "set" / "cat" / name).symlink_to(tmp_path / "store")
    (tmp_path / "set" / "cat" / "loop").symlink_to(tmp_path / "set" / "cat")
    found = listed(tmp_path / "set")
    cats = [n for part in (found.train, found.test) for n in files(part, tmp_path / "set")]
    assert sorted(n for n in cats if n.startswith("cat/")) == [
        "cat/0.png", "cat/1.png", "cat/2.png", "cat/one/a.png", "cat/one/b.png",
    ]  # fmt: skip


@pytest.mark.parametrize("link", ["cat/gone.png", "cat/gone", "gone"])
def test_a_link_that_leads_nowhere_is_named(tmp_path, link):
    by_class(tmp_path)
    (tmp_path / link).symlink_to(tmp_path / "nowhere")
    assert f"a link leads nowhere: {tmp_path / link}" in error(tmp_path)


def test_a_broken_link_of_a_class_that_is_not_wanted_does_no_harm(tmp_path):
    by_class(tmp_path)
    (tmp_path / "zebra").symlink_to(tmp_path / "nowhere")
    assert listed(tmp_path, classes=["dog", "cat"]).classes == ("dog", "cat")


@pytest.mark.parametrize("where", ["", "cat", "cat/more"])
def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch, where):
    by_class(tmp_path)
    place(tmp_path, "cat/more/9.png")
    scandir = os.scandir

    def refusing(path):
        if Path(path) == tmp_path / where:
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert error(tmp_path) == f"cannot read {tmp_path / where}: got Permission denied"


def test_a_class_without_pictures_says_what_is_in_its_folder(tmp_path):
    by_class(tmp_path)
    place(tmp_path, "zebra/a.npy", "zebra/b.npy", "zebra/c.txt")
    assert "got files of .npy (2), .txt (1)" in error(tmp_path)
    assert listed(tmp_path, classes=["cat", "dog"]).classes == ("cat", "dog")


def test_files_that_pillow_does_not_decode_are_no_pictures(tmp_path):
    by_class(tmp_path, count=4)
    place(tmp_path, *(f"cat/x{s}" for s in (".pdf", ".mpg", ".h5", ".eps", ".json", ".mp4", "")))
    found = listed(tmp_path)
    assert len(found.train) + len(found.test) == 8


def test_classes_equal_in_composed_form_are_refused(tmp_path):
    name = "caf\u00e9"
    by_class(tmp_path, (name, "dog"))
    by_class(tmp_path, (unicodedata.normalize("NFD", name),))
    assert "two classes" in error(tmp_path) and "same name" in error(tmp_path)


def test_parts_are_matched_in_composed_form(tmp_path):
    name = "caf\u00e9"
    by_class(tmp_path / "train", (name, "dog"))
    by_class(tmp_path / "test", (unicodedata.normalize("NFD", name), "dog"))
    assert listed(tmp_path).classes == (name, "dog")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have text for names")
def test_a_class_name_that_is_no_text_is_refused(tmp_path):
    by_class(tmp_path)
    (tmp_path / os.fsdecode(b"caf\xe9")).mkdir()
    assert "is not UTF-8" in error(tmp_path)


def test_other_classes_in_the_test_part_are_an_error_unless_not_wanted(tmp_path):
    by_class(tmp_path / "train", ("ant", "cat", "dog"))
    by_class(tmp_path / "test", ("bee", "cat", "dog"))
    assert "got no 'ant'; also 'bee'" in error(tmp_path)
    assert listed(tmp_path, classes=["cat", "dog"]).classes == ("cat", "dog")
    assert "no folder of class 'ant'" in error(tmp_path, classes=["cat", "ant"])


def test_flat_folders_are_refused_with_what_is_there(tmp_path):
    place(tmp_path, "train/cat.0.png", "train/dog.0.png", "test1/0.png")
    text = error(tmp_path)
    assert "train has no folder for each class" in text and "kind: csv" in text


def test_pictures_in_root_are_refused_with_one_of_them(tmp_path):
    place(tmp_path, "a.png", "b.png")
    assert "2 pictures in it, such as 'a.png'" in error(tmp_path)


def test_a_single_folder_around_the_set_is_named(tmp_path):
    by_class(tmp_path / "photos")
    text = error(tmp_path)
    assert "got 1 subfolder" in text and f"data.root={tmp_path / 'photos'}" in text


def test_a_test_part_without_a_training_part_is_refused(tmp_path):
    by_class(tmp_path / "test")
    by_class(tmp_path / "val")
    assert "a test part and no training part" in error(tmp_path)


def test_folders_that_may_be_classes_or_parts_are_refused_and_said_by_hand(tmp_path):
    by_class(tmp_path, ("bus", "car", "train"))
    assert "data.train=. if all of these are classes" in error(tmp_path)
    assert listed(tmp_path, train=".").classes == ("bus", "car", "train")
    by_class(tmp_path / "quality", ("valid", "invalid"))
    assert "data.train=." in error(tmp_path / "quality")


def test_two_training_parts_are_refused(tmp_path):
    by_class(tmp_path / "train")
    by_class(tmp_path / "training")
    assert "two training parts" in error(tmp_path)


def test_a_class_with_parts_of_its_own_is_refused(tmp_path):
    for name in ("cat", "dog"):
        place(tmp_path, f"{name}/train/0.png", f"{name}/test/0.png")
    assert "has a training and a test part of its own" in error(tmp_path)


def test_parts_are_said_by_hand_relative_or_not(tmp_path):
    by_class(tmp_path / "one")
    by_class(tmp_path / "two", count=1)
    for test in ("two", str(tmp_path / "two")):
        found = listed(tmp_path, train="one", test=test)
        assert (len(found.train), len(found.test)) == (6, 2)
    assert "no such data folder" in error(tmp_path, train="one", test="three")
    with pytest.raises(ConfigError, match=r"data\.test needs data\.train"):
        listed(tmp_path, test="two")


def test_a_class_with_one_picture_cannot_be_split(tmp_path):
    by_class(tmp_path, count=1)
    assert "class 'cat' has too few images: got 1" in error(tmp_path)


def test_a_changed_file_has_another_stamp(tmp_path):
    by_class(tmp_path)
    before = listed(tmp_path).train.entries[0]
    Path(before.name).write_bytes(b"more")
    assert listed(tmp_path).train.entries[0].stamp != before.stamp


def test_errors_are_one_line_of_a_readable_length_for_any_path(tmp_path):
    root = tmp_path.joinpath(*["a long name of a folder " * 9 + "\n"] * 4)
    place(root / "flat", "train/cat.png", "Meta/0.png", "test/0.png")
    place(root / "unlabelled", "train/cat/0.png", "train/dog/0.png", "test/0.png")
    place(root / "wrapped", "in/cat/0.png", "in/dog/0.png")
    place(root / "empty", "cat/0.npy", "dog/0.npy")
    for name in ("flat", "unlabelled", "wrapped", "empty", "nowhere"):
        assert name[-4:] in error(root / name)
    with pytest.raises(ConfigError) as caught:
        DATASETS.parse(str(root / "nowhere"))
    assert "\n" not in str(caught.value) and len(str(caught.value)) <= 600


def test_files_that_may_be_meant_as_pictures_are_counted(tmp_path):
    by_class(tmp_path / "train")
    by_class(tmp_path / "val", count=2)
    place(tmp_path, "train/cat/a.HEIC", "train/cat/deep/b.heic", "val/dog/c.mp4", "train/dog/d")
    # what is written about pictures, hidden, or left by a system, is not meant as one
    place(tmp_path, "train/cat/a.txt", "train/cat/a.json", "val/dog/.c.heic", "val/dog/Thumbs.db")
    (note,) = listed(tmp_path).notes
    assert note == (
        "4 files are passed over, by their suffixes no pictures that are read: "
        ".heic (2), no suffix (1), .mp4 (1)"
    )
    # of classes that are not asked for nobody looks at the files
    place(tmp_path, "train/eel/0.png", "val/eel/0.png", "train/eel/e.heic")
    (note,) = listed(tmp_path, classes=["dog", "eel"]).notes
    assert note.endswith("no suffix (1), .heic (1), .mp4 (1)")


def test_one_such_file_is_told_as_one(tmp_path):
    by_class(tmp_path)
    place(tmp_path, "cat/a.heic")
    assert listed(tmp_path).notes[-1] == (
        "1 file is passed over, by its suffix no picture that is read: .heic (1)"
    )


def test_such_files_are_told_once_before_a_run(tmp_path, caplog):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.new("RGB", (8, 8), (40 * i, 0, 90)).save(tmp_path / name / f"{i}.png")
    place(tmp_path, "cat/a.heic", "dog/b.heic", "dog/b.txt")
    settings = DATASETS.parse(str(tmp_path))
    for _ in range(2):
        assert len(settings.build().train) == 4
    told = [record for record in caplog.records if "passed over" in record.message]
    assert [record.levelname for record in told] == ["WARNING"]
    assert told[0].message.endswith("no pictures that are read: .heic (2)")
