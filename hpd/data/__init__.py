"""Data sets by name or folder, with class subsets and per-class batches."""

from hpd.data import digits, folder, torchvision_sets
from hpd.data.images import Dataset, ImageSet, Normalisation
from hpd.data.registry import DATASETS, DatasetSettings

__all__ = ["DATASETS", "Dataset", "DatasetSettings", "ImageSet", "Normalisation"]
_REGISTERED = (digits, folder, torchvision_sets)
