"""ImageNet, its subsets and Tiny-ImageNet, as they are downloaded."""

from __future__ import annotations

from typing import get_args

import pytest

from hpd.data import DATASETS
from hpd.data.kinds.imagenet import (
    SUBSETS,
    Subset,
    imagenet_indices,
    imagenet_names,
    wnids_of,
)
from hpd.errors import ConfigError, DataError

NETTE = (
    "n01440764 n02102040 n02979186 n03000684 n03028079 n03394916 n03417042 n03425413 n03445777"
    " n03888257"
).split()


def indices_of_classes(names):
    """The index of each class by its wnid or its name; None if one is not of the thousand."""
    known = {name: i for i, name in enumerate(imagenet_names().values())} | imagenet_indices()
    return [known[name] for name in names] if all(name in known for name in names) else None


def place(root, *files):
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def listed(root, **options):
    return DATASETS.parse({"kind": "folder", "root": str(root), **options}).listing()


def write_parts(root, wnids, parts=("train", "val")):
    place(root, *(f"{part}/{wnid}/{wnid}_1.JPEG" for part in parts for wnid in wnids))


def write_kaggle(root, wnids):
    """Writes ImageNet as Kaggle has it, two pictures of `val` a class in mixed order."""
    place(root, *(f"ILSVRC/Data/CLS-LOC/train/{wnid}/{wnid}_1.JPEG" for wnid in wnids))
    place(root, "ILSVRC/Data/CLS-LOC/test/ILSVRC2012_test_00000001.JPEG")
    lines = ["ImageId,PredictionString"]
    for number, wnid in enumerate([*wnids, *reversed(wnids)]):
        name = f"ILSVRC2012_val_{number:08}"
        place(root, f"ILSVRC/Data/CLS-LOC/val/{name}.JPEG")
        lines.append(f"{name},{wnid} 1 2 3 4 {wnid} 5 6 7 8 ")
    (root / "LOC_val_solution.csv").write_text("\n".join(lines))
    (root / "LOC_synset_mapping.txt").write_text("".join(f"{w} a, b\n" for w in wnids))


def write_tiny(root, words):
    for wnid in words:
        place(root, f"train/{wnid}/images/{wnid}_0.JPEG", f"train/{wnid}/{wnid}_boxes.txt")
    place(root, "test/images/test_0.JPEG")
    lines = []
    for number, wnid in enumerate(reversed(words)):
        place(root, f"val/images/val_{number}.JPEG")
        lines.append(f"val_{number}.JPEG\t{wnid}\t0\t32\t44\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in reversed(words)))
    lines = [f"{wnid}\t{text}\n" for wnid, text in {**words, "n00000001": "entity"}.items()]
    (root / "words.txt").write_text("".join(lines))


def test_the_thousand_classes_are_in_the_order_of_their_indices():
    wnids = list(imagenet_names())
    assert len(wnids) == 1000 and wnids == sorted(wnids)
    assert len(set(imagenet_names().values())) == 1000
    assert next(iter(imagenet_names().items())) == ("n01440764", "tench")
    indices = [imagenet_indices()[wnid] for wnid in NETTE]
    assert indices == [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]


def test_the_names_are_those_of_torchvisions_weights():
    from torchvision.models import ResNet18_Weights

    assert list(imagenet_names().values()) == ResNet18_Weights.IMAGENET1K_V1.meta["categories"]


def test_every_subset_has_ten_different_classes():
    assert set(SUBSETS) == set(get_args(Subset))
    assert all(len(set(own)) == 10 for own in SUBSETS.values())


def test_the_subsets_are_what_they_are_called():
    names = imagenet_names()
    cats = [names[wnid] for wnid in wnids_of("meow")]
    assert cats[:4] == ["tabby", "tiger cat", "Persian cat", "Siamese cat"]
    assert {"pineapple", "banana", "strawberry", "orange"} < {
        names[wnid] for wnid in wnids_of("fruits")
    }
    assert names[wnids_of("squawk")[0]] == "peacock"
    assert names[wnids_of("woof")[0]] == "Australian terrier"


def test_imagenette_has_names_and_indices(tmp_path):
    write_parts(tmp_path, NETTE)
    found = listed(tmp_path)
    assert found.classes[:2] == ("tench", "English springer")
    assert indices_of_classes(found.classes) == [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]


def test_classes_are_wanted_by_name_wnid_or_position(tmp_path):
    write_parts(tmp_path, NETTE)
    found = listed(tmp_path, classes=["n03888257", "tench", 4])
    assert found.classes == ("parachute", "tench", "church")
    assert indices_of_classes(found.classes) == [701, 0, 497]
    assert [entry.name[-16:-5] for entry in found.train.entries] == [
        "n03888257_1", "n01440764_1", "n03028079_1",
    ]  # fmt: skip


@pytest.mark.parametrize("subset", list(SUBSETS))
def test_a_subset_is_taken_from_any_folder_that_holds_it(tmp_path, subset):
    more = list(imagenet_names())[::100]
    write_parts(tmp_path, sorted({*wnids_of(subset), *more}))
    found = listed(tmp_path, subset=subset)
    assert indices_of_classes(found.classes) == list(SUBSETS[subset])
    wnids = [entry.name.split("/")[-2] for entry in found.train.entries]
    assert wnids == wnids_of(subset)


def test_a_subset_that_is_not_there_is_refused(tmp_path):
    write_parts(tmp_path / "nette", NETTE)
    with pytest.raises(DataError, match=r"lacks 10 classes of 'woof'"):
        listed(tmp_path / "nette", subset="woof")
    write_parts(tmp_path / "pets", ["cat", "dog"])
    with pytest.raises(DataError, match=r"lacks 10 .* got 'cat', 'dog'"):
        listed(tmp_path / "pets", subset="meow")
    with pytest.raises(ConfigError, match="subset"):
        listed(tmp_path / "nette", subset="bark")


def test_subset_and_classes_together_are_refused(tmp_path):
    write_parts(tmp_path, NETTE)
    with pytest.raises(ConfigError, match=r"data\.subset and data\.classes both"):
        listed(tmp_path, subset="nette", classes=[0, 1])


def test_folders_that_are_not_all_of_imagenet_have_no_indices(tmp_path):
    write_parts(tmp_path, [*NETTE, "n99999999"])
    found = listed(tmp_path)
    assert indices_of_classes(found.classes) is None
    assert found.classes[0] == "n01440764"


@pytest.mark.parametrize("below", ["", "ILSVRC", "ILSVRC/Data", "ILSVRC/Data/CLS-LOC"])
def test_imagenet_is_read_as_kaggle_has_it(tmp_path, below):
    write_kaggle(tmp_path, NETTE)
    found = listed(tmp_path / below, classes=["church", "tench"])
    assert indices_of_classes(found.classes) == [497, 0]
    assert (len(found.train), len(found.test)) == (2, 4)
    names = [entry.name[-13:-5] for entry in found.test.entries]
    assert names == ["00000004", "00000015", "00000000", "00000019"]


def test_kaggles_pictures_of_val_are_looked_at_only_where_wanted(tmp_path):
    write_kaggle(tmp_path, NETTE)
    (tmp_path / "ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_00000001.JPEG").unlink()
    assert len(listed(tmp_path, classes=[0, 2]).test) == 4
    with pytest.raises(DataError, match=r"missing: got none at .*val_00000001\.JPEG"):
        listed(tmp_path)


def test_kaggles_val_without_its_solution_is_refused(tmp_path):
    write_kaggle(tmp_path, NETTE)
    (tmp_path / "LOC_val_solution.csv").unlink()
    with pytest.raises(DataError, match=r"expected LOC_val_solution\.csv beside"):
        listed(tmp_path)


def test_tiny_imagenet_is_read_as_it_is_downloaded(tmp_path):
    words = {
        "n01443537": "goldfish, Carassius auratus",
        "n02012849": "crane",
        "n03126707": "crane",
    }
    write_tiny(tmp_path, words)
    found = listed(tmp_path, train=None)
    assert found.classes == ("goldfish", "crane (n02012849)", "crane (n03126707)")
    assert [entry.name.split("/")[-3] for entry in found.train.entries] == list(words)
    # the annotations are in another order
    assert [entry.name[-10:] for entry in found.test.entries] == [
        "val_2.JPEG", "val_1.JPEG", "val_0.JPEG",
    ]  # fmt: skip
    assert any("test is passed over" in note for note in found.notes)
    assert listed(tmp_path, classes=["n03126707", "goldfish"]).classes == (
        "crane (n03126707)", "goldfish",
    )  # fmt: skip


def test_tiny_imagenet_with_val_sorted_into_folders_is_read_too(tmp_path):
    write_tiny(tmp_path, {"n01443537": "goldfish", "n01629819": "salamander, newt"})
    (tmp_path / "val" / "val_annotations.txt").unlink()
    for path in (tmp_path / "val" / "images").iterdir():
        path.unlink()
    (tmp_path / "val" / "images").rmdir()
    write_parts(tmp_path, ["n01443537", "n01629819"], ["val"])
    found = listed(tmp_path)
    assert found.classes == ("goldfish", "salamander") and len(found.test) == 2


def test_a_broken_line_of_the_annotations_is_named(tmp_path):
    write_tiny(tmp_path, {"n01443537": "goldfish", "n01629819": "salamander"})
    (tmp_path / "val" / "val_annotations.txt").write_text("val_0.JPEG\n")
    with pytest.raises(DataError, match=r"line 1 of .*val_annotations\.txt names no class"):
        listed(tmp_path)
