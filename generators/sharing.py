"""What of a stored generator is handed on, with the card that a hub shows."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from generators.store import DESCRIPTION, WEIGHTS, ZOO, StoredGenerator

_CARD = "README.md"
_KNOWN = {
    name.lower(): name.lower()
    for name in ("MIT", "Apache-2.0", "CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0")
}
_LONGEST = 60


def folder_of_generator(name_or_path: str | Path) -> Path | None:
    """Return the folder of a generator that is stored as hpd stores them; None: it is none."""
    for folder in (ZOO / name_or_path, Path(name_or_path).expanduser()):
        if (folder / DESCRIPTION).is_file() and (folder / WEIGHTS).is_file():
            return folder
    return None


def generator_files(
    folder: Path, stored: StoredGenerator, repository: str
) -> dict[str, Path | bytes]:
    """Return the files in the folder of a generator by name, and its card.

    Args:
        folder: of the generator.
        stored: what was read from it.
        repository: where it goes to.
    """
    names = sorted(p.name for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    files: dict[str, Path | bytes] = {name: folder / name for name in names if name != "SHA256SUMS"}
    return {**files, _CARD: _card(folder / _CARD, stored, repository).encode()}


def _card(page: Path, stored: StoredGenerator, repository: str) -> str:
    """Return the page of a generator, made where there is none, with what a hub needs to know."""
    text = page.read_text("utf-8") if page.is_file() else _page(stored)
    if text.startswith("---\n"):
        return text
    known = _KNOWN.get(stored.licence.lower())
    slug = re.sub(r"[^a-z0-9.]+", "-", stored.licence.lower()).strip("-.")[:_LONGEST]
    about: dict[str, object] = {"license": known or "other"}
    if known is None:
        about["license_name"] = slug or "unknown"
    about |= {"library_name": "hpd", "pipeline_tag": "unconditional-image-generation"}
    about["tags"] = ["hpd", "dataset-distillation", stored.generator.spec.family]
    head = yaml.safe_dump(about, sort_keys=False, allow_unicode=True)
    return f"---\n{head}---\n\n{text.rstrip()}\n\n{_fetching(repository)}"


def _page(stored: StoredGenerator) -> str:
    spec = stored.generator.spec
    classes = ", ".join(spec.classes) or f"{spec.num_classes or 'no'} classes"
    licence = " ".join(stored.licence.split())
    return f"""# {stored.name}

A generator of the family {spec.family}: {spec.channels} x {spec.resolution} x {spec.resolution};
{classes}. SHA-256 of its weights: `{stored.sha256}`.

## Licence

{licence}. The images that it was trained on have a licence of their own.
"""


def _fetching(repository: str) -> str:
    name = repository.rpartition("/")[2]
    return f"""## Fetching it

```bash
hpd pull {repository}
hpd distill CONFIG source.generator={name}
```

`SHA256SUMS` holds the SHA-256 of every file; `hpd pull` checks them. Cite the data that it was
trained on, and hpd with the version in `{DESCRIPTION}`.
"""
