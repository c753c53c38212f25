"""Generators on disk: a folder with `model.safetensors` and `generator.json`."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from generators.base import FAMILIES, FamilySettings, Generator
from generators.checkpoints.convert import convert_checkpoint
from generators.checkpoints.families.autoencoder_folders import (
    WEIGHTS as DIFFUSERS_WEIGHTS,
)
from generators.checkpoints.families.autoencoder_folders import (
    is_autoencoder_folder,
    read_autoencoder_folder,
)
from generators.checkpoints.families.stylegan2 import check_shapes, check_sizes
from generators.checkpoints.families.tiny_autoencoders import licence_of, with_encoder
from generators.checkpoints.finite import check_all_finite, finite_floats
from generators.families import kl_autoencoder, stylegan2, stylegan3, stylegan_xl, tiny_autoencoder
from generators.own import GENERATORS
from generators.probing import check_range, probe
from hpd.disk.files import write_json, write_tensors
from hpd.errors import GeneratorError, HpdError, nearest
from hpd.foreign import foreign_hint
from hpd.plugins import load_packages

_REGISTERED = (stylegan2, stylegan3, stylegan_xl, tiny_autoencoder, kl_autoencoder)
WEIGHTS, DESCRIPTION = "model.safetensors", "generator.json"
_FORMAT_VERSION = 1
_UNKNOWN_LICENCE = "that of the file's source"
_FOREIGN_LICENCE = "that of the checkpoint's source (NVIDIA's are non-commercial)"
ZOO = Path(__file__).parent / "zoo"
_EXPECTED = f"a bundled name, a folder with {WEIGHTS} and {DESCRIPTION}, or a checkpoint"
_CHECKPOINTS = (".pkl", ".pt", ".pth", ".ckpt", ".safetensors")
_MAX_DESCRIPTION_BYTES = 64 * 2**20
_LONGEST_NAME, _SHOWN_FILES = 100, 5
_DAMAGES = (
    KeyError, TypeError, ValueError, OSError, RuntimeError, SafetensorError, AttributeError,
    MemoryError,
)  # fmt: skip

_logger = logging.getLogger(__name__)


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

    def __repr__(self) -> str:
        return f"StoredGenerator({self.name}: {self.generator!r})"

    @property
    def facts(self) -> dict[str, object]:
        """What a run says of the generator that it used, as JSON.

        Name, family, hash and licence; and, for a checkpoint file in which something was made up
        or chosen, what and how, so that it can be repeated.
        """
        about: dict[str, object] = {
            "name": self.name,
            "family": self.generator.spec.family,
            "sha256": self.sha256,
            "licence": self.licence,
        }
        return about | ({"read": self.provenance["read"]} if "read" in self.provenance else {})

    def sized(self, resolution: int) -> StoredGenerator:
        """Return it with the generator for images of another size; see `Generator.sized`.

        Raises:
            GeneratorError: if it cannot make such images.
        """
        return replace(self, generator=self.generator.sized(resolution))

    @classmethod
    def of(cls, generator: Generator, licence: str = "unknown") -> StoredGenerator:
        """Describe a generator that is in memory; its hash is that of its weights.

        Raises:
            GeneratorError: if a weight is NaN or Inf, naming the tensor; if images of a generator
                of the user's own depend on each other or on chance, naming the layer.
        """
        check_all_finite(generator.state_dict(), "the generator")
        if not generator.layers_known:
            seen = probe(generator)
            check_range(generator, seen.lowest, seen.highest)
        weights = {name: value.contiguous() for name, value in generator.state_dict().items()}
        digest = hashlib.sha256(save(dict(sorted(weights.items())))).hexdigest()
        return cls(generator, None, generator.spec.family, licence, digest)


def bundled_generators() -> list[str]:
    """Return the names of the generators that come with the package."""
    return sorted(p.parent.name for p in ZOO.glob(f"*/{DESCRIPTION}"))


def read_generator(name_or_path: str | Path, network: str = "G_ema") -> StoredGenerator:
    """Load a generator by name, bundled or registered, one from a folder, or a checkpoint file.

    Checkpoint files (official StyleGAN2-ADA, StyleGAN3 and StyleGAN-XL pickles; pickles, torch
    files and safetensors with the tensors of a StyleGAN2) are converted in memory; no code in them
    runs. Where a file lacks something that can be made up, such as noise, a warning says so.

    Args:
        name_or_path: bundled name, one of `GENERATORS`, folder or file.
        network: which network of a checkpoint file: ``"G_ema"``, ``"G"``, or the name above it in
            the file; see `generators.checkpoints.convert_checkpoint`.

    Raises:
        GeneratorError: if there is none, its files are broken or refused, or a weight is NaN or
            Inf, naming the tensor.
        ConfigError: for an unknown option in the description of a folder.
    """
    path = _path(name_or_path)
    name = str(name_or_path)
    if name in GENERATORS:
        return _made(name)
    try:
        for folder in (ZOO / path, path):
            if (folder / DESCRIPTION).is_file():
                return _read_folder(folder)
        folder = path.parent if path.name in DIFFUSERS_WEIGHTS else path
        if is_autoencoder_folder(folder):
            return _read_autoencoder(folder)
        if path.is_file():
            _check_no_part(path)
            return _read_checkpoint(path, network)
        inside = sorted(p.name for p in path.iterdir()) if path.is_dir() else None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise GeneratorError(f"cannot read the generator {path}", got=reason) from None
    if inside is not None:
        raise _no_generator_folder(path, inside)
    if load_packages() and name in GENERATORS:
        return _made(name)
    what = f"generator {name!r}"
    known = [*bundled_generators(), *GENERATORS]
    raise GeneratorError(
        f"no {what}", expected=_EXPECTED,
        fix=foreign_hint(what, nearest(path.name[:_LONGEST_NAME], known)),
    )  # fmt: skip


def _made(name: str) -> StoredGenerator:
    """Return a generator of the user's own, made by the function that is registered."""
    return replace(StoredGenerator.of(GENERATORS.make(name)), name=name)


def _path(name_or_path: object) -> Path:
    if not isinstance(name_or_path, str | Path):
        got = type(name_or_path).__name__
        raise GeneratorError("a generator is named by text or a path", got=got, expected=_EXPECTED)
    try:
        return Path(name_or_path).expanduser()
    # a home of nobody
    except RuntimeError as error:
        raise GeneratorError(f"no generator {str(name_or_path)!r}", got=error) from None


def _no_generator_folder(path: Path, inside: list[str]) -> GeneratorError:
    """Return the error for a folder that is no generator: what lies in it that may be one."""
    files = [name for name in inside if name.endswith(_CHECKPOINTS)]
    some = ", ".join(inside[:_SHOWN_FILES]) + (", ..." if len(inside) > _SHOWN_FILES else "")
    what = "a pipeline of diffusers: " if "model_index.json" in inside else ""
    fix = f"Give a file in it, such as {files[0]}." if files else ""
    if what and "vae" in inside:
        fix = f"Give its autoencoder: {path / 'vae'}."
    return GeneratorError(
        f"{path} is no folder of a generator", got=what + some or "nothing in it",
        expected=f"{WEIGHTS} and {DESCRIPTION}", fix=fix,
    )  # fmt: skip


def _check_no_part(path: Path) -> None:
    """Check that a file is not a part of a folder that makes sense only as a whole."""
    beside = {WEIGHTS: DESCRIPTION, DESCRIPTION: WEIGHTS}.get(path.name)
    if beside is not None and path.with_name(beside).is_file():
        raise GeneratorError(
            f"{path} is one of the two files of a generator", expected="the folder of both",
            fix=f"Give the folder: {path.parent}",
        )  # fmt: skip


def _read_folder(folder: Path) -> StoredGenerator:
    try:
        description = _read_description(folder / DESCRIPTION)
        if isinstance(description["family"], dict):
            # some families plan their layers as soon as they are parsed
            check_sizes(description["family"])
        settings = FAMILIES.parse(description["family"])
        classes = _class_names(description["classes"], settings)
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            names = list(file.keys())
            # before a network is made as large as the description says
            check_shapes(settings, {n: tuple(file.get_slice(n).get_shape()) for n in names})
            generator = _loaded(settings, {n: file.get_tensor(n) for n in names}, classes)
    except GeneratorError as error:
        raise GeneratorError(
            f"cannot read the generator in {folder}: {error.problem}", got=error.got,
            expected=error.expected, fix=error.fix,
        ) from None  # fmt: skip
    except HpdError:
        raise
    # a missing key, wrong JSON, a truncated file, or numbers of a type that torch lacks
    except _DAMAGES as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise GeneratorError(f"cannot read the generator in {folder}", got=reason) from None
    return StoredGenerator(
        generator=generator,
        settings=settings,
        name=folder.name,
        licence=str(description.get("licence", "unknown")),
        sha256=_hash_file(folder / WEIGHTS),
        provenance=dict(description.get("provenance", {})),
    )


def _read_description(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _MAX_DESCRIPTION_BYTES:
        raise GeneratorError(f"{DESCRIPTION} is too large", got=f"{path.stat().st_size} bytes")
    description = json.loads(path.read_bytes())
    if not isinstance(description, dict) or not isinstance(description.get("version"), int):
        raise GeneratorError(f"{DESCRIPTION} does not say its version")
    if description["version"] > _FORMAT_VERSION:
        raise GeneratorError(
            "it was written by a newer version of hpd",
            got=f"format {description['version']}",
            expected=f"at most {_FORMAT_VERSION}",
        )
    if not isinstance(description.get("provenance", {}), dict):
        raise GeneratorError(f"the provenance in {DESCRIPTION} is no mapping")
    return description


def _class_names(names: object, settings: FamilySettings) -> tuple[str, ...]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise GeneratorError(f"the classes in {DESCRIPTION} are no list of names")
    count = getattr(settings, "num_classes", 0)
    if names and len(names) != count:
        raise GeneratorError(
            "the names are not those of all classes", got=len(names), expected=count
        )
    return tuple(names)


def _read_autoencoder(folder: Path) -> StoredGenerator:
    """Read an autoencoder as diffusers writes it."""
    found = read_autoencoder_folder(folder)
    digest = _hash_file(found.weights)
    return StoredGenerator(
        generator=_loaded(found.converted.settings, found.converted.weights),
        settings=found.converted.settings,
        name=folder.resolve().name,
        licence=found.licence or _UNKNOWN_LICENCE,
        sha256=digest,
        provenance={"original": found.weights.name, "sha256": digest},
    )


def _read_checkpoint(path: Path, network: str) -> StoredGenerator:
    found = with_encoder(convert_checkpoint(path, network), path)
    generator = _loaded(found.settings, found.weights)
    if found.remarks:
        _logger.warning("%s: %s.", path, "; ".join(found.remarks))
    digest = _hash_file(path)
    about: dict[str, Any] = {"original": path.name, "sha256": digest, "network": network}
    return StoredGenerator(
        generator=generator,
        settings=found.settings,
        name=path.stem,
        licence=licence_of(found.settings, path) or _FOREIGN_LICENCE,
        sha256=digest,
        provenance=about | ({"read": found.facts} if found.facts else {}),
    )


def _loaded(
    settings: FamilySettings, weights: Mapping[str, Tensor], classes: tuple[str, ...] = ()
) -> Generator:
    """Return the network with weights that are finite, frozen."""
    floats = {name: finite_floats(name, value) for name, value in weights.items()}
    generator = settings.build(classes)
    generator.load_state_dict(floats, strict=True)
    return generator.requires_grad_(False).eval()


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

    Raises:
        GeneratorError: if a weight is not finite, or too large for `dtype`; nothing is written.
    """
    folder = Path(folder)
    state = generator.state_dict()
    weights = {name: finite_floats(name, value, dtype) for name, value in state.items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / WEIGHTS, weights)
    write_json(
        folder / DESCRIPTION,
        {
            "version": _FORMAT_VERSION,
            "family": FAMILIES.dump(settings),
            "classes": list(generator.spec.classes),
            "licence": licence,
            "provenance": provenance,
        },
    )
