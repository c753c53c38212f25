"""Code of the user's own that registers components: imported because it was named, and only then.

Two ways lead here: a module or file that a command names with ``--import``, and installed packages
that say in their metadata what they bring (entry points of the group `GROUP`). Nothing that a
configuration or a run folder says makes anything be imported.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import logging
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from hpd.errors import ConfigError, HpdError, nearest, one_line

GROUP = "hpd.plugins"
"""Entry points of this group are modules that register components, or functions that do."""

_OURS = ("hpd", "generators")
_EXPECTED = "a module's name, with dots, or the path of a .py file"
_logger = logging.getLogger(__name__)


@dataclass
class _Imported:
    """What was imported so far, by whom it was named; and whether packages were asked."""

    by_module: dict[str, str] = field(default_factory=dict)
    packages_asked: bool = False


_IMPORTED = _Imported()


@dataclass(frozen=True)
class Origin:
    """Where something of the user's own comes from.

    Args:
        module: in which it is defined.
        given: what ``--import`` takes to have it again; ``"package NAME"`` of an installed one; ""
            for what was defined in an interactive session.
        sha256: of the module's file; None without one.
    """

    module: str
    given: str
    sha256: str | None


def import_module(name: str) -> ModuleType:
    """Import a module that the user named, so that what it registers is known.

    Args:
        name: with dots, as Python finds it, and in the current folder after that; or the path of a
            ``.py`` file.

    Raises:
        ConfigError: if there is none, or it fails, naming file and line.
    """
    before = set(sys.modules)
    path = Path(name).expanduser()
    try:
        if path.suffix == ".py":
            module = _import_file(name, path)
        else:
            _add_to_path(Path.cwd())
            importlib.invalidate_caches()
            module = _no_mere_folder(name, importlib.import_module(name))
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _failed(name, error) from error
        found = [p.stem for p in Path.cwd().glob("*.py")]
        hint = nearest(name, found) if found else ""
        raise ConfigError(
            f"no module {name!r}, in {Path.cwd()} neither", expected=_EXPECTED, fix=hint
        ) from None
    except ConfigError as error:
        if error.option == "--import":
            raise
        raise _failed(name, error) from error
    # a script may end the program
    except (Exception, SystemExit) as error:
        raise _failed(name, error) from error
    for brought in {*(set(sys.modules) - before), module.__name__}:
        _IMPORTED.by_module.setdefault(brought, name)
    return module


def _no_mere_folder(name: str, module: ModuleType) -> ModuleType:
    # Python imports any folder as a package without code, and finds it instead of a module of the
    # same name that appears later
    if getattr(module, "__file__", None) or not hasattr(module, "__path__"):
        return module
    del sys.modules[name]
    raise ConfigError(
        f"the folder {name!r} is no module: it has no __init__.py", option="--import",
        expected=_EXPECTED,
    )  # fmt: skip


def load_packages() -> bool:
    """Let installed packages register what they bring, once; return whether any did now.

    One that fails is left out with a warning.
    """
    if _IMPORTED.packages_asked:
        return False
    # first, as what is loaded may look up names itself
    _IMPORTED.packages_asked = True
    points = sorted(metadata.entry_points(group=GROUP), key=lambda point: point.name)
    for point in points:
        package = point.dist.name if point.dist else point.module
        before = set(sys.modules)
        try:
            loaded = point.load()
            if not isinstance(loaded, ModuleType):
                loaded()
        except (Exception, SystemExit) as error:
            reason = one_line(reason_of(error))
            _logger.warning("the plugin %s of %s is left out: %s", point.name, package, reason)
        for brought in {*(set(sys.modules) - before), point.module}:
            _IMPORTED.by_module.setdefault(brought, f"package {package}")
    return bool(points)


def origin_of(thing: type | Callable[..., Any]) -> Origin | None:
    """Return where a class or function comes from; None for what comes with hpd."""
    name = thing.__module__
    if name.partition(".")[0] in _OURS:
        return None
    file = getattr(sys.modules.get(name), "__file__", None)
    path = None if file is None else Path(file)
    digest = None
    if path is not None and path.is_file():
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    # what was defined in an interactive session is in no file
    alone = "" if path is None else path.name if name == "__main__" else name
    given = _IMPORTED.by_module.get(name, alone)
    return Origin(name, given, digest)


def advice(given: str) -> str:
    """Return what to do to have something of the user's own again; see `Origin`."""
    if not given:
        return "It was defined in an interactive session: define it again first."
    if given.startswith("package "):
        return f"It is of the {given}: install that."
    return f"It was made with --import {given}: add it (in Python: import it first)."


def _import_file(name: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f"no file {name}", expected=_EXPECTED, option="--import")
    known = sys.modules.get(path.stem)
    if known is not None:
        file = getattr(known, "__file__", None)
        if file is not None and Path(file).resolve() == path.resolve():
            return known
        raise ConfigError(
            f"there is another module {path.stem!r} than {name}",
            fix="Give the file another name.", option="--import",
        )  # fmt: skip
    # as of a script: modules beside it are found
    _add_to_path(path.parent.resolve())
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{name} is no module", expected=_EXPECTED, option="--import")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise
    return module


def _add_to_path(folder: Path) -> None:
    """Let modules of a folder be found, after all others: none is to hide one of a library."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _failed(name: str, error: BaseException) -> ConfigError:
    return ConfigError(f"cannot import {name}", got=reason_of(error), option="--import")


def reason_of(error: BaseException) -> str:
    """Return what went wrong in code of the user's own, with file and line."""
    said = str(error) if isinstance(error, HpdError) else f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError):
        said = f"SyntaxError: {error.msg}"
        return f"{said} ({_short(error.filename or '?')}, line {error.lineno})"
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "importlib" not in frame.filename and Path(frame.filename) != Path(__file__)
    ]
    outside = [frame for frame in own if not _is_ours(frame.filename)]
    where = (outside or own)[-1:]
    return said + "".join(f" ({_short(frame.filename)}, line {frame.lineno})" for frame in where)


def _is_ours(file: str) -> bool:
    return Path(__file__).parent in Path(file).parents


def _short(file: str) -> str:
    """Return a file as seen from the current folder, where it lies in there."""
    inside = os.path.relpath(file)
    return file if inside.startswith("..") else inside
