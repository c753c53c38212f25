"""Exports: the distilled set in formats that anyone can train on."""

from hpd.artifacts.exports import arrays, dd_ranking, hugging_face, image_folder, web_dataset
from hpd.artifacts.exports.base import EXPORTS, ExportSettings

_REGISTERED = (arrays, dd_ranking, hugging_face, image_folder, web_dataset)

__all__ = ["EXPORTS", "ExportSettings"]
