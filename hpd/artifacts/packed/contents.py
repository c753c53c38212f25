"""What of a run is handed on: all that it takes to repeat and to judge it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hpd.artifacts.distilled import DistilledSet
from hpd.artifacts.packed.provenance import Provenance
from hpd.artifacts.packed.share_card import share_card
from hpd.artifacts.places import going_on
from hpd.artifacts.run_folder import (
    CHECKPOINTS,
    CONFIG,
    COST,
    EVALUATION,
    MANIFEST,
    METRICS,
    RunFolder,
)
from hpd.disk.bundles import SUMS, as_sums, check_names
from hpd.disk.seals import digest_file
from hpd.errors import RunError

CARD = "README.md"


@dataclass(frozen=True)
class Contents:
    """Files of a run that go together.

    Args:
        files: by name, the card among them.
        known: the checksums that the manifest of the run knows.
    """

    files: Mapping[str, Path | bytes]
    known: Mapping[str, str]

    def summed(self) -> dict[str, Path | bytes]:
        """Return the files with their checksums among them.

        Raises:
            RunError: if one is not what the manifest says.
        """
        digests = {name: _digest(content) for name, content in self.files.items()}
        for name, digest in digests.items():
            if self.known.get(name, digest) != digest:
                raise RunError("the run is not as it was written", got=f"another {name}")
        return {**self.files, SUMS: as_sums(digests)}


def contents_of(
    folder: RunFolder, *, latents: bool = False, repository: str | None = None
) -> Contents:
    """Return what is handed on of a finished run.

    These are its set, the codes where that is stored in few bits, its first images, pictures,
    configuration, manifest, evaluations, curves and cost, and a card. The report stays, as it may
    hold real images, and so do checkpoints.

    Args:
        folder: of the run.
        latents: also what each stage ended with, which `hpd sample` and `hpd prune` need.
        repository: where it goes to, for the card.

    Raises:
        RunError: if there is no finished run, or one without checksums, or it is not whole.
    """
    manifest = folder.read_manifest()
    known: dict[str, str] = dict(manifest.get("files") or {})
    if CONFIG not in known:
        raise RunError(
            f"the run in {folder.path} has no checksums", got="one of an earlier version of hpd",
            fix="Distil it again.",
        )  # fmt: skip
    names = [*known, MANIFEST]
    names += [n for n in (EVALUATION, METRICS, COST) if (folder.path / n).is_file()]
    if latents:
        stages = sorted((folder.path / CHECKPOINTS).glob("stage-*"))
        if not stages:
            raise RunError(f"the run in {folder.path} has no stages", fix="Leave out the latents.")
        names += [path.relative_to(folder.path).as_posix() for path in stages]
    for name in names:
        if not (folder.path / name).is_file():
            raise RunError(
                f"{folder.path} is not as it was written", got=f"no {name}",
                fix=f"{going_on(folder.path)} writes it again.",
            )  # fmt: skip
    distilled, provenance = DistilledSet.load(folder.path), Provenance.read(folder.path)
    try:
        check_names(names)
        card = share_card(
            distilled, provenance, folder.read_evaluations(),
            repository=repository, has_all_pictures=_has_all_pictures(known, manifest),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"cannot read what {folder.path} says of itself", got=error) from None
    files: dict[str, Path | bytes] = {CARD: card.encode()}
    files |= {name: folder.path / name for name in sorted(names)}
    return Contents(files, known)


def _has_all_pictures(known: Mapping[str, str], manifest: Mapping[str, object]) -> bool:
    """Return whether each image of the set is a picture, too."""
    return sum(name.endswith(".png") and "/" in name for name in known) == manifest.get("images")


def _digest(content: Path | bytes) -> str:
    if isinstance(content, Path):
        return digest_file(content)
    return hashlib.sha256(content).hexdigest()
