"""Multi-index tasks: each formula against its definition, and the claims at the sizes they name."""

from __future__ import annotations

import csv
import io
import math

import pytest
import torch
from PIL import Image

from hpd.errors import ConfigError
from hpd.theory import Check, MultiIndexSettings, measure
from hpd.theory.distillation import distil_labels, distil_points, without_linear_part
from hpd.theory.network import Moments, Start, features, learned_rows, ridge_map, signal
from hpd.theory.pictures import pictures
from hpd.theory.results import NETWORK, SAME_START, TEACHER
from hpd.theory.tables import as_csv, markdown
from hpd.theory.task import MultiIndexTask, alignment

SMALL = {
    "dimension": 8, "width": 16, "ranks": [1, 2], "points": 4, "point_counts": [1, 4, 6],
    "examples": 300, "example_counts": [100, 300], "real_counts": [4, 8], "fit_examples": 200,
    "test_examples": 100, "seeds": 2,
}  # fmt: skip


@pytest.fixture
def start(rng):
    return Start.draw(6, 3, rng)


@pytest.fixture
def examples(rng):
    """Twenty inputs in three dimensions with any labels."""
    inputs = torch.randn(20, 3, generator=rng, dtype=torch.float64)
    return inputs, torch.randn(20, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_labels_are_the_hermite_polynomials_of_the_subspace(rank, rng):
    known = MultiIndexTask.draw(rank, 6, rng)
    inputs, labels = known.examples(5, rng)
    for x, y in zip(inputs.tolist(), labels.tolist(), strict=True):
        z = [sum(a * b for a, b in zip(row, x, strict=True)) for row in known.subspace.tolist()]
        expected = sum(v**2 - 1 for v in z) / math.sqrt(2 * rank)
        expected += 0.5 * (z[0] ** 3 - 3 * z[0]) / math.sqrt(6)
        expected += 0.5 * z[0] * z[1] if rank > 1 else 0
        assert y == pytest.approx(expected)
    torch.testing.assert_close(
        known.subspace @ known.subspace.t(), torch.eye(rank, dtype=torch.float64)
    )


@pytest.mark.parametrize(("rank", "variance"), [(1, 1.25), (2, 1.5), (3, 1.5)])
def test_labels_have_their_variance_and_no_linear_part(rank, variance, rng):
    known = MultiIndexTask.draw(rank, 4, rng)
    inputs, labels = known.examples(400_000, rng)
    assert known.variance == variance
    assert float(labels.var()) == pytest.approx(variance, rel=0.05)
    assert abs(float(labels.mean())) < 0.02
    assert float((inputs * labels[:, None]).mean(dim=0).norm()) < 0.03


def test_alignment_is_one_inside_none_outside_and_r_over_d_by_chance(rng):
    known = MultiIndexTask.draw(2, 50, rng)
    mixed = torch.randn(7, 2, generator=rng, dtype=torch.float64)
    assert alignment(mixed @ known.subspace, known.subspace) == pytest.approx(1)
    points = torch.randn(20_000, 50, generator=rng, dtype=torch.float64)
    outside = points - points @ known.subspace.t() @ known.subspace
    assert alignment(outside, known.subspace) == pytest.approx(0, abs=1e-12)
    assert alignment(points, known.subspace) == pytest.approx(2 / 50, rel=0.05)
    assert alignment(torch.zeros(2, 50, dtype=torch.float64), known.subspace) == 0


def test_a_start_gives_zero_everywhere(start, examples):
    inputs, _ = examples
    hidden = (inputs @ start.weights.t()).relu()
    assert (hidden @ start.signs).abs().max() < 1e-14
    assert hidden.abs().max() > 0
    assert start.biases.abs().max() <= 2


def test_signals_are_those_of_the_definition(start, examples):
    inputs, labels = examples
    expected = torch.zeros_like(start.weights)
    for j, w in enumerate(start.weights):
        for x, y in zip(inputs, labels, strict=True):
            if float(w @ x) > 0:
                expected[j] += y * x / len(labels)
    torch.testing.assert_close(signal(start, inputs, labels), expected)


def test_signals_are_the_first_step_of_the_network(start, examples):
    inputs, labels = examples
    weights = start.weights.clone().requires_grad_()
    output = (inputs @ weights.t()).relu() @ start.signs
    ((output - labels).square().mean() / 2).backward()
    expected = -start.signs[:, None] * signal(start, inputs, labels)
    torch.testing.assert_close(weights.grad, expected)


def test_signals_of_many_examples_are_summed_in_parts(start, rng, monkeypatch):
    inputs = torch.randn(25, 3, generator=rng, dtype=torch.float64)
    labels = torch.randn(25, generator=rng, dtype=torch.float64)
    whole = signal(start, inputs, labels)
    monkeypatch.setattr("hpd.theory.network._CHUNK", 10)
    torch.testing.assert_close(signal(start, inputs, labels), whole)


def test_rows_have_norm_one_and_zero_ones_stay(start):
    signals = torch.arange(18, dtype=torch.float64).reshape(6, 3)
    signals[4] = 0
    rows = learned_rows(start, signals)
    assert rows[4].abs().max() == 0
    torch.testing.assert_close(rows[[0, 1, 2, 3, 5]].norm(dim=1), torch.ones(5).double())
    assert float(rows[5] @ signals[5]) < 0 < float(rows[0] @ signals[0])


def test_mean_and_linear_part_are_gone(examples):
    inputs, labels = examples
    rest = without_linear_part(inputs, labels + 3 + inputs @ torch.ones(3).double())
    expected = labels + 3 + inputs.sum(dim=1)
    expected = expected - expected.mean()
    expected = expected - sum(
        inputs[:, k] * float((inputs[:, k] * expected).mean()) for k in range(3)
    )
    torch.testing.assert_close(rest, expected)


def test_points_are_a_step_of_gradient_matching(start, examples):
    """The step goes along the gradient of the agreement of both signals."""
    real = signal(start, *examples)
    points = distil_points(start, real, 5, torch.Generator().manual_seed(3))
    noise = torch.randn(5, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    moving = noise.clone().requires_grad_()
    active = (noise @ start.weights.t() > 0).double()
    own = (active * points.labels[:, None]).t() @ moving / 5
    (real * own).sum().backward()
    scale = points.inputs.norm() / moving.grad.norm()
    assert scale > 0
    torch.testing.assert_close(points.inputs, scale * moving.grad)
    assert float(points.inputs.square().sum(dim=1).mean()) == pytest.approx(3)
    assert points.labels.abs().tolist() == [1] * 5


def test_points_lie_where_the_signals_do(start, rng):
    """Signals of a subspace give points of it, whatever the noise."""
    subspace = MultiIndexTask.draw(1, 3, rng).subspace
    signals = torch.randn(6, 1, generator=rng, dtype=torch.float64) @ subspace
    points = distil_points(start, signals, 4, rng)
    assert alignment(points.inputs, subspace) == pytest.approx(1)


def test_the_second_layer_is_the_ridge_fit_and_linear_in_the_labels(start, examples):
    inputs, labels = examples
    seen = features(start.weights, start.biases, inputs)
    assert seen.shape == (20, 7)
    assert seen[:, -1].tolist() == [1] * 20
    expected = torch.linalg.lstsq(
        torch.cat([seen / 20**0.5, 0.1**0.5 * torch.eye(7).double()]),
        torch.cat([labels / 20**0.5, torch.zeros(7).double()]),
    ).solution
    fit = Moments.of(seen, labels).fit(0.1)
    torch.testing.assert_close(fit, expected)
    torch.testing.assert_close(ridge_map(seen, 0.1) @ labels, fit)


def test_distilled_labels_are_the_best_there_are(start, examples, rng):
    """No other labels give less of what they are to make small: its gradient is zero there."""
    inputs, labels = examples
    real = features(start.weights, start.biases, inputs)
    probes = torch.randn(6, 3, generator=rng, dtype=torch.float64)
    probed = features(start.weights, start.biases, probes)
    found = distil_labels(Moments.of(real, labels), probed, 1e-3).requires_grad_()
    gram = probed.t() @ probed / 6 + 1e-3 * torch.eye(7).double()
    top = torch.linalg.inv(gram) @ probed.t() @ found / 6
    loss = (real @ top - labels).square().mean() + 1e-3 * found.square().mean()
    loss.backward()
    assert float(found.grad.abs().max()) < 1e-8
    assert loss.item() < float(labels.square().mean())


@pytest.fixture(scope="module")
def small():
    heard = []
    result = measure(MultiIndexSettings.read(SMALL), 5, lambda *call: heard.append(call))
    return result, heard


def test_every_number_is_there_once(small):
    result, heard = small
    keys = [(m.part, m.series, m.rank, m.x, m.seed) for m in result.measured]
    assert len(set(keys)) == len(keys) == 2 * (2 + 2 * (3 + 3) + (3 * 2 + 1 + 2))
    assert heard[-1] == ("floats, r = 2", 8, 8)
    floats = {m.x for m in result.measured if m.series == SAME_START}
    assert floats == {m * 9 + 16 for m in (1, 4, 6)}
    assert {m.x for m in result.measured if m.series == NETWORK} == {16 * 10}


def test_the_same_seed_gives_the_same_numbers_and_another_does_not(small):
    result, _ = small
    assert measure(result.settings, 5).measured == result.measured
    assert measure(result.settings, 6).measured != result.measured


def test_tables_and_pictures_say_that_it_is_a_reconstruction(small):
    result, _ = small
    page = markdown(result)
    assert "A reconstruction" in page.splitlines()[2]
    assert TEACHER in page
    lines = list(csv.DictReader(io.StringIO(as_csv(result.measured))))
    assert float(lines[0]["value"]) == result.measured[0].value
    assert len(lines) == len(result.measured)
    assert "reconstruction" in result.as_json()["about"]
    drawn = pictures(result)
    assert list(drawn) == ["alignment.png", "points.png", "floats.png"]
    for content in drawn.values():
        with Image.open(io.BytesIO(content)) as picture:
            assert picture.size == (780, 516)


def test_a_claim_is_about_the_mean_and_names_the_worst():
    below = Check.of("error", [0.1, 0.25], 0.2, above=False)
    assert (below.holds, below.worst, below.value) == (True, 0.25, 0.175)
    assert not Check.of("error", [0.1, 0.35], 0.2, above=False).holds
    assert Check.of("share", [0.4, 0.8], 0.5, above=True).worst == 0.4
    assert not Check.of("share", [0.4, 0.5], 0.5, above=True).holds


def test_the_claims_hold_at_the_sizes_that_they_name():
    """The bounds of the defaults, with margin, on two tasks of one rank."""
    settings = MultiIndexSettings.read(
        {"ranks": [2], "point_counts": [1, 4, 9, 25], "example_counts": [1_000, 20_000],
         "real_counts": [9], "seeds": 2}
    )  # fmt: skip
    result = measure(settings, seed=1)
    assert len(result.checks) == 8
    assert result.holds
    aligned, student, real, alone, *others = (c.value for c in result.checks)
    unlearned, lost, elsewhere, gain = others
    assert aligned > 0.55
    assert student < 0.17
    assert real > 0.8
    assert alone > 0.95
    assert unlearned > 0.7
    assert lost < 0.02
    assert elsewhere > 2
    assert gain > 0.6
    mean = {key: own[0] for key, own in result.summary().items()}
    # few examples give points that are near chance
    assert mean["alignment", "distilled", 2, 1_000] < 0.3
    assert mean["points", TEACHER, 2, 9] < student


def test_wrong_sizes_are_named():
    for options, said in (
        ({"width": 7}, "width in multi-index"),
        ({"rank": 51}, "expected 1 to 50"),
        ({"ranks": [0]}, "ranks in multi-index"),
        ({"point_counts": []}, "point_counts"),
        ({"pionts": 3}, "Did you mean 'points'?"),
    ):
        with pytest.raises(ConfigError) as caught:
            MultiIndexSettings.read(options)
        assert said in str(caught.value)
