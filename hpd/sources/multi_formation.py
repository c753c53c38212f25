"""Multi-formation: each stored image gives factor x factor images, its parts enlarged.

Source: Kim et al., Dataset Condensation via Efficient Synthetic-Data Parameterization (IDC), ICML
2022, section 4 (uniform formation with bilinear upsampling).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import Field
from torch import Tensor
from typing_extensions import Self

from generators import Prior, StoredGenerator
from hpd.data import ImageSet
from hpd.errors import ConfigError
from hpd.rng import Streams
from hpd.sources.around import Around
from hpd.sources.base import SOURCES, SourceSettings, TakesGenerator
from hpd.sources.pixel import PixelSettings
from hpd.sources.rendering import as_indices, pullback_of
from hpd.typing import (
    Pullback,
    Source,
    State,
)  # fmt: skip


@SOURCES.register("multi_formation")
class MultiFormationSettings(SourceSettings):
    """IDC's storage around another source, which stores the whole images.

    Where that source starts from real images, it starts from tiles of factor x factor of them.
    """

    factor: int = Field(2, ge=1, description="parts along each side")
    of: Annotated[SourceSettings, SOURCES] = Field(
        PixelSettings(), description="what is stored; its counts and budgets are of whole images"
    )

    def build(self, train: ImageSet, device: torch.device, streams: Streams) -> Source:
        """Return the source, initialised; see `SourceSettings.build`.

        Raises:
            ConfigError: if the factor does not divide the images, or if the source inside is to
                learn labels.
            HpdError: for what is wrong with the source inside.
        """
        tiled = self._tiled(train, streams)
        return MultiFormationSource(self.of.build(tiled, device, streams), self.factor)

    def build_from(
        self, stored: StoredGenerator, train: ImageSet, device: torch.device, streams: Streams
    ) -> Source:
        """Return the source on a generator in memory; see `build`."""
        if not isinstance(self.of, TakesGenerator):
            kind = SOURCES.kind_of(self.of)
            raise ConfigError("the source takes no generator", got=kind, expected="gan")
        inner = self.of.build_from(stored, self._tiled(train, streams), device, streams)
        return MultiFormationSource(inner, self.factor)

    def on(self, generator: str) -> Self:
        """Return the options with another generator inside; see `SourceSettings.on`."""
        return self.model_copy(update={"of": self.of.on(generator)})

    def unprojected(self) -> Self:
        """Return the options with such a source inside; see `SourceSettings.unprojected`."""
        return self.model_copy(update={"of": self.of.unprojected()})

    def in_chunks_of(self, images: int) -> Self:
        """Return the options with that inside; see `SourceSettings.in_chunks_of`."""
        inner = self.of.in_chunks_of(images)
        return self if inner is self.of else self.model_copy(update={"of": inner})

    @property
    def needs_scores(self) -> bool:
        """Whether the stages of the source inside are decided by scores."""
        return self.of.needs_scores

    @property
    def has_prior(self) -> bool:
        """Whether images come out of a pretrained generator."""
        return self.of.has_prior

    def prior(self, train: ImageSet, stored: StoredGenerator | None = None) -> Prior | None:
        """Return the generator of the source inside; see `SourceSettings.prior`."""
        return self.of.prior(train, stored)

    def _tiled(self, train: ImageSet, streams: Streams) -> ImageSet:
        for name in ("learnt_labels", "storage"):
            if getattr(self.of, name) is not None:
                raise ConfigError(
                    f"{name} is an option of the source that gives the parts",
                    got=f"{name} in of",
                    expected=f"{name} beside of",
                )
        if any(side % self.factor for side in train.image_shape[1:]):
            raise ConfigError(
                "factor must divide the height and width of the images",
                got=self.factor,
                expected=f"a divisor of {' and '.join(map(str, train.image_shape[1:]))}",
            )
        return tile(train, self.factor, streams.generator("tiles"))


def tile(train: ImageSet, factor: int, rng: torch.Generator) -> ImageSet:
    """Return images that hold factor x factor real images of one class, made small.

    Each real image is in at most one of them. A side is made small by averaging over pixels.

    Args:
        train: the real images; `factor` divides their sides.
        factor: images along each side.
        rng: which images lie together.

    Returns:
        as many images a class as can be filled, of the same size and with the normalisation of
        `train`, so that a source initialises from them as from real images.
    """
    if factor == 1:
        return train
    pictures, labels = [], []
    for label, own in enumerate(train.by_class):
        whole = len(own) // factor**2
        chosen = train.draw(label, whole * factor**2, rng)
        small = torch.cat([_shrunk(part, factor) for part in train.at(chosen).parts()])
        pictures.append(
            rearrange(small, "(n i j) c h w -> n c (i h) (j w)", n=whole, i=factor, j=factor)
        )
        labels.append(torch.full((whole,), label))
    return train.with_images(torch.cat(pictures), torch.cat(labels))


def _shrunk(pixels: Tensor, factor: int) -> Tensor:
    """Return uint8 images [N, C, H, W] with sides divided by `factor`, averaged over pixels."""
    return F.avg_pool2d(pixels.float(), factor).round().to(torch.uint8)


def parts_of(images: Tensor, factor: int, size: tuple[int, int] | None = None) -> Tensor:
    """Return the parts of images, enlarged bilinearly to the size of the whole.

    Args:
        images: [N, C, H, W]; `factor` divides H and W.
        factor: parts along each side.
        size: (H, W) of what is returned; None: that of the images.

    Returns:
        [N * factor^2, C, H, W]: the parts of the first image row by row, then of the second.
    """
    parts = rearrange(images, "n c (i h) (j w) -> (n i j) c h w", i=factor, j=factor)
    return F.interpolate(parts, size=size or images.shape[2:], mode="bilinear", align_corners=False)


class MultiFormationSource(Around):
    """The enlarged parts of another source's images, which alone are stored.

    Image ``n * factor^2 + i * factor + j`` is the part in row i and column j of stored image n.

    Args:
        inner: what gives the stored images.
        factor: parts along each side.
    """

    def __init__(self, inner: Source, factor: int) -> None:
        super().__init__(inner)
        self._factor = factor

    @property
    def labels(self) -> Tensor:
        """Class of each part [N * factor^2]."""
        return self.inner.labels.repeat_interleave(self._factor**2)

    @property
    def provenance(self) -> Mapping[str, object]:
        """The factor, and what the source inside tells."""
        return {"multi_formation": {"factor": self._factor}, **self.inner.provenance}

    def widen(self, state: State, labels: Tensor) -> None:
        """Be whole again; see `Shardable`."""
        self._shardable.widen(state, labels[:: self._factor**2])

    def render(self, indices: Tensor) -> tuple[Tensor, Pullback]:
        """Return parts [n, C, H, W] in [0, 1] (nominally) and their pullback.

        Each stored image that a part is asked of is rendered once, whatever the order.
        """
        indices = as_indices(indices)
        stored, position = (indices // self._factor**2).unique(return_inverse=True)
        whole, inner_pullback = self.inner.render(stored)
        leaf = whole.requires_grad_()
        with torch.enable_grad():
            everything = parts_of(leaf, self._factor)
            parts = everything[position * self._factor**2 + indices % self._factor**2]

        def pullback(image_grad: Tensor) -> None:
            (grad,) = torch.autograd.grad(parts, leaf, image_grad)
            inner_pullback(grad)

        return parts.detach(), pullback_of(parts, pullback)
