"""The sets of RFAD that lie beside the checkout: real files of somebody else."""

from __future__ import annotations

import pytest
import torch
from conftest import SHARED

import hpd
from hpd.audits.finding import find_out
from hpd.audits.labels import read_labels
from hpd.audits.layouts import read_stored
from hpd.audits.readings import Given
from hpd.audits.scoring import FindSettings
from hpd.audits.spaces import Views, looks_centred
from hpd.audits.stored import Wanted
from hpd.rng import Streams

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def stored(per_class):
    path = SHARED / "data" / "foreign" / f"rfad_cifar10_{per_class}.npz"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return read_stored(path, Wanted((3, 32, 32), NAMES))


@pytest.mark.shared
@pytest.mark.parametrize("per_class", [1, 10])
def test_what_the_files_say(per_class):
    found = stored(per_class)
    assert found.layout == "rfad" and len(found) == 10 * per_class
    assert {"k", "jit", "valid_loss"} <= set(found.facts)
    assert looks_centred(found.values) and found.storage.labels.floats == 100 * per_class
    told = read_labels(found.labels, 10, "x")
    assert told.meaning == "centred" and told.probabilities is None
    assert told.classes.tolist() == [c for c in range(10) for _ in range(per_class)]


@pytest.mark.shared
@pytest.mark.slow
def test_what_training_images_say_of_one():
    """Whitened by channel, as their code does it for CIFAR-10, and not image by image."""
    root = SHARED.parent / "data"
    if not (root / "cifar-10-batches-py").is_dir():
        pytest.skip(f"no CIFAR-10 in {root}")
    data = hpd.load_dataset("cifar10", root=str(root))
    settings = FindSettings(rows=300, width=64)
    found = find_out(stored(1), Views(data), settings, Given(), Streams(0))
    told = {one.question: one for one in found.findings}
    assert told["values"].answer == "zca standardised"
    assert told["channels"].answer == "rgb" and told["order"].answer == "data"
    scores = {one.reading.words: one.score for one in found.tried if one.predicted is not None}
    assert scores["zca standardised"] > 35 > scores["data"]
    assert torch.equal(found.classes, torch.arange(10))
