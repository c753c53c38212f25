"""Stand-ins for compilers and caches, so that builds are quick and can go wrong on purpose."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shlex
import signal
from multiprocessing.connection import Connection
from pathlib import Path

from generators.ops import build, native, toolchain

# says what it is asked, and copies its inputs together into what it is to make
SCRIPT = r"""#!/bin/sh
case " $* " in *" -dM "*) echo '#define __VERSION__ "{version}"'; exit 0;; esac
echo "$*" >> {log}
out=; inputs=
while [ $# -gt 0 ]; do
    case $1 in
        -o) out=$2; shift;;
        *.cpp|*.o) inputs="$inputs $1";;
    esac
    shift
done
{then}
cat $inputs > "$out"
"""
FAILS = "printf '%s\\n' {lines} >&2; exit 1"


class Builder:
    """A process that builds, and dies where it calls one function of the module if told to."""

    def __init__(self, moment: str | None) -> None:
        # a copy of this process: a new one would import torch first
        context = multiprocessing.get_context("fork")
        self._said, theirs = context.Pipe(duplex=False)
        self._process = context.Process(target=self._build, args=(theirs, moment))
        self._process.start()
        theirs.close()

    @staticmethod
    def _build(said: Connection, moment: str | None) -> None:
        handler = logging.Handler()
        handler.emit = lambda record: said.send(record.getMessage())
        logging.getLogger("generators.ops").addHandler(handler)
        os.environ["BUILDER"] = str(os.getpid())
        if moment:
            setattr(build, moment, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        said.send(str(build.build(toolchain.read_recipe("cpu"))))

    def hear(self) -> str:
        """What it logs next, or in the end the path of its library."""
        return self._said.recv()

    def end(self) -> int:
        """Wait for it, and return its exit status."""
        self._process.join()
        return self._process.exitcode


class Bench:
    """A folder with sources, a cache and a compiler that is a script; nothing else is looked at."""

    def __init__(self, folder: Path, monkeypatch) -> None:
        self.folder, self.cache, self.csrc = folder, folder / "cache", folder / "csrc"
        self.log = folder / "calls"
        (self.csrc / "cpu").mkdir(parents=True)
        for name in ("one", "two"):
            (self.csrc / "cpu" / f"{name}.cpp").write_text(f"// {name}\n")
        monkeypatch.setenv("HPD_CACHE", str(self.cache))
        monkeypatch.setenv("CXX", str(folder / "compiler"))
        monkeypatch.delenv("HPD_OPS", raising=False)
        monkeypatch.setattr(toolchain, "CSRC", self.csrc)
        self._monkeypatch = monkeypatch
        self.set_compiler()
        self.new_process()

    def set_compiler(self, then: str = "", version: str = "1.0") -> None:
        """Write the compiler; `then` is run before it makes its output."""
        path = self.folder / "compiler"
        log = shlex.quote(str(self.log))
        path.write_text(SCRIPT.format(log=log, then=then, version=version))
        path.chmod(0o755)

    def break_compiler(self, *lines: str) -> None:
        """Have the compiler print these lines and fail."""
        self.set_compiler(FAILS.format(lines=shlex.join(lines)))

    def new_process(self) -> None:
        """Forget what the process has decided, as a new one would."""
        self._monkeypatch.setattr(native, "_CHOSEN", {})
        self._monkeypatch.setattr(native, "_OPENED", {})

    def recipe(self):
        return toolchain.read_recipe("cpu")

    def calls(self) -> list[str]:
        """What the compiler was told to make so far."""
        return self.log.read_text().splitlines() if self.log.exists() else []

    def leftovers(self) -> list[Path]:
        return list((self.cache / "ops").glob(".building-*"))
