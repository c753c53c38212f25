"""Puts a report together and renders it."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from hpd.artifacts.distilled import DistilledSet
from hpd.artifacts.provenance import Provenance
from hpd.artifacts.report.card import card_section
from hpd.artifacts.report.charts import StageSteps, loss_chart, read_stages, score_chart
from hpd.artifacts.report.gallery import gallery
from hpd.artifacts.report.tables import (
    SCORES,
    AccuracyRow,
    Likeness,
    accuracy_rows,
    cost_rows,
    duration,
    likeness,
    whole_set_line,
)
from hpd.artifacts.run_folder import CONFIG, COST, EVALUATION, METRICS, RunFolder
from hpd.data import ImageSet
from hpd.errors import RunError
from hpd.files import write_bytes
from hpd.storage import Storage

REPORT = "report.html"
# what an accuracy means only beside
_BESIDE = {
    "random_real": "trained on as many random real images",
    "prior_samples": "trained on samples of the generator, for as many floats",
}
_TEMPLATES = resources.files("hpd.artifacts.report")


def write_report(
    folder: RunFolder, real: ImageSet | None = None, *, note: str = "", out: Path | None = None
) -> Path:
    """Write the report of a finished run.

    Args:
        folder: of the run.
        real: the real training images; None to show no nearest ones.
        note: why they are not shown.
        out: the file; None: `report.html` in the folder.

    Returns:
        the file.

    Raises:
        RunError: if there is no finished run, or a file of it cannot be read.
        DataError: if the real images do not fit.
    """
    path = folder.path / REPORT if out is None else out
    page = render_report(folder, real, note=note)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, page.encode())
    return path


def render_report(folder: RunFolder, real: ImageSet | None = None, *, note: str = "") -> str:
    """Return the report of a finished run as HTML; see `write_report`.

    The same run gives the same text: nothing in it depends on the time or the machine.
    """
    config_text, manifest = folder.read_config(), folder.read_manifest()
    distilled, config = DistilledSet.load(folder.path), _yaml(config_text, folder)
    stages: list[StageSteps] = _parsed(folder, METRICS, _read_metrics) or []
    rows, alike, whole = _parsed(folder, EVALUATION, _read_evaluation) or ([], Likeness(), "")
    cost: Mapping[str, Any] = _parsed(folder, COST, json.loads) or {}
    data = str(config.get("data", {}).get("kind", "data"))
    seconds = cost.get("seconds") or sum(s.seconds + s.score_seconds for s in stages)
    best = manifest.get("best_stage", {})
    return _render(
        title=f"{data}, distilled",
        description=str(config.get("description", "")),
        distilled=distilled,
        channels={1: "grey", 3: "colour"}.get(distilled.images.shape[1], ""),
        gallery=gallery(distilled, real),
        note=note,
        likeness=alike,
        rows=rows,
        card=_parsed(folder, EVALUATION, lambda text: card_section(json.loads(text))),
        scores={k: v for k, v in SCORES.items() if any(r.scores[k] is not None for r in rows)},
        whole=whole,
        parts=[part.name for part in fields(Storage)],
        soft=any(row.labels != "hard" for row in rows),
        distilled_row=next((row for row in rows if row.name == "distilled"), None),
        beside=[(row, _BESIDE[row.name]) for row in rows if row.name in _BESIDE],
        charts=[c for c in (loss_chart(stages), score_chart(stages)) if c is not None],
        best=best if isinstance(best, Mapping) else {},
        costs=cost_rows(stages),
        total=duration(seconds) if seconds else "",
        selection=f"{float(cost['selection_share']):.1%}" if "selection_share" in cost else "",
        facts=Provenance(manifest, data).lines(),
        range=manifest.get("image_range", {}),
        config=config_text,
        account=manifest.get("account") or {},
        run=folder.path.resolve().name,
    )


def _render(**values: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (_TEMPLATES / name).read_text("utf-8")),
        # class names, descriptions and configurations are foreign text
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (_TEMPLATES / "report.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html.j2").render(
        script=Markup(script),
        # the browser runs this script and no other, whatever a name in the page may hold
        script_hash=f"sha256-{digest}",
        style=Markup((_TEMPLATES / "report.css").read_text("utf-8")),
        **values,
    )


def _yaml(text: str, folder: RunFolder) -> dict[str, Any]:
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RunError(f"cannot read {folder.path / CONFIG}", got=error) from None
    if not isinstance(values, dict) or not isinstance(values.get("data"), dict):
        raise RunError(f"{folder.path / CONFIG} is no configuration", expected="its data")
    return values


def _read_metrics(text: str) -> list[StageSteps]:
    return read_stages([json.loads(line) for line in text.splitlines()])


def _read_evaluation(text: str) -> tuple[list[AccuracyRow], Likeness, str]:
    evaluation = json.loads(text)
    whole = whole_set_line(evaluation.get("whole_sets", []))
    return accuracy_rows(evaluation), likeness(evaluation), whole


def _parsed(folder: RunFolder, name: str, parse: Any) -> Any:
    """Return what `parse` makes of a file, None where there is none.

    Raises:
        RunError: if it makes nothing of it.
    """
    path = folder.path / name
    if not path.is_file():
        return None
    try:
        return parse(path.read_text("utf-8"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"cannot read {path}", got=f"{type(error).__name__}: {error}") from None
