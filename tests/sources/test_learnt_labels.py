"""Labels that are learnt: with any source, by the objectives that have a gradient to them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from conftest import CPU, SMALL_STUDENT, THREE_DIGITS
from small_runs import EndsAfter

import hpd
from hpd.errors import ConfigError
from hpd.objectives import OBJECTIVES
from hpd.objectives.checked import matches_targets
from hpd.objectives.regression import unclearness
from hpd.rng import Streams
from hpd.sources import SOURCES
from hpd.typing import KeepsGenerator, LearnsLabels, Step

LEARNT = {"confidence": 0.8, "lr": 0.1}
# the three that have a gradient to labels, and all variants that take their own way to it
MATCHING = {
    "regression": {"kind": "regression", "student": SMALL_STUDENT, "real_batch": 9, "pool": None},
    "pool": {"kind": "regression", "student": SMALL_STUDENT, "real_batch": 9,
             "pool": {"networks": 2, "updates": 2}},
    "gradient": {"kind": "gradient", "student": SMALL_STUDENT, "real_batch": 4},
    "trained": {"kind": "gradient", "student": SMALL_STUDENT, "real_batch": 4,
                "network": {"steps": 3, "epochs": 1}},
    **{
        method: {"kind": "trajectory", "student": SMALL_STUDENT, "student_steps": 2,
                 "student_lr": 0.05, "method": method}
        for method in ("constant_memory", "unrolled", "checkpointed")
    },
}  # fmt: skip


@pytest.fixture
def matching(experts_folder):
    def options(name):
        own = MATCHING[name]
        return own | ({"experts": experts_folder} if own["kind"] == "trajectory" else {})

    return options


def objective_of(options, images):
    return OBJECTIVES.parse(options).build_whole(images, CPU, Streams(0))


@pytest.mark.parametrize("kind", list(SOURCES))
def test_every_source_takes_them(kind, images, source_settings):
    settings = SOURCES.parse({**source_settings(kind, steps=2), "learnt_labels": LEARNT})
    plain = settings.build(images, CPU, Streams(0))
    source = settings.build_whole(images, CPU, Streams(0))
    assert isinstance(source, LearnsLabels)
    assert source.stored_floats == plain.stored_floats
    if isinstance(plain, KeepsGenerator):
        assert source.generator_floats == plain.generator_floats
    *_, own = source.enter(0)
    assert own.name == "labels"
    assert torch.equal(own.classes, source.labels)
    # at the start the class has what was asked for, the others share the rest
    targets, _ = source.targets(torch.arange(len(source.labels)))
    expected = torch.full_like(targets, 0.1)
    expected[torch.arange(len(targets)), source.labels] = 0.8
    torch.testing.assert_close(targets, expected)
    # of a part, in any order, and back again
    some = torch.tensor([len(targets) - 1, 0])
    part, pull = source.targets(some)
    assert torch.equal(part, targets[some])
    grad = torch.randn(part.shape, generator=torch.Generator().manual_seed(0))
    pull(grad)
    leaf = own.tensors[0].detach().clone().requires_grad_()
    leaf[some].softmax(dim=1).backward(grad)
    assert torch.equal(own.tensors[0].grad, leaf.grad)
    # state, and the images of the source inside
    before = source.state()
    with torch.no_grad():
        own.tensors[0].mul_(2)
    assert not torch.equal(source.targets(some)[0], part)
    source.load_state(before)
    assert torch.equal(source.targets(some)[0], part)
    batch = source.batch(Step(0, 0))
    plain.enter(0)
    assert torch.equal(source.render(batch)[0], plain.render(batch)[0])


@pytest.mark.parametrize("kind", list(SOURCES))
def test_classes_are_taken_and_given_back_with_their_labels(kind, images, source_settings):
    settings = SOURCES.parse({**source_settings(kind, steps=2), "learnt_labels": LEARNT})
    source = settings.build_whole(images, CPU, Streams(0))
    logits = next(g.tensors[0] for g in source.enter(0) if g.name == "labels")
    with torch.no_grad():
        logits.add_(torch.randn(logits.shape, generator=torch.Generator()))
    labels, whole = source.labels, source.state()
    everything = source.targets(torch.arange(len(labels)))[0]
    assert set(source.owned) <= set(whole)
    source.narrow(torch.tensor([0, 2]))
    kept = source.targets(torch.arange(len(source.labels)))[0]
    assert torch.equal(kept, everything[labels != 1])
    source.widen(whole, labels)
    assert torch.equal(source.targets(torch.arange(len(labels)))[0], everything)


@pytest.mark.parametrize("name", MATCHING)
def test_the_gradient_to_the_labels_is_that_of_the_loss(name, images, matching, float64):
    """By differences, at labels that are none of the corners."""
    # with one step the approximate gradient is exact
    options = matching(name) | ({"student_steps": 1} if name == "constant_memory" else {})
    rng = torch.Generator().manual_seed(1)
    pictures = torch.rand(6, 1, 8, 8, generator=rng)
    labels = torch.arange(3).repeat_interleave(2)
    targets = (torch.randn(6, 3, generator=rng) + 2 * F.one_hot(labels, 3)).softmax(dim=1)

    def match(values):
        # each time anew: an objective may learn
        objective = objective_of(options, images)
        return objective.match_targets(pictures, labels, values, Step(0, 0))

    found = match(targets)
    way = torch.randn(6, 3, generator=rng)
    eps = 1e-5
    slope = (match(targets + eps * way).loss - match(targets - eps * way).loss) / (2 * eps)
    assert float((found.label_grad * way).sum()) == pytest.approx(slope, rel=1e-4, abs=1e-8)
    way = torch.randn(pictures.shape, generator=rng)
    objective = objective_of(options, images)

    def loss(values):
        return objective_of(options, images).match_targets(values, labels, targets, Step(0, 0)).loss

    slope = (loss(pictures + eps * way) - loss(pictures - eps * way)) / (2 * eps)
    assert float((found.image_grad * way).sum()) == pytest.approx(slope, rel=1e-3, abs=1e-7)
    assert matches_targets(objective)


@pytest.mark.parametrize("name", MATCHING)
def test_labels_that_are_certain_are_classes(name, images, matching):
    """With one-hot labels an objective gives what it gives without (FRePo's term aside)."""
    rng = torch.Generator().manual_seed(1)
    pictures = torch.rand(6, 1, 8, 8, generator=rng)
    labels = torch.arange(3).repeat_interleave(2)
    certain = F.one_hot(labels, 3).float()
    one, two = (objective_of(matching(name), images) for _ in range(2))
    for index in range(2):
        plain = one(pictures, labels, Step(0, index))
        told = two.match_targets(pictures, labels, certain, Step(0, index))
        assert plain.label_grad is None
        own = float(unclearness(certain)) if "regression" in str(matching(name)) else 0.0
        assert told.loss - own == pytest.approx(plain.loss, rel=1e-5)
        torch.testing.assert_close(told.image_grad, plain.image_grad, rtol=1e-4, atol=1e-7)


def test_unclear_labels_are_pushed_apart_until_they_are_clear():
    rows = torch.tensor([[0.5, 0.3, 0.2], [0.9, 0.06, 0.04]], requires_grad=True)
    term = unclearness(rows)
    assert float(term.detach()) == pytest.approx(-(0.2 + 1 / 3) / 2)
    (grad,) = torch.autograd.grad(term, rows)
    assert grad.tolist() == [[-0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]


def config(name="regression", **source):
    objective = MATCHING[name] | {"real_batch": 6}
    return {
        "data": THREE_DIGITS,
        "source": {"kind": "pixel", "steps": 4, "images_per_class": 2,
                   "learnt_labels": {"confidence": 0.6, "lr": 0.1}, **source},
        "objective": objective,
        "selection": "last",
        "evaluation": {"seeds": 1, "labels": "stored", "baselines": [], "full_training": None,
                       "students": [SMALL_STUDENT], "training": {"steps": 2}, "scores": False},
    }  # fmt: skip


def test_a_run_keeps_learnt_labels_and_is_judged_by_them(tmp_path):
    run = hpd.distill(config(), out=tmp_path / "run")
    soft = run.distilled.soft_labels
    assert run.distilled.label_floats == 18
    assert run.distilled.storage.as_json()["labels"]["floats"] == 18
    assert run.initial.soft_labels is None
    start = torch.full((6, 3), 0.2)
    start[torch.arange(6), run.distilled.labels] = 0.6
    assert not torch.allclose(soft, start, atol=1e-3)
    again = hpd.load_run(tmp_path / "run")
    assert torch.equal(again.distilled.soft_labels, soft)
    evaluated = hpd.evaluate(again)
    assert evaluated.row("distilled").labels == "stored"
    with pytest.raises(ConfigError, match="labels of the run were learnt"):
        hpd.relabel(tmp_path / "run", tmp_path / "none")


@pytest.mark.parametrize("name", ["pool", "trained", "regression"])
def test_a_run_goes_on_to_the_same_labels(name, tmp_path):
    values = config(name) | {"checkpoint_every": 1}
    whole = hpd.distill(values, out=tmp_path / "whole")

    with pytest.raises(KeyboardInterrupt):
        hpd.distill(values, out=tmp_path / "parts", observers=[EndsAfter(3)])
    parts = hpd.distill(values, out=tmp_path / "parts", resume=True)
    assert torch.equal(parts.distilled.soft_labels, whole.distilled.soft_labels)
    assert torch.equal(parts.distilled.images, whole.distilled.images)


@pytest.mark.parametrize(
    ("source", "objective", "message"),
    [
        ({}, {"kind": "distribution", "student": SMALL_STUDENT}, "has no gradient to labels"),
        ({"learnt_labels": {"confidence": 0.3}}, {}, "got confidence 0.3 with 3 classes"),
        ({"kind": "multi_formation", "learnt_labels": None,
          "of": {"kind": "pixel", "learnt_labels": {}}}, {}, "of the source that gives the parts"),
    ],
)  # fmt: skip
def test_what_does_not_learn_labels_says_so(source, objective, message, tmp_path):
    values = config()
    values["source"] |= source
    if source.get("kind"):
        values["source"] = source
    values["objective"] = objective or values["objective"]
    with pytest.raises(ConfigError, match=message):
        hpd.distill(values)
