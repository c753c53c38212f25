"""What is particular to one architecture: sizes of images, norms, patches."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hpd.errors import ConfigError
from hpd.students import STUDENTS

VIT = {"kind": "vit", "width": 8, "depth": 1, "heads": 2, "mlp_width": 8}


def make(options, image_shape, num_classes=3):
    with torch.device("meta"):
        return STUDENTS.parse(options).make(image_shape, num_classes)


@pytest.mark.parametrize(
    ("options", "image_shape", "message"),
    [
        ({"kind": "convnet", "depth": 3}, (1, 4, 4), "4x4 px .* expected depth of at most 2"),
        ({"kind": "convnet", "depth": 6}, (1, 28, 28), "28x28 px .* expected depth of at most 5"),
        ("alexnet", (3, 7, 16), "7x16 px .* expected at least 8 px"),
        ("vgg11", (3, 1, 1), "1x1 px .* expected at least 2 px"),
        ("resnet18", (3, 8, 8), "8x8 px .* last maps of one pixel.* norm 'batch'"),
        (VIT, (3, 13, 13), "13x13 px .* got patch 13, chosen.* two patches or more"),
        (VIT | {"patch": 5}, (3, 32, 32), "got patch 5, expected a divisor of 32"),
        (VIT | {"patch": 16}, (3, 16, 16), "got patch 16, expected a divisor of 16"),
        (VIT | {"heads": 3}, (3, 16, 16), "width in student 'vit' .* got 8, .* multiple of heads"),
    ],
)
def test_what_does_not_fit_is_refused(options, image_shape, message):
    with pytest.raises(ConfigError, match=message):
        make(options, image_shape)


@pytest.mark.parametrize(
    ("options", "image_shape", "maps"),
    [
        ("convnet", (1, 28, 28), (128, 4, 4)),
        ("alexnet", (1, 28, 28), (192, 4, 4)),
        ("alexnet", (3, 8, 24), (192, 1, 3)),
        ("vgg11", (1, 8, 8), (512, 1, 1)),
        ("vgg11", (1, 16, 16), (512, 1, 1)),
        ("vgg11", (1, 28, 28), (512, 1, 1)),
        ("vgg11", (3, 16, 64), (512, 1, 4)),
        ("vgg11", (3, 128, 128), (512, 4, 4)),
        ("resnet18", (1, 28, 28), (512, 4, 4)),
        ("resnet18", (3, 9, 9), (512, 2, 2)),
        ({"kind": "resnet18", "norm": "layer"}, (3, 8, 8), (512, 1, 1)),
        (VIT, (3, 32, 48), (8, 4, 6)),
        (VIT, (1, 28, 28), (8, 7, 7)),
        (VIT | {"patch": 16}, (3, 32, 32), (8, 2, 2)),
    ],
)
def test_sizes_of_the_last_maps(options, image_shape, maps):
    student = make(options, image_shape)
    features = student.features(torch.empty(1, *image_shape, device="meta"))
    assert features.shape == (1, *maps)
    assert student.head(student.pool(features)).shape == (1, 3)


@pytest.mark.parametrize("size", [8, 16, 32])
def test_no_norm_of_vgg_sees_single_pixels(size):
    student = make("vgg11", (3, size, size))
    seen = []
    for layer in student.modules():
        if isinstance(layer, nn.GroupNorm):
            layer.register_forward_hook(lambda layer, x, y: seen.append(y.shape[2:].numel()))
    student.features(torch.empty(1, 3, size, size, device="meta"))
    assert len(seen) == 8
    assert min(seen) == 4


@pytest.mark.parametrize("kind", ["convnet", "alexnet", "vgg11"])
def test_28_px_are_padded_to_32_by_the_first_convolution(kind, rng):
    settings = STUDENTS.parse(kind)
    x = torch.randn(2, 1, 28, 28, generator=rng)
    at_28 = settings.build((1, 28, 28), 3, torch.Generator().manual_seed(3))
    at_32 = settings.build((1, 32, 32), 3, torch.Generator().manual_seed(3))
    torch.testing.assert_close(at_28(x), at_32(F.pad(x, (2, 2, 2, 2))))


def test_resnet_is_torchvisions_with_another_start(rng):
    from torchvision.models import resnet18

    student = STUDENTS.parse({"kind": "resnet18", "norm": "batch"}).build((3, 16, 16), 3, rng)
    with torch.device("meta"):
        net = resnet18(num_classes=3)
        net.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        net.maxpool = nn.Identity()
    names = ["conv1", "bn1", "relu", "layer1", "layer2", "layer3", "layer4"]
    theirs = {
        name.replace("head.", "fc."): value
        for name, value in student.state_dict().items()
        if not name.startswith("blocks.")
    }
    for i, name in enumerate(names):
        own = student.blocks[i].state_dict()
        theirs |= {f"{name}.{rest}": value for rest, value in own.items()}
    net.load_state_dict(theirs, assign=True)
    x = torch.randn(2, 3, 16, 16, generator=rng)
    torch.testing.assert_close(student.eval()(x), net.eval()(x))


def test_positions_tell_tokens_apart(rng):
    """Without positions, the average of the tokens would not see where a patch lies."""
    student = STUDENTS.parse(VIT).build((1, 16, 16), 3, rng)
    x = torch.randn(1, 1, 16, 16, generator=rng)
    moved = x.roll(8, dims=2)
    assert not torch.allclose(student(x), student(moved), atol=1e-5)
    student.encoder.pos_embedding.data.zero_()
    torch.testing.assert_close(student(x), student(moved), atol=1e-5, rtol=1e-4)
