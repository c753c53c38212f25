"""Builds libraries of native operations, and keeps each under the hash of what it is made from."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

from generators.ops.toolchain import Recipe
from hpd.errors import OpsError
from hpd.files import write_json

_RECORD = "record.json"
LIMIT_SECONDS = 900.0
_MAX_LINES = 10


def cache_folder() -> Path:
    """Return the folder of all libraries: in `$HPD_CACHE`, or the user's cache."""
    own = os.environ.get("HPD_CACHE")
    root = Path(own).expanduser() if own else platformdirs.user_cache_path("hpd", appauthor=False)
    return root / "ops"


def find_library(recipe: Recipe) -> Path | None:
    """Return the library of a recipe if it is there and whole."""
    library = cache_folder() / recipe.key / recipe.library
    try:
        record = json.loads((library.parent / _RECORD).read_text())
        content = library.read_bytes()
    except (OSError, ValueError):
        return None
    whole = record == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return library if whole else None


def build(recipe: Recipe, limit_seconds: float = LIMIT_SECONDS) -> Path:
    """Return the library of a recipe, made now if it is not there."""
    found = find_library(recipe)
    if found:
        return found
    cache = cache_folder()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / ".lock", timeout=limit_seconds):
            return find_library(recipe) or _make(recipe, cache, limit_seconds)
    except Timeout:
        raise OpsError("another process has been building for too long") from None
    except OSError as error:
        raise OpsError("cannot write to the cache", got=error) from None


def _make(recipe: Recipe, cache: Path, limit_seconds: float) -> Path:
    for leftover in cache.glob(".building-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=".building-", dir=cache))
    try:
        _compile(recipe, folder, limit_seconds)
        content = (folder / recipe.library).read_bytes()
        done = folder / "done"
        done.mkdir()
        (folder / recipe.library).rename(done / recipe.library)
        record = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        write_json(done / _RECORD, record)
        target = cache / recipe.key
        if target.exists():
            target.rename(folder / "broken")
        done.rename(target)
        return target / recipe.library
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _compile(recipe: Recipe, folder: Path, limit_seconds: float) -> None:
    (folder / "build.ninja").write_text(_ninja_file(recipe))
    import ninja

    done = subprocess.run(
        [str(Path(ninja.BIN_DIR) / "ninja"), "-C", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        lines = done.stdout.splitlines()
        raise OpsError("\n".join(lines[-_MAX_LINES:]))


def _ninja_file(recipe: Recipe) -> str:
    def command(*parts: Sequence[str]) -> str:
        return " ".join(shlex.quote(p) for part in parts for p in part).replace("$", "$$")

    def path(value: str | Path) -> str:
        return re.sub(r"([$ :])", r"$\1", str(value))

    compile_ = command(recipe.compiler, recipe.flags, recipe.includes)
    rules = [
        f"rule compile\n  command = {compile_} -c $in -o $out",
        f"rule link\n  command = {command(recipe.compiler)} $in -o $out {command(recipe.link)}",
    ]
    objects = [f"{index}-{source.stem}.o" for index, source in enumerate(recipe.sources)]
    rules += [
        f"build {path(out)}: compile {path(source)}"
        for out, source in zip(objects, recipe.sources, strict=True)
    ]
    rules.append(f"build {recipe.library}: link {' '.join(map(path, objects))}\n")
    return "\n".join(rules)
