"""Low-rank factors as the source: each channel of each image is a product of two thin matrices.

Source: Yang et al., An Efficient Dataset Condensation Plugin and Its Application to Continual
Learning, NeurIPS 2023. The start from real images is ours: in the released code it is broken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from hpd.data import ImageSet, Normalisation
from hpd.errors import ConfigError, RunError
from hpd.rng import Streams
from hpd.sources.base import SOURCES, ChunkedSettings
from hpd.sources.rendering import render_in_chunks
from hpd.sources.rows import as_leaf, picked, rows_of
from hpd.typing import ParameterGroup, Pullback, Source, Stage, State


@SOURCES.register("low_rank")
class LowRankSettings(ChunkedSettings):
    """Factors of the pixels, in normalised space: more images for the same storage."""

    budget_images: int = Field(
        1, ge=1, description="floats to store, as the images a class that would take as many"
    )
    images_per_class: int | None = Field(
        None, ge=1, description="images to give; null: all that the budget holds"
    )
    rank: int = Field(2, ge=1, description="of each channel of each image, at most")
    init: Literal["real", "noise"] = Field(
        "real", description="the closest factors of random real images of each class, or N(0, 1)"
    )
    steps: int = Field(1000, ge=0, description="of the optimiser")
    lr: float = Field(0.02, gt=0, description="of both factors")

    def build(self, train: ImageSet, device: torch.device, streams: Streams) -> Source:
        """Return the source, initialised; see `SourceSettings.build`.

        Raises:
            ConfigError: if the rank does not fit the images, or they do not fit the budget.
            DataError: for init=real, if a class has fewer real images than there are to give.
        """
        per_class = self.count(*train.image_shape[1:])
        rng = streams.generator("low rank init")
        labels = torch.arange(train.num_classes).repeat_interleave(per_class)
        if self.init == "real":
            left, right = factorise(
                train.normalised(train.draw_per_class(per_class, rng)), self.rank
            )
        else:
            channels, height, width = train.image_shape
            left = torch.randn(len(labels), channels, height, self.rank, generator=rng)
            right = torch.randn(len(labels), channels, self.rank, width, generator=rng)
        factors = (left.to(device), right.to(device))
        return LowRankSource(factors, labels.to(device), train.normalisation, self)

    def count(self, height: int, width: int) -> int:
        """Return the images to give in each class: ``floor(budget * H W / (r (H + W)))`` at most.

        Raises:
            ConfigError: if there is no such number.
        """
        if self.rank > min(height, width):
            raise ConfigError(
                "rank is more than an image has",
                got=self.rank,
                expected=f"at most {min(height, width)}",
            )
        most = self.budget_images * height * width // (self.rank * (height + width))
        wanted = most if self.images_per_class is None else self.images_per_class
        if not 0 < wanted <= most:
            raise ConfigError(
                "the factors do not fit the budget",
                got=f"{max(wanted, 1)} images a class of rank {self.rank}",
                expected=f"at most {most} in the storage of {self.budget_images}",
                fix="Raise source.budget_images, or lower source.rank or source.images_per_class.",
            )
        return wanted


def factorise(images: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the factors whose product is closest to each channel: the truncated SVD.

    ``A = U sqrt(S)`` and ``B = sqrt(S) V^T``, the `rank` largest singular values, so that both
    are of the same scale.

    Args:
        images: [N, C, H, W].
        rank: r, at most min(H, W).

    Returns:
        A [N, C, H, r] and B [N, C, r, W].

    Source: Eckart and Young, 1936.
    """
    u, s, vt = torch.linalg.svd(images, full_matrices=False)
    scale = s[..., :rank].sqrt()
    return u[..., :rank] * scale[..., None, :], scale[..., :, None] * vt[..., :rank, :]


class LowRankSource:
    """Images whose channels are products A B of factors, which are the parameters.

    Args:
        factors: A [N, C, H, r] and B [N, C, r, W], of normalised images.
        labels: [N].
        normalisation: how pixels relate to images in [0, 1].
        settings: options.
    """

    def __init__(
        self, factors: tuple[Tensor, Tensor], labels: Tensor, normalisation: Normalisation,
        settings: LowRankSettings,
    ) -> None:  # fmt: skip
        self.left, self.right = map(as_leaf, factors)
        self.labels = labels
        self._normalisation, self._settings = normalisation, settings

    @property
    def stored_floats(self) -> int:
        """Number of values in both factors."""
        return self.left.numel() + self.right.numel()

    @property
    def stored(self) -> Mapping[str, Tensor]:
        """The factors; see `Stores`."""
        return {"left": self.left, "right": self.right}

    @property
    def provenance(self) -> Mapping[str, object]:
        """The rank."""
        return {"low_rank": {"rank": self.left.shape[-1]}}

    @property
    def stages(self) -> Sequence[Stage]:
        """One stage."""
        return (Stage("factors", self._settings.steps),)

    def enter(self, stage: int) -> Sequence[ParameterGroup]:
        """Return the factors."""
        if stage:
            raise RunError("factors have a single stage", got=stage, expected=0)
        return self._groups()

    def _groups(self) -> Sequence[ParameterGroup]:
        factors = (self.left, self.right)
        return (ParameterGroup("factors", factors, self._settings.lr, self.labels),)

    @property
    def owned(self) -> Mapping[str, Tensor]:
        """The factors; see `Shardable`."""
        return {"left": self.labels, "right": self.labels}

    def narrow(self, classes: Tensor) -> Sequence[ParameterGroup]:
        """Keep the images of some classes; see `Shardable`."""
        own = rows_of(self.labels, classes)
        self.labels = self.labels[own]
        self.left, self.right = as_leaf(self.left[own]), as_leaf(self.right[own])
        return self._groups()

    def widen(self, state: State, labels: Tensor) -> None:
        """Be whole again; see `Shardable`."""
        self.labels = labels
        self.left, self.right = as_leaf(state["left"]), as_leaf(state["right"])

    def render(self, indices: Tensor) -> tuple[Tensor, Pullback]:
        """Return images in [0, 1] (nominally) and their pullback."""
        return render_in_chunks(self._decode, indices, self._settings.chunk)

    def _decode(self, indices: Tensor) -> Tensor:
        return self._normalisation.undo(picked(self.left, indices) @ picked(self.right, indices))

    def state(self) -> State:
        """Return clones of the factors."""
        return {"left": self.left.detach().clone(), "right": self.right.detach().clone()}

    @torch.no_grad()
    def load_state(self, state: State) -> None:
        """Restore the factors."""
        self.left.copy_(state["left"])
        self.right.copy_(state["right"])
