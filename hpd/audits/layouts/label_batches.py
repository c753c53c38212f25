"""Soft labels of SRe2L, RDED and CDA: files of batches, each of views that a teacher was asked of.

``epoch_<e>/batch_<b>.tar`` is a file of torch, no tar: a list of the crops [n, 4], of whether each
was flipped, of which image it was mixed with, the share, the box, and the teacher's answers [n, K].
Source: Yin, Xing and Shen, NeurIPS 2023 (SRe2L), after FKD.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from hpd.audits.layouts.torch_files import opened
from hpd.audits.stored import LabelBatches
from hpd.data.layouts.scanning import shown
from hpd.errors import DataError

_EPOCH, _BATCH = re.compile(r"epoch_(\d+)"), re.compile(r"batch_(\d+)\.(tar|pt|pth)")
_SHARE = "3"


def find_batches(folder: Path) -> Path | None:
    """Return the folder of batches in a folder or one below it; None where there is none."""
    below = [
        folder,
        *(sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []),
    ]
    return next((own for own in below if _numbered(own, _EPOCH)), None)


def read_batches(folder: Path, count: int) -> LabelBatches:
    """Read the soft labels of a set.

    Args:
        folder: that holds ``epoch_0``, ...
        count: images of the set, N.

    Raises:
        DataError: if an epoch has another number of views, or a file is not what it is to be.
    """
    epochs = _numbered(folder, _EPOCH)
    if not epochs:
        raise DataError(f"{shown(folder)} holds no soft labels", expected="epoch_0/batch_0.tar")
    answers, shares = [], []
    floats = bits = 0
    for epoch in epochs:
        parts = [_read(path) for path in _numbered(epoch, _BATCH)]
        found = sum(len(part[0]) for part in parts)
        if found != count:
            raise DataError(
                f"{shown(epoch)} is of another number of images",
                got=f"{found} soft labels", expected=count,
            )  # fmt: skip
        answers.append(torch.cat([part[0] for part in parts]))
        shares.append(torch.cat([part[1] for part in parts]))
        floats += sum(part[2] for part in parts)
        bits += sum(part[3] for part in parts)
    if len({own.shape[1] for own in answers}) > 1:
        raise DataError(f"the soft labels in {shown(folder)} are of different classes")
    return LabelBatches(torch.stack(answers), torch.stack(shares), floats, bits)


def _numbered(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    """Return what in a folder is named by a number, in the order of these."""
    if not folder.is_dir():
        return []
    found = [(int(m[1]), p) for p in folder.iterdir() if (m := pattern.fullmatch(p.name))]
    return [path for _, path in sorted(found)]


def _read(path: Path) -> tuple[Tensor, Tensor, int, int]:
    """Return the answers of a batch, the share of the own image of each, and what is stored."""
    with opened(path) as contents:
        tensors = {name: contents.tensors[name] for name in contents.tensors}
        share = contents.numbers.get(_SHARE, 1.0)
    last = max(tensors, key=lambda name: (name.count("."), name), default="")
    answers = tensors.get(last)
    if answers is None or answers.ndim != 2 or not answers.is_floating_point():
        raise DataError(
            f"{shown(path)} is no batch of soft labels",
            got=f"{len(tensors)} tensors", expected="a list that ends in floats [n, K]",
        )  # fmt: skip
    if not 0 < share <= 1:
        raise DataError(f"{shown(path)} mixes images by an impossible share", got=share)
    floats = sum(tensor.numel() for tensor in tensors.values())
    bits = sum(8 * tensor.numel() * tensor.element_size() for tensor in tensors.values())
    return answers.float(), torch.full((len(answers),), share), floats, bits


def drawn_orders(count: int, epochs: int, seed: int) -> Tensor:
    """Return which image each view is of [E, N], as torch's random sampler draws them.

    Args:
        count: images, N.
        epochs: E, drawn one after the other from one generator.
        seed: of that.
    """
    rng = torch.Generator().manual_seed(seed)
    sampler = torch.utils.data.RandomSampler(range(count), generator=rng)
    return torch.stack([torch.tensor(list(sampler)) for _ in range(epochs)])
