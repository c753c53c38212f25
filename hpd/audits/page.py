"""The report of an audit: one HTML file, as of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from hpd.artifacts.distilled import DistilledSet
from hpd.artifacts.report.gallery import gallery
from hpd.artifacts.report.judged import read_evaluations
from hpd.artifacts.report.page import BESIDE, render
from hpd.data import ImageSet
from hpd.storage import Storage


def render_audit(
    about: Mapping[str, Any],
    evaluations: Mapping[str, Any],
    distilled: DistilledSet,
    real: ImageSet,
) -> str:
    """Return the report as HTML; the same audit gives the same text.

    Args:
        about: what `audit.json` holds.
        evaluations: what `evaluation.json` holds.
        distilled: the set.
        real: training images.
    """
    judged = read_evaluations(json.dumps(evaluations))
    newest, *earlier = judged
    return render(
        "audit.html.j2",
        title=f"{about['name']}, audited",
        about=about,
        distilled=distilled,
        channels={1: "grey", 3: "colour"}.get(distilled.images.shape[1], ""),
        gallery=gallery(distilled, real),
        newest=newest,
        earlier=earlier,
        likeness=newest.likeness,
        rows=newest.rows,
        parts=[part.name for part in fields(Storage)],
        distilled_row=next((row for row in newest.rows if row.name == "distilled"), None),
        beside=[(row, BESIDE[row.name]) for row in newest.rows if row.name in BESIDE],
    )
