"""Data sets by name, folder or file, with class subsets and per-class batches."""

from hpd.data.images import Dataset, Images, ImageSet, SeenImages
from hpd.data.kinds import (
    digits,
    file_list,
    folder,
    hugging_face,
    npz,
    torchvision_sets,
    webdataset,
)
from hpd.data.normalisation import Normalisation
from hpd.data.registry import DATASETS, DatasetSettings

__all__ = [
    "DATASETS",
    "Dataset",
    "DatasetSettings",
    "ImageSet",
    "Images",
    "Normalisation",
    "SeenImages",
]
_REGISTERED = (digits, file_list, folder, hugging_face, npz, torchvision_sets, webdataset)
