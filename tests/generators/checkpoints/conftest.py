"""What the tests of checkpoints share."""

import sys
from pathlib import Path

import pytest

# the helpers beside the tests also run as scripts in processes of their own
sys.path.append(str(Path(__file__).parent))


@pytest.fixture
def trap(tmp_path):
    """A file whose payload must not run."""
    from traps import Trap

    trap = Trap(tmp_path)
    yield trap
    assert not trap.file.exists()
