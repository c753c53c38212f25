"""How objects show themselves: short text, and HTML with a picture where a notebook asks for it."""

from __future__ import annotations

import base64
import functools
import html
import io
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image
from torch import Tensor

_SHOWN_NAMES = 4
_MINUTE, _HOUR = 60, 3600
_MOST_LINES = 100
_MOST_ROWS, _MOST_COLUMNS = 20, 10
# of a picture, so that a notebook with many of them stays small
_MOST_BYTES, _SIDES = 150_000, (96, 64, 48, 32, 16)
# in pixels, of a picture and of what is between its images
_WIDEST, _GAP = 720, 2
_STYLE = "border-collapse: collapse; margin: 0.3em 0; white-space: nowrap"


def count_text(number: float) -> str:
    """Return how many images there are on average, for people.

    >>> count_text(13653.0), count_text(15.6667)
    ('13653', '15.7')
    """
    return f"{round(number, 1):.15g}"


def counted(number: int, what: str) -> str:
    """Return a number of things, of which one is no several.

    >>> counted(1, "step"), counted(1200, "step")
    ('1 step', '1,200 steps')
    """
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Return a length of time in the units that suit it.

    >>> duration(0.0123), duration(3.21), duration(157), duration(8000)
    ('12 ms', '3.2 s', '2 min 37 s', '2 h 13 min')
    """
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def roughly(seconds: float) -> str:
    """Return a length of time that nobody knows to the second.

    >>> roughly(42.4), roughly(300), roughly(9000)
    ('42 s', '5 min', '2.5 h')
    """
    if seconds >= _HOUR:
        return f"{seconds / _HOUR:.1f} h"
    return f"{seconds / _MINUTE:.0f} min" if seconds >= 2 * _MINUTE else f"{seconds:.0f} s"


def shape_text(shape: Sequence[int]) -> str:
    """Return the shape of an image for people.

    >>> shape_text((3, 32, 32))
    '3 x 32 x 32'
    """
    return " x ".join(map(str, shape))


def names_text(names: Sequence[str]) -> str:
    """Return how many classes there are, and the first of their names.

    >>> names_text(["cat", "dog"]), names_text("abcdef")
    ('2 classes: cat, dog', '6 classes: a, b, c, d, ...')
    """
    shown = ", ".join(name[:20] for name in names[:_SHOWN_NAMES])
    more = ", ..." if len(names) > _SHOWN_NAMES else ""
    return f"{len(names)} classes: {shown}{more}"


def never_fails(method: Callable[[Any], str]) -> Callable[[Any], str]:
    """Return a `_repr_html_` that gives the short text where it cannot do better.

    A notebook asks for it without being told to: what is broken must not fill it with a traceback.
    """

    @functools.wraps(method)
    def shown(self: Any) -> str:
        try:
            return method(self)
        except Exception:
            return f"<pre>{html.escape(_short(self))}</pre>"

    return shown


def _short(thing: object) -> str:
    """Return the short text of an object, and that of any where its own is broken, too."""
    try:
        return repr(thing)
    except Exception:
        return object.__repr__(thing)


def as_html(text: str, *parts: str) -> str:
    """Return a line of text above parts that are HTML already."""
    return f"<div><code>{html.escape(text)}</code>{''.join(parts)}</div>"


def table_html(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of text, of the first rows where there are very many."""
    cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in heading)
    lines = [f"<tr>{cells}</tr>"]
    for row in rows[:_MOST_LINES]:
        own = "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
        lines.append(f"<tr>{own}</tr>")
    if len(rows) > _MOST_LINES:
        more = f"and {len(rows) - _MOST_LINES:,} more"
        lines.append(f'<tr><td colspan="{len(heading)}">{more}</td></tr>')
    return f'<table style="{_STYLE}">{"".join(lines)}</table>'


def grid_html(pick: Callable[[Sequence[int]], Tensor], labels: Tensor, names: Sequence[str]) -> str:
    """Return a picture of some images, a row a class; of one image each, ten classes a row.

    Args:
        pick: returns the images of some indices, uint8 [N, C, H, W], C 1 or 3.
        labels: of all images [N].
        names: of the classes.
    """
    rows = []
    for label in range(min(len(names), _MOST_ROWS)):
        rows.append((labels == label).nonzero()[:_MOST_COLUMNS, 0].tolist())
    indices = [index for row in rows for index in row]
    if not indices:
        return ""
    each = max(map(len, rows)) > 1
    if not each:
        rows = [indices[i : i + _MOST_COLUMNS] for i in range(0, len(indices), _MOST_COLUMNS)]
    content = _png(pick(indices), [len(row) for row in rows])
    if content is None:
        return ""
    source = base64.b64encode(content).decode()
    alt = html.escape(f"images of {names_text(names)}" + (", a row each" if each else ""))
    return f'<br><img alt="{alt}" src="data:image/png;base64,{source}">'


def _png(images: Tensor, counts: Sequence[int]) -> bytes | None:
    """Return images as PNG that is not too large, so many in each row."""
    columns, side = max(counts), max(images.shape[2:])
    for most in _SIDES:
        if columns * most > _WIDEST and most > _SIDES[-1]:
            continue
        # small images are enlarged to be seen, without smoothing them
        factor = most // side if most >= side else most / side
        how = Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.BOX
        width, height = (max(1, round(length * factor)) for length in images.shape[:1:-1])
        across, down = width + _GAP, height + _GAP
        canvas = Image.new("RGB", (columns * across - _GAP, len(counts) * down - _GAP), "white")
        places = [(x * across, y * down) for y, count in enumerate(counts) for x in range(count)]
        for image, place in zip(images, places, strict=True):
            pixels = image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy()
            canvas.paste(Image.fromarray(pixels).resize((width, height), how), place)
        buffer = io.BytesIO()
        canvas.save(buffer, format="PNG")
        if buffer.tell() <= _MOST_BYTES:
            return buffer.getvalue()
    return None
