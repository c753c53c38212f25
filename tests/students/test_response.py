"""Answers to real images: the same numbers by every way to compute them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from conftest import SMALL_STUDENT

from hpd.students import STUDENTS
from hpd.students.response import Response
from hpd.students.stacked.stack import StudentStack

SHAPE, CLASSES = (1, 8, 8), 3


@pytest.fixture
def settings():
    return STUDENTS.parse(SMALL_STUDENT | {"width": 8})


@pytest.fixture
def respond(settings):
    return lambda **options: Response(lambda: settings.make(SHAPE, CLASSES), **options)


@pytest.fixture
def scene(settings, rng):
    """A student, 150 images (two parts and a rest) and labels."""
    student = settings.build(SHAPE, CLASSES, rng).eval()
    return student, torch.randn(150, *SHAPE, generator=rng), torch.arange(150) % CLASSES


def plain_gradient(student, images, labels):
    loss = F.cross_entropy(student(images), labels)
    return torch.autograd.grad(loss, list(student.parameters()))


def test_parts_add_up_to_the_gradient_of_the_mean(respond, scene):
    student, images, labels = scene
    names = [name for name, _ in student.named_parameters()]
    got = respond().weight_gradient(student, images, labels, names)
    for mine, theirs in zip(got, plain_gradient(*scene), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(respond().embed(student, images), student.embed(images).detach())


def test_only_what_is_asked_for_comes_back_and_the_student_is_left_alone(respond, scene):
    student, images, labels = scene
    before = [p.clone() for p in student.parameters()]
    (got,) = respond().weight_gradient(student, images, labels, ["head.weight"])
    assert got.shape == student.head.weight.shape
    assert not got.requires_grad
    assert all(p.grad is None and p.requires_grad for p in student.parameters())
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), before, strict=True))


def test_every_student_answers_with_its_own_weights(respond, settings, scene):
    _, images, labels = scene
    response = respond()
    for seed in (1, 2):
        student = settings.build(SHAPE, CLASSES, torch.Generator().manual_seed(seed)).eval()
        got = response.weight_gradient(student, images, labels, ["head.weight"])
        want = plain_gradient(student, images, labels)[-2]
        torch.testing.assert_close(got[0], want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "depth"), [((1, 8, 8), 3), ((3, 11, 6), 2), ((1, 28, 28), 3)], ids=str
)
@pytest.mark.parametrize("norm", ["instance", "group"])
def test_with_a_stack_or_without_answers_are_those_of_autograd(shape, depth, norm, rng, float64):
    """Instance norm takes the stack's own derivatives; maps of one pixel are its tightest case."""
    settings = STUDENTS.parse({"kind": "convnet", "width": 4, "depth": depth, "norm": norm})
    response = Response(lambda: settings.make(shape, CLASSES))
    for _ in range(2):
        student = settings.build(shape, CLASSES, rng).eval()
        images = torch.randn(70, *shape, generator=rng)
        labels = torch.arange(70) % CLASSES
        names = [name for name, _ in student.named_parameters()]
        got = response.weight_gradient(student, images, labels, names)
        torch.testing.assert_close(got, list(plain_gradient(student, images, labels)))
        torch.testing.assert_close(response.embed(student, images), student.embed(images).detach())


def cosine(one, other):
    return float(F.cosine_similarity(one.detach().flatten(), other.detach().flatten(), dim=0))


def test_bfloat16_points_the_same_way(respond, scene):
    student, images, labels = scene
    names = [n for n, p in student.named_parameters() if p.ndim > 1]
    exact = respond().weight_gradient(student, images, labels, names)
    rough = respond(dtype=torch.bfloat16).weight_gradient(student, images, labels, names)
    for mine, theirs in zip(rough, exact, strict=True):
        assert mine.dtype == torch.float32
        # 8 of float32's 24 bits; eight channels of noise average less of it away than 128 do
        assert 0.99 < cosine(mine, theirs) < 1
    embedded = respond(dtype=torch.bfloat16).embed(student, images)
    assert embedded.dtype == torch.float32
    assert cosine(embedded, student.embed(images)) > 0.999


@pytest.mark.slow
def test_a_compiled_student_gives_the_same_numbers(respond, settings, scene):
    student, images, labels = scene
    names = [name for name, _ in student.named_parameters()]
    compiled = respond(compiled=True)
    for one in (student, settings.build(SHAPE, CLASSES, torch.Generator().manual_seed(5)).eval()):
        got = compiled.weight_gradient(one, images, labels, names)
        for mine, theirs in zip(got, plain_gradient(one, images, labels), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(
            compiled.embed(one, images), one.embed(images).detach(), rtol=1e-4, atol=1e-5
        )


SCRIPT = """
import torch
from hpd.errors import ConfigError
from hpd.students import STUDENTS
from hpd.students.response import Response
from hpd.students.stacked.stack import StudentStack

settings = STUDENTS.parse({"kind": "convnet", "width": 4, "depth": 2})
student = settings.build((1, 8, 8), 3, torch.Generator()).eval()
response = Response(lambda: settings.make((1, 8, 8), 3), compiled=True)
try:
    response.embed(student, torch.zeros(4, 1, 8, 8))
except ConfigError as error:
    print("refused:", error)
"""


@pytest.mark.slow
def test_without_a_compiler_one_line_says_so(tmp_path):
    """In a process of its own: what has been compiled is kept."""
    environment = os.environ | {
        "CXX": str(tmp_path / "no-compiler"),
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path),
    }
    command = [sys.executable, "-c", SCRIPT]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("refused:")]
    assert "objective.compile=false" in line


@pytest.mark.parametrize(("side", "part"), [(8, 64), (32, 64), (64, 32), (128, 8), (512, 1)])
def test_large_images_answer_in_parts_that_fit_a_memory(side, part, rng, monkeypatch):
    """All at once, 64 images of 128 px take gigabytes in the maps of an ordinary student."""
    settings, shape = STUDENTS.parse({"kind": "convnet", "width": 1, "depth": 1}), (1, side, side)
    sizes, embed = [], StudentStack.embed
    monkeypatch.setattr(
        StudentStack, "embed", lambda stack, x: (sizes.append(x.shape[1]), embed(stack, x))[1]
    )
    student = settings.build(shape, CLASSES, rng).eval()
    answer = Response(lambda: settings.make(shape, CLASSES))
    images = torch.randn(part + 1, *shape, generator=rng)
    parted = answer.embed(student, images)
    assert sizes == [part, 1]
    torch.testing.assert_close(parted, student.embed(images).detach(), rtol=1e-4, atol=1e-5)
