"""What is checked of experts and images before a run rests on them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import SMALL_STUDENT
from safetensors.torch import load_file

from hpd.data import ImageSet, Normalisation
from hpd.errors import DataError, HpdError, NumericError, RunError
from hpd.students import STUDENTS
from hpd.students.experts.checks import check_images, check_learned, check_matches
from hpd.students.experts.trajectories import ExpertFolder

STUDENT = STUDENTS.parse(SMALL_STUDENT)


def another(base: ImageSet, **changes) -> ImageSet:
    return replace(base, **changes)


def one_ulp(values: tuple[float, ...]) -> tuple[float, ...]:
    return (math.nextafter(values[0], 1), *values[1:])


def one_pixel(images: ImageSet) -> ImageSet:
    pixels = images.images.clone()
    pixels[17, 0, 3, 4] ^= 1
    return images.with_images(pixels)


def test_what_fits_passes(record, images):
    check_matches(record, student=STUDENT, train=images)
    check_matches(record, student=STUDENT, train=images, training=record.training, seed=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: another(x, rows=x.images[:, :, :7]), r"image shape.*\(1, 8, 8\).*\(1, 7, 8\)"),
        (lambda x: another(x, classes=("a", "c", "b")), "classes.*'a', 'b', 'c'.*'a', 'c', 'b'"),
        (lambda x: another(x, classes=("a", "b", "c", "d")), "classes"),
        (lambda x: x.only([0, 2, 1]), "classes"),
        (lambda x: another(x, labels=x.labels.flip(0)), "training images .SHA"),
        (one_pixel, "training images .SHA"),
        (lambda x: x.at(torch.arange(1, len(x))), "got 36, expected 35"),
        (
            lambda x: another(
                x, normalisation=Normalisation(one_ulp(x.normalisation.mean), x.normalisation.std)
            ),
            r"normalisation \(mean\)",
        ),
        (
            lambda x: another(
                x, normalisation=Normalisation(x.normalisation.mean, one_ulp(x.normalisation.std))
            ),
            r"normalisation \(std\)",
        ),
    ],
)
def test_other_data_are_refused_by_name(record, images, change, message):
    with pytest.raises(RunError, match=message) as caught:
        check_matches(record, student=STUDENT, train=change(images))
    assert "hpd experts CONFIG" in caught.value.fix
    assert caught.value.got != caught.value.expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "group"}, "student: got norm='instance', expected norm='group'"),
        ({"width": 8}, "student: got width=4, expected width=8"),
        ({"depth": 1, "norm": "none"}, "got depth=2, norm='instance', expected depth=1, norm="),
    ],
)
def test_another_student_is_refused_by_name(record, images, options, message):
    with pytest.raises(RunError, match=message):
        check_matches(record, student=STUDENTS.parse(SMALL_STUDENT | options), train=images)


def test_a_student_whose_parameters_changed_meanwhile_is_refused(record, images):
    """As a release does that names or shapes them otherwise."""
    older = record.model_copy(update={"layout": record.layout[1:]})
    with pytest.raises(RunError, match="layout of the student"):
        check_matches(older, student=STUDENT, train=images)


def test_another_training_is_refused_by_name_if_it_matters(record, images):
    other = record.training.model_copy(update={"lr": 0.3, "epochs": 4})
    with pytest.raises(RunError, match=r"got lr=0\.2, epochs=3, expected lr=0\.3"):
        check_matches(record, student=STUDENT, train=images, training=other)
    with pytest.raises(RunError, match="another seed: got 0, expected 1"):
        check_matches(record, student=STUDENT, train=images, seed=1)


def test_experts_that_learned_pass(experts_folder):
    check_learned(ExpertFolder.open(experts_folder))


def forge(path: Path, expert: int, rows: torch.Tensor | None = None, **changes) -> ExpertFolder:
    """Rewrite an expert as if it had been trained to this."""
    folder = ExpertFolder.open(path)
    result = folder.result(expert)
    kept = {
        key: getattr(result, key) for key in ("losses", "accuracy_before", "accuracy_after")
    } | changes
    if rows is None:
        rows = torch.stack([folder.parameters(expert, e) for e in range(folder.epochs + 1)])
    folder.write(expert, rows, **kept)
    return ExpertFolder.open(path)


def rows_of(path: Path, expert: int) -> torch.Tensor:
    return load_file(path / f"{expert:03d}.safetensors")["parameters"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_named(path, value):
    rows = rows_of(path, 1)
    rows[2, 7] = value
    message = r"1 of 2 experts .* not finite: got expert 1 after epoch 2"
    with pytest.raises(NumericError, match=message):
        check_learned(forge(path, 1, rows))


def test_experts_that_stand_still_are_named(path):
    rows = rows_of(path, 0)
    rows[3] = rows[2]
    with pytest.raises(RunError, match=r"stand still: got expert 0 in epoch 3.*Raise .*lr"):
        check_learned(forge(path, 0, rows))


@pytest.mark.parametrize(
    "result",
    [
        {"accuracy_after": 1 / 3},
        # a guess of 36 reaches 0.57 within three deviations
        {"accuracy_before": 0.2, "accuracy_after": 0.55},
        {"accuracy_before": 0.9, "accuracy_after": 0.8},
        {"losses": (1.0, 0.5, 1.0)},
        {"losses": (1.0, 0.5, math.nan)},
        {"accuracy_after": math.nan},
    ],
)
def test_experts_that_did_not_learn_are_named(path, result):
    with pytest.raises(RunError, match=r"1 of 2 experts in .* did not learn: got expert 1 with"):
        check_learned(forge(path, 1, **result))


def test_constant_images_are_named(images):
    check_images(images)
    pixels = images.images.clone()
    pixels[[3, 12, 13, 14, 35]] = 200
    with pytest.raises(DataError, match="5 of 36 training images are constant") as caught:
        check_images(images.with_images(pixels))
    assert caught.value.got == (
        "image 3 of class 'a', image 12 of class 'b', image 13 of class 'b' and 2 more"
    )
    # one channel that is constant is not an image that is
    coloured = images.images.repeat(1, 2, 1, 1)
    coloured[5, 0] = 0
    check_images(replace(images, rows=coloured, normalisation=Normalisation((0, 0), (1, 1))))


def test_every_refusal_is_one_line(path, record, images):
    """The command line shows an error as one line; these must not lose anything by it."""
    (path / "experts.json").write_text("{\n\n")
    for call in (
        lambda: ExpertFolder.open(path),
        lambda: check_matches(record, student=STUDENT, train=one_pixel(images)),
    ):
        with pytest.raises(HpdError) as caught:
            call()
        assert "\n" not in str(caught.value)
