"""The folder of a run: what is where, written so that a killed run leaves no half file."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpd.artifacts.checkpoints import CheckpointFolder
from hpd.artifacts.distilled import FILE_NAME, DistilledSet
from hpd.artifacts.evaluations import records_of, with_record
from hpd.artifacts.ledger import Ledger
from hpd.artifacts.pictures import grid, png_bytes, worth_looking_at, write_image_folder
from hpd.artifacts.places import check_free, going_on
from hpd.artifacts.relabels import NEXT, has_label_codes, settled, write_label_codes
from hpd.artifacts.shards import Kept
from hpd.artifacts.stages import SavedStage, read_stage
from hpd.disk.files import (
    keep_aside,
    parse_json,
    remove_leftovers,
    write_bytes,
    write_json,
    write_tensors,
)
from hpd.disk.seals import digest_file, read_sealed, sealed
from hpd.errors import RunError
from hpd.typing import State

CONFIG, METRICS, MANIFEST, INITIAL, EVALUATION, COST = (
    "config.yaml",
    "metrics.jsonl",
    "manifest.json",
    "initial.safetensors",
    "evaluation.json",
    "cost.json",
)
GRID, IMAGES, CHECKPOINTS, CODES = "grid.png", "images", "checkpoints", "codes.safetensors"
FORMAT = 1
# the set on its way; named like what `remove_leftovers` sweeps up after a kill
_DRAFT = f".{FILE_NAME}.relabels.part"
_AGAIN = "writes again what was changed or is missing."
_logger = logging.getLogger(__name__)


class RunFolder:
    """A run on disk.

    Args:
        path: the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()

    @classmethod
    def create(cls, path: str | Path, config: str) -> RunFolder:
        """Make the folder of a new run and write its resolved configuration.

        Raises:
            RunError: if the folder holds something, or cannot be made.
        """
        folder = cls(path)
        check_free(folder.path)
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
            remove_leftovers(folder.path)
            folder.write_config(config)
        except OSError as error:
            raise RunError(f"cannot write to {folder.path}", got=error.strerror) from None
        return folder

    @property
    def started(self) -> bool:
        """Whether there is a run here."""
        return (self.path / CONFIG).exists()

    @property
    def finished(self) -> bool:
        """Whether there is a finished run here."""
        return self.started and (self.path / MANIFEST).exists()

    @property
    def checkpoints(self) -> CheckpointFolder:
        """Where the run is kept on the way."""
        return CheckpointFolder(self.path / CHECKPOINTS)

    def write_config(self, config: str) -> None:
        """Write the resolved configuration."""
        write_bytes(self.path / CONFIG, config.encode())

    def tidy(self) -> None:
        """Delete what a process left that was killed while it wrote."""
        remove_leftovers(self.path)
        try:
            records = self.read_evaluations()
        except RunError:
            return
        Ledger.tidy(self.ledger_path, records)

    def append_metrics(self, values: Mapping[str, Any]) -> None:
        """Add one line to `metrics.jsonl`."""
        with (self.path / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def metrics_mark(self) -> dict[str, Any]:
        """Return size and SHA-256 of the metrics so far."""
        path = self.path / METRICS
        if not path.exists():
            return {"bytes": 0, "sha256": None}
        return {"bytes": path.stat().st_size, "sha256": digest_file(path)}

    def cut_metrics(self, mark: Mapping[str, Any] | None) -> None:
        """Cut the metrics to where `metrics_mark` was taken; to nothing for None."""
        path = self.path / METRICS
        if mark is None or not mark["bytes"]:
            path.unlink(missing_ok=True)
            return
        if not path.exists() or digest_file(path, mark["bytes"]) != mark["sha256"]:
            _logger.warning("%s was changed after it was written", path)
        if path.exists():
            os.truncate(path, min(path.stat().st_size, mark["bytes"]))

    def write_stage(self, index: int, state: Mapping[str, Kept], about: Mapping[str, Any]) -> None:
        """Write the best state of a stage as `checkpoints/stage-<index>.safetensors` and JSON."""
        path = self.path / CHECKPOINTS / f"stage-{index:02d}.safetensors"
        path.parent.mkdir(exist_ok=True)
        digest = write_tensors(path, state)
        write_json(path.with_suffix(".json"), sealed({**about, "files": {path.name: digest}}))

    def read_best_stage(self) -> State:
        """Return the state that the images of a finished run came from.

        Raises:
            RunError: if it is not there, or was changed after it was written.
        """
        best = self.read_manifest()["best_stage"]["name"]
        for path in self._stage_paths():
            try:
                stage = read_stage(path)
            except ValueError:
                continue
            if stage.name == best:
                return stage.state
        raise RunError(
            f"{self.path} has lost the state of its stage {best!r}", fix="Distil it again."
        )

    def read_stages(self) -> list[SavedStage]:
        """Return the best state of every stage of a finished run, in order.

        Raises:
            RunError: if the run is not finished, or a stage is missing, broken or changed.
        """
        self.read_manifest()
        stages = []
        for path in self._stage_paths():
            try:
                stages.append(read_stage(path))
            except ValueError as error:
                raise RunError(f"cannot read {path} and its tensors", got=error) from None
        if [stage.index for stage in stages] != list(range(len(stages))) or not stages:
            raise RunError(
                f"{self.path} has lost stages",
                got=[stage.index for stage in stages],
                expected="every stage from 0 on",
                fix="Distil it again.",
            )
        return stages

    def _stage_paths(self) -> list[Path]:
        return sorted((self.path / CHECKPOINTS).glob("stage-*.json"))

    def check_stages(self, count: int) -> None:
        """Warn of the first `count` stages whose files are not as they were written."""
        for index in range(count):
            path = self.path / CHECKPOINTS / f"stage-{index:02d}.json"
            try:
                files = read_sealed(path)["files"]
                good = all(digest_file(path.parent / n) == d for n, d in files.items())
            except (OSError, ValueError, KeyError):
                good = False
            if not good:
                _logger.warning("%s or its tensors were changed after they were written", path)

    def write_result(
        self, distilled: DistilledSet, initial: DistilledSet, manifest: Mapping[str, Any],
        codes: State | None = None,
    ) -> None:  # fmt: skip
        """Write all that a finished run consists of; the manifest comes last.

        With `codes`, what is stored lies beside the images that came from it. The last checkpoint
        stays: from it, files that are lost later are written again.
        """
        self.write_pictures(distilled)
        initial.save(self.path / INITIAL)
        distilled.save(self.path / FILE_NAME)
        paths = [self.path / name for name in (CONFIG, INITIAL, FILE_NAME, GRID)]
        if codes is not None:
            write_tensors(self.path / CODES, codes)
            paths.append(self.path / CODES)
        paths += sorted((self.path / IMAGES).rglob("*.png"))
        files = {path.relative_to(self.path).as_posix(): digest_file(path) for path in paths}
        write_json(self.path / MANIFEST, sealed({"format": FORMAT, **manifest, "files": files}))
        self.checkpoints.keep(1)

    def write_soft_labels(
        self, distilled: DistilledSet, about: Mapping[str, Any], codes: State | None = None
    ) -> None:
        """Write the set of a finished run again, now with soft labels, and its manifest.

        Two files cannot be replaced at once, so the manifest announces the new set first, and
        holds for whichever of the two is there: a kill leaves the old result or the new one.

        Args:
            distilled: the same images and labels.
            about: where the soft labels come from, as JSON.
            codes: what is stored of them, where that is no float32: a file whose name tells its
                content, so that the one before stays until the manifest no longer names it.

        Raises:
            RunError: if the set there is not as it was written; see `read_manifest`.
        """
        self.check_whole(FILE_NAME)
        remove_leftovers(self.path)
        manifest = self.read_manifest()
        files = {n: d for n, d in manifest.get("files", {}).items() if not has_label_codes(n)}
        about = dict(about)
        if codes is not None:
            about["codes"] = name = write_label_codes(self.path, codes)
            files[name] = digest_file(self.path / name)
        files[FILE_NAME] = distilled.save(self.path / _DRAFT)
        storage = distilled.storage.as_json()
        changed = {"storage": storage, "soft_labels": about, "files": files}
        write_json(self.path / MANIFEST, sealed({**manifest, NEXT: changed}))
        (self.path / _DRAFT).replace(self.path / FILE_NAME)
        write_json(self.path / MANIFEST, sealed({**manifest, **changed}))
        for path in self.path.iterdir():
            if has_label_codes(path.name) and path.name not in files:
                path.unlink()

    def write_pictures(self, distilled: DistilledSet) -> None:
        """Write `images`, of very many the first of each class, and `grid.png`."""
        write_image_folder(worth_looking_at(distilled), self.path / IMAGES)
        write_bytes(self.path / GRID, png_bytes(grid(distilled)))

    def write_cost(self, cost: Mapping[str, float]) -> None:
        """Write `cost.json`, apart from the manifest, which is the same for the same seed."""
        write_json(self.path / COST, cost)

    def read_cost(self) -> dict[str, float]:
        """Return what `write_cost` wrote; nothing, and a warning, where it cannot be read."""
        path = self.path / COST
        if not path.exists():
            return {}
        try:
            values = parse_json(path.read_bytes())
            found = {str(name): float(value) for name, value in values.items()}
            if not all(math.isfinite(value) for value in found.values()):
                raise ValueError("numbers that are not finite")
        except (OSError, ValueError, TypeError, AttributeError, OverflowError) as error:
            _logger.warning("cannot read %s: %s", path, error)
            return {}
        return found

    def write_evaluation(self, record: Mapping[str, Any], name: str | None = None) -> str:
        """Add a record to `evaluation.json`, and return its name.

        Raises:
            RunError: if the name is none, or taken by another one.
        """
        content = with_record(self._evaluations(), record, name)
        write_json(self.path / EVALUATION, sealed(content))
        return str(content["name"])

    def check_evaluation_name(self, record: Mapping[str, Any], name: str | None) -> None:
        """Check that a record, less its rows, could be added by a name; see `write_evaluation`."""
        with_record(self._evaluations(), {**record, "rows": []}, name)

    def read_evaluations(self) -> list[dict[str, Any]]:
        """Return the records of `evaluation.json`, the oldest first; empty where there is none.

        Raises:
            RunError: if it is broken.
        """
        path = self.path / EVALUATION
        if not path.is_file():
            return []
        try:
            return records_of(read_sealed(path))
        except (OSError, ValueError, KeyError, TypeError) as error:
            fix = f"Move it away, and evaluate again: `hpd evaluate {self.path}`."
            raise RunError(f"cannot read {path}", got=error, fix=fix) from None

    def _evaluations(self) -> Mapping[str, Any] | None:
        """Return what `evaluation.json` holds as it was written; None where it holds nothing."""
        path = self.path / EVALUATION
        try:
            content = read_sealed(path)
            records_of(content)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            aside = keep_aside(path)
            _logger.warning("%s is broken (%s): it is kept as %s", path, error, aside.name)
            return None
        return content

    @property
    def evaluated(self) -> bool:
        """Whether there is an evaluation, as it was written."""
        try:
            return bool(read_sealed(self.path / EVALUATION))
        except (OSError, ValueError):
            return False

    @property
    def ledger_path(self) -> Path:
        """Where an evaluation is kept on its way."""
        return self.path / "evaluation.partial.json"

    def read_config(self) -> str:
        """Return the configuration of a run, finished or not.

        Raises:
            RunError: if this is no run.
        """
        if not self.started:
            raise RunError(f"{self.path} is not a run folder", expected=f"a folder with {CONFIG}")
        try:
            return (self.path / CONFIG).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RunError(f"cannot read {self.path / CONFIG}", got=error) from None

    def read_manifest(self) -> dict[str, Any]:
        """Return the manifest of a finished run.

        Raises:
            RunError: if this is not a run, the run is not finished, or the manifest was changed or
                is of a newer version of hpd.
        """
        self.read_config()
        path = self.path / MANIFEST
        if not path.is_file():
            raise RunError(
                f"the run in {self.path} is not finished",
                fix=f"Go on with it by {going_on(self.path)}.",
            )
        try:
            manifest = parse_json(path.read_bytes())
            # before format 1 there were neither; one that is damaged has one of them
            if not {"format", "sha256"}.isdisjoint(manifest):
                manifest = read_sealed(path)
            manifest = settled(self.path, manifest)
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise RunError(
                f"cannot read {path}", got=error, fix=f"{going_on(self.path)} {_AGAIN}"
            ) from None
        if manifest.get("format", 0) > FORMAT:
            raise RunError(
                f"{path} was written by a newer version of hpd",
                got=f"format {manifest['format']}",
                expected=f"at most {FORMAT}",
                fix="Install that version.",
            )
        return manifest

    def check_whole(self, *names: str) -> None:
        """Check that files of a finished run are as they were written.

        Args:
            names: of the files; none for all.

        Raises:
            RunError: naming those that are not, or if there is no finished run; see
                `read_manifest`.
        """
        # runs of before format 1 have no checksums
        files: Mapping[str, str] = self.read_manifest().get("files", {})
        changed = [n for n in names or files if n in files and self._digest(n) != files[n]]
        if changed:
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            raise RunError(
                f"{self.path} is not as it was written",
                got=f"another or no {changed[0]}{more}",
                fix=f"{going_on(self.path)} {_AGAIN}",
            )

    def reopen(self) -> None:
        """Make a finished run one that has its result still to write."""
        (self.path / MANIFEST).unlink(missing_ok=True)

    def _digest(self, name: str) -> str | None:
        path = self.path / name
        return digest_file(path) if path.is_file() else None
