"""A decoder of one's own is a generator like any other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from layers import Does
from torch import nn

from generators.adapter import LayeredGenerator
from hpd.errors import GeneratorError, HpdError, NumericError, ShapeError


class Condition(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(3, 4)

    def forward(self, z, labels):
        return torch.cat([z, self.embed(labels)], dim=1)


@pytest.fixture
def generator():
    layers = [
        nn.Sequential(nn.Linear(10, 32), nn.Unflatten(1, (8, 2, 2)), nn.ReLU()),
        nn.Sequential(nn.ConvTranspose2d(8, 6, 4, 2, 1), nn.BatchNorm2d(6), nn.ReLU()),
        nn.Sequential(nn.ConvTranspose2d(6, 1, 4, 2, 1), nn.Tanh()),
    ]
    return LayeredGenerator(layers, Condition(), z_dim=6, num_classes=3, classes=("a", "b", "c"))


@pytest.fixture(autouse=True)
def layers_of_torch_draw_globally():
    """Users' modules draw their weights from torch's global generator; put it back."""
    with torch.random.fork_rng(devices=[]):
        yield


def test_the_spec_is_read_off_the_layers(generator):
    spec = generator.spec
    assert (spec.resolution, spec.channels, spec.w_dim, spec.num_ws) == (8, 1, 10, 1)
    assert [level.name for level in spec.levels] == ["ws", "layer1", "layer2", "pixels"]
    assert [level.shapes for level in spec.levels] == [
        (), ((8, 2, 2),), ((6, 4, 4),), ((1, 8, 8),),
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_levels_compose_to_the_bit(generator, rng, dtype):
    generator.compute_dtype = dtype
    ws = generator.map(torch.randn(2, 6, generator=rng), torch.tensor([0, 2]))
    whole = generator(ws)
    for level in range(4):
        state = generator.advance((), ws, 0, level)
        assert torch.equal(generator.images(state, ws, level), whole)
    assert not whole.requires_grad


def test_the_class_matters(generator, rng):
    z = torch.randn(2, 6, generator=rng)
    one, other = (generator(generator.map(z, torch.full((2,), c))) for c in (0, 1))
    assert not torch.equal(one, other)


def test_truncation_scales_z(generator, rng):
    z, labels = torch.randn(2, 6, generator=rng), torch.tensor([1, 1])
    ws = generator.map(z, labels, truncation_psi=0.0)
    assert torch.equal(ws[0], ws[1])


def stretched(x):
    """[n, 6] as images [n, 1, 4, 4]."""
    return x[:, :4].tanh().repeat(1, 4).reshape(-1, 1, 4, 4)


def with_layers(*whats, condition=lambda z, labels: z, **options):
    layers = [Does(what) for what in whats]
    return LayeredGenerator(layers, condition, **{"z_dim": 6} | options)


def raises(x):
    raise KeyError("mine")


@pytest.mark.parametrize(
    ("what", "kind", "said"),
    [
        (raises, GeneratorError, r"layer 2 of the generator \(Does\) fails.*KeyError"),
        (lambda x: x @ x.new_zeros(9, 9), GeneratorError, r"layer 2 .* fails on float32 \[2, 6\]"),
        (lambda x: x.numpy(), ShapeError, "layer 2 .*got ndarray"),
        (lambda x: None, ShapeError, "layer 2 .*got NoneType"),
        (lambda x: x.round().int(), ShapeError, r"layer 2 .*got torch\.int32"),
        (lambda x: x.sum(), ShapeError, r"layer 2 .*does not give one for each image"),
        (lambda x: x.reshape(1, -1), ShapeError, r"layer 2 .*got \[1, 12\], expected \[2, "),
        (lambda x: x / 0 * 0, NumericError, "what comes out of layer 2"),
    ],
)  # fmt: skip
def test_a_layer_that_is_wrong_is_named(what, kind, said):
    with pytest.raises(kind, match=said) as error:
        with_layers(lambda x: x, what, stretched)
    assert len(str(error.value)) <= 600


def test_what_a_layer_raised_is_the_cause():
    with pytest.raises(GeneratorError) as error:
        with_layers(raises)
    assert isinstance(error.value.__cause__, KeyError)


def test_a_layer_that_fails_later_is_named_then():
    broken = False

    def later(x):
        return raises(x) if broken else stretched(x)

    generator = with_layers(lambda x: x, later)
    ws = generator.map(torch.zeros(3, 6))
    broken = True
    with pytest.raises(GeneratorError, match="layer 2 "):
        generator(ws)


def test_a_layer_that_gives_another_shape_later_is_named_then():
    side = 4
    generator = with_layers(lambda x: stretched(x)[..., :side, :side])
    side = 2
    with pytest.raises(ShapeError, match=r"layer 1 .* gives another shape than before"):
        generator(generator.map(torch.zeros(3, 6)))


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("out of memory")])
def test_memory_that_runs_out_is_passed_on(error):
    """So that smaller batches are tried."""

    def greedy(x):
        raise error

    with pytest.raises(type(error)):
        with_layers(greedy)


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        (lambda z, labels: z[0], "condition .*wrong shape"),
        (lambda z, labels: z[:, None], "condition .*wrong shape"),
        (lambda z, labels: [z], "condition .*got list"),
        (lambda z: z, "condition of the generator fails"),
        (lambda z, labels: z + torch.inf, "condition of the generator is not finite"),
    ],
)
def test_a_condition_that_is_wrong_is_named(condition, said):
    with pytest.raises(HpdError, match=said):
        with_layers(stretched, condition=condition)


def test_a_condition_with_too_few_classes_is_found_at_once():
    table = torch.zeros(2, 6)
    with pytest.raises(GeneratorError, match=r"condition of the generator fails.*IndexError"):
        with_layers(stretched, condition=lambda z, labels: z + table[labels], num_classes=3)


@pytest.mark.parametrize(
    ("last", "said"),
    [
        (lambda x: x, "no square images"),
        (lambda x: stretched(x)[..., :2], "no square images"),
        (lambda x: stretched(x) + 255, r"no images in \[-1, 1\].*127\.5"),
    ],
)
def test_the_last_layer_gives_images(last, said):
    with pytest.raises(ShapeError, match=said):
        with_layers(last)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"layers": []}, "not a list of modules"),
        ({"layers": [torch.tanh]}, "got builtin_function_or_method"),
        ({"layers": None}, "got NoneType"),
        ({"z_dim": -1}, "z_dim"),
        ({"num_classes": 1.0}, "num_classes"),
        ({"num_classes": 2, "classes": ("a",)}, "got 1 names, expected 2"),
        ({"num_classes": 2, "classes": ("a", "a")}, "'a' twice"),
    ],
)
def test_numbers_that_do_not_fit_each_other_are_refused(options, said):
    given = {"layers": [Does(stretched)], "z_dim": 6} | options
    with pytest.raises(HpdError, match=said):
        LayeredGenerator(given.pop("layers"), lambda z, labels: z, **given)


def test_a_condition_may_divide_by_the_length_of_z():
    with_layers(stretched, condition=lambda z, labels: z / z.norm(dim=1, keepdim=True))


def test_layers_without_weights_are_a_generator():
    generator = with_layers(stretched)
    assert generator.class_average(None, 2, torch.Generator().manual_seed(0)).shape == (1, 6)


def test_layers_of_doubles_are_a_generator_of_doubles(generator):
    layers, condition = list(generator.layers), generator.condition
    doubles = LayeredGenerator(
        [layer.double() for layer in layers], condition.double(), z_dim=6, num_classes=3
    )
    ws = doubles.map(np.zeros((2, 6)), [0, 2])
    assert doubles(ws).dtype == torch.float64


@pytest.mark.parametrize(
    ("z", "labels", "said"),
    [
        (torch.zeros(2, 5), [0, 1], "z has the wrong shape"),
        (torch.zeros(2, 6) * torch.nan, [0, 1], "z is not finite"),
        (torch.zeros(2, 6, dtype=torch.complex64), [0, 1], "complex64"),
        ("z", [0, 1], "z is no array"),
        (torch.zeros(2, 6), [0, 1, 2], "got 3 labels"),
        (torch.zeros(2, 6), [0.0, 1.0], "class indices"),
        (torch.zeros(2, 6), [0, 3], r"expected 0\.\.2"),
        (torch.zeros(2, 6), None, "labels do not fit"),
    ],
)
def test_what_cannot_be_mapped_is_said(generator, z, labels, said):
    with pytest.raises(HpdError, match=said):
        generator.map(z, labels)


def test_arrays_are_mapped_as_tensors_are(generator, rng):
    z = torch.randn(2, 6, generator=rng)
    want = generator.map(z, torch.tensor([0, 2]))
    assert torch.equal(generator.map(z.double().numpy(), np.array([0, 2], "u1")), want)


def test_a_map_keeps_the_graph_of_z(generator):
    z = torch.zeros(2, 6, requires_grad=True)
    assert generator.map(z, [0, 1]).requires_grad


@pytest.mark.parametrize(
    "ws", [None, [0.0], np.zeros((1, 1, 10)), torch.zeros(1, 1, 10).double(), torch.ones(1, 10)]
)
def test_what_is_no_ws_is_refused(generator, ws):
    with pytest.raises(ShapeError, match="ws has the wrong"):
        generator(ws)
