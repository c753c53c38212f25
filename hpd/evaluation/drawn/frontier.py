"""Accuracy against bits: which source makes most of its storage."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hpd.evaluation.contenders import is_random
from hpd.evaluation.drawn.plots import Format, as_picture, blank_figure
from hpd.evaluation.summary import Line, tables_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_REFERENCES: Mapping[str, tuple[Callable[[str], bool], str]] = {
    "random real images": (is_random, ":"),
    "samples of the prior": (lambda name: name.startswith("prior"), "--"),
}
_COLUMNS = 2
# above a level, for what it is called, as a share of the axis
_ROOM = 0.06


def frontier(lines: Sequence[Line], format_name: Format = "png") -> bytes:
    """Return a picture, PNG or SVG: accuracy against bits, on a logarithmic axis.

    A panel for each table, whose lines compare. Of the distilled sets of one kind of source those
    are joined, from few bits to many, that no other one of it beats with as many bits or fewer; the
    others are pale. Random real images are joined, and samples of the prior; the whole set is a
    level. A hollow mark is of a set that needs a generator again, whose weights are not counted.
    """
    tables = tables_of(lines)
    rows = math.ceil(len(tables) / _COLUMNS)
    columns = min(len(tables), _COLUMNS)
    figure = blank_figure(6.5 * columns, 4.5 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, (how, own) in zip(panels, tables, strict=False):
        _panel(axes, own)
        axes.set_title(how, fontsize="small", wrap=True)
    for axes in panels[len(tables) :]:
        axes.set_visible(False)
    return as_picture(figure, format_name)


def _panel(axes: Axes, lines: Sequence[Line]) -> None:
    distilled = [line for line in lines if line.set.startswith("distilled")]
    for kind in dict.fromkeys(map(_kind, distilled)):
        own = [line for line in distilled if _kind(line) == kind]
        best = _unbeaten(own)
        color = _draw(axes, best, kind or "distilled")
        _draw(axes, [line for line in own if line not in best], color=color, ls="", alpha=0.35)
    for name, (belongs, ls) in _REFERENCES.items():
        _draw(axes, [line for line in lines if belongs(line.set)], name, color="grey", ls=ls)
    for line in lines:
        if line.set == "full":
            axes.axhline(line.accuracy_mean, color="grey", lw=0.8)
            axes.annotate(
                "whole set", (0.99, line.accuracy_mean), xycoords=("axes fraction", "data"),
                ha="right", va="bottom", fontsize="small",
            )  # fmt: skip
            low, high = axes.get_ylim()
            axes.set_ylim(low, high + _ROOM * (high - low))
            break
    axes.set_xscale("log")
    axes.set_xlabel("bits of images or latents, and labels (hollow: and a generator)")
    axes.set_ylabel("accuracy %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)


def _kind(line: Line) -> str:
    """Return what a set is joined with others by: its source, or itself where others made it."""
    return line.run if line.source == "audit" else line.source


def _unbeaten(lines: Sequence[Line]) -> list[Line]:
    """Return the lines that are more accurate than every other one of as many bits or fewer."""
    found: list[Line] = []
    for line in sorted(lines, key=lambda line: (line.bits, -line.accuracy_mean)):
        if not found or line.accuracy_mean > found[-1].accuracy_mean:
            found.append(line)
    return found


def _draw(
    axes: Axes,
    lines: Sequence[Line],
    label: str = "",
    *,
    color: Any = None,
    ls: str = "-",
    alpha: float = 1.0,
) -> Any:
    """Draw sets of one kind, nothing where there are none, and return their colour."""
    # a set that several runs are judged beside is there once for each
    points = sorted({(line.bits, line.accuracy_mean, line.spread) for line in lines})
    if not points:
        return color
    x, y, spread = zip(*points, strict=True)
    needs = any(line.storage.generator.floats for line in lines)
    drawn = axes.errorbar(
        x,
        y,
        yerr=spread,
        marker="o",
        capsize=3,
        color=color,
        ls=ls,
        alpha=alpha,
        label=label or None,
    )
    if needs:
        drawn.lines[0].set_markerfacecolor("white")
    return drawn.lines[0].get_color()
