"""The benchmark of a step measures what it says, on networks that take no time."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import bench_step

TINY = {
    "kind": "stylegan_xl", "resolution": 16, "z_dim": 8, "w_dim": 8, "num_classes": 10,
    "num_embeddings": 10, "embedding_dim": 4, "channel_base": 64, "channel_max": 8,
    "num_layers": 4, "margin": 2,
}  # fmt: skip


def test_ways_are_timed_in_parts_and_compared():
    student = {"kind": "convnet", "width": 4, "depth": 2}
    work = bench_step.Work(TINY, {"kind": "gradient", "student": student}, real_batch=4)
    found = bench_step.measure(work, bench_step.ways(compiled=False), repeats=2)
    assert list(found) == ["reference", "float32", "bfloat16"]
    for row in found.values():
        assert row["seconds_per_step"] > 0 and row["objective_seconds"] > 0
        assert 0 < row["generator_forward_seconds"] < row["generator_seconds"]
        assert 2**26 < row["peak_bytes"] < 2**33
    assert found["reference"]["image_deviation"] == 0
    assert found["float32"]["image_deviation"] < 1e-4
    # beside itself in every step
    assert found["float32"]["ratio_per_step"] == found["float32"]["objective_ratio"] == 1
    assert found["bfloat16"]["generator_ratio"] > 0
    # bfloat16 was really used
    assert 1e-4 < found["bfloat16"]["image_deviation"] < 0.2


def test_the_stem_is_the_one_described():
    network = bench_step.FAMILIES.parse(bench_step.XL_STEM).build()
    parameters = sum(p.numel() for p in network.synthesis.parameters())
    assert (len(network.synthesis.layers), network.spec.num_ws) == (11, 12)
    assert 7.0e6 < parameters < 8.2e6
