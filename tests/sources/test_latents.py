"""Latents as what is stored: how many fit, what they are, and which samples they start from."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from conftest import CPU, SMALL_STUDENT, SMALL_TEACHER, tiny_generator

import hpd
from generators import Prior, StoredGenerator, read_generator
from generators.seeds import draw_seeds, z_of_seeds
from hpd.codecs import Codec
from hpd.engine.rendered import render_all
from hpd.errors import ConfigError, RunError
from hpd.rng import Streams
from hpd.sources import SOURCES
from hpd.storage import Amount
from hpd.students.teachers import read_teacher
from hpd.typing import Step


@pytest.fixture
def build(generator_folder, images):
    def make(seed=0, **options):
        values = {"kind": "latents", "generator": generator_folder, **options}
        return SOURCES.parse(values).build_whole(images, CPU, Streams(seed))

    return make


@pytest.fixture
def spec(generator_folder):
    return read_generator(generator_folder).generator.spec


def numbers(spec, store):
    return {"seed": 1, "z": spec.z_dim, "w": spec.w_dim, "ws": spec.num_ws * spec.w_dim}[store]


@pytest.mark.parametrize("store", ["seed", "z", "w", "ws"])
def test_a_budget_of_floats_is_used_to_the_last_image(build, spec, store):
    each = numbers(spec, store)
    for options, floats in [({}, 192), ({"budget_images": 3}, 576), ({"budget_floats": 400}, 400)]:
        source = build(store=store, **options)
        counts = source.labels.bincount()
        assert counts.tolist() == [int(counts[0])] * 3
        assert source.stored_floats == len(source.labels) * each <= floats
        assert source.stored_floats + 3 * each > floats
        assert source.stored_bits == 32 * source.stored_floats
    assert len(build(store=store, images_per_class=1).labels) == 3


@pytest.mark.parametrize("store", ["seed", "z", "ws"])
@pytest.mark.parametrize("storage", [None, {"bits": 2}, {"bits": 4, "per": "row"}, {"bits": 8}])
@pytest.mark.parametrize("label_room", [0, 12])
def test_a_budget_of_bits_is_used_to_the_last_image(build, spec, store, storage, label_room):
    budget, each = 5000, numbers(spec, store)
    source = build(store=store, budget_bits=budget, storage=storage, label_room=label_room)
    codec = Codec(bits=32) if storage is None else Codec(**storage)

    def needed(per_class):
        own = 96 * per_class if store == "seed" else codec.bits_for((3 * per_class, each))
        return own + 3 * per_class * label_room

    per_class = len(source.labels) // 3
    assert needed(per_class) <= budget < needed(per_class + 1)
    assert source.stored_bits == needed(per_class) - 3 * per_class * label_room


def test_labels_that_are_learnt_are_of_the_budget_of_bits(build):
    storage, learnt = {"bits": 4, "label_bits": 2}, {"confidence": 0.8}
    plain = build(budget_bits=5000, storage=storage)
    source = build(budget_bits=5000, storage=storage, learnt_labels=learnt)
    assert source.stored_bits + source.label_bits <= 5000
    assert len(source.labels) < len(plain.labels)
    more = build(budget_bits=5000 + 3 * 60, storage=storage, learnt_labels=learnt)
    assert more.stored_bits + more.label_bits > 5000


def test_the_generator_is_of_the_budget_where_it_is_asked_for(build, generator_folder):
    own = sum(p.numel() for p in read_generator(generator_folder).generator.parameters())
    with pytest.raises(ConfigError, match=f"beside a generator of {own:,} floats"):
        build(count_generator=True)
    source = build(count_generator=True, budget_floats=own + 192)
    assert len(source.labels) == len(build().labels)
    for bits in (8, 16, 32):
        storage = {"bits": 4, "generator_bits": bits}
        shapes = [p.shape for p in read_generator(generator_folder).generator.parameters()]
        weights = sum(Codec(bits=bits).bits_for(shape) for shape in shapes)
        in_bits = build(count_generator=True, budget_bits=weights + 5000, storage=storage)
        alone = build(budget_bits=5000, storage=storage)
        assert len(in_bits.labels) == len(alone.labels)
        assert in_bits.stored_bits == weights + alone.stored_bits
        assert in_bits.stored_floats == own + alone.stored_floats
    assert (source.generator_floats, build().generator_floats) == (0, own)


@pytest.mark.parametrize("store", ["seed", "z", "w", "ws"])
def test_it_starts_from_samples_of_each_class(build, generator_folder, store):
    """By hand, from the z that are stored of the same draws."""
    z = build(store="z", images_per_class=2, budget_images=9).inner.latents.detach()
    source = build(store=store, images_per_class=2, budget_images=9)
    network = read_generator(generator_folder).generator
    labels = torch.arange(3).repeat_interleave(2)
    with torch.no_grad():
        expected = (network(network.map(z, labels)) + 1) / 2
    torch.testing.assert_close(render_all(source), expected)
    assert not torch.allclose(
        z, build(1, images_per_class=2, budget_images=9).inner.latents.detach()
    )


def test_truncated_samples_are_nearer_to_the_average(build):
    whole, half = (render_all(build(truncation_psi=psi)) for psi in (1.0, 0.3))
    assert float(half.var(dim=0).mean()) < 0.5 * float(whole.var(dim=0).mean())


def test_a_step_takes_some_images_of_each_class(build):
    source = build(budget_images=3, batch_images=2)
    chosen = source.batch(Step(0, 1))
    assert source.labels[chosen].tolist() == [0, 0, 1, 1, 2, 2]
    assert len(build(batch_images=None).batch(Step(0, 1))) == len(build().labels)


def test_samples_that_a_teacher_agrees_with(tmp_path, monkeypatch, generator_folder):
    """All of them are of their class by the teacher, and in the order in which they were drawn."""
    monkeypatch.chdir(tmp_path)
    data = hpd.load_dataset("digits", classes=["0", "1", "8"])
    hpd.squeeze(
        "digits", "data.classes=['0', '1', '8']", f"student={SMALL_TEACHER['student']}",
        "training={epochs: 2}", out="teacher",
    )  # fmt: skip
    network = read_teacher("teacher")
    options = {"kind": "latents", "generator": "digits16", "images_per_class": 5,
               "budget_images": 9}  # fmt: skip
    agreeing = options | {"pool": "agreeing", "teacher": "teacher"}
    every, chosen = (
        SOURCES.parse(values).build(data.train, CPU, Streams(0)) for values in (options, agreeing)
    )
    images = render_all(chosen).clamp(0, 1)
    assert torch.equal(network.probabilities(images).argmax(dim=1), chosen.labels)
    first = render_all(every).clamp(0, 1)
    agreed = network.probabilities(first).argmax(dim=1) == every.labels
    for label in range(3):
        own = every.latents.detach()[(every.labels == label) & agreed]
        mine = chosen.latents.detach()[chosen.labels == label]
        assert torch.equal(mine[: len(own)], own)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget_images": 2, "budget_bits": 900}, "budget_bits does nothing beside budget_images"),
        ({"budget_floats": 9, "budget_bits": 900}, "does nothing beside"),
        ({"budget_floats": 9}, "expected at most 9 floats"),
        ({"budget_bits": 9}, "expected at most 9 bits"),
        ({"images_per_class": 500}, "got 500 images a class"),
        ({"pool": "agreeing"}, "source.pool=agreeing needs a teacher"),
        ({"pool": "herding"}, "source.pool=herding needs a teacher"),
        ({"learn_generator": True}, "learn_generator"),
        ({"count_generator": True, "lr_generator": 0.1}, "lr_generator"),
        ({"teacher": "somewhere"}, "teacher"),
        ({"label_room": 3}, "label_room"),
    ],
)
def test_what_does_not_fit_is_refused(build, options, message):
    with pytest.raises(ConfigError, match=message):
        build(**options)


@pytest.mark.parametrize(
    ("begin", "store", "spaces"),
    [
        (None, "seed", ["seed"]),
        (None, "w", ["w"]),
        ("z", "w", ["z", "w"]),
        ("z", "ws", ["z", "w", "ws"]),
        ("w", "ws", ["w", "ws"]),
    ],
)
def test_stages_go_through_the_spaces_up_to_what_is_stored(build, spec, begin, store, spaces):
    """The images stay what they are from one to the next, and the budget is that of the last."""
    options = {"store": store, "budget_images": 9}
    source, alone = build(begin=begin, **options), build(**options)
    assert source.stored_floats == alone.stored_floats == len(alone.labels) * numbers(spec, store)
    expected = render_all(alone)
    for number, (stage, space) in enumerate(zip(source.stages, spaces, strict=True)):
        assert (stage.name, stage.steps) == (space, 0 if space == "seed" else 100)
        assert stage.final == (number > 0 and number == len(spaces) - 1)
        source.enter(number)
        torch.testing.assert_close(render_all(source), expected)
        assert source.stored_floats == len(source.labels) * numbers(spec, space)
    with pytest.raises(RunError, match="no such stage"):
        source.enter(len(spaces))


def test_what_an_earlier_space_came_to_goes_on_in_the_next(build):
    source = build(store="ws", begin="z", budget_images=9)
    for number in range(3):
        (group,) = source.enter(number)
        before = render_all(source)
        with torch.no_grad():
            group.tensors[0].add_(0.5)
        after = render_all(source)
        assert not torch.allclose(before, after)
    # a source that was stopped in the last stage enters it at once
    again = build(store="ws", begin="z", budget_images=9)
    again.enter(2)
    again.load_state(source.state())
    assert torch.equal(render_all(again), after)


@pytest.mark.parametrize(
    "options",
    [{"store": "z", "begin": "z"}, {"store": "w", "begin": "w"}, {"store": "seed", "begin": "z"}],
)
def test_a_space_to_begin_in_lies_before_the_one_that_is_stored(build, options):
    with pytest.raises(ConfigError, match="begin"):
        build(**options)


def test_a_run_through_three_spaces_stores_the_last_and_comes_back(tmp_path):
    config = {
        "data": {"kind": "digits", "classes": ["0", "1", "8"]},
        "source": {"kind": "latents", "generator": "digits16", "steps": 2, "budget_images": 6,
                   "store": "ws", "begin": "z", "storage": {"bits": 8}},
        "objective": {"kind": "distribution", "student": SMALL_STUDENT, "real_batch": 4},
        "selection": "last",
    }  # fmt: skip
    run = hpd.distill(config, out=tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text("utf-8").splitlines()
    assert {json.loads(line).get("stage") for line in lines} >= {"z", "w", "ws"}
    generator = read_generator("digits16").generator.spec
    each = generator.num_ws * generator.w_dim
    assert run.distilled.storage.images.floats == len(run.distilled) * each
    assert torch.equal(hpd.decode(run).images, run.distilled.images)


def test_samples_of_the_prior_are_kept_in_the_bits_of_the_set(tmp_path):
    config = {
        "data": {"kind": "digits", "classes": ["0", "1", "8"]},
        "source": {"kind": "latents", "generator": "digits16", "steps": 2, "budget_bits": 12_000,
                   "storage": {"bits": 4}},
        "objective": {"kind": "distribution", "student": SMALL_STUDENT, "real_batch": 4},
        "selection": "last",
        "evaluation": {"seeds": 1, "students": [SMALL_STUDENT], "training": {"steps": 2},
                       "full_training": None, "baselines": [], "scores": False},
    }  # fmt: skip
    run = hpd.distill(config, out=tmp_path / "run")
    assert run.distilled.storage.images.bits <= 12_000
    assert torch.equal(hpd.decode(run).images, run.distilled.images)
    rows = {row.name: row for row in hpd.evaluate(run).rows}
    ours, theirs = rows["distilled"].storage, rows["prior_samples"].storage
    assert ours.images == theirs.images
    assert ours.generator == theirs.generator
    assert rows["prior_samples"].images_per_class == rows["distilled"].images_per_class


def test_a_set_of_seeds_and_codes_of_labels_comes_back_from_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    student = f"student={SMALL_TEACHER['student']}"
    hpd.squeeze(
        "digits", "data.classes=['0', '1', '8']", student, "training={epochs: 2}", out="teacher"
    )
    config = {
        "data": {"kind": "digits", "classes": ["0", "1", "8"]},
        "source": {"kind": "latents", "generator": "digits16", "store": "seed",
                   "budget_bits": 3064, "label_room": 12},
        "objective": {"kind": "distribution", "student": SMALL_STUDENT, "real_batch": 4},
        "selection": "last",
    }  # fmt: skip
    run = hpd.relabel(hpd.distill(config, out="run"), "teacher", bits=4)
    kept = run.distilled.storage
    assert (kept.images.bits, len(run.distilled)) == (32 * 69, 69)
    assert kept.images.bits + kept.labels.bits <= 3064 + 64
    again = hpd.decode("run")
    assert torch.equal(again.images, run.distilled.images)
    assert torch.equal(again.soft_labels, run.distilled.soft_labels)
    # samples beside it have labels of the same teacher, which take as many bits each
    few = ("seeds=1", f"students=[{SMALL_TEACHER['student']}]", "training={steps: 2}",
           "baselines=[]", "full_training=null", "scores=false")  # fmt: skip
    for labels in ("hard", "stored"):
        own = ("protocol=soft", "labels=stored", "teacher=teacher") if labels == "stored" else ()
        rows = {row.name: row for row in hpd.evaluate("run", *own, *few).rows}
        count = rows["prior_samples"].images_per_class
        each = 32 + (3 * kept.labels.bits / kept.labels.floats if labels == "stored" else 0)
        total = kept.images.bits + kept.labels.bits
        assert 3 * count * each <= total < 3 * (count + 1) * each


@pytest.mark.parametrize("generator_bits", [8, 16, 32])
def test_samples_beside_a_set_with_its_generator_pay_for_it_in_the_same_bits(
    tmp_path, generator_bits
):
    config = {
        "data": {"kind": "digits", "classes": ["0", "1", "8"]},
        "source": {"kind": "latents", "generator": "digits16", "store": "seed", "steps": 0,
                   "count_generator": True, "images_per_class": 20, "budget_bits": 13_000_000,
                   "storage": {"bits": 32, "generator_bits": generator_bits}},
        "objective": {"kind": "distribution", "student": SMALL_STUDENT, "real_batch": 4},
        "selection": "last",
        "evaluation": {"seeds": 1, "students": [SMALL_STUDENT], "training": {"steps": 2},
                       "full_training": None, "baselines": [], "scores": False},
    }  # fmt: skip
    rows = {row.name: row for row in hpd.evaluate(hpd.distill(config, out=tmp_path / "r")).rows}
    assert rows["prior_samples"].storage == rows["distilled"].storage
    assert rows["prior_samples"].images_per_class == 20


def test_a_prior_in_few_bits_draws_from_rounded_z():
    stored = StoredGenerator.of(tiny_generator())
    plain, coded = Prior(stored, [0, 1, 2]), Prior(stored, [0, 1, 2], Codec(bits=2))
    rng = Streams(0).generator
    images, labels = coded.draw(4, rng("a"))
    z = torch.randn(12, plain.sample_floats, generator=rng("a"))
    z = Codec(bits=2).rounded(z, Codec(bits=2).fit(z))
    assert len(z.unique()) == 4
    generator = stored.generator
    with torch.no_grad():
        want = ((generator(generator.map(z, labels)) + 1) / 2).clamp(0, 1)
    assert torch.equal(images, want)
    assert coded.sample_bits(12) == 12 * plain.sample_floats * 2 + 64
    assert plain.sample_bits(12) == Amount.of(12 * plain.sample_floats).bits


def test_seeds_are_z_that_nothing_optimises(build, generator_folder):
    source = build(store="seed", images_per_class=4)
    seeds = source.stored["seed"]
    assert (seeds.dtype, tuple(seeds.shape)) == (torch.int64, (12,))
    assert list(source.enter(0)) == []
    codes = source.codes()
    assert (codes["code.seed"].dtype, list(codes)) == (torch.int32, ["code.seed"])
    images, again = render_all(source), build(1, store="seed", images_per_class=4)
    again.enter(0)
    assert torch.equal(again.decoded(codes), images)
    network = read_generator(generator_folder).generator
    z = z_of_seeds(seeds, network.spec.z_dim)
    with torch.no_grad():
        assert torch.equal((network(network.map(z, source.labels)) + 1) / 2, images)


def test_a_seed_decides_its_z_alone_and_for_good():
    rows = z_of_seeds(torch.tensor([5, 6, 5]), 4)
    assert torch.equal(rows[0], rows[2])
    assert torch.equal(rows[1], z_of_seeds(torch.tensor([6]), 4)[0])
    # of numpy's frozen stream
    torch.testing.assert_close(
        rows[0], torch.tensor([0.4412275, -0.3308702, 2.4307712, -0.2520921])
    )
    many = z_of_seeds(draw_seeds(2000, Streams(0).generator("a")), 8)
    assert abs(float(many.mean())) < 0.02
    assert abs(float(many.std()) - 1) < 0.02
    assert float(torch.corrcoef(many.T).fill_diagonal_(0).abs().max()) < 0.1


def test_a_prior_of_seeds_counts_one_number_a_sample():
    prior = Prior(StoredGenerator.of(tiny_generator()), [0, 1, 2], seeded=True)
    images, labels = prior.draw(4, Streams(0).generator("a"))
    z = z_of_seeds(draw_seeds(12, Streams(0).generator("a")), prior.stored.generator.spec.z_dim)
    with torch.no_grad():
        want = prior.stored.generator(prior.stored.generator.map(z, labels))
    assert torch.equal(images, ((want + 1) / 2).clamp(0, 1))
    assert (prior.sample_floats, prior.sample_bits(12)) == (1, 12 * 32)


@pytest.mark.parametrize("store", ["seed", "z"])
@pytest.mark.parametrize("bits", [8, 16, 32])
def test_a_generator_is_learnt_and_stored_with_its_latents(build, generator_folder, store, bits):
    """Its gradient is autograd's at the rounded weights; codes give images back to the bit."""
    options = {"store": store, "images_per_class": 2, "budget_floats": 10**6,
               "count_generator": True, "learn_generator": True,
               "storage": {"bits": 32, "generator_bits": bits}}  # fmt: skip
    source = build(**options)
    before = {
        k: v.clone() for k, v in read_generator(generator_folder).generator.state_dict().items()
    }
    for stage in range(len(source.stages)):
        groups = source.enter(stage)
    names = [group.name for group in groups]
    assert names == (["generator"] if store == "seed" else ["z", "generator"])
    images, pull = source.render(torch.arange(6))
    grad = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    pull(grad)
    twin = read_generator(generator_folder).generator
    twin = copy.deepcopy(twin).requires_grad_()
    codec = Codec(bits=bits)
    for value in twin.parameters():
        value.data = codec.rounded(value, codec.fit(value))
    latents = source.inner.latents
    z = z_of_seeds(latents, twin.spec.z_dim) if store == "seed" else latents.detach()
    made = (twin(twin.map(z, source.labels)) + 1) / 2
    torch.testing.assert_close(made.detach(), images)
    made.backward(grad)
    for ours, theirs in zip(groups[-1].tensors, twin.parameters(), strict=True):
        zero = torch.zeros_like(theirs)
        one, two = (zero if g is None else g for g in (ours.grad, theirs.grad))
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        for value in groups[-1].tensors:
            value.add_(0.01)
    codes = source.codes()
    weight = 8 * sum(tensor.numel() * tensor.element_size() for tensor in codes.values())
    assert weight == source.stored_bits
    again = build(1, **options)
    for stage in range(len(again.stages)):
        again.enter(stage)
    assert torch.equal(again.decoded(codes), render_all(source))
    # and the generator that others read is as it was
    after = read_generator(generator_folder).generator.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_learnt_generator_goes_on_to_the_bit(build):
    options = {"images_per_class": 2, "budget_floats": 10**6, "count_generator": True,
               "learn_generator": True}  # fmt: skip
    source = build(**options)
    (_, weights) = source.enter(0)
    with torch.no_grad():
        for value in weights.tensors:
            value.mul_(1.1)
    again = build(1, **options)
    again.enter(0)
    again.load_state(source.state())
    assert torch.equal(render_all(again), render_all(source))


def test_a_herd_follows_the_features_of_real_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hpd.squeeze(
        "digits", "data.classes=['0', '1', '8']", f"student={SMALL_TEACHER['student']}",
        "training={epochs: 2}", out="teacher",
    )  # fmt: skip
    data = hpd.load_dataset("digits", classes=["0", "1", "8"]).train
    teacher = read_teacher("teacher")
    gaps = {}
    for pool in ("all", "herding"):
        options = {"kind": "latents", "generator": "digits16", "store": "seed", "pool": pool,
                   "images_per_class": 6}  # fmt: skip
        if pool == "herding":
            options["teacher"] = "teacher"
        source = SOURCES.parse(options).build(data, CPU, Streams(0))
        features = teacher.embed(render_all(source).clamp(0, 1))
        gaps[pool] = 0.0
        for label in range(3):
            real = teacher.embed(data.unit(data.by_class[label])).mean(dim=0)
            gap = features[source.labels == label].mean(dim=0) - real
            gaps[pool] += float(gap.square().sum())
    assert gaps["herding"] < 0.5 * gaps["all"]
