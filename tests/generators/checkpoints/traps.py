"""Files whose payload leaves a trace as soon as it runs."""

from __future__ import annotations

import os

import pickles
import pytest

from generators.checkpoints import inspect_checkpoint, read_checkpoint
from hpd.errors import GeneratorError


class Runs:
    """An object that runs a command as soon as its pickle is read."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


class Trap:
    """A file that appears as soon as any payload runs."""

    def __init__(self, folder):
        self.path, self.file = folder / "network.pkl", folder / "sprung"
        self.command = f"touch {self.file}"
        self.code = f"open({str(self.file)!r}, 'w').close()"

    def write(self, content, protocol=4):
        self.path.write_bytes(pickles.dumps(content, protocol))

    def check(self, *names):
        """The file is refused, every name is in the message, and nothing ran."""
        with pytest.raises(GeneratorError) as caught:
            read_checkpoint(self.path)
        inspect_checkpoint(self.path)
        assert not self.file.exists()
        for name in names:
            assert name in str(caught.value)
