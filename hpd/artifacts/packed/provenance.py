"""Where a distilled set came from, as its run folder tells it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpd.artifacts.packed.opening import folder_at
from hpd.artifacts.relabels import settled
from hpd.artifacts.run_folder import CONFIG, MANIFEST
from hpd.disk.files import parse_json
from hpd.disk.yaml_text import read_yaml
from hpd.errors import RunError

# what every set tells by itself
_OF_THE_SET = (
    "classes", "images", "image_shape", "image_range", "normalisation", "stored_floats", "storage",
)  # fmt: skip
_MOST_VALUES = 20
_OF_THE_FILES = ("format", "files", "sha256")


@dataclass(frozen=True)
class Provenance:
    """What is known about the origin of a set.

    Args:
        manifest: `manifest.json` of its run; empty where there is none.
        data: kind of the data set that was distilled; None where it is not known.
    """

    manifest: Mapping[str, Any] = field(default_factory=dict)
    data: str | None = None

    @classmethod
    def read(cls, path: str | Path) -> Provenance:
        """Read what lies in a run; the file of a set by itself tells nothing.

        Raises:
            RunError: if manifest or configuration are there and cannot be read.
        """
        folder = folder_at(path)
        if not (folder / MANIFEST).is_file():
            return cls()
        try:
            manifest = settled(folder, parse_json((folder / MANIFEST).read_bytes()))
            config = read_yaml(folder / CONFIG)
            return cls(manifest, str(config["data"]["kind"]))
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise RunError(f"cannot read {MANIFEST} and {CONFIG} in {folder}", got=reason) from None

    def facts(self) -> dict[str, Any]:
        """Return as JSON what the set does not tell by itself: data, seed, generator, licence."""
        known = {k: v for k, v in self.manifest.items() if k not in _OF_THE_SET + _OF_THE_FILES}
        return {"data": self.data, **known} if self.data else known

    def lines(self) -> dict[str, str]:
        """Return the facts as text, nested ones with dots in their names; tables are left out.

        >>> Provenance({"generator": {"name": "digits16"}, "levels": [1, 2]}).lines()
        {'generator.name': 'digits16', 'levels': '1, 2'}
        """
        return _lines(self.facts())


def _lines(facts: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in facts.items():
        if isinstance(value, Mapping):
            found |= _lines(value, f"{prefix}{name}.")
        elif not isinstance(value, list | tuple):
            found[prefix + name] = str(value)
        elif len(value) > _MOST_VALUES:
            found[prefix + name] = f"{len(value)} values"
        elif not any(isinstance(part, Mapping) for part in value):
            found[prefix + name] = ", ".join(str(part) for part in value)
    return found
