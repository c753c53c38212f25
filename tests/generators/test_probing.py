"""What a layer does that it should not is found when a generator is adapted, and named."""

from __future__ import annotations

import time

import pytest
import torch
import torch.nn.functional as F
from families import VARIANTS, tiny_network
from layers import Does
from torch import nn

from generators import StoredGenerator, bundled_generators, read_generator
from generators.adapter import LayeredGenerator
from generators.base import Generator, GeneratorSpec, Level
from generators.probing import probe
from hpd.errors import GeneratorError, HpdError, ShapeError


@pytest.fixture(autouse=True)
def layers_of_torch_draw_globally():
    """Users' modules draw their weights from torch's global generator; put it back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def with_layers(*middle, last=nn.Tanh, condition=lambda z, labels: z, **options):
    """A generator of 8 px whose layer 2 is what a test wants."""
    layers = [
        nn.Sequential(nn.Linear(6, 64), nn.Unflatten(1, (4, 4, 4))),
        *middle,
        nn.Sequential(nn.ConvTranspose2d(4, 1, 4, 2, 1), last()),
    ]
    return LayeredGenerator(layers, condition, **{"z_dim": 6} | options)


def trained(layer):
    """A batch norm with statistics of its own."""
    with torch.no_grad():
        layer.running_mean.normal_()
        layer.running_var.uniform_(0.5, 2)
    return layer


@pytest.mark.parametrize(
    "layer",
    [
        lambda: trained(nn.BatchNorm2d(4)),
        lambda: nn.Sequential(trained(nn.BatchNorm2d(4)), nn.ReLU(inplace=True), nn.Dropout(0.5)),
        lambda: nn.InstanceNorm2d(4),
        lambda: nn.InstanceNorm2d(4, affine=True),
        lambda: nn.GroupNorm(2, 4),
        lambda: Does(lambda x: x - x.mean(dim=(1, 2, 3), keepdim=True)),
    ],
    ids=["batch norm", "dropout", "instance norm", "with weights", "group norm", "own mean"],
)
def test_what_takes_each_image_by_itself_is_taken(layer):
    assert probe(with_layers(layer())).company < 1e-5


NOISE = torch.Generator()
MIXING = {
    "mean": (
        lambda: Does(lambda x: x - x.mean(0)),
        r"layer 2 of the generator \(Does\) does not take each image by itself.*first dimension",
    ),
    "batch norm without statistics": (
        lambda: nn.BatchNorm2d(4, track_running_stats=False),
        r"layer 2 of the generator \(BatchNorm2d\) does not take each.*track_running_stats=True",
    ),
    "inside a layer": (
        lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4, track_running_stats=False)),
        r"layer 2 of the generator \(Sequential\), in its BatchNorm2d, does not take",
    ),
    "batch statistics by hand": (
        lambda: Does(lambda x: F.batch_norm(x, None, None, training=True)),
        r"layer 2 .* does not take each image by itself",
    ),
    "length of the batch": (
        lambda: Does(lambda x: x / len(x)),
        r"layer 2 .* does not take each image by itself: an image is another one alone",
    ),
    "the neighbour": (
        lambda: Does(lambda x: x + 0.1 * x.roll(1, 0)),
        r"layer 2 .* an image is another one beside another image",
    ),
    "noise": (
        lambda: Does(lambda x: x + 0.01 * torch.randn_like(x)),
        r"layer 2 of the generator \(Does\) gives something else each time.*buffer",
    ),
    "little noise": (
        lambda: Does(lambda x: x + 1e-5 * torch.randn_like(x)),
        r"layer 2 of the generator \(Does\) gives something else each time",
    ),
    "noise of its own": (
        lambda: Does(lambda x: x + 0.1 * torch.randn(x.shape, generator=NOISE)),
        r"layer 2 .* gives something else each time",
    ),
    "dropout by hand": (
        lambda: Does(lambda x: F.dropout(x, 0.5, training=True)),
        r"layer 2 .* gives something else each time",
    ),
    "a count of calls": (
        lambda: Does(lambda x, calls=[]: x + 0.01 * (calls.append(1) or len(calls))),
        r"layer 2 .* gives something else each time",
    ),
    "draws that do not show": (
        lambda: Does(lambda x: x + 0 * torch.randn_like(x)),
        r"draws from torch's global random numbers",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MIXING)
def test_a_layer_that_does_more_than_it_should_is_named(name):
    layer, said = MIXING[name]
    with pytest.raises(GeneratorError, match=said) as error:
        with_layers(layer(), Does(lambda x: x * 2))
    assert "got a difference of" in str(error.value) or name == "draws that do not show"


def test_a_condition_that_mixes_is_named():
    def mixes(z, labels):
        return z - z.mean(0)

    with pytest.raises(GeneratorError, match="what maps z and labels to the input"):
        with_layers(condition=mixes)
    with pytest.raises(GeneratorError, match=r"condition of the generator \(Own\) does not take"):
        with_layers(condition=Own())


class Own(nn.Module):
    def forward(self, z, labels):
        return z - z.mean(0)


def test_training_mode_changes_no_image(rng):
    """A generator is in eval mode for good: statistics of batch norms are those of its training."""
    generator = with_layers(trained(nn.BatchNorm2d(4)), nn.Dropout(0.5))
    ws = generator.map(torch.randn(3, 6, generator=rng))
    before = generator(ws)
    generator.train()
    assert torch.equal(generator(ws), before)
    assert not any(module.training for module in generator.modules())


def test_an_image_that_is_never_below_zero_is_refused_where_that_is_sure():
    with pytest.raises(GeneratorError, match=r"last layer .*Sigmoid.*Add x \* 2 - 1 as a layer"):
        with_layers(last=nn.Sigmoid)
    with pytest.raises(GeneratorError, match="last layer of the generator, ReLU"):
        with_layers(last=nn.ReLU)


def test_an_image_that_is_never_below_zero_is_warned_of_where_it_may_be_chance(caplog):
    with_layers(last=lambda: Does(torch.sigmoid))
    with_layers(last=lambda: Does(lambda x: 3 * torch.tanh(5 * x)))
    said = [record.getMessage() for record in caplog.records]
    assert "never below 0" in said[0]
    assert "x * 2 - 1" in said[0]
    assert "not in [-1, 1] (got up to 3)" in said[1]
    assert len(said) == 2
    with_layers()
    assert len(caplog.records) == 2


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_family_passes(variant):
    assert probe(tiny_network(variant)).company < 1e-4


@pytest.mark.parametrize("name", bundled_generators())
def test_every_bundled_generator_passes_and_costs_little(name):
    generator = read_generator(name).generator
    started = time.perf_counter()
    seen = probe(generator)
    assert time.perf_counter() - started < 10
    assert seen.company < 1e-4
    assert -2 < seen.lowest < 0 < seen.highest < 2


class Written(Generator):
    """A generator that a user wrote without the adapter, which does what a test wants."""

    def __init__(self, does=None):
        super().__init__()
        self.does = does or {}
        self.weight = nn.Parameter(torch.linspace(-1, 1, 6), requires_grad=False)
        levels = (Level("ws", ()), Level("half", ((1, 4, 4),)), Level("pixels", ((1, 8, 8),)))
        self.spec = GeneratorSpec("own", 8, 1, 6, 6, 0, 1, levels)

    def _map(self, z, labels, truncation_psi):
        return self.does.get("map", lambda z: z[:, None])(z)

    def _next(self, state, ws, level):
        x = (ws[:, 0] * self.weight).sum(1)[:, None, None, None].tanh()
        step = self.does.get(level, lambda x, state: x.expand(-1, 1, 4 << level, 4 << level))
        return (step(x, state),)


@pytest.mark.parametrize(
    ("does", "kind", "said"),
    [
        ({"map": lambda z: z}, ShapeError, "ws has the wrong shape"),
        ({"map": lambda z: z[:, None] / 0 * 0}, HpdError, "maps z to is not finite"),
        ({0: lambda x, s: x}, ShapeError, r"state of level 1 \(half\) has the wrong shape"),
        ({0: lambda x, s: x.nope}, GeneratorError, "fails.*AttributeError"),
        ({1: lambda x, s: x.mean(0, keepdim=True).expand(len(x), 1, 8, 8)}, GeneratorError,
         "the generator does not take each image"),
    ],
)  # fmt: skip
def test_a_generator_written_by_hand_is_looked_at_before_a_run(does, kind, said):
    assert StoredGenerator.of(Written()).name == "own"
    with pytest.raises(kind, match=said):
        StoredGenerator.of(Written(does))


def test_levels_that_do_not_compose_are_said():
    class Remembers(Written):
        """Knows by how many levels it is asked for at once."""

        def advance(self, state, ws, start, stop):
            (made,) = super().advance(state, ws, start, stop) or (None,)
            return (made + 0.01 * (stop - start),) if made is not None else ()

    with pytest.raises(GeneratorError, match="levels of the generator do not compose"):
        StoredGenerator.of(Remembers())
