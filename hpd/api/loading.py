"""Data sets, generators and distilled sets by name or path; projection."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from generators import Generator, projection, read_generator
from generators.projection import Distance
from hpd.arrays import as_count
from hpd.artifacts import DistilledSet
from hpd.boundary import public
from hpd.data import Dataset
from hpd.data.finding import data_settings
from hpd.rng import Streams


@public
def load_dataset(name: str | Path | Mapping[str, Any], **options: Any) -> Dataset:
    """Load a data set: by a registered name, or from a folder or file.

    Args:
        name: ``"digits"``, ``"cifar10"``, ...; the path of a folder with a subfolder per class, of
            an ``.npz``, a ``.csv``, shards or Parquet files; or ``{"kind": name, option: value}``.
        options: options of that data set: ``root``, ``classes``, ``resolution``, ...

    Raises:
        ConfigError: for an unknown name or option.
        DataError: if the data are missing or broken.

    >>> len(load_dataset("digits", classes=["3", "8"]).test)
    99
    """
    return data_settings(name, **options).build()


@public
def load_generator(name_or_path: str | Path, *, network: str = "G_ema") -> Generator:
    """Load a generator: a bundled name, a folder, or a checkpoint file, converted in memory.

    Args:
        name_or_path: ``"digits16"``, a folder that hpd wrote, an official StyleGAN2-ADA,
            StyleGAN3 or StyleGAN-XL pickle, or any pickle, torch file or safetensors that holds
            the tensors of a StyleGAN2 in rosinality's or the official names; the decoder's file
            of a tiny autoencoder (TAESD and its relatives), whose encoder is found beside it, or a
            folder of an autoencoder as diffusers writes it. No code in it runs.
        network: which network of a checkpoint file: ``"G_ema"``, the averaged one, or another if
            there is no average; ``"G"``, one that is no average; or the name above it in the
            file, such as ``"state_dict.decoder"``.

    Returns:
        the network, float32, frozen, on the CPU.

    Raises:
        GeneratorError: if there is none, it is broken or refused, or a weight is NaN or Inf.

    >>> load_generator("digits16").spec.classes[:3]
    ('0', '1', '2')
    """
    return read_generator(name_or_path, network).generator


@public
def project(
    generator: Generator,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    distance: Distance | Literal["squared", "lpips"] = "squared",
    seed: int = 0,
    steps: int = 200,
) -> Tensor:
    """Project real images into W+: find the ws whose images come closest.

    Args:
        generator: from `load_generator`.
        images: [N, C, H, W] of the generator's size: floats in [0, 1], or uint8, which is divided
            by 255; any array, see `hpd.arrays`.
        labels: the generator's class of each image [N]; None for an unconditional generator.
        distance: ``"squared"``, the mean squared difference of the pixels; ``"lpips"`` (Zhang et
            al., CVPR 2018; needs AlexNet's weights, which are fetched where they are not at hand);
            or a function of two batches of images in [0, 1] that gives [N].
        seed: for the draws behind the average w, at which each image starts.
        steps: optimiser steps.

    Returns:
        ws [N, num_ws, D]; ``generator(ws)`` are the images in [-1, 1].

    Raises:
        GeneratorError: if LPIPS is asked for and lacks its weights, saying what to put where, or
            labels do not fit the generator.
        ShapeError: if images or labels are not of the generator's shape, range or classes, or the
            distance is not one number an image.
        NumericError: for NaN or Inf.
    """
    if isinstance(distance, str):
        device = next(generator.parameters()).device
        distance = projection.distance_named(distance, device)
    rng = Streams(as_count(seed, "seed")).generator("project")
    return projection.project(generator, images, labels, distance=distance, rng=rng, steps=steps)


@public
def load_distilled(path: str | Path) -> DistilledSet:
    """Load a distilled set from a run folder or a safetensors file.

    Raises:
        RunError: if there is none, or it is broken.
    """
    return DistilledSet.load(path)
