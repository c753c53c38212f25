"""What an audit leaves behind: a folder that tells what a set is and how it was judged."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpd.artifacts.distilled import FILE_NAME
from hpd.artifacts.evaluations import find_record, records_of, with_record
from hpd.artifacts.places import check_free, drafted
from hpd.artifacts.run_folder import EVALUATION
from hpd.audits.finding import Found
from hpd.audits.judging import SeenSet
from hpd.audits.page import render_audit
from hpd.audits.stored import Stored
from hpd.data import ImageSet
from hpd.disk.files import parse_json, write_bytes, write_json
from hpd.disk.seals import digest_file, digest_json, digest_tensor
from hpd.errors import RunError
from hpd.evaluation import Evaluation, Row, summary
from hpd.showing import as_html, count_text, never_fails, table_html

AUDIT, REPORT, TABLE = "audit.json", "report.html", "table.md"
KIND = "hpd audit"
FORMAT = 1
"""Of `audit.json`."""


@dataclass(frozen=True)
class Audit:
    """A set of others, understood and judged.

    Args:
        name: of its file or folder.
        distilled: the set as one of hpd: pictures, classes, and how students see them.
        found: what was found out about it.
        stored: what its files hold.
        evaluations: how it was judged, the newest last: with hard labels, and where it brings soft
            ones, before that with these.
        folder: where it was written, None if it was not.
    """

    name: str
    distilled: SeenSet
    found: Found
    stored: Stored
    evaluations: Sequence[Evaluation]
    folder: Path | None = None

    def __repr__(self) -> str:
        return f"Audit({self.name}: {self.found.reading.words}, {self.evaluation!r})"

    @never_fails
    def _repr_html_(self) -> str:
        rows = [[f.question, f.answer, f.by, f.says] for f in self.found.findings]
        told = table_html(["question", "answer", "told by", "because"], rows)
        tables = [own.table_html() for own in self.evaluations]
        warned = [f"<p>{html.escape(line)}</p>" for line in self.found.warnings]
        return as_html(repr(self), told, *warned, *tables)

    @property
    def evaluation(self) -> Evaluation:
        """The newest evaluation."""
        return self.evaluations[-1]

    def about(self) -> dict[str, Any]:
        """Return what `audit.json` holds."""
        stored, found = self.stored, self.found
        return {
            "kind": KIND,
            "format": FORMAT,
            "name": self.name,
            "layout": stored.layout,
            "files": [_file(path) for path in stored.files if path.is_file()],
            "set": {
                "sha256": self.sha256,
                "images": len(self.distilled),
                "image_shape": list(self.distilled.images.shape[1:]),
                "images_per_class": self.distilled.images_per_class,
                "labels": found.labels,
                "soft_labels": found.probabilities is not None,
                "view": found.reading.space.view,
                "facts": dict(stored.facts),
            },
            "storage": stored.storage.as_json(),
            "findings": [finding.as_json() for finding in found.findings],
            "readings": [one.as_json() for one in found.tried],
            "notes": list(found.notes),
            "warnings": list(found.warnings),
        }

    @property
    def sha256(self) -> str:
        """Of the images as students see them, and of the labels."""
        own = self.distilled
        tensors = [own.normalised(), own.labels]
        tensors += [] if own.soft_labels is None else [own.soft_labels]
        return digest_json({str(i): digest_tensor(tensor) for i, tensor in enumerate(tensors)})

    def write(self, folder: Path, real: ImageSet) -> None:
        """Write the folder, whole or not at all.

        Args:
            folder: where nothing is.
            real: training images, of which the report shows the nearest.

        Raises:
            RunError: if something is there.
        """
        check_free(folder)
        content: Mapping[str, Any] | None = None
        for evaluation in self.evaluations:
            content = with_record(content, evaluation.as_json())
        assert content is not None, "an audit judges"
        about = self.about()
        with drafted(folder) as draft:
            draft.mkdir()
            write_json(draft / AUDIT, about)
            write_json(draft / EVALUATION, content)
            self.distilled.save(draft / FILE_NAME)
            write_bytes(draft / TABLE, markdown(about, self.evaluations).encode())
            page = render_audit(about, content, self.distilled, real)
            write_bytes(draft / REPORT, page.encode())


def _file(path: Path) -> dict[str, Any]:
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": digest_file(path)}


def markdown(about: Mapping[str, Any], evaluations: Sequence[Evaluation]) -> str:
    """Return what was found out and how a set was judged, as Markdown."""
    told = [[f["question"], f["answer"], f["by"], f["says"]] for f in about["findings"]]
    parts = [_table(["question", "answer", "told by", "because"], told)]
    parts += [f"Note: {line}." for line in about["notes"]]
    parts += [f"Warning: {line}." for line in about["warnings"]]
    for evaluation in evaluations:
        heading = ["trained on", "student", "labels", "a class", "accuracy %", "floats", "bits"]
        rows = [
            [
                row.name.replace("_", " "), row.network, row.labels,
                count_text(row.images_per_class),
                summary.accuracy_text(row.accuracy_mean, row.accuracy_std, len(row.seeds)),
                f"{row.storage.images.floats:,}", f"{row.storage.images.bits:,}",
            ]
            for row in evaluation.rows
        ]  # fmt: skip
        parts.append(_table(heading, rows))
    return "\n\n".join(parts) + "\n"


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    text = [heading, ["---"] * len(heading), *rows]
    cells = ([str(cell).replace("|", "\\|") for cell in row] for row in text)
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)


def is_audit(path: str | Path) -> bool:
    """Return whether a folder is one that an audit wrote."""
    file = Path(path).expanduser() / AUDIT
    try:
        found = parse_json(file.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(found, Mapping) and found.get("kind") == KIND


class AuditFolder:
    """The folder of an audit, to be read.

    Args:
        path: the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()

    def about(self) -> dict[str, Any]:
        """Return what `audit.json` holds.

        Raises:
            RunError: if there is none, it is damaged, or of a newer version of hpd.
        """
        found = self._json(AUDIT)
        if found.get("kind") != KIND:
            raise RunError(f"{self.path} is no audit", got=found.get("kind"), expected=KIND)
        if not isinstance(found.get("format"), int) or found["format"] > FORMAT:
            raise RunError(
                f"the audit in {self.path} was written by a newer version of hpd",
                got=f"format {found.get('format')}", expected=f"at most {FORMAT}",
                fix="Install that version.",
            )  # fmt: skip
        return found

    def records(self) -> list[dict[str, Any]]:
        """Return the evaluations, the oldest first; see `hpd.artifacts.evaluations`.

        Raises:
            RunError: if they cannot be read.
        """
        try:
            return records_of(self._json(EVALUATION))
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"cannot read {self.path / EVALUATION}", got=error) from None

    def result(self, name: str | None = None) -> summary.Result:
        """Return an evaluation as `hpd.compare` takes it.

        Args:
            name: of the evaluation; None: the newest.

        Raises:
            RunError: if there is none of that name, or the folder is damaged.
        """
        records = self.records()
        record = records[-1] if name is None else find_record(records, name)
        about = self.about()
        try:
            rows = [Row.read(row) for row in record["rows"]]
            config = {
                "source": {"kind": "audit"}, "audit": about["set"]["sha256"], "seed": 0,
            }  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"cannot read {self.path}", got=error) from None
        return summary.Result(self.path.name, config, record, rows)

    def _json(self, name: str) -> dict[str, Any]:
        try:
            found = parse_json((self.path / name).read_bytes())
        except (OSError, ValueError) as error:
            raise RunError(f"no audit in {self.path}", got=f"{name}: {error}") from None
        if not isinstance(found, dict):
            raise RunError(f"cannot read {self.path / name}", got=type(found).__name__)
        return found
