"""What students made of convolutions have in common."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from hpd.errors import ConfigError
from hpd.students.base import ImageShape, Student
from hpd.students.networks.norms import Norm

# what a block of feature maps ends with
_ENDS = (nn.AvgPool2d, nn.MaxPool2d, nn.Sequential)


class Convolutional(Student):
    """Layers one after another; the embedding is their flattened last maps.

    Args:
        layers: images [N, C, H, W] to feature maps [N, F, h, w].
        embedding: E, the number of values of one image's feature maps.
        num_classes: K.
    """

    def __init__(self, layers: Sequence[nn.Module], embedding: int, num_classes: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*layers)
        self.head = nn.Linear(embedding, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Return the last feature maps [N, F, h, w]."""
        return self.blocks(x)

    def feature_maps(self, x: Tensor) -> Sequence[Tensor]:
        """Return the maps after each pooling and each stage of residual blocks, and the last."""
        maps = []
        for number, layer in enumerate(self.blocks, start=1):
            x = layer(x)
            if isinstance(layer, _ENDS) or number == len(self.blocks):
                maps.append(x)
        return maps

    def pool(self, features: Tensor) -> Tensor:
        """Flatten the feature maps: [N, F * h * w]."""
        return features.flatten(1)


def extra_padding(image_shape: ImageShape) -> int:
    """Return by how many pixels a side the first convolution pads more than the later ones.

    MNIST and Fashion-MNIST: the field pads 28 px to 32 there.

    >>> extra_padding((1, 28, 28)), extra_padding((3, 32, 32))
    (2, 0)
    """
    return 2 if image_shape[1:] == (28, 28) else 0


def too_small(image_shape: ImageShape, *, got: str, expected: str) -> ConfigError:
    """Return the error for images that are too small for a student."""
    return ConfigError(
        f"images of {image_shape[1]}x{image_shape[2]} px are too small for the student",
        got=got,
        expected=expected,
    )


def check_last_maps(image_shape: ImageShape, norm: Norm, *, shrink: int) -> None:
    """Check that a norm of each map sees more than one pixel in the last ones.

    Args:
        image_shape: (C, H, W).
        norm: of the student.
        shrink: by how much the last maps are smaller than the images, a side.

    Raises:
        ConfigError: if it would not, and give a constant.
    """
    if norm == "instance" and max(image_shape[1:]) <= shrink:
        raise too_small(
            image_shape,
            got="norm 'instance' on last maps of one pixel",
            expected=f"more than {shrink} px, or norm 'batch', 'group', 'layer' or 'none'",
        )
