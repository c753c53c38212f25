"""Recovery against its naive twin, and the adjustment of its teacher."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import CPU
from reference_recovery import recovery_value
from torch.autograd import gradcheck
from torch.func import functional_call

from hpd.errors import ConfigError, RunError
from hpd.objectives import OBJECTIVES, recovery
from hpd.objectives.adjustment import AdjustmentSettings, TeacherAdjustment, ascend, wander
from hpd.objectives.recovery import Gap, blocks_of, recovery_loss, statistics_gap, watched
from hpd.rng import Streams
from hpd.students.teachers import digest_network, read_teacher
from hpd.typing import Step

LABELS = torch.tensor([0, 0, 1, 1, 2, 2])
STEP = Step(0, 3)
DIRECTED = {"mode": "directed", "rho": 0.3, "steps": 3}


def adjusted(**options):
    """DIRECTED with other options, less those that do nothing beside them."""
    mode = {"mode": options.get("mode", "directed")}
    return mode | AdjustmentSettings.applicable(DIRECTED | options, mode)


@pytest.fixture
def make(images, streams, teacher_folder):
    def build(train=images, **options):
        given = {"kind": "recovery", "teacher": teacher_folder, "roll": 0, **options}
        return OBJECTIVES.parse(given).build(train, CPU, streams)

    return build


@pytest.fixture
def network(teacher_folder):
    return read_teacher(teacher_folder).network


@pytest.fixture
def batch(images):
    chosen = torch.cat([own[:1] for own in images.by_class])
    return images.normalised(chosen), images.labels[chosen]


@pytest.mark.parametrize("weights", [(0.01, 1.0, 1.0, 10.0), (0.3, 0.5, 11.0, 2.0)])
def test_it_equals_its_twin(weights, make, float64, rng, images, teacher_folder):
    """With the first weights, from noise and without adjustment, this is SRe2L."""
    r_bn, r_mean, r_var, first = weights
    objective = make(
        statistics_weight=r_bn, mean_weight=r_mean, variance_weight=r_var,
        first_layer_weight=first,
    )  # fmt: skip
    noise = images.normalisation.undo(torch.randn(6, 1, 8, 8, generator=rng))
    teacher = read_teacher(teacher_folder).to(CPU)
    leaf = noise.clone().requires_grad_()
    # the first image of every class, then the second
    values = [
        recovery_value(
            teacher.network, teacher.normalise(leaf[own]), LABELS[own],
            r_bn=r_bn, r_mean=r_mean, r_var=r_var, first=first,
        )
        for own in ([0, 2, 4], [1, 3, 5])
    ]  # fmt: skip
    (want,) = torch.autograd.grad(sum(values), leaf)
    got = objective(noise, LABELS, STEP)
    assert got.loss == pytest.approx(float(sum(values).detach()), rel=1e-10)
    torch.testing.assert_close(got.image_grad, want, rtol=1e-8, atol=1e-12)


def test_the_defaults_are_those_of_sre2l():
    settings = OBJECTIVES.parse("recovery")
    weights = (settings.statistics_weight, settings.mean_weight, settings.variance_weight)
    assert (*weights, settings.first_layer_weight) == (0.01, 1.0, 1.0, 10.0)
    assert (settings.adjustment.mode, settings.roll, settings.block_images) == ("none", 4, 1)


def test_gaps_in_closed_form():
    maps = torch.tensor([1.0, -1.0, 3.0, -3.0]).view(4, 1, 1, 1).expand(4, 2, 1, 1)
    gap = statistics_gap(maps, torch.tensor([3.0, 4.0]), torch.tensor([5.0, 7.0]))
    assert (float(gap.mean), float(gap.variance)) == (5.0, 2.0)
    gaps = [Gap(torch.tensor(1.0), torch.tensor(2.0)), Gap(torch.tensor(3.0), torch.tensor(4.0))]
    loss = recovery_loss(
        torch.zeros(1, 4), torch.tensor([0]), gaps,
        statistics_weight=0.5, mean_weight=2.0, variance_weight=3.0, first_layer_weight=10.0,
    )  # fmt: skip
    assert float(loss) == pytest.approx(torch.tensor(4.0).log() + 0.5 * (10 * 8 + 18))


def test_gradcheck(network, float64, rng):
    network = network.double()

    def loss(x):
        with watched(network) as gaps:
            logits = network(x)
        return recovery_loss(logits, LABELS[::2], gaps, statistics_weight=0.3, variance_weight=2.0)

    x = torch.randn(3, 1, 8, 8, generator=rng).requires_grad_()
    assert gradcheck(loss, x, eps=1e-7, atol=1e-5)


def test_real_images_have_smaller_gaps_than_noise(make, images, rng):
    objective = make(block_images=None)
    real = objective(images.unit(), images.labels, STEP).metrics
    noise = objective(torch.rand(images.unit().shape, generator=rng), images.labels, STEP).metrics
    for name in ("mean_gap", "variance_gap", "cross_entropy"):
        assert real[name] < noise[name], name


def test_blocks_take_the_next_images_of_every_class():
    labels = torch.tensor([0, 1, 0, 0, 1, 2])
    assert [b.tolist() for b in blocks_of(labels, 1, 100)] == [[0, 1, 5], [2, 4], [3]]
    assert [b.tolist() for b in blocks_of(labels, 2, 100)] == [[0, 1, 2, 4, 5], [3]]
    assert [b.tolist() for b in blocks_of(labels, None, 100)] == [list(range(6))]


def test_images_meet_in_their_block_and_nowhere_else(make, synthetic):
    objective = make()
    before = objective(synthetic, LABELS, STEP).image_grad
    changed = synthetic.clone()
    changed[2] = 1 - changed[2]
    after = objective(changed, LABELS, STEP).image_grad
    same = [torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert same == [False, True, False, True, False, True]


def test_a_roll_is_drawn_for_a_block_and_its_images_alike(make, synthetic, monkeypatch):
    seen = []

    def spy(network, weights, arguments):
        seen.append(arguments[0].detach())
        return functional_call(network, weights, arguments)

    monkeypatch.setattr(recovery, "functional_call", spy)
    objective = make(roll=2, block_images=None)
    for i in range(60):
        objective(synthetic, LABELS, Step(0, i))
    normalised = objective._teacher.normalise(synthetic)
    rolls = {
        (y, x): normalised.roll((y, x), dims=(2, 3)) for y in range(-2, 3) for x in range(-2, 3)
    }
    found = {key for x in seen for key, rolled in rolls.items() if torch.equal(x, rolled)}
    assert len(seen) == 60
    assert all(any(torch.equal(x, rolled) for rolled in rolls.values()) for x in seen)
    assert {y for y, _ in found} == {x for _, x in found} == {-2, -1, 0, 1, 2}


def far(one, other):
    return float(sum((one[n] - other[n]).square().sum() for n in one) ** 0.5)


def test_the_way_up_is_rho_at_most_in_equal_steps(network, batch):
    own = dict(network.named_parameters())
    path = [own]
    for k in range(1, 5):
        # k of four steps
        path.append(ascend(network, own, *batch, rho=0.2 * k / 4, steps=k))
        assert far(path[-1], path[-2]) == pytest.approx(0.2 / 4, rel=1e-3)
    assert 0 < far(path[-1], own) <= 0.2 * (1 + 1e-5)
    losses = [
        float(F.cross_entropy(functional_call(network, weights, (batch[0],)), batch[1]))
        for weights in path
    ]
    assert losses == sorted(losses)
    assert losses[0] < losses[-1]


def test_the_first_step_is_along_the_gradient(network, batch):
    own = {name: value.detach().requires_grad_() for name, value in network.named_parameters()}
    loss = F.cross_entropy(functional_call(network, own, (batch[0],)), batch[1])
    grads = dict(zip(own, torch.autograd.grad(loss, list(own.values())), strict=True))
    norm = sum(grad.square().sum() for grad in grads.values()) ** 0.5
    moved = ascend(network, own, *batch, rho=0.1, steps=1)
    for name, grad in grads.items():
        torch.testing.assert_close(moved[name], own[name].detach() + 0.1 * grad / norm)


def test_the_random_way_is_as_long(network):
    own = dict(network.named_parameters())
    first, again, other = (
        wander(own, 0.2, Streams(seed).generator("direction")) for seed in (0, 0, 1)
    )
    assert far(first, own) == pytest.approx(0.2, rel=1e-4)
    assert far(first, again) == 0
    # of two random directions in many dimensions
    assert far(first, other) == pytest.approx(0.2 * 2**0.5, rel=0.3)


@pytest.mark.parametrize("view", ["start", "real"])
@pytest.mark.parametrize("mode", ["none", "random", "directed"])
def test_the_teacher_is_the_same_to_the_bit_whatever_happens(
    mode, view, make, synthetic, monkeypatch
):
    objective = make(adjustment=adjusted(mode=mode, view=view))
    network = objective._teacher.network
    before = digest_network(network)
    objective(synthetic, LABELS, STEP)
    assert digest_network(network) == before

    def broken(*arguments, **options):
        assert digest_network(network) == before
        raise RuntimeError("in the middle")

    monkeypatch.setattr(recovery, "recovery_loss", broken)
    with pytest.raises(RuntimeError, match="in the middle"):
        objective(synthetic, LABELS, STEP)
    assert digest_network(network) == before
    assert all(not layer._forward_pre_hooks for layer in network.modules())
    assert all(value.grad is None for value in network.parameters())


def test_every_mode_gives_another_gradient_and_no_way_gives_none(make, synthetic):
    def grad(**adjustment):
        return make(adjustment=adjusted(**adjustment))(synthetic, LABELS, STEP).image_grad

    plain = make()(synthetic, LABELS, STEP).image_grad
    assert torch.equal(grad(mode="none"), plain)
    assert torch.equal(grad(rho=0.0), plain)
    assert torch.equal(grad(mode="random", rho=0.0), plain)
    found = [plain, grad(), grad(view="real"), grad(mode="random"), grad(carry_over=True)]
    for i, one in enumerate(found):
        for other in found[:i]:
            assert not torch.equal(one, other)


def test_carrying_over_starts_where_the_block_before_ended(network, batch):
    def adjustment(**options):
        settings = AdjustmentSettings(mode="directed", rho=0.2, steps=2, **options)
        return TeacherAdjustment(network, settings, Streams(0), lambda block: batch)

    own = dict(network.named_parameters())
    restored, carried = adjustment(), adjustment(carry_over=True)
    assert far(restored.weights(3), restored.weights(0)) == 0
    assert far(carried.weights(0), restored.weights(0)) == 0
    want = ascend(network, carried.weights(1), *batch, rho=0.2, steps=2)
    assert far(carried.weights(2), want) == 0
    assert far(carried.weights(2), own) > 0.3


@pytest.mark.parametrize("view", ["start", "real"])
def test_what_directs_the_teacher_survives_an_interruption(view, make, synthetic):
    options = {"adjustment": DIRECTED | {"view": view}, "roll": 1}
    straight = make(**options)
    steps = [straight(synthetic + i / 10, LABELS, Step(0, i)) for i in range(3)]
    first, second = make(**options), make(**options)
    first(synthetic, LABELS, Step(0, 0))
    state = first.state()
    assert bool(state) == (view == "start")
    second.load_state(state)
    for i in (1, 2):
        got = second(synthetic + i / 10, LABELS, Step(0, i))
        assert torch.equal(got.image_grad, steps[i].image_grad)
    if view == "start":
        # images of a later step would direct it elsewhere
        other = make(**options)(synthetic + 0.2, LABELS, Step(0, 2))
        assert not torch.equal(other.image_grad, steps[2].image_grad)


def test_what_is_wrong_is_named_before_the_run_starts(make, images, tmp_path):
    with pytest.raises(RunError, match="hpd squeeze"):
        make(teacher=str(tmp_path / "none"))
    others = replace(images, classes=("a", "b", "z"))
    with pytest.raises(ConfigError, match=r"other images: got \['a', 'b', 'c'\]"):
        make(train=others)
    with pytest.raises(ConfigError, match="mode"):
        make(adjustment={"mode": "sideways"})


def test_the_teacher_is_written_down(make, network):
    (known,) = make().provenance.values()
    assert known["weights_sha256"] == digest_network(network)
    assert known["origin"] == "trained"
