"""The sets of each group as a picture, and accuracy by images a class."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hpd.artifacts.report.tables import row_label
from hpd.evaluation.comparison import SHOWN
from hpd.evaluation.drawn.plots import as_png, blank_figure
from hpd.evaluation.summary import Line


def picture(lines: Sequence[Line]) -> bytes:
    """Return a picture as PNG: the sets of each group, and accuracy by images a class.

    Left, for each group and kind of student, the accuracy of each set; right, where evaluations
    have `counts`, how accuracy grows with the images of a class.
    """
    keys = list(dict.fromkeys((line.run, line.network) for line in lines))
    curves = {key: _curve(lines, key) for key in keys}
    wide = any(curves.values())
    figure = blank_figure(12 if wide else 7, 1.8 + 0.45 * max(len(keys), 4))
    left, *rest = figure.subplots(1, 2 if wide else 1, squeeze=False)[0]
    for name in SHOWN:
        own = [line for line in lines if line.set == name]
        at = [keys.index((line.run, line.network)) for line in own]
        means, spreads = [line.accuracy_mean for line in own], [line.spread for line in own]
        if own:
            left.errorbar(means, at, xerr=spreads, fmt="o", capsize=3, label=row_label(name))
    left.set_yticks(range(len(keys)), [f"{run}, {network}" for run, network in keys])
    left.set_ylim(len(keys) - 0.5, -0.5)
    left.set_xlabel("accuracy %")
    left.grid(axis="x", alpha=0.3)
    left.legend(loc="upper center", bbox_to_anchor=(0.5, 1.3), ncols=3, fontsize="small")
    for right in rest:
        for (run, network), points in curves.items():
            if points:
                right.errorbar(*zip(*points, strict=True), marker="o", label=f"{run}, {network}")
        right.set_xlabel("distilled images a class")
        right.set_ylabel("accuracy %")
        right.grid(alpha=0.3)
        right.legend(fontsize="small")
    return as_png(figure)


def _curve(lines: Sequence[Line], key: tuple[str, str]) -> list[tuple[float, float, float]]:
    """Return (images a class, accuracy, deviation) of a group's distilled sets, if several."""
    own = [
        (line.images_per_class, line.accuracy_mean, line.spread)
        for line in lines
        if (line.run, line.network) == key and re.fullmatch(r"distilled(_\d+)?", line.set)
    ]
    return sorted(own) if len(own) > 1 else []
