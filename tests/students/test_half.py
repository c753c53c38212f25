"""Students in bfloat16: near float64 by what its eight bits allow, and only where it pays.

With u = 2^-8, half of bfloat16's epsilon, answers are within 2 u: roundings of one layer after
another, u each at most, that do not add up. Derivatives are within 2 sqrt(u): a ReLU whose answer
is rounded across zero takes its slope along, and the share of those is of the order of u.
"""

from __future__ import annotations

import copy
import logging
import math

import pytest
import torch
import torch.nn.functional as F
from conftest import CPU
from torch.overrides import TorchFunctionMode

from hpd.api.distilling.resuming import check_facts
from hpd.data import ImageSet, Normalisation
from hpd.errors import RunError
from hpd.objectives import OBJECTIVES
from hpd.rng import Streams
from hpd.students import STUDENTS
from hpd.students.half import HalfNorm, student_dtype, with_half_norms
from hpd.students.networks.norms import norm_layer
from hpd.students.response import Response
from hpd.students.stacked.stack import stack_pays
from hpd.students.traced import Traced
from hpd.typing import Step

U = torch.finfo(torch.bfloat16).eps / 2
HALF = torch.bfloat16
SHAPE, CLASSES = (3, 32, 32), 3
CONVNET = {"kind": "convnet", "width": 32}
WIDE = {"kind": "convnet", "width": 40}
STEP = Step(0, 0)


def smooth(count, rng, shape=SHAPE):
    """Images whose neighbours are alike, as in photographs, and of one kind."""
    sizes = [size for size in (2, 4, 8, 16, 32) if size <= shape[1]]
    parts = [
        F.interpolate(torch.randn(count + 1, shape[0], s, s, generator=rng), shape[1:])
        for s in sizes
    ]
    images = sum(parts) / math.sqrt(len(sizes))
    return images[:-1] + images[-1:]


def off_by(got, want):
    """Return how far a tensor is from another, as a share of its length."""
    return float((got.detach().double() - want).norm() / want.norm())


class Scene:
    """A student in float32, its twin in float64, and images."""

    def __init__(self, rng, options=CONVNET):
        self.settings = STUDENTS.parse(options)
        self.student = self.settings.build(SHAPE, CLASSES, rng).eval()
        self.twin = self.settings.build(SHAPE, CLASSES, torch.Generator()).eval().double()
        self.twin.load_state_dict({k: v.double() for k, v in self.student.state_dict().items()})
        self.real, self.made = smooth(40, rng).split([36, 4])
        self.labels = torch.ones(36, dtype=torch.long)
        self.names = [name for name, _ in self.student.named_parameters()]

    def make(self):
        return self.settings.make(SHAPE, CLASSES)


@pytest.fixture(params=["instance", "batch", "group"])
def scene(request, rng):
    return Scene(rng, CONVNET | {"norm": request.param})


@pytest.mark.parametrize("shape", [(5, 6, 8, 8), (1, 6, 7, 4), (3, 6, 1, 1)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, HALF], ids=str)
def test_the_norm_is_instance_norm_forward_and_backward(shape, dtype, rng):
    norm = norm_layer("instance", 6)
    for parameter in norm.parameters():
        parameter.data = torch.rand(6, generator=rng) + 0.5
    exact = copy.deepcopy(norm).double()
    maps, grad = (torch.randn(shape, generator=rng) for _ in range(2))
    answers = []
    for layer, own in ((exact, torch.float64), (HalfNorm(norm), dtype)):
        # the same values, which are bfloat16's
        leaf = maps.to(HALF).to(own).requires_grad_()
        weights = list(layer.parameters())
        out = layer(leaf)
        found = torch.autograd.grad(out, [leaf, *weights], grad.to(HALF).to(own))
        assert out.dtype == found[0].dtype == own
        answers.append([out.detach(), *found])
    limit = 2 * U if dtype == HALF else 1e-4
    for want, got in zip(*answers, strict=True):
        torch.testing.assert_close(got.double(), want.double(), rtol=limit, atol=limit)


def test_answers_to_real_images_are_within_the_bound(scene):
    response = Response(scene.make, dtype=HALF)
    got = response.embed(scene.student, scene.real)
    assert got.dtype == torch.float32
    # a bound that nothing could miss would say nothing: it is no float32
    assert U / 16 < off_by(got, scene.twin.embed(scene.real.double()).detach()) < 2 * U
    got = response.weight_gradient(scene.student, scene.real, scene.labels, scene.names)
    loss = F.cross_entropy(scene.twin(scene.real.double()), scene.labels)
    want = torch.autograd.grad(loss, list(scene.twin.parameters()))
    for name, mine, exact in zip(scene.names, got, want, strict=True):
        assert mine.dtype == torch.float32
        # a norm takes the mean away, and with it the bias before it
        if exact.norm() > 1e-9:
            assert U / 16 < off_by(mine, exact) < 2 * math.sqrt(U), name


def test_the_way_back_to_synthetic_images_is_within_the_bound(scene):
    target = scene.twin.embed(scene.real.double()).mean(dim=0).detach()
    answers = []
    for embed, dtype in (
        (scene.twin.embed, torch.float64),
        (lambda x: Traced(scene.make, dtype=HALF).embed(scene.student, x), torch.float32),
    ):
        leaf = scene.made.to(dtype).requires_grad_()
        embedded = embed(leaf)
        assert embedded.dtype == dtype
        gap = (embedded.mean(dim=0) - target.to(dtype)).square().sum()
        answers.append(torch.autograd.grad(gap, leaf)[0])
    assert answers[1].dtype == torch.float32
    assert U / 16 < off_by(answers[1], answers[0]) < 2 * math.sqrt(U)
    cosine = F.cosine_similarity(answers[1].double().flatten(), answers[0].flatten(), dim=0)
    assert 1 - 2 * U < cosine < 1


def test_the_gradient_of_a_gradient_is_within_the_bound(scene):
    """As gradient matching takes it, twice through the layers."""
    labels, names = scene.labels[:4], [n for n in scene.names if n.endswith("weight")]
    answers = []
    for student, traced, dtype in (
        (scene.twin, Traced(scene.make), torch.float64),
        (scene.student, Traced(scene.make, dtype=HALF), torch.float32),
    ):
        leaf = scene.made.to(dtype).requires_grad_()
        got = traced.weight_gradient(student, leaf, labels, names)
        assert all(grad.dtype == dtype for grad in got)
        length = torch.stack([grad.square().sum() for grad in got]).sum()
        answers.append(torch.autograd.grad(length, leaf)[0])
    # through twice as many ReLUs
    assert U / 16 < off_by(answers[1], answers[0]) < 4 * math.sqrt(U)


def test_batches_at_once_are_those_one_by_one(scene):
    traced = Traced(scene.make, dtype=HALF)
    images, labels = scene.real.unflatten(0, (4, 9)), scene.labels.unflatten(0, (4, 9))
    names = ["blocks.0.weight", "head.weight"]
    together = traced.weight_gradients(scene.student, images, labels, names)
    for number, (x, y) in enumerate(zip(images, labels, strict=True)):
        alone = traced.weight_gradient(scene.student, x, y, names)
        for mine, theirs in zip(together, alone, strict=True):
            assert mine.dtype == torch.float32
            assert off_by(mine[number], theirs.detach().double()) < 2 * math.sqrt(U)


class Convolutions(TorchFunctionMode):
    """Notes dtype and memory format of what is convolved."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.conv2d:
            last = args[0].is_contiguous(memory_format=torch.channels_last)
            self.seen.append((args[0].dtype, args[1].dtype, last))
        return function(*args, **(kwargs or {}))


def test_it_is_bfloat16_that_is_convolved_channels_last(rng):
    scene = Scene(rng)
    before = {k: v.clone() for k, v in scene.student.state_dict().items()}
    with Convolutions() as convolutions:
        Response(scene.make, dtype=HALF).embed(scene.student, scene.real)
        Traced(scene.make, dtype=HALF).embed(scene.student, scene.made)
    assert convolutions.seen == [(HALF, HALF, True)] * 6
    # the student that was drawn stays in float32, to the bit
    after = scene.student.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_half_norms_take_the_places_of_instance_norms_alone():
    for norm, count in (("instance", 3), ("group", 0), ("batch", 0), ("none", 0)):
        with torch.device("meta"):
            student = STUDENTS.parse(CONVNET | {"norm": norm}).make(SHAPE, CLASSES)
        names = [name for name, _ in student.named_parameters()]
        changed = with_half_norms(student)
        assert sum(isinstance(layer, HalfNorm) for layer in changed.modules()) == count
        assert [name for name, _ in changed.named_parameters()] == names


def with_units(monkeypatch, there):
    monkeypatch.setattr("hpd.machine.precision.has_fast_bfloat16", lambda device: there)


@pytest.mark.parametrize(
    ("options", "shape", "real", "traced"),
    [
        ({"kind": "convnet"}, (3, 32, 32), True, True),
        ({"kind": "convnet"}, (3, 128, 128), True, True),
        ({"kind": "convnet", "width": 32}, (3, 32, 32), True, False),
        # too small: float32 is faster
        ({"kind": "convnet", "width": 64}, (1, 8, 8), False, False),
        # too deep, and norms of four positions: derivatives would point elsewhere
        ({"kind": "resnet18"}, (3, 32, 32), False, False),
        ({"kind": "vgg11"}, (3, 32, 32), False, False),
        ({"kind": "resnet18", "norm": "batch"}, (3, 32, 32), True, True),
        # of real images alone
        ({"kind": "vit"}, (3, 32, 32), True, False),
    ],
    ids=str,
)
def test_auto_is_bfloat16_where_that_was_measured_to_pay(options, shape, real, traced, monkeypatch):
    with torch.device("meta"):
        student = STUDENTS.parse(options).make(shape, 10).eval()
    for there in (True, False):
        with_units(monkeypatch, there)
        for side, pays in ((False, real), (True, traced)):
            found = student_dtype("auto", student, shape, CPU, traced=side)
            assert (found == HALF) is (pays and there)
            # at its word
            assert student_dtype("bfloat16", student, shape, CPU, traced=side) == HALF
            assert student_dtype("float32", student, shape, CPU, traced=side) == torch.float32


@pytest.mark.parametrize(
    ("options", "shape", "pays"),
    [
        ({"kind": "convnet"}, (3, 32, 32), True), ({"kind": "convnet"}, (1, 16, 16), True),
        ({"kind": "convnet", "width": 32}, (3, 32, 32), False),
        ({"kind": "convnet", "width": 64}, (1, 8, 8), False),
        ({"kind": "convnet", "norm": "batch"}, (3, 32, 32), False),
    ],
    ids=str,
)  # fmt: skip
def test_a_stack_pays_where_channels_and_maps_are_many(options, shape, pays):
    with torch.device("meta"):
        student = STUDENTS.parse(options).make(shape, 10).eval()
    assert stack_pays(student, shape) is pays


@pytest.fixture
def train(rng):
    pixels = torch.cat([smooth(12, rng) for _ in range(CLASSES)]) * 32 + 128
    images, labels = pixels.clamp(0, 255).byte(), torch.arange(CLASSES).repeat_interleave(12)
    return ImageSet(images, labels, ("a", "b", "c"), Normalisation.of(images))


LABELS = torch.tensor([0, 0, 1, 1, 2, 2])
OBJECTIVES_MATCHED = {
    "distribution": {}, "gradient": {"augment": []}, "regression": {"pool": None},
}  # fmt: skip


@pytest.fixture(params=OBJECTIVES_MATCHED)
def build(request, train):
    def build(**options):
        own = {"kind": request.param, "student": WIDE, "real_batch": 12}
        return OBJECTIVES.parse(own | OBJECTIVES_MATCHED[request.param] | options).build(
            train, CPU, Streams(0)
        )

    return build


@pytest.mark.parametrize("sides", [("real",), ("real", "synthetic")], ids="+".join)
def test_objectives_in_bfloat16_give_nearly_the_gradient_of_float32(build, sides, rng):
    images = torch.rand(6, *SHAPE, generator=rng)
    rounded = build(**{f"{side}_dtype": "bfloat16" for side in sides})
    want, got = (objective(images, LABELS, STEP) for objective in (build(), rounded))
    assert got.image_grad.dtype == torch.float32
    assert 0 < off_by(got.image_grad, want.image_grad.double()) < 4 * math.sqrt(U)
    assert abs(got.loss - want.loss) < 4 * math.sqrt(U) * abs(want.loss)


def test_without_units_auto_is_float32_to_the_bit_and_says_so(build, rng, monkeypatch, caplog):
    images = torch.rand(6, *SHAPE, generator=rng)
    with_units(monkeypatch, False)
    plain = build()
    with caplog.at_level(logging.INFO, "hpd.objectives.matching"):
        asked = build(real_dtype="auto", synthetic_dtype="auto")
    (line,) = caplog.messages
    assert "real images in float32, synthetic ones in float32, on cpu" in line
    assert asked.provenance["student_precision"] == {"real": "float32", "synthetic": "float32"}
    want, got = (objective(images, LABELS, STEP) for objective in (plain, asked))
    assert torch.equal(want.image_grad, got.image_grad)
    assert want.loss == got.loss


def test_with_units_auto_is_bfloat16_and_the_manifest_tells(build, monkeypatch, caplog):
    with_units(monkeypatch, True)
    with caplog.at_level(logging.INFO, "hpd.objectives.matching"):
        objective = build(real_dtype="auto", cross=[{"kind": "vgg11", "width": 4}])
    assert objective.provenance["student_precision"] == {
        "real": "bfloat16 and float32", "synthetic": "float32"
    }  # fmt: skip
    assert "real images in bfloat16 and float32" in caplog.text


def test_a_run_goes_on_where_auto_means_another_dtype(tmp_path):
    started = {"student_precision": {"real": "bfloat16"}, "generator_precision": "bfloat16"}
    now = {"student_precision": {"real": "float32"}, "generator_precision": "float32"}
    check_facts(tmp_path, {**started, "data": {"sha256": "a"}}, {**now, "data": {"sha256": "a"}})
    # one of before there was a record, too
    check_facts(tmp_path, {}, now)
    with pytest.raises(RunError, match="sha256"):
        check_facts(tmp_path, {"data": {"sha256": "a"}}, {"data": {"sha256": "b"}})
