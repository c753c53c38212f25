"""Builds the libraries of native operations, and keeps each under its recipe's key.

In the cache lie ``<key>/`` with a library and its record, ``<key>.failed.json`` for a recipe that
did not compile, a lock, and what is being built. A folder appears under its key whole or not at
all. Only the holder of the lock builds, so whatever looks unfinished to it was left by a process
that was killed, and the lock of such a process is gone with it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import ninja
from filelock import FileLock, Timeout

from generators.ops.toolchain import DEVICE_TYPES, Recipe, read_recipe
from hpd.disk.cache import cache_folder as folder_in_cache
from hpd.disk.files import write_json
from hpd.errors import OpsError

# of a build, and of waiting for another's: a minute is usual, but one for several architectures
# of CUDA on a busy machine takes ten
LIMIT_SECONDS = 1800.0
_GRACE_SECONDS = 10.0
_RECORD, _LOCK = "record.json", ".lock"
_BUILDING, _FAILED = ".building-", ".failed.json"
_MAX_LINES = 10
# where a compiler's output starts to matter, and what says that the machine was the cause
_FAULT = re.compile(r"\berror\b|undefined reference|\bfatal\b", re.IGNORECASE)
_PASSING = re.compile("No space left|Cannot allocate memory|out of memory|Killed|Disk quota")
_NINJA_OWN = re.compile(r"^(\[\d+/\d+\]|FAILED: |ninja: )")
_logger = logging.getLogger(__name__)


class FailedBeforeError(OpsError):
    """A recipe that did not compile the last time, and is not tried again unasked."""


def cache_folder() -> Path:
    """Return the folder of all libraries: in ``$HPD_CACHE``, or in the user's cache."""
    return folder_in_cache("ops")


def find_library(recipe: Recipe) -> Path | None:
    """Return the library of a recipe, or None if it is not there as it was made."""
    library = cache_folder() / recipe.key / recipe.library
    try:
        record = json.loads((library.parent / _RECORD).read_text("utf-8"))
        content = library.read_bytes()
    except (OSError, ValueError):
        return None
    return library if record == _describe(content) else None


def find_failure(recipe: Recipe) -> FailedBeforeError | None:
    """Return why a recipe did not compile the last time, or None if it did or was not tried."""
    try:
        lines = json.loads(_failure(recipe).read_text("utf-8"))["lines"]
        return FailedBeforeError(
            f"native operations for {recipe.device_type} did not compile with {recipe.version}",
            fix="'hpd ops build' tries again.",
            lines=[str(line) for line in lines],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def build(recipe: Recipe, *, retry: bool = False, limit_seconds: float = LIMIT_SECONDS) -> Path:
    """Return the library of a recipe, made now if it is not there.

    Processes that build at once wait for each other and share what the first one made.

    Args:
        recipe: how it is made.
        retry: try again what did not compile before.
        limit_seconds: how long to wait for another process, and how long to build.

    Raises:
        OpsError: if it does not compile or did not before, if another process builds for too
            long, or if the cache cannot be written to.
    """
    found = find_library(recipe)
    if found is not None:
        return found
    cache = cache_folder()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache / _LOCK, limit_seconds):
            found = find_library(recipe)
            if found is None:
                found = _try(recipe, cache, retry, limit_seconds)
            return found
    except OSError as error:
        raise OpsError(
            "native operations cannot be kept", got=error,
            fix="Free some space, or name a folder in HPD_CACHE.",
        ) from None  # fmt: skip


def clean() -> int:
    """Remove what the cache holds but what is built here now; return how many libraries went.

    Raises:
        OpsError: if another process builds for too long.
    """
    cache, kept = cache_folder(), set()
    for device_type in DEVICE_TYPES:
        with contextlib.suppress(OpsError):
            kept.add(read_recipe(device_type).key)
    if not cache.is_dir():
        return 0
    with _locked(cache / _LOCK, LIMIT_SECONDS):
        _sweep(cache)
        for failure in cache.glob(f"*{_FAILED}"):
            if failure.name.removesuffix(_FAILED) not in kept:
                failure.unlink()
        libraries = [record.parent for record in cache.glob(f"*/{_RECORD}")]
        old = [folder for folder in libraries if folder.name not in kept]
        for folder in old:
            shutil.rmtree(folder)
    return len(old)


@contextlib.contextmanager
def _locked(path: Path, limit_seconds: float) -> Iterator[None]:
    """Hold a lock of the operating system, which ends with the process at the latest."""
    lock = FileLock(path)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            _logger.warning("waiting for another process that builds native operations")
            lock.acquire(timeout=limit_seconds)
    except Timeout:
        raise OpsError(
            f"another process has been building for more than {limit_seconds:.0f} s",
            fix=f"End it; it holds {path}.",
        ) from None
    try:
        yield
    finally:
        lock.release()


def _try(recipe: Recipe, cache: Path, retry: bool, limit_seconds: float) -> Path:
    """Make a library, or say why not; the caller holds the lock."""
    _sweep(cache)
    failure = None if retry else find_failure(recipe)
    if failure is not None:
        raise failure
    _logger.warning("building native operations for %s, once", recipe.device_type)
    folder = Path(tempfile.mkdtemp(prefix=_BUILDING, dir=cache))
    try:
        output = _compile(recipe, folder, limit_seconds)
        if output is not None:
            raise _remember(recipe, output)
        if read_recipe(recipe.device_type).key != recipe.key:
            # what was made is not what the key says
            raise OpsError(
                f"the sources for {recipe.device_type} changed while they were built",
                fix="Start again.",
            )
        _failure(recipe).unlink(missing_ok=True)
        return _keep(recipe, folder, cache / recipe.key)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(cache: Path) -> None:
    """Remove what killed processes left; a compiler of theirs may still be writing to it."""
    for leftover in cache.glob(f"{_BUILDING}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _keep(recipe: Recipe, folder: Path, target: Path) -> Path:
    """Move a library and its record to their place in one step."""
    whole = folder / "whole"
    whole.mkdir()
    (folder / recipe.library).rename(whole / recipe.library)
    write_json(whole / _RECORD, _describe((whole / recipe.library).read_bytes()))
    if target.exists():
        # damaged, or it would have been used; a folder is not replaced in one step
        target.rename(folder / "damaged")
    whole.rename(target)
    return target / recipe.library


def _describe(library: bytes) -> dict[str, object]:
    return {"bytes": len(library), "sha256": hashlib.sha256(library).hexdigest()}


def _failure(recipe: Recipe) -> Path:
    return cache_folder() / f"{recipe.key}{_FAILED}"


def _remember(recipe: Recipe, output: str) -> OpsError:
    """Return the error for a compiler's output, and keep it unless the machine is the cause."""
    lines = telling_lines(output)
    if not _PASSING.search(output):
        with contextlib.suppress(OSError):
            write_json(_failure(recipe), {"lines": lines})
    return OpsError(
        f"native operations for {recipe.device_type} do not compile with {recipe.version}",
        fix="'hpd ops build' tries again.",
        lines=lines,
    )


def telling_lines(output: str) -> list[str]:
    """Return the ten lines at most of a compiler's output that tell what is wrong.

    The first error is the one to mend: often the others follow from it.
    """
    lines = [line.rstrip() for line in output.splitlines() if line.strip()]
    said: list[str] = []
    after_failed = False
    for line in lines:
        # ninja repeats the command on the line after this one
        if not _NINJA_OWN.match(line) and not after_failed:
            said.append(line)
        after_failed = line.startswith("FAILED: ")
    first = next((i for i, line in enumerate(said) if _FAULT.search(line)), None)
    if first is None:
        return (said or lines)[-_MAX_LINES:]
    return said[first : first + _MAX_LINES]


def _compile(recipe: Recipe, folder: Path, limit_seconds: float) -> str | None:
    """Run ninja in a folder, and return what was said if that failed."""
    (folder / "build.ninja").write_text(_ninja_file(recipe), "utf-8")
    scratch = folder / "tmp"
    scratch.mkdir()
    # compilers leave their scratch files when they are killed: there they are swept
    environment = os.environ | {"LC_ALL": "C", "TMPDIR": str(scratch)}
    environment.pop("NINJA_STATUS", None)
    command = [str(Path(ninja.BIN_DIR) / "ninja"), "-C", str(folder)]
    try:
        process = subprocess.Popen(
            command, env=environment, text=True, errors="replace",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    except OSError as error:
        raise OpsError("ninja does not start", got=error) from None
    with process:
        try:
            output, _ = process.communicate(timeout=limit_seconds)
        except BaseException as error:
            _end(process)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            raise OpsError(
                f"native operations for {recipe.device_type} take too long to compile",
                got=f"more than {limit_seconds:.0f} s",
            ) from None
    return output if process.returncode else None


def _end(process: subprocess.Popen[str]) -> None:
    """End ninja, which then ends the compilers that it started, and itself at the latest."""
    process.terminate()
    try:
        process.wait(timeout=_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


def _ninja_file(recipe: Recipe) -> str:
    """Return the steps from sources to library, for ninja."""
    compiler, flags = _command(recipe.compiler), _command([*recipe.flags, *recipe.includes])
    single = recipe.link is None
    lines = [f"rule compile\n  command = {compiler} {flags} {'' if single else '-c '}$in -o $out"]
    made = [recipe.library] if single else [f"{index}.o" for index in range(len(recipe.sources))]
    for out, source in zip(made, recipe.sources, strict=True):
        path = re.sub(r"([$ :])", r"$\1", str(source))
        lines.append(f"build {out}: compile {path}")
    if recipe.link is not None:
        lines.append(f"rule link\n  command = {compiler} $in -o $out {_command(recipe.link)}")
        lines.append(f"build {recipe.library}: link {' '.join(made)}")
    return "\n".join(lines) + "\n"


def _command(words: Iterable[str]) -> str:
    """Quote words for the shell, and for ninja around it."""
    return shlex.join(words).replace("$", "$$")
