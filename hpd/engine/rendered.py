"""All that a source gives at the moment: its images, and the labels that it learns, if any."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hpd.errors import RunError
from hpd.typing import LearnsLabels, Matched, Pullback, Source


@dataclass(frozen=True)
class Rendered:
    """Images of a source, and the way back.

    Args:
        images: [n, C, H, W] in [0, 1] (nominally), detached.
        targets: their learnt labels [n, K]; None: there are none.
        pullback: of the images.
        label_pullback: of the labels.
    """

    images: Tensor
    targets: Tensor | None
    pullback: Pullback
    label_pullback: Pullback | None

    @classmethod
    def of(cls, source: Source, indices: Tensor) -> Rendered:
        """Return some images of a source.

        Args:
            source: in a stage.
            indices: which.
        """
        images, pullback = source.render(indices)
        if not isinstance(source, LearnsLabels):
            return cls(images, None, pullback, None)
        targets, label_pullback = source.targets(indices)
        return cls(images, targets, pullback, label_pullback)

    def pull(self, matched: Matched) -> None:
        """Take the gradients of a match back to what the source optimises.

        Raises:
            RunError: if there are learnt labels, and no gradient to them.
        """
        self.pullback(matched.image_grad)
        if self.label_pullback is not None:
            if matched.label_grad is None:
                raise RunError("the objective gave no gradient to the labels that are learnt")
            self.label_pullback(matched.label_grad)


def render_all(source: Source) -> Tensor:
    """Return every image of the source [N, C, H, W] on the CPU."""
    images, _ = source.render(_everything(source))
    return images.cpu()


def learnt_labels(source: Source) -> Tensor | None:
    """Return the learnt labels of all images [N, K] on the CPU, None where there are none."""
    if not isinstance(source, LearnsLabels):
        return None
    return source.targets(_everything(source))[0].cpu()


def _everything(source: Source) -> Tensor:
    return torch.arange(len(source.labels), device=source.labels.device)
