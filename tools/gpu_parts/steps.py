"""Steps on the stem of a StyleGAN-XL, by each way to compute them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bench_step import MEBIBYTE, Way, measure

from gpu_parts.part import Place, Row, judged
from gpu_parts.waits import objectives, work_of

_FLOAT32 = {"precision": "float32", "compile": False}
WAYS = {
    "reference": Way("reference", _FLOAT32),
    "native": Way("native", _FLOAT32),
    "native, tf32": Way("auto", _FLOAT32, "tf32"),
    "native, graphs": Way("native", _FLOAT32, graphs=True),
    "native, compiled student": Way("auto", _FLOAT32 | {"compile": True}),
    "native, bfloat16": Way("auto", _FLOAT32 | {"precision": "bfloat16"}),
}
# of images whose values lie in [0, 1]
MOST_DEVIATION = {
    "native": 1e-4, "native, graphs": 1e-4, "native, compiled student": 1e-4, "native, tf32": 3e-2,
    "native, bfloat16": 0.2,
}  # fmt: skip
_REPEATS = 15


def dm(place: Place) -> Iterator[Row]:
    """Time steps of distribution matching."""
    return steps(place, "dm")


def dc(place: Place) -> Iterator[Row]:
    """Time steps of gradient matching."""
    return steps(place, "dc")


def regression(place: Place) -> Iterator[Row]:
    """Time steps of regression."""
    return steps(place, "regression")


def steps(place: Place, name: str) -> Iterator[Row]:
    """Time the steps of an objective, by each way, in turn; on a CPU without what it has not."""
    left_out = ("native, tf32", "native, graphs", "native, compiled student") if place.tiny else ()
    ways = {key: way for key, way in WAYS.items() if key not in left_out}
    work = work_of(objectives(place.tiny)[name], place.tiny)
    found = measure(work, ways, 2 if place.tiny else _REPEATS, place.device)
    for way, figures in found.items():
        yield _row(way, figures, found["reference"], place)
    for way in left_out:
        yield Row(way, "skipped", "of use on a GPU only")


def _row(way: str, figures: dict[str, Any], reference: Mapping[str, Any], place: Place) -> Row:
    if "failed" in figures:
        return Row(way, "bad", f"failed: {figures['failed']}", figures)
    seconds = figures["seconds_per_step"]
    says = (
        f"{seconds * 1e3:.1f} ms a step, {1 / seconds:.1f} a second; generator "
        f"{figures['generator_seconds'] * 1e3:.1f}, objective "
        f"{figures['objective_seconds'] * 1e3:.1f} ms; {figures['peak_bytes'] / MEBIBYTE:,.0f} MiB"
    )
    verdict = judged(True)
    most = MOST_DEVIATION.get(way)
    if most is not None and "failed" not in reference:
        says += f"; images deviate by {figures['image_deviation']:.1e}, at most {most:.0e}"
        verdict = judged(figures["image_deviation"] <= most)
    if way == "native" and not place.tiny and "failed" not in reference:
        ratio = reference["seconds_per_step"] / seconds
        says += f"; {ratio:.2f} times as fast as the reference"
        verdict = judged(verdict == "good" and ratio > 1)
    return Row(way, verdict, says, figures | {"steps_per_second": 1 / seconds})
