"""A training of a generator that takes a second, and what it leaves in its folder."""

from __future__ import annotations

import json

from safetensors import safe_open

import hpd
from hpd.disk.files import read_about

TINY = {
    "batch": 8, "group": 2, "r1_interval_steps": 3, "z_dim": 4, "w_dim": 4, "channel_base": 64,
    "channel_max": 4, "curve.every_images": 16, "curve.samples": 20, "curve.network_images": 128,
}  # fmt: skip


def train(out, images=48, data="digits", minutes=None, say=None, **changes):
    options = [f"{key.replace('__', '.')}={value}" for key, value in (TINY | changes).items()]
    told = [] if say is None else [say]
    return hpd.train_generator(
        data, *options, out=out, images=images, minutes=minutes, device="cpu",
        **({"say": told[0]} if told else {}),
    )  # fmt: skip


def read_weights(out):
    return (out / "generator" / "model.safetensors").read_bytes()


def read_metrics(out):
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if "second" not in k} for line in lines]


def read_steps(out, pattern="state-*.safetensors"):
    return [int(p.stem.split("-")[1]) for p in sorted(out.glob(pattern))]


def read_tensors(out, steps):
    """The bytes of a state without its head, in which the seconds stand."""
    content = (out / f"state-{steps:08d}.safetensors").read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]


def about(out, steps):
    with safe_open(out / f"state-{steps:08d}.safetensors", "pt") as file:
        return read_about(file.metadata())
