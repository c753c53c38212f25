"""The benchmark of growth: its points, its slopes, its page, and a point that is measured."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import bench_scale
from bench_scale import ALONG, AXES, BASES, LEAST, along, main, points, slope, table
from scale_point import Point, levels_of

from hpd.errors import RunError


def row_of(point: Point, **changes):
    """A row as if measured: time goes with classes squared, memory with the state."""
    size = point.classes * point.images * point.side**2
    names = bench_scale.OPERATIONS[: 4 if point.ranks == 1 and point.work == "pixels" else 3]
    return {
        "point": asdict(point), "wall_seconds": 1.0, "fixed_bytes": 400_000_000,
        "state_bytes": 12 * size,
        "seconds": dict.fromkeys(names, 0.01 * point.classes ** 2),
        "bytes": dict.fromkeys(names, 10000000 + 100 * size),
        **changes,
    }  # fmt: skip


@pytest.fixture(scope="module")
def rows():
    return [row_of(point) for work in BASES for point in points(work)]


def test_one_axis_at_a_time_is_gone_along_and_no_point_twice():
    for work, base in BASES.items():
        found = points(work)
        assert found[0] == base
        assert len(set(found)) == len(found)
        for point in found:
            other = [k for k, v in asdict(point).items() if v != asdict(base)[k]]
            assert len(other) <= 1
            assert not other or other[0] in ALONG[work]
    assert AXES["classes"] == (10, 100, 1000)
    assert AXES["images"] == (1, 10, 50)
    assert AXES["side"] == (32, 64, 128, 256)
    assert AXES["rows"] == (10**3, 10**4, 10**5, 10**6)
    assert AXES["ranks"] == (1, 2, 4)


def test_slopes_are_those_of_powers():
    for power in (-1.0, 0.0, 0.5, 2.0):
        assert slope([(x, 3 * x**power) for x in (1, 10, 50)]) == pytest.approx(power)
    # what is lost in noise is no part of a line
    assert slope([(1, 1e-5), (10, 1.0), (100, 10.0)], LEAST["seconds"]) == pytest.approx(1.0)
    assert slope([(1, 1e-5), (10, 1.0)], LEAST["seconds"]) is None
    assert slope([]) is None


def test_a_table_has_a_row_a_point_and_slopes(rows):
    lines = table(along(rows, "pixels", "classes"), "classes")
    assert len(lines) == 2 + 3 + 1
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| 10 | 1 |")
    assert lines[4].startswith("| 1,000 | 10,000 |")
    cells = [cell.strip() for cell in lines[-1].split("|")[1:-1]]
    assert cells[:2] == ["slope", "2.00"]
    assert float(cells[-1]) == pytest.approx(1.0)
    # a constant part flattens the line of memory
    line = [math.log(10_000_000 + 100 * n * 1024) for n in (10, 100, 1000)]
    assert float(cells[5]) == pytest.approx((line[2] - line[0]) / math.log(100), abs=0.005)


def test_the_page_gets_tables_and_pictures(rows, tmp_path):
    page = tmp_path / "growth.md"
    page.write_text(f"# Growth\n\n{bench_scale.START}old\n{bench_scale.END}\nRest.\n", "utf-8")
    bench_scale.write_page(page, rows)
    content = page.read_text("utf-8")
    assert content.startswith("# Growth\n")
    assert content.endswith("Rest.\n")
    assert "old" not in content
    for work in BASES:
        assert f"(growth-{work}.png)" in content
        assert (tmp_path / f"growth-{work}.png").read_bytes().startswith(b"\x89PNG")
    assert content.count("| slope |") == sum(map(len, ALONG.values()))
    # and again: what is there is replaced
    bench_scale.write_page(page, rows)
    assert page.read_text("utf-8") == content
    page.write_text("nothing", "utf-8")
    with pytest.raises(RunError, match="no place for the tables"):
        bench_scale.write_page(page, rows)


def test_measuring_goes_on_point_by_point(tmp_path, monkeypatch):
    asked = []

    def measure(point, folder):
        if len(asked) == 4:
            raise RunError("the machine went down")
        asked.append(point)
        return row_of(point)

    monkeypatch.setattr(bench_scale, "measure", measure)
    path = tmp_path / "scale.json"
    options = ["--json", str(path), "--work", "levels", "--folder", str(tmp_path)]
    stopped = CliRunner().invoke(main, options)
    assert stopped.exit_code == 1
    assert "the machine went down" in stopped.output
    assert len(json.loads(path.read_text("utf-8"))["rows"]) == 4
    before, asked[:] = list(asked), []
    monkeypatch.setattr(bench_scale, "measure", lambda p, f: asked.append(p) or row_of(p))
    assert CliRunner().invoke(main, options).exit_code == 0
    assert before + asked == points("levels")
    asked.clear()
    assert CliRunner().invoke(main, [*options, "--minutes", "0"]).exit_code == 0
    assert not asked


def test_levels_are_those_of_the_generator():
    assert levels_of(8) == [0, 1, 3]
    assert levels_of(32) == [0, 3, 7]
    assert levels_of(256) == [0, 6, 13]


@pytest.mark.parametrize(
    "point",
    [Point(classes=3, side=8, rows=120), Point("levels", 3, 2, 8, 120, ranks=2)],
)
def test_a_point_is_measured_in_processes_of_its_own(point, tmp_path):
    found = bench_scale.measure(point, tmp_path)
    assert found["point"] == asdict(point)
    # an evaluation is not shared out, and is the same however images were made
    evaluates = point.ranks == 1 and point.work == "pixels"
    asked = set(bench_scale.OPERATIONS[: 4 if evaluates else 3])
    assert set(found["seconds"]) == set(found["bytes"]) == asked
    assert all(0 <= seconds < 60 for seconds in found["seconds"].values())
    assert found["seconds"]["step"] > 0
    assert found["seconds"]["checkpoint"] > 0
    # source, its best state, two moments and two sets of images at the least
    images = point.classes * point.images * 3 * 8 * 8 * 4
    assert 5 * images / point.ranks < found["state_bytes"] < 40 * images + 200_000
    assert 10**8 < found["fixed_bytes"] < 10**10
    assert not list(tmp_path.glob("tmp*"))


def test_an_evaluation_with_the_whole_set_takes_no_more_of_ten_times_the_rows(tmp_path):
    """Teaching on all of them, nearest neighbours and the report; a copy would take 55 MB."""
    few, many = (
        bench_scale._run(Point(classes=10, rows=rows), tmp_path, memory=True)[0]["bytes"]
        for rows in (2_000, 20_000)
    )
    for operation in ("start", "evaluation"):
        assert many[operation] - few[operation] < 25_000_000


def test_what_fails_is_said(tmp_path):
    broken = replace(Point(), work="levels", side=8, classes=0)
    with pytest.raises(RunError, match="failed"):
        bench_scale.measure(broken, tmp_path)
