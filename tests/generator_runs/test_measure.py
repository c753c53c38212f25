"""The distance orders generators, is the same each time, and what it rests on is kept."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from generators import read_generator
from hpd.data import DATASETS
from hpd.errors import NumericError
from hpd.evaluation.generators import frechet_distance
from hpd.generator_runs.measure import Measure, curve_picture
from hpd.generator_runs.settings import CurveSettings
from hpd.generator_runs.stopping import Point
from hpd.rng import Streams

SETTINGS = CurveSettings(samples=300, network_images=2_000)


@pytest.fixture(scope="module")
def part():
    return DATASETS.parse("digits").build().train


@pytest.fixture(scope="module")
def kept(part, tmp_path_factory):
    """A measure that is ready, and the file that its network is in."""
    file = tmp_path_factory.mktemp("measure") / "measure.safetensors"
    made = measure(part)
    made.prepare(file)
    return made, file


def measure(part, settings=SETTINGS, seed=0):
    return Measure(part, settings, Streams(seed), torch.device("cpu"))


def test_a_trained_generator_is_nearer_than_worse_ones(kept):
    made, _ = kept
    good = read_generator("digits16").generator
    distances = [made.distance(good)]
    # the further its weights are from those that were learnt, the worse
    for strength in (0.1, 0.3, 1.0):
        worse = read_generator("digits16").generator
        draws = torch.Generator().manual_seed(0)
        for value in worse.synthesis.parameters():
            value.add_(
                strength * value.std(unbiased=False) * torch.randn(value.shape, generator=draws)
            )
        distances.append(made.distance(worse))
    assert distances == sorted(distances)
    assert 0 < distances[0] < distances[-1] / 2


def test_samples_of_one_class_are_far_from_the_data(kept):
    """Though each of them is good: what a network of classes alone would not see."""
    made, _ = kept

    class OneClass(type(read_generator("digits16").generator)):
        def map(self, z, labels=None, truncation_psi=1.0):
            return super().map(z, torch.zeros_like(labels), truncation_psi)

    good = read_generator("digits16").generator
    collapsed = read_generator("digits16").generator
    collapsed.__class__ = OneClass
    assert made.distance(collapsed) > 3 * made.distance(good)


def test_it_is_the_same_each_time_and_with_the_network_that_was_kept(part, kept, monkeypatch):
    made, file = kept
    good = read_generator("digits16").generator
    distance = made.distance(good)
    assert made.distance(good) == distance
    again = measure(part)
    monkeypatch.setattr(Measure, "_train", lambda self, network: pytest.fail("trains again"))
    again.prepare(file)
    assert again.distance(good) == distance


def test_a_network_of_another_measure_or_a_damaged_one_is_made_anew(part, kept, tmp_path, caplog):
    _, file = kept
    mine = tmp_path / "measure.safetensors"
    mine.write_bytes(file.read_bytes())
    other = measure(part, CurveSettings(samples=300, network_images=640))
    other.prepare(mine)
    assert mine.read_bytes() != file.read_bytes()
    assert not caplog.text
    mine.write_bytes(file.read_bytes()[:200])
    measure(part).prepare(mine)
    assert "cannot be read and is made anew" in caplog.text
    assert load_file(mine).keys() == load_file(file).keys()
    for name, value in load_file(file).items():
        assert torch.equal(load_file(mine)[name], value)


def test_real_images_against_themselves_are_at_no_distance(part, kept):
    made, _ = kept
    assert frechet_distance(made._real, made._real) == pytest.approx(0, abs=1e-3)
    assert len(made._real) == 300


def test_fewer_images_than_samples_will_do(part, tmp_path):
    some = measure(part, CurveSettings(samples=3_000, network_images=0))
    some.prepare(tmp_path / "measure.safetensors")
    assert len(some.chosen) == len(part)
    assert some.distance(read_generator("digits16").generator) > 0


def test_samples_that_are_not_finite_are_an_error(kept):
    broken = read_generator("digits16").generator
    broken.synthesis.b4.const.fill_(float("nan"))
    with pytest.raises(NumericError, match="what the generator makes is not finite"):
        kept[0].distance(broken)


def test_the_picture_is_a_png_and_the_same_each_time():
    points = [Point(10, 3.0), Point(20, 1.0), Point(30, 2.0)]
    assert curve_picture(points).startswith(b"\x89PNG")
    assert curve_picture(points) == curve_picture(points)
