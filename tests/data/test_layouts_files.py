"""Arrays in an .npz and lists of files in a csv: what they mean, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from hpd.data import DATASETS
from hpd.errors import ConfigError, DataError

RNG = np.random.default_rng(0)


def pictures(count, *shape, dtype=np.uint8):
    return RNG.integers(0, 256, (count, *shape)).astype(dtype)


def npz(tmp_path, _options=None, **arrays):
    path = tmp_path / "set.npz"
    np.savez(path, **arrays)
    return DATASETS.parse({"kind": "npz", "root": str(path), **(_options or {})}).listing()


def npz_error(tmp_path, **arrays):
    with pytest.raises(DataError) as caught:
        npz(tmp_path, **arrays)
    assert "\n" not in str(caught.value) and len(str(caught.value)) <= 600
    return str(caught.value)


def first_pixels(part):
    """Returns the picture of each entry as an array."""
    return [np.asarray(entry.open()) for entry in part.entries]


def test_medmnist_is_read_with_its_test_part(tmp_path):
    x, y = pictures(6, 8, 8), np.array([[1], [0], [1], [0], [1], [0]])
    both = {"images": x, "labels": y}
    parts = {f"{p}_{k}": v for p in ("train", "val", "test") for k, v in both.items()}
    found = npz(tmp_path, **{**parts, "test_images": x[::-1]})
    assert found.classes == ("0", "1") and found.train.labels == [0, 0, 0, 1, 1, 1]
    for read, row in zip(first_pixels(found.train), (1, 3, 5, 0, 2, 4), strict=True):
        assert (read == x[row]).all()
    assert (first_pixels(found.test)[0] == x[::-1][1]).all()
    assert any("val_images is passed over" in note for note in found.notes)


def test_the_validation_part_stands_in_for_a_test_part(tmp_path):
    x, y = pictures(4, 8, 8), np.array([0, 0, 1, 1])
    found = npz(tmp_path, train_images=x, train_labels=y, val_images=x[:2], val_labels=[0, 1])
    assert len(found.test) == 2


@pytest.mark.parametrize("names", [("images", "labels"), ("x", "y"), ("data", "labels")])
def test_arrays_without_parts_are_split_by_class(tmp_path, names):
    values = dict(zip(names, (pictures(20, 8, 8), np.arange(20) % 2), strict=True))
    found = npz(tmp_path, {"test_fraction": 0.3}, **values)
    assert (len(found.train), len(found.test)) == (14, 6)
    assert any("no test part" in note for note in found.notes)


def test_keras_names_are_read(tmp_path):
    x, y = pictures(4, 8, 8, 3), np.array([0, 1, 0, 1], np.uint8)
    found = npz(tmp_path, x_train=x, y_train=y, x_test=x[:2], y_test=y[:2])
    assert (len(found.train), len(found.test)) == (4, 2)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_may_be_first_or_last(tmp_path, channels):
    x, y = pictures(4, 8, 9, channels), np.array([0, 1, 0, 1])
    last = npz(tmp_path, images=x, labels=y)
    first = npz(tmp_path, images=x.transpose(0, 3, 1, 2), labels=y)
    for one, other in zip(first_pixels(last.train), first_pixels(first.train), strict=True):
        assert one.shape[:2] == (8, 9) and (one == other).all()


def test_labels_may_have_gaps_and_go_by_the_numbers_that_occur(tmp_path):
    found = npz(tmp_path, images=pictures(6, 8, 8), labels=np.array([10, 2, 10, 2, 7, 7]))
    assert found.classes == ("2", "7", "10")


def test_names_of_classes_are_taken_from_the_file(tmp_path):
    x, y = pictures(4, 8, 8), np.array([0, 1, 0, 1])
    found = npz(tmp_path, {"classes": ["dog", "cat"]}, images=x, labels=y, classes=["cat", "dog"])
    assert found.classes == ("dog", "cat")
    assert (first_pixels(found.train)[0] != first_pixels(found.test)[0]).any()
    assert "too few names" in npz_error(tmp_path, images=x, labels=y, classes=["cat"])


def test_names_of_classes_that_do_not_occur_are_left_out(tmp_path):
    x, y = pictures(4, 8, 8), np.array([0, 2, 0, 2])
    found = npz(tmp_path, images=x, labels=y, class_names=["cat", "ant", "dog"])
    assert found.classes == ("cat", "dog") and found.train.labels == [0, 1]
    assert "no picture is of class 'ant'" in found.notes


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (np.array([0.0, 1, 0, 1]), "not of integers: got float64"),
        (np.eye(2, dtype=int)[[0, 1, 0, 1]], r"not one label an image: got shape [4, 2]"),
        (np.array([0, -1, 0, 1]), "negative label: got -1"),
        (np.array([0, 1, 0]), "differ in length: got 4 images, 3 labels"),
        (np.array(["a", "b", "a", "b"]), "not of integers"),
        (np.array([0, 0, 0, 0]), "too few classes"),
    ],
)
def test_labels_that_are_none_are_refused_by_name(tmp_path, labels, said):
    text = npz_error(tmp_path, images=pictures(4, 8, 8), labels=labels)
    assert said in text and "set.npz" in text


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (pictures(4, 64), "is not of pictures: got shape [4, 64]"),
        (pictures(4, 8, 8, 2), "is not of pictures"),
        (pictures(4, 3, 8, 3), "channels first or last: got shape [4, 3, 8, 3]"),
        (pictures(4, 8, 8, 3, dtype=np.float32), "got float32, expected uint8"),
        (pictures(4, 8, 8, dtype=np.complex64), "of a type that pictures are not of"),
    ],
)
def test_arrays_that_are_no_pictures_are_refused_by_name(tmp_path, images, said):
    text = npz_error(tmp_path, images=images, labels=np.array([0, 1, 0, 1]))
    assert said in text and "'images' in " in text


def test_objects_are_never_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    objects = np.array([Trap()] * 4, dtype=object)
    text = npz_error(tmp_path, images=objects, labels=np.array([0, 1, 0, 1]))
    assert "'images'" in text and "Objects are refused" in text
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("kept", [0, 30, 200, -40])
def test_a_broken_npz_is_named(tmp_path, kept):
    path = tmp_path / "set.npz"
    np.savez(path, images=pictures(4, 8, 8), labels=np.array([0, 1, 0, 1]))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"cannot read .*set\.npz"):
        DATASETS.parse({"kind": "npz", "root": str(path)}).listing()


def test_a_damaged_array_of_an_npz_is_named(tmp_path):
    path = tmp_path / "set.npz"
    np.savez_compressed(path, images=pictures(40, 8, 8), labels=np.arange(40) % 2)
    content = bytearray(path.read_bytes())
    content[300:340] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"cannot read .*set\.npz, array 'images'"):
        DATASETS.parse({"kind": "npz", "root": str(path)}).listing()


def test_an_npz_of_other_arrays_says_what_it_has(tmp_path):
    assert "got 'weights'" in npz_error(tmp_path, weights=np.zeros(3))
    text = npz_error(tmp_path, train_images=pictures(4, 8, 8))
    assert "lacks 'train_labels'" in text


def test_a_folder_kind_with_a_file_says_which_kind_fits(tmp_path):
    npz(tmp_path, images=pictures(4, 8, 8), labels=np.array([0, 1, 0, 1]))
    with pytest.raises(DataError, match=r"set\.npz is a file\. Write data=.*kind: npz"):
        DATASETS.parse({"kind": "folder", "root": str(tmp_path / "set.npz")}).listing()


def test_a_file_kind_with_a_folder_is_refused(tmp_path):
    for kind in ("npz", "csv"):
        with pytest.raises(DataError, match="is a folder: expected"):
            DATASETS.parse({"kind": kind, "root": str(tmp_path)}).listing()


def csv(tmp_path, text, encoding="utf-8", **options):
    for name in ("cat", "dog"):
        for i in range(3):
            (tmp_path / "in" / name).mkdir(parents=True, exist_ok=True)
            Image.new("L", (4, 4)).save(tmp_path / "in" / name / f"{i}.png")
    path = tmp_path / "list.csv"
    path.write_text(text, encoding=encoding)
    return DATASETS.parse({"kind": "csv", "root": str(path), **options}).listing()


def lines(head, *more, separator=","):
    rows = [head, *([f"in/{n}/{i}.png", n, *more] for n in ("cat", "dog") for i in range(3))]
    return "".join(separator.join(row) + "\n" for row in rows)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_csv_is_read_whatever_separates_its_columns(tmp_path, separator, encoding):
    found = csv(tmp_path, lines(["Path", "Label"], separator=separator), encoding)
    assert found.classes == ("cat", "dog")
    assert (len(found.train), len(found.test)) == (4, 2)
    assert found.train.entries[0].name.startswith(str(tmp_path / "in" / "cat"))


@pytest.mark.parametrize("path", ["file", "filename", "image_path", "img"])
@pytest.mark.parametrize("label", ["class", "target", "category", "class_name"])
def test_columns_go_by_the_names_that_people_use(tmp_path, path, label):
    assert csv(tmp_path, lines([path, label])).classes == ("cat", "dog")


def test_the_parts_of_a_csv_are_kept_and_the_test_goes_before_val(tmp_path):
    text = "path,label,split\n"
    for name in ("cat", "dog"):
        for i, part in enumerate(("Train", "val", "test")):
            text += f"in/{name}/{i}.png,{name},{part}\n"
    found = csv(tmp_path, text)
    assert [entry.name[-5] for entry in found.train.entries] == ["0", "0"]
    assert [entry.name[-5] for entry in found.test.entries] == ["2", "2"]
    assert any("'val' are passed over" in note for note in found.notes)


def test_columns_are_said_by_hand(tmp_path):
    text = lines(["where", "what", "kept"], "train")
    found = csv(tmp_path, text, path_column="where", label_column="what", part_column="kept")
    assert len(found.train) + len(found.test) == 6
    with pytest.raises(DataError, match=r"no column 'wher': got 'where', 'what', 'kept'"):
        csv(tmp_path, text, path_column="wher")


def test_a_csv_without_a_known_column_says_which_it_has(tmp_path):
    with pytest.raises(DataError, match=r"known for the path: got .*'where'.*data\.path_column"):
        csv(tmp_path, lines(["where", "label"]))
    with pytest.raises(DataError, match=r"known for the path: got .*0\.png'.*first line with"):
        csv(tmp_path, lines(["in/cat/0.png", "cat"]))


def test_missing_pictures_of_a_csv_are_named_ten_at_the_most(tmp_path):
    text = lines(["path", "label"]) + "".join(f"gone{i:02}.png,cat\n" for i in range(14))
    with pytest.raises(DataError) as caught:
        csv(tmp_path, text)
    said = str(caught.value)
    assert "gone09.png and 4 more" in said and "gone10" not in said and len(said) <= 600


def test_pictures_of_classes_not_wanted_may_be_missing(tmp_path):
    text = lines(["path", "label"]) + "gone.png,zebra\n"
    assert csv(tmp_path, text, classes=["dog", "cat"]).classes == ("dog", "cat")


def test_paths_may_lead_out_of_the_folder_of_the_csv(tmp_path):
    for name in ("cat", "dog"):
        for i in range(2):
            Image.new("L", (4, 4)).save(tmp_path / f"{name}{i}.png")
    inner = tmp_path / "inner"
    inner.mkdir()
    text = "path,label\n"
    for name in ("cat", "dog"):
        text += f"../{name}0.png,{name}\n{tmp_path / name}1.png,{name}\n"
    found = csv(inner, text)
    assert (len(found.train), len(found.test)) == (2, 2)


@pytest.mark.parametrize(("encoding", "said"), [("utf-16", "UTF-16"), ("latin-1", "Latin-1")])
def test_a_csv_in_another_encoding_is_refused_by_its_name(tmp_path, encoding, said):
    text = lines(["path", "label"]).replace("cat\n", "caf\u00e9\n")
    with pytest.raises(DataError, match=f"not text in UTF-8: got .*{said}"):
        csv(tmp_path, text, encoding)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("in/cat/0.png,,train", "line 8 of .* has no label"),
        (",cat,train", "line 8 of .* has no path"),
        ("in/cat/0.png,cat,fold7", "line 8 of .* is of an unknown part: got 'fold7'"),
        ("in/cat/0.png,cat", "line 8 of .* is of an unknown part: got ''"),
    ],
)
def test_a_line_that_is_not_understood_is_named(tmp_path, line, said):
    with pytest.raises(DataError, match=said):
        csv(tmp_path, lines(["path", "label", "split"], "train") + line + "\n")


def test_labels_that_are_numbers_are_ordered_as_numbers(tmp_path):
    text = "path,label\n" + "".join(
        f"in/{n}/{i}.png,{label}\n" for n, label in (("cat", 10), ("dog", 9)) for i in range(3)
    )
    assert csv(tmp_path, text).classes == ("9", "10")


def test_a_csv_of_test_lines_alone_is_refused(tmp_path):
    with pytest.raises(DataError, match="no line of a training part: got 'test'"):
        csv(tmp_path, lines(["path", "label", "split"], "test"))


def test_a_data_set_is_found_by_its_path(tmp_path):
    npz(tmp_path, images=pictures(4, 8, 8), labels=np.array([0, 1, 0, 1]))
    csv(tmp_path, lines(["path", "label"]))
    for name, kind in (("set.npz", "npz"), ("list.csv", "csv"), ("in", "folder")):
        settings = DATASETS.parse({"kind": str(tmp_path / name), "resolution": 8})
        assert (DATASETS.kind_of(settings), settings.root) == (kind, str(tmp_path / name))
        assert settings.resolution == 8
        assert DATASETS.parse(tmp_path / name) == DATASETS.parse(str(tmp_path / name))


def test_what_is_neither_a_name_nor_a_path_says_both(tmp_path):
    with pytest.raises(ConfigError, match=r"'digist': got no such file or folder.*'digits'"):
        DATASETS.parse("digist")
    (tmp_path / "a.txt").touch()
    with pytest.raises(ConfigError, match=r"a\.txt': got a file of another kind, expected .*\.npz"):
        DATASETS.parse(str(tmp_path / "a.txt"))


def test_a_registered_name_wins_over_a_folder_of_that_name(tmp_path, monkeypatch):
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    assert DATASETS.kind_of(DATASETS.parse("digits")) == "digits"
    assert DATASETS.kind_of(DATASETS.parse("./digits")) == "folder"


def test_a_path_and_another_root_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="data lie at one place"):
        DATASETS.parse({"kind": str(tmp_path), "root": "elsewhere"})
