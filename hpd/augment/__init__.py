"""Augmentations that are drawn once and can be applied to any batch."""

from hpd.augment.mixing import Mixed, cutmix, mixup
from hpd.augment.siamese import OPERATION_NAMES, Augmentation, OperationName, draw_augmentation

__all__ = [
    "OPERATION_NAMES",
    "Augmentation",
    "Mixed",
    "OperationName",
    "cutmix",
    "draw_augmentation",
    "mixup",
]
