"""Objectives built by hand, and one's own: what goes in and comes out is checked at every call."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from conftest import CPU

import hpd
from hpd.errors import HpdError, NumericError, ShapeError
from hpd.objectives import OBJECTIVES
from hpd.objectives.base import ADD_ONS, AddOnSettings, ObjectiveSettings, Stateless
from hpd.objectives.matching import MatchingSettings, RealSide
from hpd.rng import Streams
from hpd.typing import Matched, MatchesByClass, Step

LABELS = torch.tensor([0, 0, 1, 1, 2, 2])
STEP = Step(0, 3)


@pytest.fixture
def synthetic(rng):
    return torch.rand(6, 1, 8, 8, generator=rng)


@pytest.fixture(params=list(OBJECTIVES))
def objective(request, images, streams, objective_options):
    given = {"kind": request.param, **objective_options[request.param]}
    return OBJECTIVES.parse(given).build(images, CPU, streams)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: x[0], r"images has the wrong shape.*got \[1, 8, 8\]"),
        (lambda x: x.expand(-1, 3, -1, -1), r"got \[6, 3, 8, 8\].*C=1, H=8, W=8"),
        (lambda x: x[..., :4], r"got \[6, 1, 8, 4\]"),
        (lambda x: x.double(), r"images has the wrong dtype: got torch\.float64"),
        (lambda x: (x * 255).to(torch.uint8), r"got torch\.uint8"),
        (lambda x: x.numpy(), "got ndarray"),
        (lambda x: None, "got NoneType"),
    ],
)
def test_images_of_another_kind_are_refused(objective, synthetic, change, said):
    with pytest.raises(ShapeError, match=said):
        objective(change(synthetic), LABELS, STEP)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (LABELS[:5], "got 5 labels, expected 6"),
        (LABELS.float(), "must be class indices"),
        (torch.eye(6)[:, :3], r"argmax\(1\)"),
        (LABELS + 1, r"got 1\.\.3, expected 0\.\.2"),
        (LABELS - 1, r"got -1\.\.1, expected 0\.\.2"),
        (None, "labels"),
    ],
)
def test_labels_of_another_kind_are_refused(objective, synthetic, labels, said):
    with pytest.raises(ShapeError, match=said):
        objective(synthetic, labels, STEP)


@pytest.mark.parametrize("step", [3, None, (0, 3)])
def test_a_step_says_where_it_belongs(objective, synthetic, step):
    with pytest.raises(ShapeError, match=r"expected hpd\.typing\.Step"):
        objective(synthetic, LABELS, step)


@pytest.mark.parametrize(
    "labels", [LABELS.tolist(), LABELS.numpy().astype(np.uint8), LABELS[:, None].int()]
)
def test_any_array_of_class_indices_is_one_of_labels(images, streams, synthetic, labels,
                                                     objective_options):  # fmt: skip
    given = {"kind": "distribution", **objective_options["distribution"]}
    objective = OBJECTIVES.parse(given).build(images, CPU, streams)
    want = objective(synthetic, LABELS, STEP)
    got = objective(synthetic, labels, STEP)
    assert got.loss == want.loss
    assert torch.equal(got.image_grad, want.image_grad)


def test_classes_that_are_matched_alone_are_checked_as_well(objective, synthetic):
    if not isinstance(objective, MatchesByClass):
        pytest.skip("it matches all classes together")
    own = LABELS == 1
    assert objective.match(synthetic, LABELS, STEP, own).image_grad.shape == (2, 1, 8, 8)
    with pytest.raises(ShapeError, match="got 5 labels"):
        objective.match(synthetic, LABELS[:5], STEP, own)
    with pytest.raises(ShapeError, match="own"):
        objective.match(synthetic, LABELS, STEP, own.long())


def test_only_what_matches_by_class_says_so(objective):
    assert isinstance(objective, MatchesByClass) == isinstance(objective._inside, MatchesByClass)


def test_an_objective_can_be_copied(objective, synthetic):
    twin = copy.deepcopy(objective)
    assert twin(synthetic, LABELS, STEP).loss == objective(synthetic, LABELS, STEP).loss


class Gives(Stateless):
    def __init__(self, what):
        self.what = what

    def __call__(self, images, labels, step):
        return self.what(images)


def own_objective(what, base=ObjectiveSettings):
    """Settings of an objective of one's own, which are not registered."""

    class OwnSettings(base):
        def build(self, *arguments):
            return Gives(what)

    return OwnSettings()


WRONG = {
    "nothing": (lambda x: None, "gives no match: got NoneType"),
    "a pair": (lambda x: (0.0, x), "gives no match: got tuple"),
    "other images": (lambda x: Matched(0.0, x[:2]), r"wrong shape: got \[2, 1, 8, 8\]"),
    "one number": (lambda x: Matched(0.0, x.sum()), r"wrong shape: got \[\]"),
    "doubles": (lambda x: Matched(0.0, x.double()), r"dtype: got torch\.float64"),
    "no gradient": (lambda x: Matched(0.0, None), "dtype: got NoneType"),
    "losses": (lambda x: Matched(torch.zeros(6), x), r"is no number: got Tensor \[6\]"),
    "a text": (lambda x: Matched("low", x), "is no number: got str"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_an_objective_of_ones_own_is_named_with_what_it_gives(kind, images, streams, synthetic):
    what, said = WRONG[kind]
    objective = own_objective(what).build(images, CPU, streams)
    with pytest.raises(ShapeError, match=said) as error:
        objective(synthetic, LABELS, STEP)
    assert "own" in str(error.value)


def test_an_add_on_of_ones_own_is_checked(images, streams, synthetic):
    objective = own_objective(lambda x: None, AddOnSettings).build(None, images, CPU, streams)
    with pytest.raises(ShapeError, match="gives no match"):
        objective(synthetic, LABELS, STEP)


def test_a_loss_with_a_graph_is_a_number_and_a_gradient_without(images, streams, synthetic):
    def what(images):
        leaf = images.clone().requires_grad_()
        return Matched(leaf.sum(), leaf * 2, {"m": 1.0})

    matched = own_objective(what).build(images, CPU, streams)(synthetic, LABELS, STEP)
    assert matched.loss == float(synthetic.sum())
    assert type(matched.loss) is float
    assert not matched.image_grad.requires_grad
    assert matched.metrics == {"m": 1.0}


@pytest.fixture
def registered(monkeypatch):
    """Registers an objective of one's own for one test."""

    def register(what):
        monkeypatch.setitem(OBJECTIVES._classes, "own", type(own_objective(what)))

    return register


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        (lambda x: None, ShapeError),
        (lambda x: Matched(0.0, x[:1]), ShapeError),
        (lambda x: Matched(float("nan"), x), NumericError),
        (lambda x: Matched(0.0, x * torch.nan), NumericError),
    ],
    ids=["nothing", "another shape", "loss of NaN", "gradient of NaN"],
)
def test_a_run_with_a_wrong_objective_ends_in_an_error(registered, what, kind, tmp_path):
    registered(what)
    config = {
        "data": {"kind": "digits", "classes": ["0", "1"]}, "source": {"kind": "pixel", "steps": 2},
        "objective": {"kind": "own"}, "selection": "last",
    }  # fmt: skip
    with pytest.raises(kind) as error:
        hpd.distill(config)
    assert isinstance(error.value, HpdError)


def test_builds_of_settings_that_build_on_others_are_checked_once(images):
    class Outer(type(own_objective(lambda x: Matched(1.0, x)))):
        def build(self, train, device, streams):
            return super().build(train, device, streams)

    objective = Outer().build(images, CPU, Streams(0))
    assert isinstance(objective._inside, Gives)


def test_registered_add_ons_are_checked(images, streams, synthetic):
    for kind in ADD_ONS:
        add_on = ADD_ONS.parse(kind).build(OBJECTIVES.parse("distribution"), images, CPU, streams)
        with pytest.raises(ShapeError, match="got 2 labels"):
            add_on(synthetic, LABELS[:2], STEP)


@pytest.mark.parametrize("label", [3, -1, torch.tensor(1), 1.0])
def test_real_images_are_asked_for_by_the_number_of_a_class(images, label):
    side = RealSide(images, MatchingSettings(), CPU, Streams(0))
    assert len(side.batch(1, STEP)) == 12
    with pytest.raises(ShapeError, match=r"expected an int, 0\.\.2"):
        side.batch(label, STEP)
