"""Data sets that torchvision reads and downloads."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from hpd.data.images import Dataset
from hpd.data.registry import DATASETS, DatasetSettings
from hpd.errors import DataError

_DIGIT_NAMES = tuple(str(c) for c in range(10))


class TorchvisionSettings(DatasetSettings):
    """Options of a data set in torchvision's layout."""

    torchvision_name: ClassVar[str]
    class_names: ClassVar[tuple[str, ...] | None] = None
    num_classes: ClassVar[int] = 10

    root: str = Field("~/.cache/hpd/data", description="folder with the data, as torchvision's")
    download: bool = Field(False, description="fetch the data into root if they are not there")
    pad: int = Field(0, ge=0, description="black pixels to add on every side")

    def build(self) -> Dataset:
        """Read both parts.

        Raises:
            DataError: if the data are neither there nor to be had, saying how to get them.
        """
        train, test = self._part(train=True), self._part(train=False)
        names = self.class_names or tuple(train.classes)
        return Dataset.of(self._tensors(train), self._tensors(test), names, self.classes)

    def count_classes(self) -> int:
        """Return how many classes it has, or how many are kept."""
        return super().count_classes() or self.num_classes

    def _part(self, *, train: bool) -> Any:
        import torchvision.datasets

        root = Path(self.root).expanduser()
        options = self._split(train)
        try:
            if self.download:
                root.mkdir(parents=True, exist_ok=True)
            factory = getattr(torchvision.datasets, self.torchvision_name)
            return factory(str(root), download=self.download, **options)
        except MemoryError:
            raise
        # its readers end in whatever the bytes of a broken file lead to
        except Exception as error:
            raise self._unread(root, error) from None

    def _unread(self, root: Path, error: Exception) -> DataError:
        """Return the error of files that are not there, or that torchvision cannot read."""
        got = f"{type(error).__name__}: {error}"
        if self.download:
            return DataError(
                f"could not download {self.torchvision_name}",
                got=got,
                fix=f"Fetch it elsewhere, in torchvision's layout, and set data.root (now {root}).",
            )
        fix = (
            "Set data.root=FOLDER to torchvision's layout, or data.download=true; pictures of your"
            " own are data=FOLDER."
        )
        if isinstance(error, RuntimeError | FileNotFoundError):
            return DataError(f"{self.torchvision_name} is not in {root}", fix=fix)
        return DataError(f"cannot read {self.torchvision_name} in {root}", got=got, fix=fix)

    def _split(self, train: bool) -> dict[str, Any]:
        return {"train": train}

    def _tensors(self, part: Any) -> tuple[Tensor, Tensor]:
        """Return uint8 [N, C, H, W] and int64 [N] of a torchvision data set."""
        images = torch.as_tensor(np.asarray(part.data))
        labels = part.labels if hasattr(part, "labels") else part.targets
        if images.ndim == 3:
            images = images[:, None]
        elif images.shape[-1] == 3:
            images = images.permute(0, 3, 1, 2)
        padded = F.pad(images.contiguous(), (self.pad,) * 4)
        return padded, torch.as_tensor(np.asarray(labels)).long()


@DATASETS.register("cifar10")
class CIFAR10Settings(TorchvisionSettings):
    """CIFAR-10: 50,000 + 10,000 colour images of 32 px, 10 classes (Krizhevsky, 2009)."""

    torchvision_name = "CIFAR10"


@DATASETS.register("cifar100")
class CIFAR100Settings(TorchvisionSettings):
    """CIFAR-100: 50,000 + 10,000 colour images of 32 px, 100 classes (Krizhevsky, 2009)."""

    torchvision_name = "CIFAR100"
    num_classes = 100


@DATASETS.register("svhn")
class SVHNSettings(TorchvisionSettings):
    """SVHN: 73,257 + 26,032 colour images of 32 px, house numbers (Netzer et al., 2011)."""

    torchvision_name = "SVHN"
    class_names = _DIGIT_NAMES

    def _split(self, train: bool) -> dict[str, Any]:
        return {"split": "train" if train else "test"}


@DATASETS.register("mnist")
class MNISTSettings(TorchvisionSettings):
    """MNIST: 60,000 + 10,000 grey images of 28 px, digits (LeCun et al., 1998)."""

    torchvision_name = "MNIST"
    class_names = _DIGIT_NAMES


@DATASETS.register("fashion_mnist")
class FashionMNISTSettings(TorchvisionSettings):
    """Fashion-MNIST: 60,000 + 10,000 grey images of 28 px, clothes (Xiao et al., 2017)."""

    torchvision_name = "FashionMNIST"
