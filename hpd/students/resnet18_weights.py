"""ResNet-18 under the names of torchvision: its tensors as a teacher.

Source of the names: torchvision.models.resnet18; of the architecture: He et al., CVPR 2016.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from hpd.data import ImageSet
from hpd.data.kinds.imagenet import NUM_CLASSES, imagenet_index
from hpd.errors import ConfigError, DataError
from hpd.registry import Settings
from hpd.students.networks.resnet import ResNet18, ResNet18Settings
from hpd.students.networks.resnet20 import NORMALISATION
from hpd.students.teachers import (
    Teacher,
    TeacherRecord,
    batch_norms,
    digest_network,
    versions_here,
)

ORIGIN = "ResNet-18 (torchvision)"
FIRST, LAST = "conv1.weight", "fc.weight"
_KERNEL = 7
# where the names of torchvision lie here
_NAMES = (
    (r"conv1\.", "blocks.0."),
    (r"bn1\.", "blocks.1."),
    *((rf"layer{i}\.", f"blocks.{3 + i}.") for i in range(1, 5)),
    (r"fc\.", "head."),
)
# how many batches the norms have seen matters to nothing, and old files do not say
_COUNT = "num_batches_tracked"
_WANTED = "the state dict of torchvision's resnet18, or of an equal network"
_SHOWN = 80


class WeightsSettings(Settings):
    """How images were normalised that the weights of a file were trained on."""

    mean: list[float] = Field(
        list(NORMALISATION.mean),
        min_length=1,
        description="of each channel, of images in [0, 1]; torchvision's, unless said otherwise",
    )
    std: list[Annotated[float, Field(gt=0)]] = Field(
        list(NORMALISATION.std),
        min_length=1,
        description="what differences to `mean` are divided by",
    )


def resnet18_in(names: Sequence[str]) -> str:
    """Return what stands before the names of a ResNet-18 in a file: mostly nothing.

    Args:
        names: of all tensors in the file.

    Raises:
        DataError: if there is none, or several; if one has names that torchvision's has not, or
            lacks some.
    """
    known = set(names)
    ends = [name.removesuffix(FIRST) for name in names if name.endswith(FIRST)]
    # a block's own first convolution ends so, too
    found = [before for before in ends if f"{before}{LAST}" in known]
    if len(found) > 1:
        got = ", ".join(repr(before[:_SHOWN]) for before in found[:3])
        raise DataError("the file holds several networks", got=got, fix="Save one of them alone.")
    if not found:
        some = ", ".join(repr(name[:_SHOWN]) for name in list(names)[:3])
        raise DataError("the file holds no ResNet-18", got=some or "no tensors", expected=_WANTED)
    _check_names([name.removeprefix(found[0]) for name in names if name.startswith(found[0])])
    return found[0]


def resnet18_from(weights: Mapping[str, Tensor]) -> tuple[ResNet18Settings, ResNet18]:
    """Return the network of a state dict under the names of torchvision.

    Args:
        weights: its tensors, of the names that `resnet18_in` asks for.

    Returns:
        its settings, and the network on the CPU in float32, in eval mode, without gradient. It has
        a class for each row of ``fc.weight``.

    Raises:
        DataError: if they are of other shapes, not finite, or no numbers.
    """
    first, last = weights[FIRST], weights[LAST]
    for name, value, expected in (
        (FIRST, first, ["F", "C", _KERNEL, _KERNEL]), (LAST, last, ["K", "8 F"])
    ):  # fmt: skip
        # of the first layer, the size tells ResNets for ImageNet from those for small images
        fits = value.ndim == len(expected) and [*value.shape[2:]] == expected[2:]
        if not fits or not value.numel():
            raise DataError(
                f"{name} is not that of a ResNet-18 for ImageNet",
                got=list(value.shape), expected=expected,
            )  # fmt: skip
    settings = ResNet18Settings(width=len(first), norm="batch", stem="imagenet")
    with torch.device("meta"):
        network = settings.make((first.shape[1], 224, 224), len(last))
    wanted, names = network.state_dict(), {_here(name): name for name in weights}
    state = {
        here: torch.zeros((), dtype=torch.int64)
        if here.endswith(_COUNT)
        else _checked(names[here], weights[names[here]], value)
        for here, value in wanted.items()
    }
    network.load_state_dict(state, assign=True)
    return settings, network.requires_grad_(False).eval()


def _here(name: str) -> str:
    """Return what a tensor of torchvision's is called here; nothing for that of no such tensor."""
    for theirs, ours in _NAMES:
        if re.match(theirs, name):
            return re.sub(theirs, ours, name, count=1)
    return ""


def _check_names(names: Sequence[str]) -> None:
    """Check that these are the names of a ResNet-18, all of them and no others."""
    with torch.device("meta"):
        network = ResNet18Settings(norm="batch", stem="imagenet").make((3, 224, 224), NUM_CLASSES)
    wanted, there = set(network.state_dict()), {_here(name): name for name in names}
    strange = [name for here, name in there.items() if here not in wanted]
    if strange:
        raise DataError(
            "the file is of another network than a ResNet-18",
            got=strange[0][:_SHOWN], expected=_WANTED,
        )  # fmt: skip
    missing = [name for name in sorted(wanted - set(there)) if not name.endswith(_COUNT)]
    if missing:
        raise DataError("the file lacks weights of a ResNet-18", got=f"none for {missing[0]}")


def _checked(name: str, value: Tensor, wanted: Tensor) -> Tensor:
    value = _numbers(name, value)
    if value.shape != wanted.shape:
        raise DataError(
            f"{name} has the wrong shape", got=list(value.shape), expected=list(wanted.shape)
        )
    if name.endswith("running_var") and bool((value < 0).any()):
        raise DataError(f"{name} is negative, which no variance is", got=float(value.min()))
    return value


def _numbers(name: str, value: Tensor) -> Tensor:
    if not value.is_floating_point():
        raise DataError(f"{name} is of a type that weights are not of", got=value.dtype)
    value = value.float()
    if not bool(value.isfinite().all()):
        raise DataError(f"{name} is not finite", fix="The file is damaged, or its training was.")
    return value.contiguous()


def for_classes(network: ResNet18, classes: Sequence[str]) -> ResNet18:
    """Return a network that answers for the classes of some data, in their order.

    One of a thousand classes is ImageNet's, in its order: it answers for those of its classes that
    the data have, by wnid or name. Any other must have as many classes as the data, in their order:
    its file names none.

    Args:
        network: of any number of classes; its head is changed in place.
        classes: of the data.

    Raises:
        ConfigError: if they do not fit.
    """
    head, count = network.head, network.head.out_features
    indices = [imagenet_index(name) for name in classes]
    unknown = [name for name, index in zip(classes, indices, strict=True) if index is None]
    if count == NUM_CLASSES and len(unknown) < len(classes):
        if unknown:
            raise ConfigError(
                "the weights are of ImageNet's classes, and the data have another one",
                got=f"class {unknown[0]!r}", expected="wnids, or names of the thousand classes",
            )  # fmt: skip
        rows = torch.tensor([index for index in indices if index is not None])
        head.weight.data, head.bias.data = head.weight.data[rows], head.bias.data[rows]
        head.out_features = len(rows)
    elif count != len(classes):
        raise ConfigError(
            "the weights are of another number of classes than the data",
            got=f"{count} classes", expected=f"{len(classes)} as in the data",
            fix="data.classes takes some classes of the data; weights of ImageNet's thousand fit"
            " data whose classes are wnids or their names.",
        )  # fmt: skip
    return network


def resnet18_teacher(
    weights: Mapping[str, Tensor], settings: WeightsSettings, train: ImageSet
) -> Teacher:
    """Return a ResNet-18 of torchvision's as a teacher for some data.

    Args:
        weights: its state dict; see `hpd.students.resnet18_weights`.
        settings: how its images are normalised.
        train: the real images that it is to know.

    Raises:
        DataError: if they are no such weights.
        ConfigError: if channels or classes are not those of the data.
    """
    student, network = resnet18_from(weights)
    channels = weights[FIRST].shape[1]
    for what, got in (
        ("weights", channels),
        ("mean", len(settings.mean)),
        ("std", len(settings.std)),
    ):
        if got != train.image_shape[0]:
            raise ConfigError(
                f"the {what} are of other images than the data",
                got=f"{got} channels", expected=f"{train.image_shape[0]} as in the data",
            )  # fmt: skip
    network = for_classes(network, train.classes)
    record = TeacherRecord(
        student=student,
        origin=ORIGIN,
        image_shape=train.image_shape,
        classes=train.classes,
        mean=tuple(settings.mean),
        std=tuple(settings.std),
        versions=versions_here(),
        weights=digest_network(network),
    )
    return Teacher(network, record)


@torch.no_grad()
def gap_of_first_norm(teacher: Teacher, images: ImageSet) -> tuple[float, float]:
    """Return how far images look from those that a teacher was trained on, at its first norm.

    Args:
        teacher: with a batch norm.
        images: some real ones.

    Returns:
        the median over feature maps of how far means are apart, in standard deviations that the
        norm remembers, and that of the variances' ratio to remembered ones.
    """
    network = teacher.network
    norm = batch_norms(network)[0]
    seen: list[Tensor] = []
    hook = norm.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    try:
        network.features(teacher.normalise(images.unit()))
    finally:
        hook.remove()
    assert isinstance(norm.running_mean, Tensor)
    assert isinstance(norm.running_var, Tensor)
    variance, mean = torch.var_mean(seen[0], dim=(0, 2, 3))
    apart = (mean - norm.running_mean).abs() / (norm.running_var + norm.eps).sqrt()
    ratio = variance / (norm.running_var + norm.eps)
    return float(apart.median()), float(ratio.median())
