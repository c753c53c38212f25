"""What was found, as a table and as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpu_parts.part import Part

_MEBIBYTE = 2**20


def reason_of(found: Mapping[str, Any]) -> str:
    """Return why a part got its verdict: its first bad row, or how many are good."""
    rows = found["rows"]
    bad = [row for row in rows if row["verdict"] == "bad"]
    if bad:
        return f"{len(bad)} of {len(rows)} bad: {bad[0]['what']}: {bad[0]['says']}"
    if found["verdict"] == "skipped":
        return rows[-1]["says"] if rows else "nothing was looked at"
    good = sum(row["verdict"] == "good" for row in rows)
    skipped = [row for row in rows if row["verdict"] == "skipped"]
    said = f"{good} good" if good else rows[-1]["says"]
    if good and len(rows) > good + len(skipped):
        said += f", {len(rows) - good - len(skipped)} told"
    return said + "".join(f"; {row['what']}: {row['says']}" for row in skipped[:2])


def table(parts: Mapping[str, Part], found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a line a part: verdict, seconds, peak memory, reason."""
    head = f"{'part':17} {'verdict':8} {'s':>6} {'GPU MiB':>8} {'host MiB':>9}  why"
    return "\n".join([head, *(_line(name, found.get(name)) for name in parts)])


def _line(name: str, own: Mapping[str, Any] | None) -> str:
    if own is None:
        return f"{name:17} {'not run':8}"
    gpu, host = _memory(own)
    reason = reason_of(own)
    why = reason if len(reason) <= 100 else reason[:97] + "..."
    return f"{name:17} {own['verdict']:8} {own.get('seconds', 0):6.1f} {gpu:>8} {host:>9}  {why}"


def _memory(own: Mapping[str, Any]) -> tuple[str, str]:
    """Return the peaks of the GPU's tensors and of the process, in mebibytes."""
    peak = own.get("peak", {})
    gpu = [peak["gpu_bytes"]] if "gpu_bytes" in peak else []
    if own.get("device") == "cuda":
        # of processes that the part started, each by itself
        gpu += [row["figures"].get("peak_bytes", 0) for row in own["rows"]]
    host = peak.get("process_bytes")
    sizes = (max(gpu, default=0) or None, host)
    there, here = ("" if size is None else f"{size / _MEBIBYTE:,.0f}" for size in sizes)
    return there, here


def page(
    machine: Mapping[str, str], parts: Mapping[str, Part], found: Mapping[str, Mapping[str, Any]]
) -> str:
    """Return all of it as Markdown: a line a part, then every row."""
    head = ", ".join(f"{name} {value}" for name, value in machine.items())
    lines = [
        "# Check of a device", "", f"Written by `tools/gpu_check.py`; {head}.", "",
        "| part | verdict | seconds | GPU MiB | host MiB | why |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    done = {name: found[name] for name in parts if name in found}
    for name, own in done.items():
        cells = [name, own["verdict"], f"{own.get('seconds', 0):.1f}", *_memory(own)]
        lines.append(_cells([*cells, reason_of(own)]))
    for name, own in done.items():
        part = parts[name]
        lines += ["", f"## {part.title}", "", f"**{own['verdict']}**: {_text(reason_of(own))}", ""]
        lines += [f"Asked: {part.asked}.", "", "| what | verdict | finding |", "|---|---|---|"]
        lines += [_cells([row["what"], row["verdict"], row["says"]]) for row in own["rows"]]
        if own.get("log"):
            lines += ["", "What it said last:", "", "```text", *own["log"], "```"]
    return "\n".join(lines) + "\n"


def _cells(values: Sequence[str]) -> str:
    return "| " + " | ".join(_text(value) for value in values) + " |"


def _text(value: str) -> str:
    return " ".join(value.split()).replace("|", "\\|")
