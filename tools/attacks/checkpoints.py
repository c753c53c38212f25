"""Damaged checkpoints: official pickles, rosinality's torch files, hpd's own folders."""

from __future__ import annotations

import io
import pickletools
import random
from pathlib import Path
from typing import Any

import torch

import hpd
from attacks import damage
from attacks.official import checkpoints, without_addresses
from attacks.target import Input, Target
from attacks.watch import WrongResultError
from generators import save_generator
from generators.base import Generator
from generators.checkpoints import inspect_checkpoint

_OPCODES = [op.code.encode("latin-1") for op in pickletools.opcodes]
_CALLS = (("os", "system"), ("builtins", "eval"), ("subprocess", "Popen"), ("posix", "system"),
          ("builtins", "getattr"), ("torch", "load"), ("numpy", "load"), ("antigravity", "geohash"),
          ("collections", "OrderedDict"), ("torch._utils", "_rebuild_tensor_v2"))  # fmt: skip


def hostile_opcodes(rng: random.Random) -> bytes:
    """Return opcodes that call something that leaves a trace where it runs."""
    module, name = rng.choice(_CALLS)
    argument = b"X\x11\x00\x00\x00touch ./was-run #"
    named = f"c{module}\n{name}\n".encode()
    if rng.random() < 0.5:
        names = (module.encode(), name.encode())
        named = b"".join(b"\x8c" + bytes([len(n)]) + n for n in names) + b"\x93"
    return named + rng.choice((argument + b"\x85R", b"(" + argument + b"tR", b")R", b"}b", b"0"))


def damage_opcodes(content: bytes, rng: random.Random) -> bytes:
    """Damage a pickle opcode by opcode: left out, doubled, swapped, others, hostile ones."""
    places = [place or 0 for _, _, place in pickletools.genops(content)]
    ends = [*places[1:], len(content)]
    parts = [content[a:b] for a, b in zip(places, ends, strict=True)]
    for _ in range(rng.choice((1, 1, 2, 4))):
        place, kind = rng.randrange(len(parts)), rng.randrange(7)
        other = rng.randrange(len(parts))
        if kind == 0:
            parts[place] = b""
        elif kind == 1:
            parts.insert(other, parts[place])
        elif kind == 2:
            parts[place], parts[other] = parts[other], parts[place]
        elif kind == 3:
            parts[place] = rng.choice(_OPCODES) + parts[place][1:]
        elif kind == 4:
            parts.insert(place, hostile_opcodes(rng))
        elif kind == 5:
            parts[place] = parts[place][:1] + damage.damage_bytes(parts[place][1:] or b"\0", rng)
        else:
            parts[place] = rng.choice(
                (b"N", b"K\x01", b"}", b"]", b")", b"\x88", b"G\x7f\xf8" + bytes(6))
            )
    return b"".join(parts)


class _Generators(Target):
    """A target that `hpd.load_generator` reads."""

    def load(self, path: Path) -> str:
        """Read a generator, and look at what came of it."""
        generator = hpd.load_generator(path)
        check_generator(generator)
        return "loaded"


def check_generator(generator: Generator) -> None:
    """Check that a network is whole: frozen, float32, of finite weights.

    Raises:
        WrongResultError: where it is not.
    """
    for name, value in generator.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise WrongResultError(f"a weight that is not finite: {name}")
    if any(p.requires_grad for p in generator.parameters()):
        raise WrongResultError("a network that is not frozen")


class Pickles(_Generators):
    """Official pickles."""

    name = "pickles"
    share = 6.0
    about = (
        "official pickles of StyleGAN2-ADA, StyleGAN3 and StyleGAN-XL, damaged by bytes and by "
        "opcodes, read by `load_generator` and `inspect_checkpoint`"
    )

    def prepare(self) -> None:
        """Make the seeds."""
        self._seeds = checkpoints()
        self._names = [*self._seeds, "stylegan2", "stylegan2", "stylegan2"]
        self._path = self.place.inputs / "network.pkl"
        for content in self._seeds.values():
            self._path.write_bytes(content)
            self.load(self._path)

    def make(self, rng: random.Random) -> Input:
        """Damage one."""
        name = rng.choice(self._names)
        seed, how = self._seeds[name], rng.random()
        parts = [hostile_opcodes(rng)]
        if how < 0.55:
            content = damage_opcodes(seed, rng)
        elif how < 0.95:
            content = damage.damage_bytes(seed, rng, parts)
        else:
            content = damage.damage_bytes(damage_opcodes(seed, rng), rng, parts)
        self._path.write_bytes(content)
        return Input(f"a damaged {name}", lambda: self._feed(rng.random() < 0.1), content)

    def _feed(self, survey: bool) -> str:
        if survey:
            inspect_checkpoint(self._path)
            return "inspected"
        return self.load(self._path)


def rosinality() -> dict[str, Any]:
    """Return a tiny checkpoint in the names and shapes of rosinality's network."""
    rng = torch.Generator().manual_seed(0)
    weights: dict[str, torch.Tensor] = {}

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=rng)

    def layer(name: str, out: int, kernel: int) -> None:
        weights[f"{name}.conv.weight"] = draw(1, out, 2, kernel, kernel)
        weights[f"{name}.conv.modulation.weight"] = draw(2, 2)
        weights[f"{name}.conv.modulation.bias"] = draw(2)
        if kernel == 3:
            weights[f"{name}.noise.weight"] = draw(1)
            weights[f"{name}.activate.bias"] = draw(out)
        else:
            weights[f"{name}.bias"] = draw(1, out, 1, 1)

    row = torch.tensor([1.0, 3.0, 3.0, 1.0])
    kernel = torch.outer(row, row) / 16
    weights |= {"style.1.weight": draw(2, 2), "style.1.bias": draw(2)}
    weights["input.input"] = draw(1, 2, 4, 4)
    for name, out, size in (
        ("conv1", 2, 3), ("to_rgb1", 3, 1), ("convs.0", 2, 3), ("convs.1", 2, 3),
        ("to_rgbs.0", 3, 1),
    ):  # fmt: skip
        layer(name, out, size)
    weights |= {"convs.0.conv.blur.kernel": kernel, "to_rgbs.0.upsample.kernel": kernel}
    for i, side in enumerate((4, 8, 8)):
        weights[f"noises.noise_{i}"] = draw(1, 1, side, side)
    return {"g_ema": weights, "latent_avg": draw(2)}


class TorchFiles(_Generators):
    """Rosinality's files."""

    name = "torch-files"
    share = 4.0
    about = (
        "rosinality's `.pt` files, zipped and in the older format: bytes, opcodes, members "
        "renamed, doubled, with wrong sizes, or that unpack to 1.5 GB; read by `load_generator`"
    )

    def prepare(self) -> None:
        """Make the seeds."""
        self._path, self._seeds = self.place.inputs / "network.pt", {}
        content = rosinality()
        for name, zipped in (("zip", True), ("legacy", False)):
            buffer = io.BytesIO()
            torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
            written = buffer.getvalue()
            self._seeds[name] = written if zipped else without_addresses(written)
        buffer = io.BytesIO()
        torch.save({"g_ema": content["g_ema"]}, buffer)
        self._seeds["zip without an average"] = buffer.getvalue()
        self._bombs = {"zeros": damage.bomb(3 * 2**29), "lies": damage.bomb(2**20)[:-40]}
        for seed in self._seeds.values():
            self._path.write_bytes(seed)
            self.load(self._path)

    def make(self, rng: random.Random) -> Input:
        """Damage one."""
        name = rng.choice(sorted(self._seeds))
        seed = self._seeds[name]
        if name == "legacy":
            parts = [hostile_opcodes(rng)]
            content = damage.damage_bytes(seed, rng, parts)
        elif rng.random() < 0.4:
            content = self._damage_pickle(seed, rng)
        else:
            content = damage.damage_zip(
                seed, rng, self._bombs if rng.random() < 0.02 else _NO_BOMBS
            )
        self._path.write_bytes(content)
        return Input(f"a damaged {name}", lambda: self.load(self._path), content)

    def _damage_pickle(self, seed: bytes, rng: random.Random) -> bytes:
        """Damage the pickle inside of a zip by its opcodes."""
        import zipfile

        with zipfile.ZipFile(io.BytesIO(seed)) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
        changed = [
            (name, damage_opcodes(data, rng) if name.endswith("data.pkl") else data)
            for name, data in members
        ]
        return damage.write_zip(changed)


_NO_BOMBS = {"small": damage.bomb(2**20)}


class Folders(_Generators):
    """hpd's own folders."""

    name = "generator-folders"
    share = 3.0
    about = (
        "folders of converted generators of every family: `generator.json` and "
        "`model.safetensors`, their header, offsets, types and body; read by `load_generator`"
    )

    def prepare(self) -> None:
        """Make the seeds."""
        from attacks.official import networks

        self._folder, self._seeds = self.place.inputs / "generator", {}
        for name, (network, _) in networks().items():
            folder = self.place.seeds / name
            # every network of this project keeps what it was built from
            settings: Any = network.settings
            save_generator(network, settings, folder, licence="MIT", provenance={"steps": 3})
            self._seeds[name] = {p.name: p.read_bytes() for p in sorted(folder.iterdir())}
            self.load(folder)

    def make(self, rng: random.Random) -> Input:
        """Damage one file of one."""
        name = rng.choice(sorted(self._seeds))
        files = dict(self._seeds[name])
        file = rng.choice(sorted(files))
        damaged = damage.damage_json if file.endswith("json") else damage.damage_safetensors
        files[file] = damaged(files[file], rng)
        self._folder.mkdir(exist_ok=True)
        for each, content in files.items():
            (self._folder / each).write_bytes(content)
        what = f"{file} of a {name}"
        return Input(what, lambda: self.load(self._folder), files[file])


CHECKPOINTS = (Pickles, TorchFiles, Folders)
