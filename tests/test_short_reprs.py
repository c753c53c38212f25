"""Objects show themselves in a line or two, and with a picture where a notebook asks for it."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace

import pytest
import torch
from conftest import random_images
from PIL import Image
from small_runs import small_config

import hpd
from generators import read_generator
from hpd.artifacts import DistilledSet
from hpd.data import Dataset, Normalisation
from hpd.showing import never_fails, table_html


def pictures(text):
    sources = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    return [Image.open(io.BytesIO(base64.b64decode(source))) for source in sources]


def test_reprs_fit_a_line_or_two():
    digits = hpd.load_dataset("digits")
    assert repr(digits) == (
        "Dataset(1,297 to train and 500 to test, of 1 x 16 x 16, 10 classes: 0, 1, 2, 3, ...)"
    )
    assert repr(digits.test) == ("ImageSet(500 images of 1 x 16 x 16, 10 classes: 0, 1, 2, 3, ...)")
    many = replace(random_images(), classes=tuple("x" * 1000 + str(i) for i in range(3)))
    assert len(repr(many)) < 200


def distilled(count=6, classes=("cat", "<b>dog</b>"), shape=(3, 8, 8)):
    labels = torch.arange(count) % len(classes)
    images = torch.rand(count, *shape, generator=torch.Generator().manual_seed(0))
    return DistilledSet(images, labels, classes, Normalisation((0.5,) * 3, (0.5,) * 3), 100)


def test_a_distilled_set_shows_its_images():
    shown = distilled()
    assert repr(shown) == (
        "DistilledSet(6 images of 3 x 8 x 8, 2 classes: cat, <b>dog</b>, 100 floats)"
    )
    text = shown._repr_html_()
    assert "<b>dog" not in text
    (picture,) = pictures(text)
    # two rows of three, enlarged without smoothing
    assert picture.size == (3 * 96 + 2 * 2, 2 * 96 + 2)
    corner = torch.tensor(list(picture.getpixel((0, 0))))
    assert torch.equal(corner.to(torch.uint8), shown.uint8()[0, :, 0, 0])


def test_one_image_a_class_stands_in_rows_of_ten():
    (picture,) = pictures(distilled(13, tuple(map(str, range(13))))._repr_html_())
    assert picture.size == (10 * 64 + 9 * 2, 2 * 64 + 2)


@pytest.mark.parametrize("shape", [(3, 8, 8), (3, 200, 100), (3, 1, 1)])
def test_a_picture_is_of_bounded_size(shape):
    classes = tuple(map(str, range(30)))
    text = distilled(900, classes, shape)._repr_html_()
    assert len(text) < 210_000
    (picture,) = pictures(text)
    picture.load()


def test_what_cannot_be_pictured_is_text():
    shown = distilled(shape=(3, 8, 8))
    object.__setattr__(shown, "images", torch.zeros(6, 5, 8, 8))
    assert shown._repr_html_().startswith("<pre>DistilledSet(")


def test_a_data_set_shows_some_of_its_images():
    images = random_images()
    for shown in (images, Dataset(images, images)):
        assert len(pictures(shown._repr_html_())) == 1


def test_a_run_and_its_evaluation_show_table_and_images(tmp_path, generator_folder):
    config = small_config(tmp_path / "photos", generator_folder)
    config["source"]["steps"] = 1
    run = hpd.distill(config, out=tmp_path / "run")
    assert repr(run).startswith("Run(gan, gradient: DistilledSet(3 images of 1 x 8 x 8, 3 classes")
    assert repr(run).endswith(f", {tmp_path / 'run'})")
    assert "<table" not in run._repr_html_()
    evaluation = hpd.evaluate(run, "seeds=2")
    row = evaluation.row("distilled")
    accuracy = f"{row.accuracy_mean:.1f} ± {row.accuracy_std:.1f}"
    assert repr(evaluation).startswith(f"Evaluation('dc-hard-convnet': distilled {accuracy}, ")
    for text in (evaluation._repr_html_(), run._repr_html_()):
        assert f"<td>{accuracy}</td>" in text
    assert len(pictures(run._repr_html_())) == 1
    # a folder that was damaged fills no notebook with tracebacks
    (tmp_path / "run" / "evaluation.json").write_text("{")
    assert run._repr_html_().startswith("<pre>Run(")


def test_a_generator_is_a_line():
    said = repr(hpd.load_generator("cifar32"))
    assert said == "StyleGAN2(stylegan2, 3 x 32 x 32, 10 classes, 9 levels)"


def test_settings_stored_generators_and_views_are_a_line():
    config = hpd.load_config("digits", ["seed=3"])
    assert repr(config) == "RunSettings(digits, gan, distribution, ridge, seed 3)"
    assert "  generator: digits16\n" in config._repr_html_()
    stored = read_generator("digits16")
    assert repr(stored) == f"StoredGenerator(digits16: {stored.generator!r})"
    train = hpd.load_dataset("digits").train
    assert repr(train.seen_on()) == f"SeenImages({train!r}, cpu)"


def test_a_comparison_shows_its_tables(tmp_path, generator_folder):
    config = small_config(tmp_path / "photos", generator_folder)
    config["source"]["steps"] = 1
    run = hpd.distill(config, out=tmp_path / "run")
    row = hpd.evaluate(run).row("distilled")
    lines = hpd.compare([run])
    accuracy = f"{row.accuracy_mean:.1f} ± {row.accuracy_std:.1f}"
    assert repr(lines[0]) == f"Line(run, distilled, convnet: {accuracy})"
    text = lines._repr_html_()
    assert text.count("<table") == 1 and f"<td>{accuracy}</td>" in text
    assert "dc, convnet of width 4" in text


def test_a_table_of_thousands_is_cut():
    text = table_html(["a", "b"], [[str(i), "x"] for i in range(5000)])
    assert len(text) < 5000
    assert '<td colspan="2">and 4,900 more</td>' in text


def test_what_is_broken_is_still_shown():
    class Broken:
        def __repr__(self):
            raise ValueError

        @never_fails
        def _repr_html_(self):
            raise ValueError

    assert Broken()._repr_html_().startswith("<pre>&lt;")
