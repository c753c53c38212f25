"""NVIDIA's compute-sanitizer over the tests of the kernels: wrong addresses, and races."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from gpu_parts.part import ROOT, Place, Row, guarded

TESTS = Path("tests", "generators", "ops", "test_cuda.py")
TOOLS = ("memcheck", "racecheck")
_FOUND, _MOST_LINES = 86, 12


def sanitizer(place: Place) -> Iterator[Row]:
    """Run each tool; at 10 to 100 times the time of a plain run."""
    command = find_sanitizer()
    reason = None
    if place.device != "cuda":
        reason = "it checks what runs on a GPU"
    elif command is None:
        reason = "no compute-sanitizer: it comes with NVIDIA's toolkit, not with torch"
    elif not (ROOT / TESTS).is_file() or find_spec("pytest") is None:
        reason = f"no {TESTS.as_posix()}, or no pytest"
    if reason is not None or command is None:
        yield Row("compute-sanitizer", "skipped", str(reason))
        return
    seconds = 0.45 * place.limit_seconds
    for tool in TOOLS:
        yield from guarded(tool, partial(check, command, tool, seconds, place.folder))


def find_sanitizer() -> str | None:
    """Return the command, of PATH or of NVIDIA's usual places."""
    places = Path("/usr/local").glob("cuda*/bin/compute-sanitizer")
    return shutil.which("compute-sanitizer") or next(map(str, sorted(places)), None)


def check(command: str, tool: str, limit_seconds: float, folder: Path) -> Row:
    """Run the tests of the kernels under one tool."""
    words = [
        *(command, "--tool", tool, "--error-exitcode", str(_FOUND)),
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
        *("-k", "not compile and not valid", TESTS.as_posix()),
    ]
    # each tensor in memory of its own, or what lies beside it is valid, too
    environment = os.environ | {"HPD_OPS": "native", "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    try:
        done = subprocess.run(
            words, cwd=ROOT, env=environment, text=True, errors="replace", check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=limit_seconds,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Row(tool, "bad", f"did not end within {limit_seconds:.0f} s, so says nothing")
    (folder / f"{tool}.log").write_text(done.stdout)
    return judge(tool, done.returncode, done.stdout)


def judge(tool: str, code: int, output: str) -> Row:
    """Return what a tool's output comes to."""
    passed = re.search(r"(\d+) passed", output)
    lines = [line for line in output.splitlines() if line.startswith("=========")]
    errors = [line.strip("= ") for line in lines if "SUMMARY" in line]
    summary = "; ".join(errors) or "no summary"
    tests = int(passed[1]) if passed else 0
    if code == 0 and tests:
        return Row(tool, "good", f"{tests} tests, {summary}", {"tests": tests})
    if code == 0 or (code == 5 and not errors):
        skipped = next((line for line in output.splitlines() if "SKIPPED" in line), "no test ran")
        return Row(tool, "skipped", f"{skipped}; {summary}")
    said = " / ".join(line.strip("= ") for line in lines[:_MOST_LINES] if line.strip("= "))
    return Row(tool, "bad", f"exit code {code}, {tests} tests passed, {summary}: {said}")
