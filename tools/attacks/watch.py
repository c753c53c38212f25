"""What one input comes to, seen from inside of the process that it is given to."""

from __future__ import annotations

import os
import re
import resource
import sys
import time
import traceback
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType, TracebackType
from typing import Any

from attacks.places import Place, empty

LONGEST_MESSAGE = 600
MOST_BYTES = 2**30
# asked for beyond what there is: torch maps far more than it uses
_SPARE_BYTES = 3 * 2**30
_LARGEST_FILE = 2**28
_SOURCES = ("/hpd/", "/generators/")
_RUNS = frozenset(
    "subprocess.Popen os.system os.exec os.posix_spawn os.spawn os.startfile os.fork os.forkpty "
    "pty.spawn socket.connect socket.bind socket.getaddrinfo socket.gethostbyname socket.sendto "
    "urllib.Request ftplib.connect http.client.connect smtplib.connect webbrowser.open "
    "os.kill signal.pthread_kill code.__new__ function.__new__".split()
)
_CHANGES = frozenset(
    "os.mkdir os.remove os.rmdir os.rename os.link os.symlink os.truncate os.chmod os.chown "
    "os.utime os.setxattr shutil.rmtree shutil.move".split()
)
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# systems have no such folder, or it is no place for files: inputs name them to be refused
_NOWHERE = ("/dev/", "/proc/", "/sys/", "/nonexistent")
_READERS = ("/pickle.py", "/yaml/", "/torch/serialization", "/torch/_weights_only", "/numpy/lib/",
            "/importlib/", "/dill/", "/marshal", "/torchvision/", "/scipy/")  # fmt: skip
_OF_IMPORTS = ("<frozen importlib", "importlib/__init__.py", "<frozen zipimport")


@dataclass(frozen=True)
class Finding:
    """Something that an input must not come to.

    Args:
        kind: ``exception``, ``message``, ``executed``, ``written``, ``imported``, ``memory``,
            ``left over``, ``state``, ``wrong``; a supervisor adds ``crash`` and ``hang``.
        group: what findings of one cause have in common.
        lines: what is known of it.
    """

    kind: str
    group: str
    lines: list[str]


@dataclass(frozen=True)
class Outcome:
    """What an input came to.

    Args:
        name: the word of the target, ``error: `` and the type, or ``finding``.
        seconds: of processor time.
        grown: bytes that the process had more at its worst.
        message: characters of the error's message.
        findings: what must not be.
    """

    name: str
    seconds: float
    grown: int
    message: int = 0
    findings: list[Finding] = field(default_factory=list)


class WrongResultError(Exception):
    """A result that is none: what a target found that looked at it."""


class Watch:
    """Gives inputs to hpd and sees what happens.

    One per process, as what listens to Python's audit events can never be taken away.

    Args:
        place: outside of which nothing may be written.
        target: name of what is attacked, for groups of findings that no function stands for.
        most_bytes: more than these for one input are a finding.
    """

    def __init__(self, place: Place, target: str = "", most_bytes: int = MOST_BYTES) -> None:
        self._place, self._target, self._most = place, target, most_bytes
        self._root = str(place.root) + os.sep
        self._armed, self._named, self._seen = False, False, list[Finding]()
        self._prefixes = _trusted_prefixes()
        self._state = _state()
        sys.addaudithook(self._hear)

    def limit(self) -> None:
        """Bound what this process can take from its machine."""
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + _SPARE_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_FSIZE, (_LARGEST_FILE, _LARGEST_FILE))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def give(self, feed: Callable[[], str], *, named: bool = False) -> Outcome:
        """Give an input to hpd, and return what came of it.

        Args:
            feed: does that, and returns a word for what came of it.
            named: whether the input names places to write to.
        """
        from hpd.errors import HpdError

        self._seen, self._named = [], named
        before = _reset_peak()
        started, message = time.process_time(), 0
        self._armed = True
        try:
            name = feed()
        except HpdError as error:
            self._armed = False
            name, message = f"error: {type(error).__name__}", len(str(error))
            self._seen += _flaws(error)
        except BaseException as error:
            self._armed = False
            name = "finding"
            self._seen.append(_escaped(error))
        self._armed = False
        seconds, grown = time.process_time() - started, _peak() - before
        if grown > self._most:
            lines = [f"{grown >> 20} MiB more than before"]
            self._seen.append(Finding("memory", f"more than it may, {self._target}", lines))
        self._seen += self._left_over() + self._changed()
        if self._seen:
            name = "finding"
        return Outcome(name, seconds, grown, message, self._seen)

    def _left_over(self) -> list[Finding]:
        """Return what lies where nothing should, and remove it."""
        place, found = self._place, []
        for where in (place.current, place.temporary):
            names = empty(where)
            if self._named and where == place.current:
                names = [name for name in names if _is_draft(name)]
            if names:
                lines = sorted(map(ascii, names))[:9]
                found.append(Finding("left over", f"in {where.name}, {self._target}", lines))
        drafts = [name for name in _names_below(place.outputs) if _is_draft(name)]
        if drafts:
            lines = sorted(map(ascii, drafts))[:9]
            found.append(Finding("left over", f"in out, {self._target}", lines))
        empty(place.outputs)
        return found

    def _changed(self) -> list[Finding]:
        """Return what of the process is not as it was, and put it back."""
        state, found = _state(), []
        for name, now in state.items():
            if now != self._state[name]:
                lines = [f"{str(self._state[name])[:200]} became {str(now)[:200]}"]
                found.append(Finding("state", name, lines))
        if found:
            os.chdir(self._place.current)
            os.environ.clear()
            os.environ.update(self._state["environment"])
            self._state = _state()
        return found

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Listen to what Python does; raises where that would reach outside."""
        if not self._armed:
            return
        if event == "open":
            if arguments[2] and int(arguments[2]) & _WRITES:
                self._check_path(event, arguments[0])
        elif event in _CHANGES:
            self._check_path(event, arguments[0])
        elif event == "exec":
            self._check_code(arguments[0])
        elif event == "import":
            self._check_import(str(arguments[0]))
        elif event == "ctypes.dlopen":
            # a library of no name is the program itself
            if not str(arguments[0] or self._prefixes[0]).startswith(self._prefixes):
                self._stop("executed", event, arguments)
        elif event in _RUNS:
            self._stop("executed", event, arguments)

    def _check_path(self, event: str, path: Any) -> None:
        # an open descriptor was looked at when it was opened
        if isinstance(path, int):
            return
        place = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - of what may be bytes
        if place.startswith(self._root):
            return
        if place in ("/dev/null", "/dev/full") and event == "open":
            return
        # what an input names may be anywhere; hpd by itself would write beside its code, if at all
        asked = self._named and not place.startswith(self._prefixes)
        if asked or f"{place}/".startswith(_NOWHERE):
            raise PermissionError(13, "Permission denied", place)
        self._stop("written", event, (place,))

    def _check_code(self, code: CodeType) -> None:
        # classes, templates and annotations are made of text by libraries; what reads an input
        # has no use for that
        caller = sys._getframe(2)
        trusted = code.co_filename.startswith(self._prefixes)
        if not (trusted or _in_import(caller) or _is_of_library(caller)):
            self._stop("executed", "exec", (code.co_filename, code.co_name))

    def _check_import(self, module: str) -> None:
        if not _is_written(module, sys._getframe(2)):
            self._stop("imported", module, (module,))

    def _stop(self, kind: str, group: str, arguments: tuple[Any, ...]) -> None:
        self._armed = False
        stack = traceback.extract_stack(sys._getframe(2), limit=60)
        own = [_frame_name(f.filename, f.name) for f in stack]
        lines = [ascii(arguments)[:400], *[line for line in own if line][-3:]]
        self._seen.append(Finding(kind, group, lines))
        self._armed = True
        raise PermissionError(1, "Operation not permitted")


def place_of(error: BaseException) -> str:
    """Return the last function of hpd that an exception came through, or its origin."""
    frames = [_frame_name(f.f_code.co_filename, f.f_code.co_name) for f in _frames(error)]
    own = [frame for frame in frames if frame]
    return own[-1] if own else "outside of hpd"


def _frames(error: BaseException) -> list[FrameType]:
    found, trace = [], error.__traceback__
    while isinstance(trace, TracebackType):
        found.append(trace.tb_frame)
        trace = trace.tb_next
    return found


def _frame_name(file: str, function: str) -> str:
    if "site-packages" in file:
        return ""
    for part in _SOURCES:
        if part in file:
            return f"{file[file.rindex(part) + 1 :]}:{function}"
    return ""


def _escaped(error: BaseException) -> Finding:
    """Return the finding for an exception that is no `HpdError`."""
    if isinstance(error, WrongResultError):
        return Finding("wrong", f"wrong: {str(error).split(':')[0]}", [str(error)[:400]])
    group = f"{type(error).__name__} in {place_of(error)}"
    said = traceback.format_exception(error)
    lines = [line[:200] for line in "".join(said).splitlines()]
    return Finding(
        "exception", group, lines if len(lines) < 24 else [*lines[:3], "...", *lines[-20:]]
    )


def _flaws(error: Exception) -> list[Finding]:
    """Return what is wrong with a message: more than a line, too long, or with controls in it."""
    from hpd.errors import OpsError

    said, flaws = str(error), []
    if isinstance(error, OpsError) and error.lines:
        said = said.split("\n")[0]
    if len(said) > LONGEST_MESSAGE:
        flaws.append(f"{len(said)} characters")
    if len(said.splitlines()) != 1:
        flaws.append("not one line")
    odd = sorted({hex(ord(c)) for c in said if unicodedata.category(c) in ("Cc", "Cs")})
    if odd:
        flaws.append("control characters or surrogates")
    where = place_of(error)
    return [
        Finding("message", f"{type(error).__name__}, {flaw.lstrip('0123456789 ')} in {where}",
                [flaw, ascii(said[:300]), ascii(said[-200:])])
        for flaw in flaws
    ]  # fmt: skip


def _reset_peak() -> int:
    """Forget the most bytes that this process had, and return what it has."""
    with open("/proc/self/clear_refs", "w") as file:  # noqa: PTH123 - a hundred times a second
        file.write("5")
    return _peak()


def _peak() -> int:
    with open("/proc/self/status", "rb") as file:  # noqa: PTH123
        said = file.read()
    start = said.index(b"VmHWM:") + 6
    return int(said[start : said.index(b"kB", start)]) * 1024


def _state() -> dict[str, Any]:
    """Return what of a process no input may change."""
    import threading

    import torch

    return {
        "current folder": os.getcwd(),  # noqa: PTH109 - a string is compared at once
        "environment": dict(os.environ),
        "random numbers of torch": torch.get_rng_state().numpy().tobytes(),
        "dtype of torch": torch.get_default_dtype(),
        "threads of torch": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "threads": threading.active_count(),
        "recursion": sys.getrecursionlimit(),
    }


def _names_below(folder: Path) -> list[str]:
    return [name for _, folders, files in os.walk(folder) for name in (*folders, *files)]


_DRAFT = re.compile(r"\..+(\.part|\.[a-z0-9_]{8})|\.part-.*")


def _is_draft(name: str) -> bool:
    """Return whether a name is that of something on its way."""
    return _DRAFT.fullmatch(name) is not None


def _trusted_prefixes() -> tuple[str, ...]:
    """Return where code may come from: this Python, its packages, this checkout."""
    here = str(Path(__file__).resolve().parents[2]) + os.sep
    return tuple(
        {sys.prefix + os.sep, sys.base_prefix + os.sep, str(Path(os.__file__).parent), here}
    )


def _in_import(frame: FrameType | None) -> bool:
    """Return whether a frame is inside of an import."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _is_of_library(frame: FrameType | None) -> bool:
    """Return whether a frame is of a library, and of none that reads what programs are in."""
    name = "" if frame is None else frame.f_code.co_filename
    known = "site-packages" in name or name.startswith(str(Path(os.__file__).parent))
    return known and not any(part in name for part in _READERS)


def _is_written(module: str, frame: FrameType | None) -> bool:
    """Return whether an import is one that a program says, and not one that its input asks for."""
    if module.startswith("encodings."):
        return True
    nested = False
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith(_OF_IMPORTS[0]):
            # what a module imports that was imported rightly
            nested = nested or code.co_name == "exec_module"
        elif nested:
            return True
        elif not code.co_filename.endswith(_OF_IMPORTS[1]):
            if _is_of_library(frame):
                return True
            last = module.rpartition(".")[2]
            said = {*code.co_names, *(c for c in code.co_consts if isinstance(c, str))}
            said |= {
                n for c in code.co_consts if isinstance(c, tuple) for n in c if isinstance(n, str)
            }
            return last in said or any(n == module or n.startswith(module + ".") for n in said)
        frame = frame.f_back
    return False
