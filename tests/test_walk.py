"""The walk with photographs of one's own runs as the page says it, in fewer steps."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, SMALL_STUDENT

PAGE = (ROOT / "docs" / "own-photographs.md").read_text("utf-8")
# fewer steps and students, and small ones; what is made and read stays
QUICK = {
    "distill": [
        f"objective.student={SMALL_STUDENT}", "objective.augment=[]", "objective.real_batch=4",
        f"evaluation.students=[{SMALL_STUDENT}]", "evaluation.training={steps: 1}",
        "evaluation.full_training=null", "evaluation.seeds=1", "curve_every=0",
    ],
    "evaluate": ["training.steps=1", "seeds=1"],
}  # fmt: skip


def commands():
    for block in re.findall(r"^```console\n(.*?)^```", PAGE, re.S | re.M):
        yield from block.splitlines()


def quick(line):
    """The words of a command, in fewer steps."""
    words = shlex.split(line)
    if words[0] == "python":
        return [sys.executable, *words[1:], *(["1"] if words[1] == "my_decoder.py" else [])]
    words = [word.replace("steps: 30", "steps: 1") for word in words]
    added = []
    if words[1] == "distill":
        added = list(QUICK["distill"])
        if not any(word.startswith("source=") for word in words):
            added.append("source.of.steps=1")
    elif words[1] == "evaluate":
        added = QUICK["evaluate"]
    return [sys.executable, "-m", "hpd", *words[1:], *added]


@pytest.mark.slow
def test_the_walk_runs_as_it_is_written(tmp_path):
    for name, text in re.findall(r'^```python title="(\w+\.py)"\n(.*?)^```', PAGE, re.S | re.M):
        (tmp_path / name).write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ran = []
    for line in commands():
        done = subprocess.run(
            quick(line), cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{line}: {done.stderr}"
        ran.append(line)
    assert len(ran) > 8
    # nothing of one's own is needed to look at what came of it
    records = json.loads((tmp_path / "runs/tiles/evaluation.json").read_text())
    assert records["name"] == "resnet"
    assert [record["name"] for record in records["earlier"]] == ["dc-hard-convnet"]
    lines = json.loads((tmp_path / "comparison/comparison.json").read_text())["lines"]
    assert {line["run"] for line in lines} == {"tiles", "levels"}
    assert len(list(Path(tmp_path / "photos-distilled").rglob("*.png"))) == 20
