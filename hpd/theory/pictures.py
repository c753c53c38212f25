"""The three pictures of the experiment on multi-index tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hpd.evaluation.drawn.plots import as_png, blank_figure
from hpd.theory.results import (
    DISTILLED,
    NETWORK,
    OTHER_START,
    REAL,
    REAL_POINTS,
    SAME_START,
    TEACHER,
    UNLEARNED,
    MultiIndexResult,
)

_LABEL = "a reconstruction"


def pictures(result: MultiIndexResult) -> dict[str, bytes]:
    """Return each picture as PNG, by the name of its file."""
    parts: dict[str, Callable[[Any, MultiIndexResult], None]] = {
        "alignment": _draw_alignment, "points": _draw_points, "floats": _draw_floats
    }  # fmt: skip
    drawn = {}
    for name, draw in parts.items():
        figure = blank_figure(6.5, 4.3)
        axes = figure.add_subplot()
        draw(axes, result)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small", ncols=2 if name == "points" else 1)
        drawn[f"{name}.png"] = as_png(figure)
    return drawn


def _curve(result: MultiIndexResult, part: str, series: str, rank: int) -> tuple[list[float], ...]:
    """Return x, mean and deviation of a curve."""
    points = [
        (float(x), *spread)
        for (*own, x), spread in result.summary().items()
        if own == [part, series, rank]
    ]
    return tuple(list(column) for column in zip(*sorted(points), strict=True)) or ([], [], [])


def _draw_alignment(axes: Any, result: MultiIndexResult) -> None:
    s = result.settings
    n, mean, std = _curve(result, "alignment", DISTILLED, s.rank)
    axes.errorbar(n, mean, std, marker="o", capsize=3, label=f"{s.points} points, r = {s.rank}")
    chance = s.rank / s.dimension
    axes.axhline(chance, color="grey", linestyle=":", label=f"chance, r / d = {chance:g}")
    axes.set_xscale("log")
    axes.set_ylim(0, 1)
    axes.set_xlabel("examples that were distilled")
    axes.set_ylabel("share of the points in the subspace")
    axes.set_title(f"alignment after one step ({_LABEL})")


def _draw_points(axes: Any, result: MultiIndexResult) -> None:
    s = result.settings
    for rank in s.ranks:
        m, mean, std = _curve(result, "points", DISTILLED, rank)
        (line, *_) = axes.errorbar(m, mean, std, marker="o", capsize=3, label=f"r = {rank}")
        if rank**2 in s.point_counts:
            # a ring marks r^2 points
            at = m.index(rank**2)
            axes.plot(m[at], mean[at], "o", ms=13, mfc="none", color=line.get_color())
    beside = ((TEACHER, "-."), (UNLEARNED, "--"), (REAL_POINTS, ":"))
    for series, style in beside:
        _, mean, _ = _curve(result, "points", series, s.rank)
        for level in mean:
            text = f"{s.points} {series}" if series == REAL_POINTS else series
            axes.axhline(level, color="grey", linestyle=style, label=f"{text}, r = {s.rank}")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(s.point_counts, [str(count) for count in s.point_counts])
    axes.minorticks_off()
    # room for the legend
    axes.set_ylim(top=6)
    axes.set_xlabel("distilled points (ring: r squared)")
    axes.set_ylabel("error / variance")
    axes.set_title(f"students at a start of their own ({_LABEL})")


def _draw_floats(axes: Any, result: MultiIndexResult) -> None:
    s = result.settings
    for series, marker in ((SAME_START, "o"), (OTHER_START, "x"), (REAL, "s"), (NETWORK, "*")):
        floats, mean, std = _curve(result, "floats", series, s.rank)
        size = 12 if marker == "*" else 6
        axes.errorbar(floats, mean, std, marker=marker, ms=size, capsize=3, label=series)
    axes.axhline(1, color="grey", linestyle=":", label="the mean of y, always")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("stored floats")
    axes.set_ylabel("error / variance")
    axes.set_title(f"nothing but what is stored, r = {s.rank} ({_LABEL})")
