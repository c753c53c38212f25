"""The add-on of mutual information: its formulas, and that it goes with every objective."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from conftest import CPU, SMALL_STUDENT
from reference_recovery import contrastive_value, info_nce_value
from torch.autograd import gradcheck

from hpd.errors import ConfigError
from hpd.objectives import ADD_ONS, OBJECTIVES
from hpd.objectives.base import WithAddOns
from hpd.objectives.mutual_information import (
    MutualInformation,
    contrastive,
    info_nce,
    information_bound,
    similarities,
)
from hpd.students import STUDENTS
from hpd.typing import Step

LABELS = torch.tensor([0, 0, 1, 1, 2, 2])
STEP = Step(0, 3)
MIM = {"kind": "mutual_information", "real_batch": 4, "student": SMALL_STUDENT}
VARIANTS = [
    {}, {"form": "crd"}, {"layers": "all"}, {"pool": "average"},
    {"layers": "all", "layer_weights": [0.2, 3.0]},
]  # fmt: skip


class Scene:
    """Features of both sides, with their classes."""

    def __init__(self, rng):
        self.synthetic = torch.randn(4, 5, generator=rng).requires_grad_()
        self.real = torch.randn(9, 5, generator=rng)
        self.labels = torch.tensor([0, 1, 2, 2])
        self.real_labels = torch.tensor([0, 0, 1, 2, 2, 2, 1, 0, 1])
        self.positives = self.labels[:, None] == self.real_labels

    def loss(self, form, synthetic=None, order=slice(None)):
        given = self.synthetic if synthetic is None else synthetic
        scores = similarities(given, self.real[order], 0.5)
        if form == "infonce":
            return info_nce(scores, self.positives[:, order])
        return contrastive(scores, self.positives[:, order], 50)

    def twin(self, form):
        given = (self.synthetic, self.labels, self.real, self.real_labels, 0.5)
        return info_nce_value(*given) if form == "infonce" else contrastive_value(*given, 50)


@pytest.fixture
def scene(float64, rng):
    return Scene(rng)


@pytest.mark.parametrize("form", ["infonce", "crd"])
def test_it_equals_its_twin(form, scene):
    got, want = scene.loss(form), scene.twin(form)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=0)
    for mine, theirs in zip(
        *(torch.autograd.grad(value, scene.synthetic) for value in (got, want)), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("form", ["infonce", "crd"])
def test_gradcheck(form, scene):
    assert gradcheck(lambda z: scene.loss(form, z), scene.synthetic)


@pytest.mark.parametrize("form", ["infonce", "crd"])
def test_the_order_of_the_real_batch_changes_nothing(form, scene, rng):
    order = torch.randperm(9, generator=rng)
    torch.testing.assert_close(scene.loss(form, order=order), scene.loss(form), rtol=1e-12, atol=0)


@pytest.mark.parametrize("form", ["infonce", "crd"])
def test_the_loss_falls_towards_the_mean_of_the_class(form, scene, rng):
    """From the mean of another class; classes are told apart, so that their means are."""
    centres = torch.eye(3, 5)
    scene.real = centres[scene.real_labels] + 0.2 * torch.randn(9, 5, generator=rng)
    units = torch.nn.functional.normalize(scene.real, dim=1)
    means = torch.stack([units[scene.real_labels == c].mean(dim=0) for c in range(3)])
    start, end = means[(scene.labels + 1) % 3], means[scene.labels]
    losses = [float(scene.loss(form, start.lerp(end, share))) for share in (0, 0.5, 1)]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > losses[-1] + 0.1


def test_equal_features_tell_nothing(scene):
    """All scores equal: the loss is log M, and the bound of the information 0."""
    scores = torch.full((4, 9), 3.0)
    assert float(info_nce(scores, scene.positives)) == pytest.approx(math.log(9))
    assert float(information_bound(scores, scene.positives)) == pytest.approx(0)
    # h = e^3 / (e^3 + 6/50) for each of three positives and six others
    h = math.exp(3) / (math.exp(3) + 6 / 50)
    want = -math.log(h) - 6 * math.log(1 - h)
    assert float(contrastive(scores, scene.positives, 50)) == pytest.approx(want)


def test_the_bound_is_at_most_the_entropy_of_the_classes(scene, rng):
    told_apart = torch.where(scene.positives, 50.0, -50.0)
    assert float(information_bound(told_apart, scene.positives)) == pytest.approx(math.log(3))
    for _ in range(20):
        scores = 5 * torch.randn(4, 9, generator=rng)
        assert float(information_bound(scores, scene.positives)) <= math.log(3)
        assert float(info_nce(scores, scene.positives)) >= math.log(3)


@pytest.fixture
def build(images, streams, objective_options):
    def make(kind="distribution", train=images, add_ons=(MIM,), **options):
        given = {"kind": kind, **objective_options[kind], "add_ons": list(add_ons), **options}
        return OBJECTIVES.parse(given).build_whole(train, CPU, streams)

    return make


@pytest.mark.parametrize("kind", list(OBJECTIVES))
@pytest.mark.parametrize("add_on", list(ADD_ONS))
def test_every_add_on_goes_with_every_objective(kind, add_on, build, synthetic):
    """Loss and gradient are the sums, the host's own draws are left alone, and state is kept."""
    given = {"kind": add_on, "weight": 0.5} | (MIM if add_on == MIM["kind"] else {})
    plain, whole = build(kind, add_ons=[]), build(kind, add_ons=[given])
    assert isinstance(whole, WithAddOns) and not isinstance(plain, WithAddOns)
    assert whole.provenance == plain.provenance
    host, both = plain(synthetic, LABELS, STEP), whole(synthetic, LABELS, STEP)
    alone = whole._added[0].objective(synthetic, LABELS, STEP)
    assert both.loss == pytest.approx(host.loss + 0.5 * alone.loss)
    torch.testing.assert_close(both.image_grad, host.image_grad + 0.5 * alone.image_grad)
    assert alone.image_grad.abs().flatten(1).amax(dim=1).gt(0).all()
    share = both.metrics[f"{add_on}_share"]
    assert share == pytest.approx(0.5 * float(alone.image_grad.norm() / host.image_grad.norm()))
    again = build(kind, add_ons=[given])
    again.load_state(whole.state())
    wanted, got = (o(synthetic, LABELS, Step(0, 4)) for o in (whole, again))
    assert torch.equal(got.image_grad, wanted.image_grad)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_the_gradient_is_that_of_the_loss(variant, build, float64, rng):
    images = torch.rand(6, 1, 8, 8, generator=rng)
    # a mean over positions of what instance norm has centred is hardly anything
    student = SMALL_STUDENT | {"norm": "group"}
    add_on = build(add_ons=[MIM | {"student": student} | variant])._added[0].objective
    direction, h = torch.randn(images.shape, generator=rng), 1e-7
    slope = float((add_on(images, LABELS, STEP).image_grad * direction).sum())
    ahead, behind = (add_on(images + s * h * direction, LABELS, STEP).loss for s in (1, -1))
    assert abs((ahead - behind) / (2 * h) - slope) <= 1e-4 * abs(slope) + 1e-6


def test_the_real_side_has_no_gradient_and_images_are_left_alone(build, synthetic, monkeypatch):
    seen = []
    add_on = build()._added[0].objective
    features = MutualInformation._features

    def spy(self, student, images, augment):
        found = features(self, student, images, augment)
        seen.append([each.requires_grad for each in found])
        return found

    monkeypatch.setattr(MutualInformation, "_features", spy)
    kept = synthetic.clone()
    matched = add_on(synthetic, LABELS, STEP)
    assert seen == [[False], [True]]
    assert torch.equal(synthetic, kept)
    assert not matched.image_grad.requires_grad


def test_real_images_carry_more_information_than_noise(build, images, rng):
    """The loss of a synthetic image falls when it becomes a real one of its class."""
    add_on = build(add_ons=[MIM | {"augment": [], "real_batch": 12}])._added[0].objective
    real = add_on(images.unit(), images.labels, STEP)
    noise = add_on(torch.rand(images.unit().shape, generator=rng), images.labels, STEP)
    swapped = add_on(images.unit(), images.labels.roll(12), STEP)
    assert real.loss < noise.loss < swapped.loss + 1
    assert real.loss < swapped.loss
    assert real.metrics["bound"] > noise.metrics["bound"]
    assert real.metrics["bound"] <= math.log(3)


def test_a_joint_batch_has_all_classes_and_the_order_changes_nothing(build, synthetic):
    add_on = build()._added[0].objective
    batch, classes = add_on._joint_batch(LABELS, STEP)
    assert batch.shape == (12, 1, 8, 8)
    assert classes.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    straight = add_on(synthetic, LABELS, STEP)
    part = add_on(synthetic[:2], LABELS[:2], STEP)
    # a mean over images, each of which is compared with the real batch alone
    torch.testing.assert_close(part.image_grad / 3, straight.image_grad[:2])


def test_layers_and_students_are_those_asked_for(build, images):
    both = {"kind": "mutual_information", "layers": "all", "augment": []}
    for kind, width in (("distribution", 4), ("recovery", 128)):
        add_on = build(kind, add_ons=[both])._added[0].objective
        student = add_on._real.student(STEP)
        maps = add_on._features(student, images.normalised(torch.arange(2)), None)
        assert [len(each) for each in maps] == [2] * len(maps)
        assert maps[0].shape[1] == width * 16
    with pytest.raises(ConfigError, match="got 3 weights, expected one for each of 2 layers"):
        build(add_ons=[MIM | {"layers": "all", "layer_weights": [1.0, 2.0, 3.0]}])
    with pytest.raises(ConfigError, match="layer_weights"):
        build(add_ons=[MIM | {"layer_weights": [1.0, 2.0]}])
    with pytest.raises(ConfigError, match="Did you mean 'temperature'"):
        build(add_ons=[MIM | {"temprature": 1.0}])
    with pytest.raises(ConfigError, match="unknown add-on 'mutual_informatoin'"):
        build(add_ons=["mutual_informatoin"])


@pytest.mark.parametrize("kind", list(STUDENTS))
def test_feature_maps_end_in_the_last_ones(kind, rng):
    light = {"vit": {"width": 8, "depth": 1, "heads": 2, "mlp_width": 8}, "convnet": {"width": 4}}
    student = STUDENTS.parse({"kind": kind, **light.get(kind, {})}).build((1, 16, 16), 3, rng)
    x = torch.randn(2, 1, 16, 16, generator=rng)
    maps = student.feature_maps(x)
    assert torch.equal(maps[-1], student.features(x))
    sizes = [each.shape[-1] for each in maps]
    assert sizes == sorted(sizes, reverse=True)
    assert len(maps) == {"alexnet": 3, "convnet": 3, "resnet18": 4, "resnet20": 3, "vgg11": 4}.get(
        kind, 1
    )


def test_a_config_reads_back_what_it_writes():
    text = {"kind": "distribution", "add_ons": ["mutual_information"]}
    settings = OBJECTIVES.parse(text)
    assert OBJECTIVES.parse(OBJECTIVES.dump(settings)) == settings
    assert settings.add_ons[0].weight == 1.0


def test_an_add_on_without_weight_changes_nothing(build, synthetic):
    plain = build(add_ons=[])(synthetic, LABELS, STEP)
    added = build(add_ons=[MIM | {"weight": 0.0}])(synthetic, LABELS, STEP)
    assert added.loss == plain.loss
    assert torch.equal(added.image_grad, plain.image_grad)
    assert replace(added, metrics={}).metrics == {}
