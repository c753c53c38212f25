"""Puts a report together and renders it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import fields
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from hpd.artifacts.distilled import DistilledSet
from hpd.artifacts.metrics import read_metrics
from hpd.artifacts.packed.provenance import Provenance
from hpd.artifacts.report.card import card_section
from hpd.artifacts.report.charts import loss_chart, score_chart
from hpd.artifacts.report.gallery import gallery
from hpd.artifacts.report.judged import Judged, read_evaluations
from hpd.artifacts.report.story import cost_rows, measured_rows, stage_rows
from hpd.artifacts.report.tables import Likeness
from hpd.artifacts.run_folder import CONFIG, COST, EVALUATION, MANIFEST, RunFolder
from hpd.data import ImageSet
from hpd.disk.files import parse_json, write_bytes
from hpd.disk.yaml_text import parse_yaml
from hpd.errors import ConfigError, RunError
from hpd.showing import duration
from hpd.storage import Storage

REPORT = "report.html"
BESIDE = {
    "random_real": "trained on as many random real images",
    "prior_samples": "trained on samples of the generator, for as many bits",
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
    stages = read_metrics(folder) or []
    judged: list[Judged] = _parsed(folder, EVALUATION, read_evaluations) or []
    newest, *earlier = judged or [Judged("", "", [], Likeness(), "", [])]
    rows = newest.rows
    cost: Mapping[str, float] = _parsed(folder, COST, _read_cost) or {}
    data = str(config.get("data", {}).get("kind", "data"))
    seconds = cost.get("seconds") or sum(stage.seconds for stage in stages)
    best = _group(folder, manifest, "best_stage")
    return render(
        "report.html.j2",
        title=f"{_place_of(config['data']) or data}, distilled",
        description=str(config.get("description") or _described(config)),
        distilled=distilled,
        channels={1: "grey", 3: "colour"}.get(distilled.images.shape[1], ""),
        gallery=gallery(distilled, real),
        note=note,
        likeness=newest.likeness,
        rows=rows,
        newest=newest,
        earlier=earlier,
        card=_parsed(folder, EVALUATION, lambda text: card_section(parse_json(text))),
        parts=[part.name for part in fields(Storage)],
        distilled_row=next((row for row in rows if row.name == "distilled"), None),
        beside=[(row, BESIDE[row.name]) for row in rows if row.name in BESIDE],
        charts=[c for c in (loss_chart(stages), score_chart(stages)) if c is not None],
        best=best,
        stages=stage_rows(stages),
        measured=measured_rows(stages),
        costs=cost_rows(cost),
        parts_of_run=int(cost.get("parts", 1)),
        total=duration(seconds) if seconds else "",
        selection=f"{cost['selection_share']:.1%}" if "selection_share" in cost else "",
        facts=Provenance(manifest, data).lines(),
        range=_group(folder, manifest, "image_range"),
        config=config_text,
        account=_group(folder, manifest, "account"),
        run=folder.path.resolve().name,
    )


def render(template: str, **values: Any) -> str:
    """Return a page as HTML: one file, whose only script is the report's own.

    Args:
        template: name of a file beside this one.
        values: what stands in it; foreign text is escaped.
    """
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
    return environment.get_template(template).render(
        script=Markup(script),
        # the browser runs this script and no other, whatever a name in the page may hold
        script_hash=f"sha256-{digest}",
        style=Markup((_TEMPLATES / "report.css").read_text("utf-8")),
        **values,
    )


def _yaml(text: str, folder: RunFolder) -> dict[str, Any]:
    try:
        values = parse_yaml(text, str(folder.path / CONFIG))
    except ConfigError as error:
        raise RunError(f"cannot read {folder.path / CONFIG}", got=error) from None
    if not isinstance(values, dict) or not isinstance(values.get("data"), dict):
        raise RunError(f"{folder.path / CONFIG} is no configuration", expected="its data")
    return values


def _place_of(data: Mapping[str, Any]) -> str:
    """Return the name of the folder or file of pictures of one's own; empty for a known set."""
    own = data.get("kind") in ("folder", "csv", "npz", "webdataset") and data.get("root")
    return Path(str(data["root"])).name if own else ""


def _described(config: Mapping[str, Any]) -> str:
    """Return what a run is whose configuration does not say it."""
    kinds = [config.get(name) for name in ("source", "objective")]
    named = [str(kind.get("kind")) for kind in kinds if isinstance(kind, Mapping)]
    return f"source {named[0]}, objective {named[1]}" if len(named) == 2 else ""


def _group(folder: RunFolder, manifest: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a group of facts of the manifest, empty where it has none."""
    found = manifest.get(name) or {}
    if not isinstance(found, Mapping):
        raise RunError(f"cannot read {name} of {folder.path / MANIFEST}", got=repr(found))
    return found


def _read_cost(text: str) -> dict[str, float]:
    found = parse_json(text)
    return {name: float(value) for name, value in found.items()}


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
