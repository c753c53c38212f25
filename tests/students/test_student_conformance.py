"""What every student promises, run over the registry."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from conftest import CPU
from torch import nn

from hpd.rng import Streams, isolated
from hpd.students import STUDENTS, TrainingSettings, train_student

# options that make a student light; without an entry it is run as it comes
LIGHT = {
    "convnet": {"width": 8},
    "vit": {"width": 16, "depth": 2, "heads": 2, "mlp_width": 24},
}
KINDS = list(STUDENTS)
NORMS = ["instance", "batch", "group", "layer", "none"]
SHAPES = [(1, 16, 16), (3, 32, 32), (1, 28, 28)]
SMALL = SHAPES[0]
# kind, and each norm if the kind has one
VARIANTS = [
    (kind, norm)
    for kind in KINDS
    for norm in (NORMS if "norm" in STUDENTS[kind].model_fields else [None])
]


def settings_of(kind, norm=None, **options):
    given = {"kind": kind, **LIGHT.get(kind, {}), **options}
    return STUDENTS.parse(given | ({"norm": norm} if norm else {}))


def build(kind, image_shape=SMALL, seed=0, **options):
    rng = torch.Generator().manual_seed(seed)
    return settings_of(kind, **options).build(image_shape, 5, rng)


def slope_by_map(student, features):
    """How much each logit grows when all positions of one map do, by position: [F, K].

    Pooling and head are linear, so no derivative is needed.
    """
    _, maps, height, width = features.shape
    each = torch.eye(maps)[:, :, None, None].expand(-1, -1, height, width)
    logits = student.head(student.pool(each)) - student.head.bias
    return logits / (height * width)


@pytest.mark.parametrize("image_shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_the_parts_fit_together(kind, image_shape, rng):
    student = build(kind, image_shape)
    x = torch.randn(2, *image_shape, generator=rng)
    features = student.features(x)
    embedding = student.pool(features)
    assert features.ndim == 4 and len(features) == 2
    assert embedding.shape == (2, student.head.in_features)
    torch.testing.assert_close(student.embed(x), embedding)
    torch.testing.assert_close(student(x), student.head(embedding))
    assert student(x).shape == (2, 5)


@pytest.mark.parametrize("image_shape", [SMALL, (3, 32, 32)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_class_activation_is_grad_cam(kind, image_shape, rng):
    student = build(kind, image_shape)
    features = student.features(torch.randn(4, *image_shape, generator=rng))
    labels = torch.tensor([0, 4, 2, 0])
    activation = student.class_activation(features, labels)
    assert activation.shape == (4, *features.shape[2:])
    assert 0 <= float(activation.min()) <= float(activation.max()) <= 1
    assert not activation.requires_grad
    want = torch.einsum("fn,nfhw->nhw", slope_by_map(student, features)[:, labels], features).relu()
    peaks = want.amax(dim=(1, 2), keepdim=True)
    torch.testing.assert_close(activation * peaks, want, atol=1e-6, rtol=1e-4)
    for peak, own in zip(peaks.flatten(), activation, strict=True):
        assert float(own.max()) == float(peak > 0)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_come_from_the_given_generator(kind):
    first, again, other = build(kind), build(kind), build(kind, seed=1)
    others = other.state_dict()
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
        assert torch.isfinite(value).all()
        drawn = len(value.unique()) > 1
        assert torch.equal(value, others[name]) != drawn, name


def made_by_torch(settings, image_shape):
    """The student with the weights of torch's own constructors."""
    with isolated(0, CPU):
        student = settings.make(image_shape, 5)
        kind = STUDENTS.kind_of(settings)
        if kind == "resnet18":
            # the field's is torch's default for each layer, not that of torchvision's ResNet
            for layer in student.modules():
                if isinstance(layer, nn.Conv2d):
                    layer.reset_parameters()
        if kind == "vit":
            from torchvision.models import VisionTransformer

            patch = student.conv_proj.kernel_size[0]
            theirs = VisionTransformer(image_shape[1], patch, 1, 1, settings.width, 1)
            student.conv_proj = theirs.conv_proj
    return student


@pytest.mark.parametrize(("kind", "norm"), [(k, n) for k, n in VARIANTS if n in (None, "batch")])
def test_fresh_weights_are_distributed_as_torch_does(kind, norm):
    settings = settings_of(kind, norm, **({"width": 64} if "width" in LIGHT.get(kind, {}) else {}))
    image_shape = (3, 16, 16)
    theirs = made_by_torch(settings, image_shape).state_dict()
    ours = settings.build(image_shape, 5, torch.Generator().manual_seed(0)).state_dict()
    assert ours.keys() == theirs.keys()
    for name, want in theirs.items():
        got, want = ours[name].double(), want.double()
        assert got.shape == want.shape
        if want.numel() == 1 or float(want.std()) == 0:
            assert torch.equal(got, want), name
            continue
        error = (2 / want.numel()) ** 0.5
        assert float(got.std() / want.std()) == pytest.approx(1, abs=4 * error), name
        assert float(got.mean() - want.mean()) == pytest.approx(
            0, abs=4 * error * float(want.std())
        ), name
        # a uniform and a normal distribution of one width differ in their peak
        assert float(got.abs().max() / want.abs().max()) == pytest.approx(1, abs=0.35), name


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_by_weights_are_differentiable_by_images(kind, rng, float64):
    """What gradient matching takes, against a difference quotient along one direction."""
    student = build(kind, (1, 16, 16)).double()
    x = torch.randn(2, 1, 16, 16, generator=rng, requires_grad=True)
    labels = torch.tensor([0, 3])
    weights = [p for p in student.parameters() if p.ndim >= 2]

    def score(images):
        loss = F.cross_entropy(student(images), labels)
        grads = torch.autograd.grad(loss, weights, create_graph=True)
        return sum(g.square().sum() for g in grads)

    (grad,) = torch.autograd.grad(score(x), x)
    assert torch.isfinite(grad).all()
    assert float(grad.abs().max()) > 0
    step = 1e-6 * torch.randn(x.shape, generator=rng)
    difference = (score(x + step) - score(x - step)).detach() / 2
    torch.testing.assert_close((grad * step).sum(), difference, rtol=1e-4, atol=0)


@pytest.mark.parametrize(("kind", "norm"), VARIANTS)
def test_only_batch_norm_mixes_images(kind, norm, rng):
    student = build(kind, norm=norm)
    x = torch.randn(4, *SMALL, generator=rng)
    together = student(x)
    assert torch.isfinite(together).all()
    assert float(together.detach().std(dim=0).max()) > 0
    mixes = not torch.allclose(student(x[:1]), together[:1], atol=1e-4)
    assert mixes == (norm == "batch")
    student.eval()
    with torch.no_grad():
        torch.testing.assert_close(student(x[:1]), student(x)[:1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_training_changes_every_weight_and_repeats(kind, rng):
    """The fixture around every test sees that dropout leaves the global state alone."""
    x, labels = torch.randn(4, *SMALL, generator=rng), torch.tensor([0, 1, 2, 3])
    settings = TrainingSettings(epochs=2, batch_size=2)

    def trained(seed):
        return train_student(build(kind), x, labels, settings, Streams(seed)).state_dict()

    first, again, other = trained(0), trained(0), trained(1)
    before = build(kind).state_dict()
    for name, value in first.items():
        assert torch.equal(value, again[name]), name
        assert torch.isfinite(value).all()
    changed = [n for n in before if not torch.equal(before[n], first[n])]
    assert {n for n in before if n.endswith("weight")} <= set(changed)
    assert any(not torch.equal(first[n], other[n]) for n in changed)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_student_draws_nothing(kind, rng):
    """Dropout waits for `train()`: an objective that matches takes the student as it is built."""
    student = build(kind)
    x = torch.randn(2, *SMALL, generator=rng)
    assert torch.equal(student(x), student(x))
    with isolated(0, CPU):
        draws = not torch.equal(student.train()(x), student(x))
    assert draws == student.has_dropout


# 10 classes, 32 px of 3 channels; by convolution, norm and linear layer, weights and biases
SIZES = {
    # 5x5: 3-128, 128-192; 3x3: 192-256, 256-192, 192-192; linear: 192*4*4-10
    "alexnet": 9_728 + 614_592 + 442_624 + 442_560 + 331_968 + 30_730,
    # 3x3: 3-128, 128-128 twice; norms; linear: 128*4*4-10
    "convnet": 3_584 + 2 * 147_584 + 3 * 256 + 20_490,
    # 3x3, each with 2 in a norm: 3-64; 4 of 64; then a 1x1 shortcut with its norm a stage
    "resnet18": (1_728 + 128)
    + 4 * (36_864 + 128)
    + (73_728 + 3 * 147_456 + 8_192 + 5 * 256)
    + (294_912 + 3 * 589_824 + 32_768 + 5 * 512)
    + (1_179_648 + 3 * 2_359_296 + 131_072 + 5 * 1_024)
    + 5_130,
    # 3x3, each with 2 in a norm: 3-16; 6 of 16; 16-32, 5 of 32; 32-64, 5 of 64; linear: 64-10
    "resnet20": (432 + 32)
    + 6 * (2_304 + 32)
    + (4_608 + 5 * 9_216 + 6 * 64)
    + (18_432 + 5 * 36_864 + 6 * 128)
    + 650,
    # 3x3: 3-64, 64-128, 128-256, 256-256, 256-512, 512-512 thrice; norms; linear: 512-10
    "vgg11": 1_792 + 73_856 + 295_168 + 590_080 + 1_180_160 + 3 * 2_359_808 + 2 * 2_752 + 5_130,
    # patches of 4x4, positions; ten layers: two norms, attention in and out, MLP; norm; head
    "vit": 25_088 + 32_768 + 10 * (2_048 + 787_968 + 262_656 + 525_312) + 1_024 + 5_130,
}


@pytest.mark.parametrize("kind", SIZES)
def test_sizes_are_those_of_the_field(kind):
    with torch.device("meta"):
        student = STUDENTS.parse(kind).make((3, 32, 32), 10)
    assert sum(p.numel() for p in student.parameters()) == SIZES[kind]


def test_the_known_resnets():
    """The counts that circulate for ResNet-18 and ResNet-20 on CIFAR-10."""
    assert SIZES["resnet18"] == 11_173_962
    # 0.27 million in He et al., CVPR 2016
    assert SIZES["resnet20"] == 269_722
