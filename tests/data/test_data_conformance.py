"""Every registered data set: what it promises, whatever it is read from."""

from __future__ import annotations

import pytest
import torch
from layouts import LAYOUTS

from hpd.data import DATASETS
from hpd.errors import DataError

KINDS = list(DATASETS)
IN_FOLDERS = [kind for kind in KINDS if "root" in DATASETS[kind].model_fields]


@pytest.fixture
def settings(kind, tmp_path, monkeypatch):
    """Returns the settings of a kind, whose data lie in a folder where it needs one."""
    options = {"kind": kind}
    if kind in IN_FOLDERS:
        layout = LAYOUTS[kind]
        for part in ("train", "test"):
            layout.write(tmp_path, part, *layout.part(part))
        # torchvision knows the checksums of the published files
        for module in ("cifar", "svhn"):
            monkeypatch.setattr(f"torchvision.datasets.{module}.check_integrity", lambda *_: True)
        options["root"] = str(tmp_path / layout.file)
    return lambda **more: DATASETS.parse({**options, **more})


@pytest.mark.parametrize("kind", KINDS)
def test_both_parts_are_labelled_bytes_of_the_same_classes(settings):
    data = settings().build()
    for part in (data.train, data.test):
        assert part.images.dtype == torch.uint8 and part.images.is_contiguous()
        assert part.labels.dtype == torch.int64
        assert part.image_shape == data.train.image_shape
        assert part.classes == data.train.classes
        assert part.normalisation == data.train.normalisation
        assert set(part.labels.tolist()) == set(range(part.num_classes))
    assert len(set(data.train.classes)) == data.train.num_classes


@pytest.mark.parametrize("kind", KINDS)
def test_a_data_set_is_always_the_same(settings):
    first, again = settings().build(), settings().build()
    for one, other in ((first.train, again.train), (first.test, again.test)):
        assert torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)


@pytest.mark.parametrize("kind", KINDS)
def test_classes_can_be_chosen_by_name_and_index(settings):
    whole = settings().build().train
    some = settings(classes=[whole.classes[2], 0]).build().train
    assert some.classes == (whole.classes[2], whole.classes[0])
    for label, before in enumerate((2, 0)):
        assert torch.equal(some.images[some.labels == label], whole.images[whole.labels == before])


@pytest.mark.parametrize("kind", KINDS)
def test_classes_are_counted_before_images_are_read(settings, monkeypatch):
    counted, whole = settings().count_classes(), settings().build().train
    # those of torchvision say what is published, where a layout has less
    assert counted == (100 if "cifar100" in repr(settings()).lower() else whole.num_classes)
    some = settings(classes=list(whole.classes[:2]))
    monkeypatch.setattr(type(some), "build", None)
    assert some.count_classes() == 2


@pytest.mark.parametrize("kind", KINDS)
def test_options_survive_being_written_down(settings):
    assert DATASETS.parse(DATASETS.dump(settings(classes=[1]))) == settings(classes=[1])


@pytest.mark.parametrize("kind", IN_FOLDERS)
def test_what_lies_in_the_folder_is_read_to_the_byte(kind, settings):
    data = settings().build()
    for name, part in (("train", data.train), ("test", data.test)):
        images, labels = LAYOUTS[kind].part(name)
        torch.testing.assert_close(part.images, torch.from_numpy(images), rtol=0, atol=0)
        assert part.labels.tolist() == labels.tolist()


@pytest.mark.parametrize("kind", IN_FOLDERS)
def test_missing_data_say_where_they_should_be(kind, tmp_path):
    with pytest.raises(DataError, match=r"data\.root"):
        DATASETS.parse({"kind": kind, "root": str(tmp_path / "nowhere")}).build()
