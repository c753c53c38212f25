"""Generators on disk: a folder with `model.safetensors` and `generator.json`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from generators import stylegan2
from generators.base import FAMILIES, FamilySettings, Generator
from hpd.errors import GeneratorError, HpdError, nearest
from hpd.files import write_json, write_tensors

_REGISTERED = (stylegan2,)
_WEIGHTS, _DESCRIPTION = "model.safetensors", "generator.json"
_FORMAT_VERSION = 1
_ZOO = Path(__file__).parent / "zoo"


@dataclass(frozen=True)
class StoredGenerator:
    """A generator with what is known about where it came from.

    Args:
        generator: the network, float32, frozen, on the CPU.
        name: bundled name or folder name.
        licence: licence of the weights.
        sha256: hash of the weights file.
        provenance: data, steps, seed, measured figures: whatever its maker wrote down.
    """

    generator: Generator
    name: str
    licence: str
    sha256: str
    provenance: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, generator: Generator, licence: str = "unknown") -> StoredGenerator:
        """Describe a generator that is in memory; its hash is that of its weights."""
        weights = {name: value.contiguous() for name, value in generator.state_dict().items()}
        digest = hashlib.sha256(save(dict(sorted(weights.items())))).hexdigest()
        return cls(generator, generator.spec.family, licence, digest)


def bundled_generators() -> list[str]:
    """Return the names of the generators that come with the package."""
    return sorted(p.parent.name for p in _ZOO.glob(f"*/{_DESCRIPTION}"))


def read_generator(name_or_folder: str | Path) -> StoredGenerator:
    """Load a bundled generator by name, or one from a folder.

    Raises:
        GeneratorError: if there is none, or its files are broken.
    """
    folder = _ZOO / name_or_folder
    if not (folder / _DESCRIPTION).is_file():
        folder = Path(name_or_folder).expanduser()
    if not (folder / _DESCRIPTION).is_file():
        raise GeneratorError(
            f"no generator {str(name_or_folder)!r}",
            expected=f"a bundled name or a folder with {_WEIGHTS} and {_DESCRIPTION}",
            fix=nearest(str(name_or_folder), bundled_generators()),
        )
    try:
        description = json.loads((folder / _DESCRIPTION).read_text())
        if description["version"] > _FORMAT_VERSION:
            raise GeneratorError(
                f"{folder} was written by a newer version of hpd",
                got=f"format {description['version']}",
                expected=f"at most {_FORMAT_VERSION}",
            )
        generator = FAMILIES.parse(description["family"]).build(tuple(description["classes"]))
        generator.load_state_dict(
            {k: v.float() for k, v in load_file(folder / _WEIGHTS).items()}, strict=True
        )
    except HpdError:
        raise
    # a missing key, wrong JSON, a truncated file or weights of another architecture
    except (KeyError, TypeError, ValueError, OSError, RuntimeError, SafetensorError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise GeneratorError(f"cannot read the generator in {folder}", got=reason) from None
    return StoredGenerator(
        generator=generator.requires_grad_(False).eval(),
        name=folder.name,
        licence=description.get("licence", "unknown"),
        sha256=hashlib.sha256((folder / _WEIGHTS).read_bytes()).hexdigest(),
        provenance=description.get("provenance", {}),
    )


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
