"""Pictures of a distilled set: one PNG per image, and a grid to look at."""

from __future__ import annotations

import io
import re
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from hpd.artifacts.distilled import DistilledSet, as_bytes
from hpd.disk.files import write_bytes

_TILE_PIXELS = 96
_CAPTION_PIXELS = 18
_GAP_PIXELS = 6
# image files of a run; `hpd export` writes all
_MOST_PICTURES = 5000
_MOST_ROWS = 10


def folder_names(classes: tuple[str, ...]) -> list[str]:
    """Return a folder name for each class, so that sorting them gives the order of the classes.

    Readers of image folders number classes by sorted name. Where the names, made safe for file
    systems, are not in that order or not different, each gets its index in front.

    >>> folder_names(("cat", "dog"))
    ['cat', 'dog']
    >>> folder_names(("T-shirt/top", "Bag"))
    ['0_T-shirt_top', '1_Bag']
    """
    safe = [re.sub(r"[^\w.-]+", "_", name).strip(".") or "class" for name in classes]
    if sorted(set(safe)) == safe:
        return safe
    digits = len(str(len(classes) - 1))
    return [f"{i:0{digits}d}_{name}" for i, name in enumerate(safe)]


def to_picture(image: Tensor) -> Image.Image:
    """Return one uint8 image [C, H, W] as a picture, grey for one channel."""
    array = image.permute(1, 2, 0).numpy()
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def png_bytes(picture: Image.Image) -> bytes:
    """Return a picture as PNG."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def worth_looking_at(distilled: DistilledSet) -> DistilledSet:
    """Return a set; of one so large that nobody opens all of its files, the first of each class."""
    if len(distilled) <= _MOST_PICTURES:
        return distilled
    each = -(-_MOST_PICTURES // len(distilled.classes))
    return distilled.only(torch.cat([own[:each] for own in distilled.by_class]), 0)


def write_image_folder(distilled: DistilledSet, folder: Path) -> list[Path]:
    """Write ``folder/<class>/<nnn>.png`` and return the paths in the order of the images."""
    names = folder_names(distilled.classes)
    counts = [0] * len(names)
    paths = []
    for image, label in zip(distilled.uint8(), distilled.labels.tolist(), strict=True):
        path = folder / names[label] / f"{counts[label]:03d}.png"
        counts[label] += 1
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, png_bytes(to_picture(image)))
        paths.append(path)
    return paths


def grid(distilled: DistilledSet, columns: int = 10) -> Image.Image:
    """Draw the first ten images of each class under its name.

    Args:
        distilled: the set.
        columns: classes side by side.
    """
    per_class = [own[:_MOST_ROWS].tolist() for own in distilled.by_class]
    deepest = max(len(own) for own in per_class)
    columns = min(columns, len(per_class))
    band = _CAPTION_PIXELS + deepest * (_TILE_PIXELS + _GAP_PIXELS) + _GAP_PIXELS
    bands = -(-len(per_class) // columns)
    width = columns * (_TILE_PIXELS + _GAP_PIXELS) + _GAP_PIXELS
    canvas = Image.new("RGB", (width, bands * band), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=12)
    for c, own in enumerate(per_class):
        left = _GAP_PIXELS + (c % columns) * (_TILE_PIXELS + _GAP_PIXELS)
        top = (c // columns) * band
        caption = _shorten(distilled.classes[c], pen, font)
        pen.text((left + _TILE_PIXELS / 2, top + 3), caption, "black", font, anchor="ma")
        for row, i in enumerate(own):
            tile = to_picture(as_bytes(distilled.images[i])).convert("RGB")
            tile = tile.resize((_TILE_PIXELS, _TILE_PIXELS), Image.Resampling.NEAREST)
            canvas.paste(tile, (left, top + _CAPTION_PIXELS + row * (_TILE_PIXELS + _GAP_PIXELS)))
    return canvas


def _shorten(
    name: str, pen: ImageDraw.ImageDraw, font: ImageFont.ImageFont | ImageFont.FreeTypeFont
) -> str:
    """Cut a class name to the width of a tile."""
    while len(name) > 1 and pen.textlength(name, font) > _TILE_PIXELS:
        name = name[:-2] + "\u2026"
    return name
