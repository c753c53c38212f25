"""The handwritten digits that scikit-learn carries: 1,797 grey images of 8 px, shown at 16 px."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from hpd.data.images import Dataset
from hpd.data.registry import DATASETS, DatasetSettings

_TEST_IMAGES = 500
_SPLIT_SEED, _CLASSES = 0, 10


@DATASETS.register("digits")
class DigitsSettings(DatasetSettings):
    """scikit-learn's digits, upsampled bilinearly from 8 to 16 px.

    The split is fixed and stratified: 1,297 images to train, 500 to test. The bundled generator
    `digits16` never saw the 500.
    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.
    """

    def count_classes(self) -> int:
        """Return how many digits there are, or are kept."""
        return super().count_classes() or _CLASSES

    def build(self) -> Dataset:
        """Read the digits; nothing is downloaded."""
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        labels = torch.from_numpy(digits.target).long()
        small = torch.from_numpy(digits.images).float()[:, None] / 16
        large = F.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False)
        images = (large * 255).round().to(torch.uint8)
        train, test = train_test_split(
            range(len(labels)), test_size=_TEST_IMAGES, random_state=_SPLIT_SEED, stratify=labels
        )
        return Dataset.of(
            (images[train], labels[train]),
            (images[test], labels[test]),
            [str(c) for c in range(_CLASSES)],
            self.classes,
        )
