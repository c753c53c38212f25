"""What a training is told: sizes by name, augmentation by the number of images, how it ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from generators import read_generator
from generators.families.stylegan2 import StyleGAN2Settings
from generators.training.step import TrainingSettings
from hpd.data import DATASETS, ImageSet
from hpd.data.registry import DatasetSettings
from hpd.errors import ConfigError, DataError
from hpd.registry import Only, Settings

Size = Literal["tiny", "small", "base"]

SIDES = (16, 32, 64)
"""Heights and widths of images, in pixels, that a generator is trained on."""

_CHANNELS = (1, 3)
_SHAPE = ("z_dim", "w_dim", "mapping_layers", "channel_base", "channel_max")
_ALWAYS_BELOW, _ADAPTED_BELOW = 5_000, 25_000
# what the two bundled generators of 32 px and 16 px were made with, and the larger ones of the
# papers: Karras et al., NeurIPS 2020, their configuration for CIFAR-10, with half the features
_SIZES: dict[Size, dict[str, Any]] = {
    "tiny": {
        "channel_base": 512, "channel_max": 96, "z_dim": 64, "w_dim": 64, "mapping_layers": 2,
        "batch": 16, "group": 2, "noise": False, "r1_gamma": 0.02, "class_weight": 0.5,
        "average_images": 10_000.0,
    },
    "small": {
        "channel_base": 2_048, "channel_max": 128, "z_dim": 128, "w_dim": 128,
        "mapping_layers": 2, "batch": 32, "group": 4, "noise": False, "r1_gamma": 0.02,
        "class_weight": 0.5, "average_images": 20_000.0,
    },
    "base": {
        "channel_base": 16_384, "channel_max": 512, "z_dim": 512, "w_dim": 512,
        "mapping_layers": 2, "batch": 64, "group": 4, "noise": True, "r1_gamma": 0.01,
        "class_weight": 0.5, "average_images": 50_000.0,
    },
}  # fmt: skip


class CurveSettings(Settings):
    """How a training is watched: what is measured, how often, and when it is enough."""

    every_images: int = Field(
        10_000, ge=1, description="between two saves; at each the distance to real images is taken"
    )
    samples: int = Field(2_000, ge=10, description="of the generator, for a distance")
    network_images: int = Field(
        20_000,
        ge=0,
        description="seen in training by the network on whose features distances are taken; 0 for"
        " random weights",
    )
    patience: int = Field(
        10, ge=0, description="saves in a row without a gain that end a training; 0 for never"
    )
    least_gain: Annotated[float, Only("patience")] = Field(
        0.01, ge=0, lt=1, description="share by which the distance must fall to count as a gain"
    )

    @property
    def measure(self) -> dict[str, int]:
        """What distances are measured with: those of two runs compare at the same alone."""
        return {"samples": self.samples, "network_images": self.network_images}


class GeneratorRunSettings(TrainingSettings):
    """What decides the weights, and how the training is watched."""

    curve: CurveSettings = Field(CurveSettings(), description="how it is watched, and how it ends")

    @classmethod
    def section(cls) -> str:
        """Return how messages name these options."""
        return "the training of a generator"

    def training(self) -> dict[str, Any]:
        """Return what decides the weights, as JSON."""
        return self.model_dump(mode="json", exclude={"curve"})


@dataclass(frozen=True)
class Limits:
    """When a training ends at the latest.

    Args:
        images: seen; None for no limit.
        seconds: of training, over all its parts; None for no limit.
    """

    images: int | None = None
    seconds: float | None = None

    @classmethod
    def of(cls, images: int | None, minutes: float | None, curve: CurveSettings) -> Limits:
        """Return the limits that a user set.

        Raises:
            ConfigError: if one is not above 0, or the training would never end.
        """
        for name, value in (("images", images), ("minutes", minutes)):
            if value is not None and not value > 0:
                raise ConfigError(f"{name} must be above 0", got=value)
        if images is None and minutes is None and not curve.patience:
            raise ConfigError(
                "the training would never end", got="curve.patience=0",
                fix="Give images, minutes, or a patience.",
            )  # fmt: skip
        return cls(images, None if minutes is None else 60 * minutes)


def settings_of(
    data: DatasetSettings, part: ImageSet, size: Size, given: Mapping[str, Any]
) -> GeneratorRunSettings:
    """Return the options of a training: those given, over those of size and number of images.

    With `start` the shape of the network is that of the generator to go on from.

    Args:
        data: the settings of the data.
        part: their training part.
        size: name of the size.
        given: options by name.

    Raises:
        ConfigError: for an option that is unknown or wrong.
        GeneratorError: if the generator to go on from cannot be read, or has no such shape.
    """
    if "data" in given:
        raise ConfigError("the data are named twice", got=given["data"])
    start = given.get("start")
    shape = {} if start is None else _shape_of(start)
    below = GeneratorRunSettings.applicable(
        {**_SIZES[size], **shape, **augmentation_for(len(part))}, given
    )
    return GeneratorRunSettings.read({**below, **given, "data": DATASETS.dump(data)})


def preset(size: Size, part: ImageSet) -> dict[str, Any]:
    """Return the options that a size and the number of images stand for."""
    return {**_SIZES[size], **augmentation_for(len(part))}


def augmentation_for(count: int) -> dict[str, Any]:
    """Return the options of augmentation for so many training images.

    Few are always shifted and cut, as the discriminator has them by heart within minutes (Zhao et
    al., NeurIPS 2020). More are as often as it takes (Karras et al., NeurIPS 2020), and as fast
    as a short training needs it. With many it costs quality and brings nothing.
    """
    if count < _ALWAYS_BELOW:
        return {"translation": 0.125, "cutout": 0.25}
    if count < _ADAPTED_BELOW:
        return {"translation": 0.125, "cutout": 0.25, "augment_target": 0.6,
                "augment_adapt_images": 100_000.0}  # fmt: skip
    return {"translation": 0.0, "cutout": 0.0}


def augmentation_text(settings: TrainingSettings, count: int) -> str:
    """Return in words how images are augmented, and of how many."""
    parts = {"shifted": settings.translation, "cut": settings.cutout, "coloured": settings.colour}
    acts = " and ".join(name for name, strength in parts.items() if strength) or "not augmented"
    if any(parts.values()):
        adapted = settings.augment_target is not None
        acts += ", as often as it takes" if adapted else ", always"
    return f"{count:,} images: {acts}" + (", half of them mirrored" if settings.mirror else "")


def check_images(data: DatasetSettings, part: ImageSet) -> None:
    """Check that a generator can be trained on these images.

    Raises:
        DataError: saying what to do, if their shape is another, or a class has none.
        ConfigError: for images that students see whitened.
    """
    channels, height, width = part.image_shape
    if data.zca != "none":
        raise ConfigError(
            "a generator learns images as they are, whatever students see", got="data.zca",
            fix="Leave out data.zca.",
        )  # fmt: skip
    if height != width or height not in SIDES or channels not in _CHANNELS:
        raise DataError(
            "a generator is trained on square images of 16, 32 or 64 px, grey or in colour",
            got=f"{channels} x {height} x {width}",
            fix=_fix(data, channels, height, width),
        )
    empty = [name for name, own in zip(part.classes, part.by_class, strict=True) if not len(own)]
    if empty:
        raise DataError(f"class {empty[0]!r} has no training image")


def _fix(data: DatasetSettings, channels: int, height: int, width: int) -> str:
    fields, kind = type(data).model_fields, DATASETS.kind_of(data)
    if channels not in _CHANNELS:
        return "Set data.channels=3." if "channels" in fields else "Bring them to 3 channels."
    side = next((s for s in SIDES if s >= min(height, width)), SIDES[-1])
    if "resolution" in fields:
        return f"Set data.resolution={side}."
    if "pad" in fields and height == width < side and (side - height) % 2 == 0:
        return f"Set data.pad={(side - height) // 2}."
    return f"Bring the images of {kind!r} to {side} x {side} px."


def _shape_of(start: object) -> dict[str, Any]:
    """Return the options that give a network the shape of one on disk; {} for another family."""
    settings = read_generator(str(start)).settings
    if not isinstance(settings, StyleGAN2Settings):
        return {}
    return {name: getattr(settings, name) for name in _SHAPE}
