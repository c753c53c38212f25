"""The field's protocols: what each sets, and the learning rates that come of it."""

from __future__ import annotations

import math

import pytest

from hpd.errors import ConfigError
from hpd.evaluation import PROTOCOLS, EvaluationSettings
from hpd.students import TrainingSettings


def rates(name, **training):
    settings = EvaluationSettings.read({"protocol": name, "training": training})
    pace = settings.training.pace(10)
    return [settings.training.rate(step / pace.steps) for step in range(pace.steps)]


@pytest.mark.parametrize("name", ["dc", "dsa", "dm"])
def test_a_tenth_of_the_rate_after_half(name):
    got = rates(name)
    half = len(got) // 2 + 1
    assert len(got) == 1000
    assert got == [0.01] * half + [0.001] * (len(got) - half)


def test_glad_rises_for_half_of_the_epochs_then_falls_along_a_cosine():
    got = rates("glad")
    assert got[:500] == pytest.approx([0.001 * e / 500 for e in range(500)])
    assert got[500:] == pytest.approx(
        [0.001 * (1 + math.cos(math.pi * e / 500)) / 2 for e in range(500)]
    )
    settings = EvaluationSettings.read({"protocol": "glad"})
    assert settings.training_of(settings.training, "vgg11").lr == pytest.approx(0.0001)
    assert settings.training_of(settings.training, "convnet").lr == 0.001


def test_the_average_is_the_plain_mean_until_it_would_decay_faster():
    decays = [TrainingSettings(ema=0.75).decay(epoch) for epoch in range(6)]
    assert decays == pytest.approx([0, 1 / 2, 2 / 3, 0.75, 0.75, 0.75])


def test_idc_falls_to_a_fifth_at_two_and_at_five_sixths():
    assert rates("idc") == pytest.approx([0.01] * 667 + [0.002] * 167 + [0.0004] * 166)


@pytest.mark.parametrize("name", ["idc", "hmn"])
def test_idc_and_hmn_evaluate_with_dsa_less_cutout_in_batches_of_64(name):
    training = EvaluationSettings.read({"protocol": name}).training
    assert training.augment == ["color", "crop", "flip", "scale", "rotate"]
    assert (training.cutmix, training.batch_size, training.epochs) == (0.5, 64, 1000)
    assert training.pace(770).batches == 13


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_takes_1000_steps_of_small_sets_and_its_epochs_of_large_ones(name):
    training = EvaluationSettings.read({"protocol": name}).training
    assert training.pace(10).steps >= 1000
    assert training.pace(6400).steps == training.epochs * training.pace(6400).batches
    assert training.pace(6400).batches == 100


def test_a_student_that_is_there_twice_is_refused():
    twice = [{"kind": "convnet", "width": 8}, {"kind": "convnet", "width": 8}]
    with pytest.raises(ConfigError, match=r"a student is there twice.*width.*8"):
        EvaluationSettings.read({"students": twice})
    # the default in full is the default
    with pytest.raises(ConfigError, match="twice"):
        EvaluationSettings.read({"students": ["convnet", {"kind": "convnet", "width": 128}]})


@pytest.mark.parametrize("length", [{"epochs": 7}, {"steps": 7}])
def test_a_length_that_is_given_replaces_that_of_the_protocol(length):
    training = EvaluationSettings.read({"protocol": "dsa", "training": length}).training
    assert training.pace(10).steps == 7
    assert EvaluationSettings.read({"training": {"steps": 5}}).training.pace(10).steps == 5


@pytest.mark.parametrize("name", ["hmn", "soft"])
def test_a_cosine_from_the_first_epoch(name):
    assert rates(name) == pytest.approx(
        [0.01 * (1 + math.cos(math.pi * e / 1000)) / 2 for e in range(1000)]
    )


def test_options_override_a_protocol():
    settings = EvaluationSettings.read({"protocol": "soft", "training": {"epochs": 7}})
    assert (settings.training.epochs, settings.training.temperature) == (7, 4.0)
    assert settings.labels == "soft"
    assert EvaluationSettings.read({"protocol": "soft", "labels": "hard"}).labels == "hard"


@pytest.mark.parametrize("name", PROTOCOLS)
def test_what_is_written_reads_back(name):
    settings = EvaluationSettings.read({"protocol": name, "training": {"lr": 0.5}})
    assert EvaluationSettings.read(settings.model_dump(mode="json")) == settings


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"protocol": "gladd"}, "glad"),
        ({"rate_factors": {"vgg": 0.1}}, "vgg11"),
        ({"baselines": ["herding"], "full_training": None}, "full_training"),
        ({"labels": "soft", "full_training": None}, "full_training"),
        ({"baselines": ["k_center"]}, "k_centre"),
        ({"counts": [0]}, "counts"),
        ({"students": []}, "students"),
    ],
)
def test_bad_options(options, said):
    with pytest.raises(ConfigError, match=said):
        EvaluationSettings.read(options)
