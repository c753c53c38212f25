"""Figures that belong to nobody's global state, and their files."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Format = Literal["png", "svg"]
_DPI = 120


def blank_figure(width: float, height: float) -> Figure:
    """Return an empty figure of so many inches; matplotlib is loaded now and not before."""
    # the objects of pyplot would be global
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def as_png(figure: Figure) -> bytes:
    """Return a figure as PNG."""
    return as_picture(figure, "png")


def as_picture(figure: Figure, format_name: Format) -> bytes:
    """Return a figure as a file; the same figure gives the same bytes."""
    from matplotlib import rc_context

    content = io.BytesIO()
    # else there is the time in it, and names that are drawn at random
    about: dict[str, Any] = {"metadata": {"Date": None}} if format_name == "svg" else {}
    with rc_context({"svg.hashsalt": "hpd"}):
        figure.savefig(content, format=format_name, dpi=_DPI, **about)
    return content.getvalue()
