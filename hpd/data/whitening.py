"""ZCA: images whose pixels are decorrelated, as students of KIP, FRePo, RFAD and MTT see them.

Sources: Krizhevsky, Learning multiple layers of features from tiny images, 2009, appendix; Nguyen
et al., NeurIPS 2021 (KIP), for ``per_image``; Cazenavette et al., CVPR 2022 (MTT), whose code
whitens ``pixels``; Loo et al., NeurIPS 2022 (RFAD), whose code for CIFAR-10 is ``standardised``.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hpd.data.images import Dataset, ImageSet
from hpd.data.normalisation import Normalisation
from hpd.disk.cache import cache_folder
from hpd.disk.files import write_tensors
from hpd.disk.seals import digest_json
from hpd.errors import ConfigError, DataError
from hpd.machine.memory import as_text
from hpd.progress import told

ZcaKind = Literal["standardised", "pixels", "per_image"]

# what is added to the variances: as a share of their mean where they are of images of unit norm
_RIDGE = 0.1
# values of an image: the matrix of 48 px in colour takes 190 MB
_MOST_VALUES = 48 * 48 * 3
_CHUNK_IMAGES = 2000
# another number makes what was kept before be made again
_VERSION = 1
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Zca(Normalisation):
    """What students see: images of which no two pixels go together.

    With W = U (S + e)^-1/2 U' from the covariance U S U' of what it is applied to:

    - ``standardised``: ``W ((x - mean) / std - m)``, m the mean of that over the training images,
      e = 0.1;
    - ``pixels``: ``W (x - m)``, likewise;
    - ``per_image``: ``W (x - mean(x)) / ||x - mean(x)||``, mean and norm over the image's own
      values, e a tenth of the mean variance.

    Args:
        kind: which of these.
        sha256: of the recipe: kind and training images.
        matrix: W [d, d]; None in a set that was read, where the data are not at hand.
        inverse: of W.
        shift: m [d], or zeros.
        level: mean of the training images, to which `undo` brings images of ``per_image``.
        length: mean of the norms of these, likewise.
    """

    kind: ZcaKind = "standardised"
    sha256: str = ""
    matrix: Tensor | None = field(default=None, compare=False, repr=False)
    inverse: Tensor | None = field(default=None, compare=False, repr=False)
    shift: Tensor | None = field(default=None, compare=False, repr=False)
    level: float = field(default=0.5, compare=False)
    length: float = field(default=1.0, compare=False)

    def apply(self, images: Tensor) -> Tensor:
        """Whiten images [N, C, H, W] in [0, 1]."""
        matrix, _, shift = self._ready(images)
        flat = self._prepared(images) - shift
        return (flat @ matrix).view_as(images)

    def apply_(self, images: Tensor) -> Tensor:
        """Return what `apply` does; nothing is whitened in place."""
        return self.apply(images)

    def undo(self, normalised: Tensor) -> Tensor:
        """Return whitened images [N, C, H, W] to [0, 1], nominally.

        Of ``per_image`` to the mean and the norm that images have in the mean, for their own are
        lost; whitened again they are the same where their mean is 0 and their norm 1.
        """
        _, inverse, shift = self._ready(normalised)
        flat = (normalised.flatten(1) @ inverse + shift).view_as(normalised)
        if self.kind == "standardised":
            return super().undo(flat)
        return flat if self.kind == "pixels" else flat * self.length + self.level

    def _prepared(self, images: Tensor) -> Tensor:
        """Return what the matrix is applied to, [N, d]."""
        if self.kind == "standardised":
            return super().apply(images).flatten(1)
        if self.kind == "pixels":
            return images.flatten(1)
        return _of_unit_norm(images.flatten(1))

    def _ready(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.matrix is None or self.inverse is None or self.shift is None:
            raise DataError(
                "the images were made for students that see them whitened, by the data at hand",
                fix="Load the data of the run: dataset.train.normalisation.apply(images).",
            )
        matrix, inverse, shift = (t.to(like) for t in (self.matrix, self.inverse, self.shift))
        return matrix, inverse, shift

    @property
    def recipe(self) -> dict[str, str]:
        """What tells it from another, as JSON."""
        return {"kind": self.kind, "sha256": self.sha256}


def recipe_of(normalisation: Normalisation) -> dict[str, str] | None:
    """Return the recipe of ZCA; None of mean and deviation alone."""
    return normalisation.recipe if isinstance(normalisation, Zca) else None


def whitened(dataset: Dataset, kind: ZcaKind) -> Dataset:
    """Return a data set that students see whitened, by the statistics of its training part.

    These are kept in the cache; another start finds them there.

    Raises:
        ConfigError: if the images are too large.
    """
    if isinstance(dataset.train.normalisation, Zca):
        return dataset
    seen = _found(dataset.train, kind)
    return Dataset(
        replace(dataset.train, normalisation=seen), replace(dataset.test, normalisation=seen)
    )


def _found(train: ImageSet, kind: ZcaKind) -> Zca:
    """Return the statistics of a training part, from the cache or measured now."""
    values = math.prod(train.image_shape)
    if values > _MOST_VALUES:
        raise ConfigError(
            "ZCA takes a matrix of all pairs of pixels, which is too large",
            got=f"{values:,} values an image, {as_text(4 * values**2)}",
            expected=f"at most {_MOST_VALUES:,}",
            fix="Lower data.resolution, or leave out data.zca.",
        )
    rests_on = {"version": _VERSION, "kind": kind, "ridge": _RIDGE, "images": train.sha256}
    sha256 = digest_json(rests_on)
    path = cache_folder("zca") / f"{sha256}.safetensors"
    own = train.normalisation
    about = Zca(own.mean, own.std, kind=kind, sha256=sha256)
    try:
        kept = load_file(path)
        level, length = kept["numbers"].tolist()
        return replace(
            about, matrix=kept["matrix"], inverse=kept["inverse"], shift=kept["shift"],
            level=level, length=length,
        )  # fmt: skip
    except (OSError, SafetensorError, KeyError, ValueError):
        found = measure(train, about)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        assert found.matrix is not None and found.inverse is not None and found.shift is not None
        numbers = torch.tensor([found.level, found.length], dtype=torch.float64)
        tensors = {"matrix": found.matrix, "inverse": found.inverse, "shift": found.shift}
        write_tensors(path, {**tensors, "numbers": numbers}, {})
    except OSError as error:
        _logger.info("what whitens the images cannot be kept: %s", error)
    return found


def measure(train: ImageSet, about: Zca) -> Zca:
    """Return the statistics of a training part.

    Args:
        train: the part.
        about: kind, mean and deviation; the rest is measured.
    """
    count, size = len(train), math.prod(train.image_shape)
    starts = range(0, count, _CHUNK_IMAGES)

    total, square = torch.zeros(size, dtype=torch.float64), torch.zeros(size, size).double()
    level = length = 0.0
    for start in told("measuring pixels", starts):
        images = train.unit(slice(start, start + _CHUNK_IMAGES)).double()
        flat = about._prepared(images)
        total += flat.sum(dim=0)
        # sums of products of a part in float32 would lose digits that the smallest variances need
        square += flat.t() @ flat
        values = images.flatten(1)
        level += float(values.mean(dim=1).sum())
        length += float((values - values.mean(dim=1, keepdim=True)).norm(dim=1).sum())
    per_image = about.kind == "per_image"
    mean = torch.zeros_like(total) if per_image else total / count
    covariance = square / count - torch.outer(mean, mean)
    ridge = _RIDGE * float(covariance.trace()) / size if per_image else _RIDGE
    variances, vectors = torch.linalg.eigh(covariance)
    roots = (variances.clamp(min=0) + ridge).sqrt()
    return replace(
        about,
        matrix=((vectors / roots) @ vectors.t()).float(),
        inverse=((vectors * roots) @ vectors.t()).float(),
        shift=mean.float(),
        level=level / count,
        length=length / count,
    )


def _of_unit_norm(flat: Tensor) -> Tensor:
    """Return rows [N, d] less their mean, of length 1; a constant one stays zero."""
    centred = flat - flat.mean(dim=1, keepdim=True)
    norm = centred.norm(dim=1, keepdim=True)
    return centred / torch.where(norm > 0, norm, torch.ones_like(norm))
