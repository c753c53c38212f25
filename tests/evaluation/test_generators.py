"""Measures of a generator, on generators and features whose figures are known."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner
from conftest import SHARED

import hpd
from generators import read_generator
from hpd.cli import main
from hpd.data import DATASETS, Dataset
from hpd.errors import DataError, GeneratorError
from hpd.evaluation import generators
from hpd.evaluation.generators import (
    Network,
    ScoreSettings,
    draw_samples,
    frechet_distance,
    score_generator,
    within_class_spread,
)
from hpd.students.networks.resnet20 import NORMALISATION, read_resnet20

CLASSIFIER = SHARED / "data" / "classifiers" / "cifar10_resnet20.safetensors"
SMALL = ScoreSettings.read(
    {"samples": 200, "student_images": 5000, "student": {"kind": "convnet", "width": 8},
     "features_of": 200}
)  # fmt: skip


@pytest.fixture(scope="module")
def digits():
    return DATASETS.parse("digits").build()


@pytest.fixture(scope="module")
def digits16():
    return read_generator("digits16").generator


def test_distance_of_gaussians_is_that_of_the_closed_form(rng):
    """In one dimension it is ``(m - n)^2 + (s - t)^2`` with standard deviations s and t."""
    a = torch.randn(500, 1, generator=rng) * 2 + 1
    b = torch.randn(300, 1, generator=rng) * 3 - 2
    a, b = a.double(), b.double()
    expected = (a.mean() - b.mean()) ** 2 + (a.std() - b.std()) ** 2
    assert frechet_distance(a, b) == pytest.approx(float(expected))
    # features that do not correlate add up
    rotated = torch.linalg.qr(torch.randn(2, 2, generator=rng, dtype=torch.float64)).Q
    c = torch.cat([a[:300], b], dim=1)
    assert frechet_distance(c @ rotated, c @ rotated + 3) == pytest.approx(18.0)


def test_distance_follows_its_definition(rng):
    """The matrix root by its own definition: R with R R = C D."""
    a = torch.randn(50, 4, generator=rng, dtype=torch.float64)
    b = torch.randn(60, 4, generator=rng, dtype=torch.float64) * torch.arange(1.0, 5)
    c, d = torch.cov(a.t()), torch.cov(b.t())
    values, vectors = torch.linalg.eig(c @ d)
    root = (vectors * values.sqrt()) @ torch.linalg.inv(vectors)
    torch.testing.assert_close((root @ root).real, c @ d)
    mean = (a.mean(dim=0) - b.mean(dim=0)).square().sum()
    expected = mean + (c + d - 2 * root.real).trace()
    assert frechet_distance(a, b) == pytest.approx(float(expected))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_spread_is_the_deviation_inside_classes():
    classes = torch.tensor([[0.0, 2.0], [10.0, 14.0]]).reshape(2, 2, 1, 1, 1)
    variances = (own.var(dim=0) for own in classes)
    assert within_class_spread(variances) == pytest.approx((2**0.5 + 8**0.5) / 2)


@pytest.mark.parametrize("values", [1, 700, 1 << 22])
def test_variances_in_parts_are_those_of_the_whole_to_the_bit(values, digits, monkeypatch):
    monkeypatch.setattr(generators, "_VARIANCE_VALUES", values)
    own = digits.train.by_class[3]
    assert torch.equal(generators._variance(digits.train, own), digits.train.unit(own).var(dim=0))


def test_samples_are_of_classes_in_turn_and_within_range(digits16, rng):
    images, labels = draw_samples(digits16, 25, rng)
    assert images.shape == (25, 1, 16, 16)
    assert labels.tolist() == [i % 10 for i in range(25)]
    assert 0 <= float(images.min()) < float(images.max()) <= 1


def test_a_good_generator_scores_well_and_the_same_each_time(digits, digits16):
    scores = score_generator(digits16, digits, SMALL, seed=1)
    assert scores.label_agreement > 0.6
    assert 0.5 < scores.student_ratio < 1.3
    assert scores.student_ratio == scores.accuracy_samples / scores.accuracy_real
    assert 0.7 < scores.diversity < 1.1
    assert scores.fid > 0
    assert scores == score_generator(digits16, digits, SMALL, seed=1)
    assert scores != score_generator(digits16, digits, SMALL, seed=2)


class Shuffled(torch.nn.Module):
    """A generator that gives images of another class than the one asked for."""

    def __init__(self, generator):
        super().__init__()
        self.generator, self.spec = generator, generator.spec

    def map(self, z, labels):
        return self.generator.map(z, (labels + 1) % 10)

    def forward(self, ws):
        return self.generator(ws)


def test_a_generator_that_mixes_classes_up_fails_both_tests(digits, digits16):
    scores = score_generator(Shuffled(digits16), digits, SMALL)
    assert scores.label_agreement < 0.2
    assert scores.student_ratio < 0.4


def test_a_network_that_is_given_is_measured_with(digits, digits16):
    seen = []

    def classify(images):
        seen.append(images)
        return torch.eye(10)[torch.zeros(len(images), dtype=torch.long)]

    network = Network(
        "always 0", digits.train.normalisation, lambda x: x.mean(dim=(2, 3)), classify
    )
    scores = score_generator(digits16, digits, SMALL, network=network)
    assert scores.network_agreement == pytest.approx(0.1)
    assert sum(map(len, seen)) == SMALL.samples
    # one feature, the mean of an image, barely differs
    assert 0 <= scores.fid < 0.1


def test_a_generator_of_other_images_is_refused(digits16, digits):
    few = Dataset(digits.train.only(range(5)), digits.test.only(range(5)))
    with pytest.raises(GeneratorError, match="does not fit the data"):
        score_generator(digits16, few, SMALL)


COMMAND = [
    *("generator", "score", "digits16", "--samples", "100", "--student-images", "300"),
    *("--student", "{kind: convnet, width: 4}"),
]


def test_command_writes_the_figures(tmp_path):
    target = tmp_path / "scores.json"
    command = [*COMMAND, "--seed", "0", "--seed", "1", "--json", str(target)]
    result = CliRunner().invoke(main, command, catch_exceptions=False)
    assert result.exit_code == 0
    assert [line.split(":")[0] for line in result.output.splitlines()] == [
        "seed 0",
        "seed 1",
        "mean",
    ]
    report = json.loads(target.read_text())
    assert [each["seed"] for each in report["seeds"]] == [0, 1]
    for name in ("label_agreement", "student_ratio", "diversity", "fid"):
        assert report[name] == pytest.approx(sum(s[name] for s in report["seeds"]) / 2)
    assert report["network_agreement"] is None
    assert report["sha256"] == read_generator("digits16").sha256
    assert report["settings"]["student"]["width"] == 4
    assert report["fid_features"] == "the student trained on real images"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "{kind: digits, classes: [1, 2]}"], "does not fit the data"),
        (["--data", "{kind: digitz}"], "Did you mean 'digits'?"),
        (["--resnet20", "nowhere.safetensors"], "cannot read a ResNet-20"),
    ],
)
def test_command_refuses_in_one_line(options, message):
    result = CliRunner().invoke(main, [*COMMAND, *options])
    assert result.exit_code == 2
    assert message in result.output
    assert result.output.count("\n") == 1


def test_command_says_that_no_data_lie_in_a_folder(tmp_path):
    result = CliRunner().invoke(main, [*COMMAND, "--data", str(tmp_path)])
    assert result.exit_code == 2
    assert "needs a subfolder per class" in result.output


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.skipif(not CLASSIFIER.is_file(), reason=f"needs {CLASSIFIER} (or HPD_SHARED/data)")
def test_the_published_network_reads_cifar10(tmp_path):
    """91.73 % on the test set is what its source says."""
    command = [sys.executable, str(SHARED / "data" / "prepare.py"), str(tmp_path), "cifar10"]
    subprocess.run(command, check=True, capture_output=True)
    test = hpd.load_dataset("cifar10", root=str(tmp_path)).test
    network = read_resnet20(CLASSIFIER)
    with torch.no_grad():
        guesses = network(NORMALISATION.apply(test.unit(slice(0, 1000)))).argmax(dim=1)
    assert 0.90 < (guesses == test.labels[:1000]).double().mean() < 0.935


def test_a_file_of_something_else_is_no_resnet20(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(DataError, match="lacks weights of a ResNet-20"):
        read_resnet20(tmp_path / "other.safetensors")
