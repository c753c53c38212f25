"""A small set of known accuracy, and writers of the layouts in which others store such sets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.utils.data import RandomSampler

import hpd
from hpd.artifacts import DistilledSet
from hpd.data import Dataset
from hpd.evaluation import EvaluationSettings, evaluate_sets
from hpd.rng import Streams

EVALUATION = {
    "students": [{"kind": "convnet", "width": 8, "depth": 2}], "seeds": 1,
    "training": {"steps": 40, "lr": 0.1}, "scores": False, "full_training": None,
}  # fmt: skip
OVERRIDES = (
    "students=[{kind: convnet, width: 8, depth: 2}]", "seeds=1", "training={steps: 40, lr: 0.1}",
    "scores=false", "find.rows=240", "find.width=24",
)  # fmt: skip
CIFAR = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


def grey() -> Dataset:
    """Four digits of the bundled set, 8 px; sorted by name their classes are in another order."""
    digits = hpd.load_dataset("digits", classes=["7", "0", "1", "4"])
    parts = []
    for part in (digits.train, digits.test):
        small = torch.nn.functional.avg_pool2d(part.pixels().float(), 2)
        parts.append((small.round().to(torch.uint8), part.labels))
    return Dataset.of(*parts, ("seven", "zero", "one", "four"))


def colour() -> Dataset:
    """The same digits, each class of a tint of its own, red and blue unlike; of CIFAR's mean."""
    tints = torch.tensor([[0.9, 0.5, 0.2], [0.2, 0.8, 0.6], [0.5, 0.2, 0.9], [0.8, 0.9, 0.4]])
    parts = []
    for part in (grey().train, grey().test):
        rng = torch.Generator().manual_seed(len(part))
        own = tints[part.labels] + 0.15 * torch.randn(len(part), 3, generator=rng)
        ground = torch.tensor([0.445, 0.43, 0.405]) + 0.04 * torch.randn(
            len(part), 3, generator=rng
        )
        ink = part.unit()
        images = ground[:, :, None, None] * (1 - ink) + own[:, :, None, None] * ink
        # each in a light of its own, around the mean
        shade = 0.3 + 1.4 * torch.rand(len(part), 1, 1, 1, generator=rng)
        images = images.mean(0) + shade * (images - images.mean(0))
        parts.append(((images.clamp(0, 1) * 255).round().to(torch.uint8), part.labels))
    return Dataset.of(*parts, ("seven", "zero", "one", "four"))


def distilled(dataset: Dataset, per_class: int = 4) -> DistilledSet:
    """A set of bytes: real images, each mixed with another one of its class."""
    rng = Streams(5).generator("known")
    one, other = (dataset.train.draw_per_class(per_class, rng) for _ in range(2))
    mixed = 0.7 * dataset.train.unit(one) + 0.3 * dataset.train.unit(other)
    images = (mixed * 255).round() / 255
    return DistilledSet(
        images, dataset.train.labels[one], dataset.train.classes, dataset.train.normalisation,
        images.numel(),
    )  # fmt: skip


def optimised(known: DistilledSet, noise: float = 0.03) -> DistilledSet:
    """The same, of values that no picture has."""
    rng = torch.Generator().manual_seed(9)
    images = known.images * 1.05 + noise * torch.randn(known.images.shape, generator=rng)
    return replace(known, images=images, optimised=True)


def accuracy(known: DistilledSet, dataset: Dataset, labels: str = "hard") -> float:
    """What the project's own evaluation says of a set."""
    settings = EvaluationSettings.read({**EVALUATION, "labels": labels})
    streams = Streams(0).fork("evaluation")
    found = evaluate_sets(
        known, None, dataset, settings, device=torch.device("cpu"), streams=streams
    )
    return found.row("distilled").accuracy_mean


def centred(labels, count):
    return torch.nn.functional.one_hot(labels, count).float() - 1 / count


def write_mtt(folder, images, labels):
    torch.save(images, folder / "images_best.pt")
    torch.save(labels, folder / "labels_best.pt")
    torch.save(torch.tensor(0.02), folder / "lr_best.pt")
    return folder


def write_res(folder, images, labels):
    accuracies = {"ConvNet": [0.4, 0.5]}
    path = folder / "res_DM_digits_ConvNet_4ipc.pt"
    torch.save({"data": [[images, labels]], "accs_all_exps": accuracies}, path)
    return path


def write_idc(folder, images, labels):
    """Each image holds four, so there are a fourth as many."""
    inner = folder / "conv3in_grad_l1_factor2_lr0.005_ipc1"
    inner.mkdir()
    torch.save([images, labels], inner / "data_best.pt")
    return inner


def packed(known: DistilledSet) -> tuple[torch.Tensor, torch.Tensor]:
    """Four images of a class, of half their side each, in one [N / 4, C, H, W]."""
    small = torch.nn.functional.avg_pool2d(known.images, 2)
    small = (small * 255).round() / 255
    n, c, h, w = small.shape
    whole = (
        small.view(n // 4, 2, 2, c, h, w).permute(0, 3, 1, 4, 2, 5).reshape(n // 4, c, 2 * h, -1)
    )
    return whole.contiguous(), known.labels[::4]


def write_rfad(folder, images, labels, count):
    path = folder / "best.npz"
    numbers = {"k": np.float32(3.7), "jit": 0.005, "valid_loss": 1.1}
    np.savez(path, images=images.numpy(), labels=centred(labels, count).numpy(), **numbers)
    return path


def write_kip(folder, images, labels, count):
    path = folder / "kip_zca.npz"
    last = images.permute(0, 2, 3, 1).numpy()
    np.savez(path, images=last, labels=centred(labels, count).numpy())
    return path


def write_pictures(folder, images, labels, name):
    """One PNG an image, in a folder that `name` names by its class."""
    for i, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        own = folder / name(label)
        own.mkdir(parents=True, exist_ok=True)
        pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        Image.fromarray(pixels.squeeze()).save(own / f"class{label:03d}_id{i:03d}.png")
    return folder


def write_batches(folder, logits, epochs=3, batch=5, seed=42, share=None):
    """Soft labels of SRe2L: answers to the images in the order in which torch draws them."""
    rng = torch.Generator().manual_seed(seed)
    sampler = RandomSampler(range(len(logits)), generator=rng)
    for epoch in range(epochs):
        order = list(sampler)
        own = folder / f"epoch_{epoch}"
        own.mkdir(parents=True)
        for number, start in enumerate(range(0, len(order), batch)):
            some = torch.tensor(order[start : start + batch])
            mixed = None if share is None else torch.arange(len(some)).flip(0)
            config = [
                torch.rand(len(some), 4, generator=torch.Generator().manual_seed(epoch)),
                torch.zeros(len(some), dtype=torch.bool), mixed, share,
                None if share is None else [1, 2, 3, 4], logits[some].half(),
            ]  # fmt: skip
            torch.save(config, own / f"batch_{number}.tar")
    return folder


def write_pair(folder, images, labels):
    torch.save(images, folder / "images.pt")
    torch.save(labels, folder / "labels.pt")
    return folder


def write_npz(folder, images, labels):
    path = folder / "set.npz"
    np.savez(path, images=(images * 255).round().to(torch.uint8).numpy(), labels=labels.numpy())
    return path


def write_safetensors(folder, images, labels):
    path = folder / "set.safetensors"
    save_file({"images": images.contiguous(), "labels": labels}, path)
    return path
