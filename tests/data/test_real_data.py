"""Real data sets in torchvision's layout, where they are at hand beside the checkout."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from conftest import SHARED

import hpd

pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(
        not (SHARED / "data" / "prepare.py").is_file(),
        reason=f"needs real data in {SHARED / 'data'} (or in HPD_SHARED/data)",
    ),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    command = [sys.executable, str(SHARED / "data" / "prepare.py"), str(folder)]
    subprocess.run([*command, "fashion_mnist", "imagenette128"], check=True, capture_output=True)
    return folder


def test_fashion_mnist_is_read_whole(root):
    data = hpd.load_dataset("fashion_mnist", root=str(root))
    assert (len(data.train), len(data.test)) == (60_000, 10_000)
    assert data.train.image_shape == (1, 28, 28)
    assert data.train.normalisation.mean[0] == pytest.approx(0.28604, abs=1e-5)
    assert data.train.normalisation.std[0] == pytest.approx(0.35302, abs=1e-5)
    assert torch.bincount(data.train.labels).tolist() == [6000] * 10


def test_an_image_folder_is_read_whole(root):
    data = hpd.load_dataset(root / "imagenette128", resolution=64)
    assert (len(data.train), len(data.test)) == (1500, 500)
    assert data.train.image_shape == (3, 64, 64)
    assert data.train.num_classes == 10
