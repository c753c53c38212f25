from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hpd.students.experts.trajectories import ExpertFolder, ExpertRecord


@pytest.fixture
def path(experts_folder, tmp_path) -> Path:
    """A copy of the experts, to be damaged."""
    return Path(shutil.copytree(experts_folder, tmp_path / "experts"))


@pytest.fixture
def record(experts_folder) -> ExpertRecord:
    return ExpertFolder.open(experts_folder).record
