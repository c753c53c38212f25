"""Generators on disk: a folder with `model.safetensors` and `generator.json`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from generators import stylegan2, stylegan3, stylegan_xl
from generators.base import FAMILIES, FamilySettings, Generator
from generators.checkpoints.convert import convert_checkpoint
from hpd.errors import GeneratorError, HpdError, nearest
from hpd.files import write_json, write_tensors

_REGISTERED = (stylegan2, stylegan3, stylegan_xl)
_WEIGHTS, _DESCRIPTION = "model.safetensors", "generator.json"
_FORMAT_VERSION = 1
_FOREIGN_LICENCE = "that of the checkpoint's source (NVIDIA's are non-commercial)"
_ZOO = Path(__file__).parent / "zoo"


@dataclass(frozen=True)
class StoredGenerator:
    """A generator with what is known about where it came from.

    Args:
        generator: the network, float32, frozen, on the CPU.
        settings: what it was built from; None for a generator of the user's own.
        name: bundled name or folder name.
        licence: licence of the weights.
        sha256: hash of the weights file.
        provenance: data, steps, seed, measured figures: whatever its maker wrote down.
    """

    generator: Generator
    settings: FamilySettings | None
    name: str
    licence: str
    sha256: str
    provenance: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, generator: Generator, licence: str = "unknown") -> StoredGenerator:
        """Describe a generator that is in memory; its hash is that of its weights."""
        weights = {name: value.contiguous() for name, value in generator.state_dict().items()}
        digest = hashlib.sha256(save(dict(sorted(weights.items())))).hexdigest()
        return cls(generator, None, generator.spec.family, licence, digest)


def bundled_generators() -> list[str]:
    """Return the names of the generators that come with the package."""
    return sorted(p.parent.name for p in _ZOO.glob(f"*/{_DESCRIPTION}"))


def read_generator(
    name_or_path: str | Path, network: Literal["G_ema", "G"] = "G_ema"
) -> StoredGenerator:
    """Load a bundled generator by name, one from a folder, or a checkpoint file.

    Checkpoint files (official StyleGAN2-ADA, StyleGAN3 and StyleGAN-XL pickles, rosinality's
    ``.pt``) are converted in memory; no code in them runs.

    Args:
        name_or_path: bundled name, folder or file.
        network: which network of a checkpoint file.

    Raises:
        GeneratorError: if there is none, or its files are broken or refused.
    """
    path = Path(name_or_path).expanduser()
    for folder in (_ZOO / name_or_path, path):
        if (folder / _DESCRIPTION).is_file():
            return _read_folder(folder)
    if path.is_file():
        return _read_checkpoint(path, network)
    raise GeneratorError(
        f"no generator {str(name_or_path)!r}",
        expected=f"a bundled name, a folder with {_WEIGHTS} and {_DESCRIPTION}, or a checkpoint",
        fix=nearest(str(name_or_path), bundled_generators()),
    )


def _read_folder(folder: Path) -> StoredGenerator:
    try:
        description = json.loads((folder / _DESCRIPTION).read_text())
        if description["version"] > _FORMAT_VERSION:
            raise GeneratorError(
                f"{folder} was written by a newer version of hpd",
                got=f"format {description['version']}",
                expected=f"at most {_FORMAT_VERSION}",
            )
        settings = FAMILIES.parse(description["family"])
        generator = settings.build(tuple(description["classes"]))
        weights = {k: v.float() for k, v in load_file(folder / _WEIGHTS).items()}
        generator.load_state_dict(weights, strict=True)
    except HpdError:
        raise
    # a missing key, wrong JSON, a truncated file or weights of another architecture
    except (KeyError, TypeError, ValueError, OSError, RuntimeError, SafetensorError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise GeneratorError(f"cannot read the generator in {folder}", got=reason) from None
    return StoredGenerator(
        generator=generator.requires_grad_(False).eval(),
        settings=settings,
        name=folder.name,
        licence=description.get("licence", "unknown"),
        sha256=_hash_file(folder / _WEIGHTS),
        provenance=description.get("provenance", {}),
    )


def _read_checkpoint(path: Path, network: Literal["G_ema", "G"]) -> StoredGenerator:
    settings, weights = convert_checkpoint(path, network)
    generator = settings.build()
    generator.load_state_dict({k: v.float() for k, v in weights.items()}, strict=True)
    digest = _hash_file(path)
    return StoredGenerator(
        generator=generator.requires_grad_(False).eval(),
        settings=settings,
        name=path.stem,
        licence=_FOREIGN_LICENCE,
        sha256=digest,
        provenance={"original": path.name, "sha256": digest, "network": network},
    )


def _hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def save_generator(
    generator: Generator,
    settings: FamilySettings,
    folder: str | Path,
    *,
    licence: str,
    provenance: dict[str, Any],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a generator that `read_generator` reads back.

    Args:
        generator: the network.
        settings: the settings that built it.
        folder: where to write; made if it is not there.
        licence: licence of the weights.
        provenance: where they came from, as JSON.
        dtype: float32, or float16 for half the size.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.to(dtype) for name, value in generator.state_dict().items()}
    write_tensors(folder / _WEIGHTS, weights)
    write_json(
        folder / _DESCRIPTION,
        {
            "version": _FORMAT_VERSION,
            "family": FAMILIES.dump(settings),
            "classes": list(generator.spec.classes),
            "licence": licence,
            "provenance": provenance,
        },
    )
