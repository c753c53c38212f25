"""Training of a generator: what one step does, in one process or several."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from generators import read_generator, save_generator
from generators.draws import Draws
from generators.training.discriminator import DISCRIMINATOR, discriminator_tensors
from generators.training.step import RealImages, Trainer, TrainingSettings
from hpd.data import DATASETS
from hpd.errors import ConfigError, GeneratorError

TINY = {
    "data": {"kind": "digits"}, "batch": 8, "group": 2, "r1_interval_steps": 2, "z_dim": 4,
    "w_dim": 4, "channel_base": 64, "channel_max": 4, "class_weight": 0.5, "colour": 0.5,
}  # fmt: skip


@pytest.fixture(scope="module")
def part():
    return DATASETS.parse("digits").build().train


def trainer(part, **changes):
    return Trainer(TrainingSettings.read(TINY | changes), part)


def test_real_images_are_of_the_class_asked_for(part, rng):
    labels = torch.tensor([3, 3, 7, 0])
    drawn = RealImages(part).draw(labels, Draws(rng))
    assert drawn.shape == (4, 1, 16, 16)
    for image, label in zip(drawn, labels, strict=True):
        same = ((part.unit() * 2 - 1) == image).all(dim=(1, 2, 3)).nonzero()
        assert len(same) >= 1
        assert label in part.labels[same]


def test_half_of_the_real_images_are_mirrored_where_asked(part):
    labels = torch.arange(200) % 10
    plain, mirrored = (
        RealImages(part, mirror=m).draw(labels, Draws(torch.Generator().manual_seed(0)))
        for m in (False, True)
    )
    same = (plain == mirrored).all(dim=(1, 2, 3))
    turned = (plain.flip(3) == mirrored).all(dim=(1, 2, 3))
    assert bool((same | turned).all())
    assert 0.35 < float(turned.float().mean()) < 0.65


def test_one_step_descends_each_loss_by_its_own_gradient(part):
    """Both gradients come from one pass; a pass for each gives the same."""
    settings = {"r1_gamma": 0.0, "noise": False, "translation": 0, "cutout": 0, "colour": 0}
    one, twin = trainer(part, **settings), trainer(part, **settings)
    one.step()
    streams = twin.streams.fork("step", 0).fork("play")
    labels = twin._draw_labels(streams)
    z = Draws(streams.fork("fake").generator("z")).normal(8, 4)
    fakes = twin.generator.synthesise(twin.generator.map(z, labels), noise="none")
    logits, classes = twin.discriminator.judge(fakes, labels)
    loss = F.softplus(-logits).mean() + 0.5 * F.cross_entropy(classes, labels)
    loss.backward(inputs=list(twin.generator.parameters()))
    reals = twin.real.draw(labels, Draws(streams.generator("real")))
    real, classes = twin.discriminator.judge(reals, labels)
    fake = twin.discriminator(fakes.detach(), labels)
    loss = F.softplus(fake).mean() + F.softplus(-real).mean()
    (loss + 0.5 * F.cross_entropy(classes, labels)).backward()
    for network in ("generator", "discriminator"):
        pairs = zip(getattr(one, network).parameters(), getattr(twin, network).parameters(),
                    strict=True)  # fmt: skip
        for got, wanted in pairs:
            assert (got.grad is None) == (wanted.grad is None)
            if wanted.grad is not None:
                torch.testing.assert_close(got.grad, wanted.grad, rtol=1e-4, atol=1e-6)


def test_the_discriminator_learns_the_classes(part):
    plain = {"translation": 0, "cutout": 0, "colour": 0, "r1_gamma": 0.0}
    learner = trainer(part, channel_base=128, channel_max=16, batch=16, lr=0.005, **plain)
    losses = [learner.step()["real_classes"] for _ in range(50)]
    assert sum(losses[-10:]) < 0.95 * sum(losses[:10])


def test_generators_without_noise_keep_strengths_of_zero(part):
    quiet = trainer(part, noise=False)
    quiet.step()
    strengths = [v for k, v in quiet.generator.state_dict().items() if "noise_strength" in k]
    assert strengths
    assert not any(map(bool, strengths))


def test_adapted_probability_is_part_of_the_state(part):
    options = {"augment_target": 0.9, "augment_adapt_images": 100.0}
    one = trainer(part, **options)
    assert one.augment_probability == 0
    one.augment_probability = 0.5
    one.step()
    assert abs(one.augment_probability - 0.5) == pytest.approx(8 / 100)
    other = trainer(part, **options)
    other.load(one.tensors(), one.steps)
    assert other.augment_probability == one.augment_probability
    assert one.step() == other.step()


def test_bfloat16_computes_nearly_the_same_and_keeps_weights_in_float32(part):
    whole, half = trainer(part), trainer(part, precision="bfloat16")
    metrics = whole.step(), half.step()
    assert metrics[0] != metrics[1]
    for name, value in metrics[0].items():
        assert metrics[1][name] == pytest.approx(value, abs=0.05), name
    assert {t.dtype for t in half.generator.state_dict().values()} == {torch.float32}
    assert {t.dtype for t in half.discriminator.state_dict().values()} == {torch.float32}
    for value in half.step().values():
        assert value == value


def test_a_batch_that_cannot_be_shared_out_is_refused(part):
    with pytest.raises(ConfigError, match="got batch=9, group=2, 1 processes"):
        trainer(part, batch=9)


@pytest.fixture
def start(part, tmp_path):
    """A generator of the shape of TINY, which has taken some steps, in a folder."""
    made = trainer(part, lr=0.05)
    for _ in range(3):
        made.step()
    folder = tmp_path / "start"
    save_generator(
        made.average, made.generator_settings, folder, licence="MIT", provenance={}
    )  # fmt: skip
    return folder


def same(one, other):
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(torch.equal(a, b) for (_, a), (_, b) in pairs)


def test_the_first_images_leave_a_generator_to_go_on_from_as_it_is(part, start):
    before = read_generator(start).generator
    goes_on = trainer(part, start=str(start), start_images=24)
    discriminator = copy.deepcopy(goes_on.discriminator)
    for _ in range(3):
        assert goes_on.catches_up
        goes_on.step()
    assert not goes_on.catches_up
    assert same(goes_on.generator, before)
    assert same(goes_on.average, before)
    # it learns meanwhile
    assert not same(goes_on.discriminator, discriminator)
    goes_on.step()
    assert not same(goes_on.generator, before)


def test_the_average_starts_from_the_weights_of_a_generator_to_go_on_from(part, start):
    """After one step it is still nearly there; from scratch it follows at once."""
    before = read_generator(start).generator
    goes_on = trainer(part, start=str(start), start_images=0)
    assert same(goes_on.average, before)
    goes_on.step()
    decay = 0.5 ** (8 / 10_000)
    for mean, value, old in zip(
        goes_on.average.parameters(), goes_on.generator.parameters(), before.parameters(),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(mean, decay * old + (1 - decay) * value)
    fresh = trainer(part)
    fresh.step()
    for mean, value in zip(fresh.average.parameters(), fresh.generator.parameters(), strict=True):
        torch.testing.assert_close(mean, value)


@pytest.mark.parametrize(
    "changes",
    [
        {"channel_max": 2},
        {"channel_base": 32},
        {"z_dim": 5},
        {"data": {"kind": "digits", "classes": ["0", "1"]}},
        {"start": "cifar32"},
    ],
    ids=str,
)
def test_a_generator_to_go_on_from_of_another_shape_is_refused(start, changes):
    settings = TrainingSettings.read(TINY | {"start": str(start)} | changes)
    with pytest.raises(ConfigError, match="the generator to go on from has another shape"):
        Trainer(settings, settings.data.build().train)


def test_a_generator_to_go_on_from_takes_the_names_of_the_data(part, start):
    names = tuple(f"digit {name}" for name in part.classes)
    renamed = trainer(replace(part, classes=names), start=str(start))
    assert renamed.average.spec.classes == names


def test_a_state_of_one_that_went_on_resumes(part, start):
    one = trainer(part, start=str(start), start_images=16)
    one.step()
    other = trainer(part, start=str(start), start_images=16)
    other.load(one.tensors(), one.steps)
    for _ in range(3):
        assert one.step() == other.step()
    assert same(one.generator, other.generator)


def test_images_to_catch_up_do_nothing_without_a_generator(part):
    with pytest.raises(ConfigError, match="start_images in training does nothing"):
        trainer(part, start_images=8)


TWO = """
import sys, torch
from hpd.data import DATASETS
from hpd.machine.device import Processes
from hpd.disk.files import write_tensors
from generators.training.step import Trainer, TrainingSettings
from pathlib import Path

torch.set_num_threads(1)
processes = Processes.started(cpu=True)
assert processes.count == 2
settings = TrainingSettings.read(eval(sys.argv[1]))
both = Trainer(settings, DATASETS.parse("digits").build().train, processes=processes)
for _ in range(3):
    metrics = both.step()
assert processes.any(processes.rank == 1) and not processes.any(False)
found = both.tensors() | {k: torch.tensor(v) for k, v in metrics.items()}
write_tensors(Path(sys.argv[2]) / str(processes.rank), found)
processes.end()
"""


def test_two_processes_train_what_one_does(part, tmp_path, monkeypatch):
    monkeypatch.setenv("HPD_OPS", "reference")
    script = tmp_path / "two.py"
    script.write_text(TWO)
    # Adam's first steps turn rounding near zero into steps of the whole rate, so it is small
    options = TINY | {"lr": 1e-4}
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
        *(str(script), repr(options), str(tmp_path)),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HPD_OPS": "reference"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "0").read_bytes() == (tmp_path / "1").read_bytes()
    both = load_file(tmp_path / "0")
    one = Trainer(TrainingSettings.read(options), part)
    for _ in range(3):
        metrics = one.step()
    for name, value in metrics.items():
        assert both.pop(name).item() == pytest.approx(value, rel=1e-3, abs=1e-4), name
    for name, value in one.tensors().items():
        if "_adam" not in name and name in both:
            torch.testing.assert_close(both[name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_a_training_goes_on_with_both_networks(part, tmp_path):
    first = trainer(part)
    for _ in range(3):
        first.step()
    folder, file = tmp_path / "generator", tmp_path / DISCRIMINATOR
    save_generator(first.average, first.generator_settings, folder, licence="MIT", provenance={})
    save_file(discriminator_tensors(first.discriminator), file)
    again = trainer(part, start=str(folder), start_discriminator=str(file), start_images=0)
    for name, value in first.discriminator.state_dict().items():
        assert torch.equal(again.discriminator.state_dict()[name], value.half().float())
    before = [value.clone() for value in again.generator.parameters()]
    again.step()
    # which learns from the first step on
    changed = zip(before, again.generator.parameters(), strict=True)
    assert any(not torch.equal(one, two) for one, two in changed)
    # a whole state serves as well
    save_file(first.tensors(), file)
    trainer(part, start=str(folder), start_discriminator=str(file))


def test_networks_with_fewer_features_go_on_as_wider_ones(part, tmp_path):
    """They do the same at first, but for the deviation, and every weight that is new learns."""
    narrow = {"channel_base": 32, "channel_max": 4}
    first = trainer(part, lr=0.05, **narrow)
    for _ in range(3):
        first.step()
    folder, file = tmp_path / "generator", tmp_path / DISCRIMINATOR
    save_generator(first.average, first.generator_settings, folder, licence="MIT", provenance={})
    save_file(first.tensors(), file)
    given = {"start": str(folder), "start_discriminator": str(file), "start_images": 0}
    wide = trainer(part, channel_base=64, **given)
    assert wide.generator.floats > first.generator.floats
    z, labels = torch.randn(10, 4, generator=torch.Generator().manual_seed(0)), torch.arange(10)
    with torch.no_grad():
        images = first.average(first.average.map(z, labels))
        torch.testing.assert_close(wide.average(wide.average.map(z, labels)), images)
        judged = zip(
            first.discriminator.judge(images, labels), wide.discriminator.judge(images, labels),
            strict=True,
        )  # fmt: skip
        for one, two in judged:
            torch.testing.assert_close(one, two)
    before = copy.deepcopy(wide.discriminator), copy.deepcopy(wide.generator)
    for _ in range(3):
        wide.step()
    for old, new in zip(before, (wide.discriminator, wide.generator), strict=True):
        for (name, one), two in zip(old.named_parameters(), new.parameters(), strict=True):
            # a class that was not drawn, and noise of strength 0, leave theirs as they were
            kept = "embed" in name or "noise" in name
            assert kept or bool((one != two).all()), name
    # at 4 px a discriminator compares all of its features: there they stay as many
    with pytest.raises(GeneratorError, match="holds no discriminator of this shape"):
        trainer(part, channel_base=64, channel_max=8, **given)
    trainer(part, channel_base=64, channel_max=8, start=str(folder))


@pytest.mark.parametrize("content", [None, b"broken", "others", "infinite"])
def test_a_file_without_the_discriminator_is_refused(part, tmp_path, content):
    first = trainer(part)
    folder, file = tmp_path / "generator", tmp_path / DISCRIMINATOR
    save_generator(first.average, first.generator_settings, folder, licence="MIT", provenance={})
    tensors = discriminator_tensors(first.discriminator)
    if content == "others":
        save_file({"discriminator.x": torch.zeros(2)}, file)
    elif content == "infinite":
        save_file({name: value.fill_(torch.inf) for name, value in tensors.items()}, file)
    elif content is not None:
        file.write_bytes(content)
    with pytest.raises(GeneratorError):
        trainer(part, start=str(folder), start_discriminator=str(file))
