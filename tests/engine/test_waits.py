"""A step asks the device once: counted on a CPU that pretends to be an accelerator."""

from __future__ import annotations

import pretended_graphs
import pytest
import torch
from conftest import CPU, SMALL_STUDENT, SMALL_TRAINING, tiny_generator
from host_kernels import pretending_cuda
from pretended_device import counting, pretending

from generators import FAMILIES, StoredGenerator
from generators.families.layers import initialise_layers
from hpd.data import ImageSet, Normalisation
from hpd.engine.optimizer import OptimizerSettings
from hpd.engine.rendered import Drawn, Rendered
from hpd.engine.watching.readings import Readings
from hpd.machine.host import on_host, remember, told
from hpd.objectives import OBJECTIVES
from hpd.rng import Streams
from hpd.sources import SOURCES
from hpd.sources.gan.settings import GanSettings
from hpd.typing import Step

# the layers of the stem of a StyleGAN-XL for CIFAR-10, with few channels
XL_STEM = {
    "kind": "stylegan_xl", "resolution": 32, "channels": 3, "z_dim": 8, "w_dim": 16,
    "num_classes": 10, "num_embeddings": 10, "mapping_layers": 2, "channel_base": 512,
    "channel_max": 16, "num_layers": 10, "num_critical": 2, "margin": 4, "conv_kernel": 3,
}  # fmt: skip
OBJECTIVE = {"student": {"kind": "convnet", "width": 4}, "real_batch": 5}
KINDS = {
    "dm": {"kind": "distribution"},
    "dm in halves": {"kind": "distribution", "halves": True},
    "dc": {"kind": "gradient"},
    "idc": {"kind": "gradient", "distance": "squared", "layers": "all", "augment": ["color"]},
    "regression": {"kind": "regression", "pool": None},
    "regression with a pool": {"kind": "regression", "real_batch": 20},
    "dm with mutual information": {
        "kind": "distribution",
        "add_ons": [{"kind": "mutual_information", "real_batch": 3, "layer_weights": [1.0]}],
    },
}


def random_images(classes, per_class, channels, size):
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (classes * per_class, channels, size, size), generator=rng)
    labels = torch.arange(classes).repeat_interleave(per_class)
    pixels = pixels.to(torch.uint8)
    names = tuple(str(c) for c in range(classes))
    return ImageSet(pixels, labels, names, Normalisation.of(pixels))


class Taking:
    """A source and an objective, and their steps as the loop takes them."""

    def __init__(self, source, objective):
        self.source, self.objective = source, objective
        self.groups = source.enter(0)
        self.settings = OptimizerSettings()
        self.optimizer = self.settings.build(self.groups)

    def step(self, index):
        step = Step(0, index)
        drawn = Drawn.of(self.source, step)
        rendered = Rendered.of(self.source, drawn.indices)
        matched = self.objective(rendered.images, drawn.labels, step)
        self.optimizer.zero_grad()
        rendered.pull(matched)
        read = Readings.of(matched, self.groups, "here")
        self.settings.step(self.optimizer, index, 10)
        return read.loss, matched.image_grad


def of_pixels(kind, classes, per_class=2, **options):
    train = random_images(classes, 8, 1, 8)
    source = SOURCES.parse({"kind": "pixel", "images_per_class": per_class})
    values = OBJECTIVE | {"student": SMALL_STUDENT} | KINDS[kind] | options
    objective = OBJECTIVES.parse(values).build_whole(train, CPU, Streams(0))
    return Taking(source.build(train, CPU, Streams(1)), objective)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_waits_as_often_whatever_the_classes(kind, monkeypatch):
    waits = {}
    with pretending(monkeypatch) as meter:
        for classes in (3, 6):
            taking = of_pixels(kind, classes)
            for index in range(3):
                with counting(meter):
                    taking.step(index)
            waits[classes] = meter.total
    assert waits[3] == waits[6] <= 3, meter.places


@pytest.mark.parametrize("kind", KINDS)
def test_classes_together_come_to_what_they_come_to_one_by_one(kind, monkeypatch):
    alone = of_pixels(kind, 4)
    wanted = [alone.step(index) for index in range(2)]
    # at once; and in parts, as so little memory is free
    for free in (2**34, 40_000):
        with pretending(monkeypatch, free) as meter:
            together = of_pixels(kind, 4)
            found = [together.step(index) for index in range(2)]
            assert meter.there
        for (loss, grad), (other, theirs) in zip(found, wanted, strict=True):
            assert loss == pytest.approx(other, rel=2e-4)
            torch.testing.assert_close(grad, theirs, rtol=5e-3, atol=1e-5)


@pytest.mark.parametrize("method", ["unrolled", "constant_memory"])
def test_trajectories_and_recovery_wait_as_little(
    method, images, experts_folder, teacher_folder, monkeypatch
):
    kinds = {
        "trajectory": {"student": SMALL_STUDENT, "experts": experts_folder, "method": method,
                       "expert_training": {"count": 2, "training": SMALL_TRAINING},
                       "student_steps": 3},
        "recovery": {"teacher": teacher_folder, "block_images": 1},
    }  # fmt: skip
    for kind, options in kinds.items():
        with pretending(monkeypatch) as meter:
            source = SOURCES.parse({"kind": "pixel", "images_per_class": 2})
            objective = OBJECTIVES.parse({"kind": kind, **options})
            taking = Taking(
                source.build(images, CPU, Streams(1)), objective.build(images, CPU, Streams(0))
            )
            for index in range(3):
                with counting(meter):
                    taking.step(index)
            assert meter.total <= 3, (kind, meter.places)


def through_the_stem(kind):
    network = FAMILIES.parse(XL_STEM).build()
    initialise_layers(network, torch.Generator().manual_seed(0))
    train = random_images(10, 8, 3, 32)
    source = GanSettings(
        generator="in memory", generator_classes=list(range(10)), levels=[1], average_draws=10
    ).build_from(StoredGenerator.of(network.requires_grad_(False)), train, CPU, Streams(0))
    objective = OBJECTIVES.parse(OBJECTIVE | KINDS[kind]).build(train, CPU, Streams(0))
    return Taking(source, objective)


def dispatches(taking, meter, most):
    """Take steps, of which those after the first must not dispatch more."""
    for index in range(3):
        with counting(meter):
            taking.step(index)
        if index:
            assert meter.total <= 3, meter.places
            assert meter.dispatches <= most, meter.operations.most_common()


@pytest.mark.parametrize(("kind", "most"), [("dm", 700), ("dc", 2000), ("regression", 1000)])
def test_a_step_through_a_large_generator_dispatches_so_much_at_most(kind, most, monkeypatch):
    with pretending(monkeypatch) as meter:
        dispatches(through_the_stem(kind), meter, most)


@pytest.mark.parametrize(("kind", "most"), [("dm", 630), ("dc", 1900), ("regression", 700)])
def test_scales_inside_of_layers_dispatch_less(kind, most, monkeypatch):
    """The same step on the operations that a GPU has, whose kernels run on the host."""
    with pretending_cuda(monkeypatch), pretending(monkeypatch) as meter:
        dispatches(through_the_stem(kind), meter, most)
        assert meter.operations["filtered_scaled_grad"] == 9


def test_graphs_of_a_generator_change_no_bit_of_steps_and_dispatch_least(monkeypatch):
    def three(counts):
        taking = through_the_stem("dm")
        for index in range(3):
            with counting(meter):
                taking.step(index)
        counts.append(meter.dispatches)
        return [tensor.detach().clone() for group in taking.groups for tensor in group.tensors]

    dispatched = []
    with pretending(monkeypatch) as meter:
        without = three(dispatched)
        again = pretended_graphs._again

        def launched(*call):
            # a graph is one launch, whatever it is made of
            with meter.paused():
                again(*call)

        monkeypatch.setattr(pretended_graphs, "_again", launched)
        with pretended_graphs.pretending_graphs(monkeypatch) as recorders:
            with_them = three(dispatched)
    assert all(torch.equal(a, b) for a, b in zip(without, with_them, strict=True))
    assert [recorder.replays for recorder in recorders] == [6]
    assert dispatched[1] <= 200 < dispatched[0], dispatched


def test_batches_of_a_source_do_not_wait_either(monkeypatch):
    train = random_images(3, 8, 1, 8)
    with pretending(monkeypatch) as meter:
        options = {"kind": "latents", "generator": "in memory", "batch_images": 2,
                   "budget_floats": 200, "generator_classes": [0, 1, 2]}  # fmt: skip
        stored = StoredGenerator.of(tiny_generator())
        source = SOURCES.parse(options).build_from(stored, train, CPU, Streams(0))
        values = OBJECTIVE | {"student": SMALL_STUDENT} | KINDS["dm"]
        objective = OBJECTIVES.parse(values).build(train, CPU, Streams(0))
        taking = Taking(source, objective)
        for index in range(3):
            with counting(meter):
                taking.step(index)
    assert meter.total <= 3, meter.places


def test_real_images_that_do_not_fit_come_from_the_host_a_step_ahead(monkeypatch):
    alone = of_pixels("dm", 3)
    wanted = [alone.step(index)[0] for index in range(3)]
    with pretending(monkeypatch) as meter:
        monkeypatch.setattr("hpd.objectives.real_rows.free_bytes", lambda device: 100)
        taking = of_pixels("dm", 3)
        read = []
        pinned = type(taking.objective._real._rows)._pinned
        monkeypatch.setattr(
            type(taking.objective._real._rows), "_pinned",
            lambda self, indices: read.append(indices) or pinned(self, indices),
        )  # fmt: skip
        found = []
        for index in range(3):
            with counting(meter):
                found.append(taking.step(index)[0])
        assert meter.total <= 3, meter.places
    # one batch by itself, and one ahead in each step
    assert len(read) == 4
    assert found == pytest.approx(wanted, rel=1e-4)


def test_what_the_host_knows_it_does_not_ask_for(monkeypatch):
    with pretending(monkeypatch) as meter:
        value = torch.arange(3, device=torch.device("cpu"))
        meter.put(value)
        with counting(meter):
            first, again = on_host(value), on_host(value)
        assert (meter.total, first is again) == (1, True)
        value.add_(1)
        with counting(meter):
            assert on_host(value).tolist() == [1, 2, 3]
        assert meter.total == 1
        other = torch.zeros(2, device=torch.device("cpu"))
        meter.put(other)
        with counting(meter):
            assert on_host(remember(other, torch.ones(2))).tolist() == [1.0, 1.0]
        assert meter.total == 0
        with counting(meter):
            assert told([other.sum(), 2.0, value.sum()]) == [0.0, 2.0, 6.0]
        assert meter.total == 1


def test_the_meter_sees_what_waits(monkeypatch):
    """Each way to wait that it knows."""
    with pretending(monkeypatch) as meter:
        there = torch.arange(4, device=torch.device("cpu"))
        mask = there > 1
        ways = {
            "item": lambda: there.sum().item(),
            "tolist": lambda: there.tolist(),
            "bool": lambda: bool(there.any()),
            "mask": lambda: there[mask],
            "nonzero": lambda: mask.nonzero(),
            "unique": lambda: there.unique(),
            "host index": lambda: there[torch.tensor([1])],
            "send": lambda: torch.ones(3).to(torch.device("cpu")),
            "made": lambda: torch.tensor([1.0], device=torch.device("cpu")),
        }
        for name, way in ways.items():
            with counting(meter):
                way()
            assert meter.total, name
