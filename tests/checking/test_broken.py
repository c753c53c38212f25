"""What does not do what is asked of it is found, with the word for it."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from layers import Does
from torch import nn

import hpd
from generators.adapter import LayeredGenerator
from generators.base import Generator
from hpd.engine.selection.base import SelectorSettings
from hpd.errors import CheckError, ConfigError, HpdError
from hpd.objectives.base import ObjectiveSettings, Stateless
from hpd.sources.pixel import PixelSettings, PixelSource
from hpd.sources.rendering import render_in_chunks
from hpd.students import Student, StudentSettings
from hpd.typing import Matched, Step


@pytest.fixture(autouse=True)
def registries_are_left_alone():
    """Nothing here is registered; and what draws globally is put back by the check."""
    before = torch.random.get_rng_state()
    yield
    assert torch.equal(torch.random.get_rng_state(), before)


class ToMean:
    """Distance to the mean image of each class, which is as asked."""

    provenance: ClassVar[dict] = {}

    def __init__(self, train, streams):
        self.train, self.streams = train, streams
        self.means = torch.stack([train.unit(own).mean(0) for own in train.by_class])
        self.steps = 0

    def gaps(self, images, labels):
        return images - self.means.to(images)[labels]

    def __call__(self, images, labels, step):
        gaps = self.gaps(images, labels)
        return Matched(float(gaps.square().sum()), 2 * gaps)

    def state(self):
        return {}

    def load_state(self, state):
        pass


class HalfGradient(ToMean):
    def __call__(self, images, labels, step):
        gaps = self.gaps(images, labels)
        return Matched(float(gaps.square().sum()), gaps)


class SomeGradient(ToMean):
    def __call__(self, images, labels, step):
        gaps = self.gaps(images, labels)
        grad = 2 * gaps
        grad[..., : images.shape[-1] // 4] = 0
        return Matched(float(gaps.square().sum()), grad)


class SharedNoise(ToMean):
    def __call__(self, images, labels, step):
        gaps = self.gaps(images + 0.1 * torch.randn_like(images), labels)
        return Matched(float(gaps.square().sum()), 2 * gaps)


class OwnNoise(ToMean):
    rng = torch.Generator()

    def __call__(self, images, labels, step):
        noise = torch.randn(images.shape, generator=self.rng).to(images)
        gaps = self.gaps(images + 0.1 * noise, labels)
        return Matched(float(gaps.square().sum()), 2 * gaps)


class ByPlace(ToMean):
    def __call__(self, images, labels, step):
        weight = torch.arange(1, len(images) + 1).to(images)[:, None, None, None]
        gaps = self.gaps(images, labels)
        return Matched(float((weight * gaps.square()).sum()), 2 * weight * gaps)


class WritesToImages(ToMean):
    def __call__(self, images, labels, step):
        images.clamp_(0.25, 0.75)
        return super().__call__(images, labels, step)


class WritesToData(ToMean):
    def __call__(self, images, labels, step):
        self.train.rows.bitwise_xor_(1)
        return super().__call__(images, labels, step)


class NotANumber(ToMean):
    def __call__(self, images, labels, step):
        return Matched(float("nan"), images * 0 + 1)


class NotAGradient(ToMean):
    def __call__(self, images, labels, step):
        return Matched(1.0, images / 0)


class OfFirstImages(ToMean):
    def __call__(self, images, labels, step):
        gaps = self.gaps(images, labels) * (torch.arange(len(images)) % 2)[:, None, None, None]
        return Matched(float(gaps.square().sum()), 2 * gaps)


class NeedsEveryClass(ToMean):
    def __call__(self, images, labels, step):
        sums = torch.stack([images[labels == c].mean(0) for c in range(3)])
        assert sums.isfinite().all(), "a class is missing"
        return super().__call__(images, labels, step)


class Forgets(ToMean):
    """Learns a weight on the way that its state does not hold."""

    def __call__(self, images, labels, step):
        self.steps += 1
        gaps = self.gaps(images, labels)
        return Matched(self.steps * float(gaps.square().sum()), self.steps * 2 * gaps)


class LivingState(Forgets):
    def __init__(self, train, streams):
        super().__init__(train, streams)
        self.count = torch.ones(1)

    def __call__(self, images, labels, step):
        matched = super().__call__(images, labels, step)
        self.count += 1
        return matched

    def state(self):
        return {"count": self.count}


class NoMatch(ToMean):
    def __call__(self, images, labels, step):
        return 3.0, images


class OtherShape(ToMean):
    def __call__(self, images, labels, step):
        return Matched(1.0, images.flatten(1))


class Fails(ToMean):
    def __call__(self, images, labels, step):
        raise KeyError("mine")


class NoJson(ToMean):
    provenance: ClassVar[dict] = {"what": object()}


class TextMetrics(ToMean):
    def __call__(self, images, labels, step):
        return Matched(1.0, 2 * self.gaps(images, labels), {"name": "mine"})


class NotASum(ToMean):
    """Says that classes can be matched one by one, which they cannot."""

    def __call__(self, images, labels, step):
        gaps = self.gaps(images, labels)
        total = gaps.square().sum()
        return Matched(float(total**2), 4 * total * gaps)

    def needs_all(self, step):
        return False

    def match(self, images, labels, step, own):
        return self(images[own], labels[own], step)


class NotASumOfBlocks(ToMean):
    """Says that blocks can be matched one by one, and counts what they have in common twice."""

    def match_blocks(self, images, labels, step, share):
        own = torch.zeros(len(labels), 1, 1, 1)
        own[torch.arange(len(labels))[share]] = 1
        gaps = self.gaps(images, labels) * own
        return Matched(1 + float(gaps.square().sum()), 2 * gaps)


def settings_of(objective):
    class Mine(ObjectiveSettings):
        def build(self, train, device, streams):
            return objective(train, streams)

    return Mine


def test_an_objective_that_is_as_asked():
    report = hpd.check(settings_of(ToMean))
    assert report.subject == "mine"
    assert any("central differences in float64" in line for line in report.lines)


OBJECTIVES = {
    HalfGradient: "the gradient is that of the loss.*got a difference of 1",
    SomeGradient: "the gradient is that of the loss",
    SharedNoise: "draws from torch's global random numbers.*Draw from the streams",
    OwnNoise: "the same streams and step give the same",
    ByPlace: "the order of the images changes nothing.*by their labels",
    WritesToImages: "images and labels are left as they are.*Work on a copy",
    WritesToData: "the real images are left as they are",
    NotANumber: "the loss is finite: got nan",
    NotAGradient: "the gradient is finite: got .* NaN or Inf",
    OfFirstImages: "the gradient reaches every image: got none for 3 of 6, such as image 0 of",
    NeedsEveryClass: r"fails when asked for a match: got AssertionError.*test_broken.py, line \d+",
    Forgets: "restored, it goes on as without an interruption.*derive it from the step",
    LivingState: r"a state is a clone: got count changed with a step.*value.clone\(\)",
    NoMatch: "gives no match: got tuple, expected hpd.typing.Matched",
    OtherShape: "the image gradient of .* has the wrong shape",
    Fails: r"fails when asked for a match: got KeyError: 'mine' \(.*test_broken.py, line \d+\)",
    NoJson: "fails when asked for provenance: got TypeError",
    TextMetrics: "the metric 'name' of mine is no number",
    NotASum: "classes matched one by one sum to the whole",
    NotASumOfBlocks: "shares of the blocks sum to the whole.*or leave out `match_blocks`",
}


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda cls: cls.__name__)
def test_an_objective_that_is_not(objective):
    with pytest.raises(HpdError, match=OBJECTIVES[objective]) as error:
        hpd.check(settings_of(objective))
    assert "\n" not in str(error.value)


def test_an_objective_in_float32_is_checked_in_float32():
    class Float32(Stateless):
        def __init__(self, train, streams):
            self.inside = ToMean(train, streams)
            self.factor = 1.0

        def __call__(self, images, labels, step):
            if images.dtype != torch.float32:
                raise TypeError("float32 alone")
            matched = self.inside(images, labels, step)
            return Matched(matched.loss, self.factor * matched.image_grad)

    class Wrong(Float32):
        def __init__(self, train, streams):
            super().__init__(train, streams)
            self.factor = 1.5

    lines = hpd.check(settings_of(Float32)).lines
    assert any(line.startswith("the gradient is that of the loss, by central differences: ")
               for line in lines)  # fmt: skip
    with pytest.raises(CheckError, match="the gradient is that of the loss"):
        hpd.check(settings_of(Wrong))


class GoodSource(PixelSource):
    pass


class ScaledPullback(PixelSource):
    def render(self, indices):
        images, pullback = super().render(indices)
        return images, lambda grad: pullback(2 * grad)


class NoPullback(PixelSource):
    def render(self, indices):
        return super().render(indices)[0], lambda grad: None


class SetsGradient(PixelSource):
    def render(self, indices):
        images, pullback = super().render(indices)

        def pull(grad):
            self.pixels.grad = None
            pullback(grad)

        return images, pull


class Broadcasts(PixelSource):
    def render(self, indices):
        images, pullback = super().render(indices)
        return images, lambda grad: pullback(grad[:1].expand_as(images) * 1 if len(grad) != len(
            images) else grad)  # fmt: skip


class LivingPixels(PixelSource):
    def state(self):
        return {"pixels": self.pixels.detach()}


class RestoresHalf(PixelSource):
    @torch.no_grad()
    def load_state(self, state):
        self.pixels[1:] = state["pixels"][1:]


class Rebinds(PixelSource):
    def load_state(self, state):
        self.pixels = state["pixels"].clone().requires_grad_()


class Bytes(PixelSource):
    def _decode(self, indices):
        return super()._decode(indices) * 255


class WithGraph(PixelSource):
    def render(self, indices):
        return super().render(indices)[0].requires_grad_(), lambda grad: None


class Copies(PixelSource):
    def __init__(self, *args):
        super().__init__(*args)
        self.copy = self.pixels.detach().clone()

    def _decode(self, indices):
        return self._normalisation.undo(self.copy[indices] + 0 * self.pixels[indices])


class Mixes(PixelSource):
    def _decode(self, indices):
        images = super()._decode(indices)
        return images - 0.1 * images.mean(0)


class OneLabelMore(PixelSource):
    def __init__(self, pixels, labels, *rest):
        super().__init__(pixels, labels.clamp(max=1), *rest)


class NotFinite(PixelSource):
    def _decode(self, indices):
        return super()._decode(indices) / 0


class NoLeaf(PixelSource):
    def _groups(self):
        (group,) = super()._groups()
        return (type(group)(group.name, (group.tensors[0] * 1,), group.lr),)


class Stores(PixelSource):
    stored_floats = 0


class NamesHalf(PixelSource):
    @property
    def stored(self):
        return {"pixels": self.pixels[:1]}


class NamesAnother(PixelSource):
    @property
    def stored(self):
        return {"latents": self.pixels}


class Draws(PixelSource):
    def _decode(self, indices):
        return super()._decode(indices) + torch.randn(1)


class MovesOnEntering(PixelSource):
    def enter(self, stage):
        with torch.no_grad():
            self.pixels += 0.1
        return super().enter(stage)


class FailsToRender(PixelSource):
    def render(self, indices):
        return render_in_chunks(lambda i: self.nope, indices, 8)


def source_of(source):
    class Mine(PixelSettings):
        def build(self, train, device, streams):
            made = super().build(train, device, streams)
            return source(made.pixels.detach(), made.labels, train.normalisation, self)

    return Mine


SOURCES = {
    ScaledPullback: "the pullback is that of the images, by central differences",
    NoPullback: "a gradient reaches every group: got none at pixels",
    SetsGradient: "pullbacks of parts add up.*Add to `.grad`",
    Broadcasts: "a gradient of another shape is refused",
    LivingPixels: "a state is a clone: got pixels changed",
    RestoresHalf: "a state restores the images to the bit",
    Rebinds: "after a state, the images follow what is optimised.*copy_",
    Bytes: r"images are in \[0, 1\], nominally: got values up to 255.*Divide by 255",
    WithGraph: "images are detached",
    Copies: "a gradient reaches every group",
    Mixes: "images in any order are the same images",
    OneLabelMore: r"every class as often: got \[1, 2, 0\]",
    NotFinite: "images are finite",
    NoLeaf: "leaves that require grad",
    Stores: "stored_floats is a number above 0: got 0",
    NamesHalf: "what is stored by name is all that it stores: got 256 values",
    NamesAnother: "what is stored is part of the state",
    Draws: "draws from torch's global random numbers",
    MovesOnEntering: "entering a stage changes no image",
    FailsToRender: "fails when asked for images: got AttributeError",
}


@pytest.mark.parametrize("source", SOURCES, ids=lambda cls: cls.__name__)
def test_a_source_that_is_not_as_asked(source):
    assert hpd.check(source_of(GoodSource)).lines
    with pytest.raises(HpdError, match=SOURCES[source]) as error:
        hpd.check(source_of(source))
    assert "\n" not in str(error.value)


def selector_of(score):
    class Mine(SelectorSettings):
        def build(self, train, device, streams, objective):
            return score(train, streams)

    return Mine


def good(train, streams):
    mean = train.unit().mean(0)
    return lambda images, labels: float((images - mean).square().mean())


def negative(train, streams):
    score = good(train, streams)
    return lambda images, labels: -score(images, labels)


def another_each_time(train, streams):
    score, rng = good(train, streams), torch.Generator()
    return lambda images, labels: score(images, labels) + float(torch.rand(1, generator=rng))


def draws_globally(train, streams):
    score = good(train, streams)
    return lambda images, labels: score(images, labels) + float(torch.rand(1))


def draws_when_built(train, streams):
    score, seed = good(train, streams), torch.initial_seed()
    return lambda images, labels: score(images, labels) + seed


def changes_the_set(train, streams):
    score = good(train, streams)
    return lambda images, labels: score(images.clamp_(0.2, 0.8), labels)


def keeps_a_mean(train, streams):
    score, seen = good(train, streams), []

    def mine(images, labels):
        # the same set twice leaves it as it is
        seen.append(score(images, labels))
        return sum(seen) / len(seen)

    return mine


def writes_to_real_images(train, streams):
    score = good(train, streams)

    def mine(images, labels):
        train.rows[0] = 0
        return score(images, labels)

    return mine


def a_tensor(train, streams):
    score = good(train, streams)
    return lambda images, labels: torch.tensor(score(images, labels))


SELECTORS = {
    negative: "lower is better: real images score lower than noise.*Return the negative",
    another_each_time: "the same set has the same score twice",
    draws_globally: "draws from torch's global random numbers",
    draws_when_built: "the same streams give the same score",
    changes_the_set: "images and labels are left as they are",
    keeps_a_mean: "a score does not depend on the sets before it.*Keep no means",
    writes_to_real_images: "real images are left as they are",
    a_tensor: r"a score is a finite number, or None: got Tensor.*float\(",
    lambda train, streams: lambda images, labels: float("nan"): "a score is a finite number",
    lambda train, streams: lambda images, labels: True: "a score is a finite number",
    lambda train, streams: lambda images, labels: images.nope: "fails when asked for a score",
    lambda train, streams: 3: "fails when asked for a score: got TypeError",
}  # fmt: skip


@pytest.mark.parametrize("score", SELECTORS, ids=lambda f: f.__name__)
def test_a_selector_that_is_not_as_asked(score):
    assert hpd.check(selector_of(good)).lines
    with pytest.raises(CheckError, match=SELECTORS[score]):
        hpd.check(selector_of(score))


class Flat(Student):
    """One convolution and a linear layer, as asked."""

    def __init__(self, image_shape, num_classes):
        super().__init__()
        channels, height, width = image_shape
        self.conv = nn.Conv2d(channels, 2, 3, padding=1)
        self.head = nn.Linear(2 * height * width, num_classes)

    def features(self, x):
        return self.conv(x).relu()

    def pool(self, features):
        return features.flatten(1)


class NoMaps(Flat):
    def features(self, x):
        return self.conv(x).flatten(1)


class OtherForward(Flat):
    def forward(self, x):
        return super().forward(x) * 2


class OtherEmbedding(Flat):
    def embed(self, x):
        return super().embed(x) + 1


class Noisy(Flat):
    def features(self, x):
        return super().features(x) + 0.1 * torch.randn(1)


class Counts(Flat):
    calls = 0

    def features(self, x):
        self.calls += 1
        return super().features(x) + self.calls


class Frozen(Flat):
    def __init__(self, *args):
        super().__init__(*args)
        self.kept = {}

    def features(self, x):
        kept = self.kept.setdefault("weight", self.conv.weight.detach().clone())
        return nn.functional.conv2d(x, kept, padding=1).relu()


class FewLogits(Flat):
    def __init__(self, image_shape, num_classes):
        super().__init__(image_shape, num_classes - 1)


class OddLayer(Flat):
    def __init__(self, *args):
        super().__init__(*args)
        self.odd = nn.PReLU()


STUDENTS = {
    NoMaps: r"features are maps \[N, F, h, w\]|fails when asked",
    OtherForward: "forward is head of embed",
    OtherEmbedding: "embed is pool of features|forward is head of embed",
    Noisy: "draws from torch's global random numbers",
    Counts: "embed is pool of features|gives the same twice",
    Frozen: "a gradient reaches every weight: got none at conv.weight",
    FewLogits: r"logits are \[N, K\]: got \[4, 2\], expected \[4, 3\]",
    OddLayer: "fails when asked for building: got TypeError: no default weights known for PReLU",
}


def student_of(student):
    class Mine(StudentSettings):
        def make(self, image_shape, num_classes):
            return student(image_shape, num_classes)

    return Mine


@pytest.mark.parametrize("student", STUDENTS, ids=lambda cls: cls.__name__)
def test_a_student_that_is_not_as_asked(student):
    assert hpd.check(student_of(Flat)).lines
    with pytest.raises(CheckError, match=STUDENTS[student]):
        hpd.check(student_of(student))


def decoder(last=nn.Tanh, condition=lambda z, labels: z, middle=None, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [
            nn.Sequential(nn.Linear(6, 64), nn.Unflatten(1, (4, 4, 4))),
            middle or nn.Identity(),
            nn.Sequential(nn.ConvTranspose2d(4, 1, 4, 2, 1), last()),
        ]
    return LayeredGenerator(layers, condition, **{"z_dim": 6} | options)


class TrainsAgain(LayeredGenerator):
    """Goes into training mode when it is asked to."""

    def train(self, mode=True):
        return nn.Module.train(self, mode)


def trains_again():
    with torch.random.fork_rng(devices=[]):
        made = decoder(middle=nn.BatchNorm2d(4))
        return TrainsAgain(list(made.layers), made.condition, z_dim=6)


GENERATORS = {
    "sigmoid": (lambda: decoder(lambda: Does(torch.sigmoid)), "never below 0"),
    "far": (lambda: decoder(lambda: Does(lambda x: 8 * x.tanh())), r"not in \[-1, 1\]: got up to"),
    "one image": (
        lambda: decoder(middle=Does(lambda x: x * 0 + 0.1)), "other z give other images",
    ),
    "no class": (lambda: decoder(num_classes=3), "the class decides the image"),
    "training": (trains_again, r"generator.train\(\) changes no image"),
    "rounds": (
        lambda: decoder(middle=Does(lambda x: (x * 64).round() / 64)),
        r"a gradient reaches every level, and is finite: got none at level 0 \(ws\)",
    ),
    "detached": (
        lambda: decoder(middle=Does(lambda x: x.detach())), "a gradient reaches every level",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GENERATORS)
def test_a_generator_that_is_not_as_asked(name):
    assert hpd.check(decoder()).lines
    make, said = GENERATORS[name]
    with pytest.raises(HpdError, match=said):
        hpd.check(make())


@pytest.mark.parametrize("thing", [None, 3, [], object(), int, Step(0, 0)])
def test_what_is_no_component_is_said(thing):
    with pytest.raises(ConfigError, match=r"nothing is asked of it.*expected a generator"):
        hpd.check(thing)


@pytest.mark.parametrize(
    ("thing", "options", "said"),
    [
        ("digits16", ("a=1",), "a generator takes no options"),
        (PixelSettings(), ("steps=1",), "options are for a class of settings or a name"),
        (PixelSettings, ("stepz=1",), "Did you mean 'steps'"),
        ("objective.nothing", (), "unknown objective 'nothing'"),
    ],
)
def test_options_that_do_not_fit_are_said(thing, options, said):
    with pytest.raises(ConfigError, match=said):
        hpd.check(thing, *options)


def test_a_generator_is_a_generator():
    assert isinstance(decoder(), Generator)
