"""Read official StyleGAN checkpoints without running anything that is in them.

Official files are pickles whose every module carries its own source text, which the official
loader executes. Here the pickle is read as a graph of inert nodes, and only what the wanted
network needs is then turned into data by a short table of functions of this project.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from generators.checkpoints.pickles.machine import READABLE, Machine
from generators.checkpoints.pickles.nodes import Call, Global, Items, describe, shown
from generators.checkpoints.pickles.plain import MAX_DEPTH, PLAIN_NAMES, function_name, refuse
from generators.checkpoints.pickles.records import ModuleRecord
from generators.checkpoints.pickles.source import ByteSource, open_source
from generators.checkpoints.pickles.tensors import TENSOR_NAMES, TensorReader
from hpd.errors import GeneratorError, HpdError

MAX_FILE_BYTES = 16 * 2**30
# dots would make two tensors of one name; the rest keeps state dicts small and printable
_NAME = re.compile(r"[A-Za-z0-9_]{1,128}")
PERSISTENT = "torch_utils.persistence._reconstruct_persistent_obj"
_EMBEDDING = "torch.nn.modules.sparse.Embedding"
KNOWN_NAMES = PLAIN_NAMES | TENSOR_NAMES | {PERSISTENT, _EMBEDDING}
"""Every name that has a meaning in a checkpoint; all others are inert."""

# no part of a checkpoint has a use for these, so a file that names one is not what it claims
_HOSTILE_MODULES = frozenset(
    "asyncio bdb code codeop cProfile ctypes _ctypes distutils ensurepip ftplib http idlelib "
    "importlib marshal multiprocessing nt os pdb pickle _pickle pip platform popen2 posix pty "
    "profile runpy shutil signal smtplib socket subprocess _posixsubprocess sys telnetlib "
    "tempfile timeit trace urllib venv webbrowser".split()
)
_HOSTILE_BUILTINS = frozenset(
    "__import__ apply breakpoint compile delattr eval exec execfile exit file globals input "
    "locals open quit setattr vars".split()
)
_FIRST_BYTES = {
    b"PK\x03\x04": "a torch or zip file",
    b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.": "a torch file in the older format",
}


def is_hostile(name: Global) -> bool:
    """Tell whether a name has no honest use in a checkpoint."""
    top = name.module.partition(".")[0]
    if top in ("builtins", "__builtin__"):
        return name.name.partition(".")[0] in _HOSTILE_BUILTINS
    return top in _HOSTILE_MODULES


def is_legacy_tensorflow(name: Global) -> bool:
    """Tell whether a name belongs to the checkpoints of the TensorFlow versions."""
    return name.module.startswith("dnnlib.tflib") or name.module == "tfutil"


def read_checkpoint(path: str | Path, network: Literal["G_ema", "G"] = "G_ema") -> ModuleRecord:
    """Read one network of a StyleGAN2-ADA, StyleGAN3 or StyleGAN-XL checkpoint.

    Everything else in the file (discriminator, feature networks, data set options, embedded
    source text) stays inert, so it may be broken or unknown.

    Args:
        path: an official ``.pkl``, written by pickle or dill at protocol 2 to 5.
        network: ``"G_ema"``, the average that is meant to be used, or ``"G"``.

    Returns:
        The record of the network and, below it, of its submodules.

    Raises:
        GeneratorError: if the file is no such checkpoint, is damaged, names something that has
            no place in one, or needs something that is outside the table of known names.
    """
    try:
        with open_source(path, MAX_FILE_BYTES) as source:
            _check_start(source)
            root = Machine(source, allowed=READABLE, on_global=check_name).run()
            return NetworkReader(source).network(root, network)
    except HpdError as error:
        raise GeneratorError(f"cannot read the checkpoint {path}: {error}") from None
    # the limits should make both impossible; a caller may have used up the stack or the memory
    except (MemoryError, RecursionError) as error:
        raise GeneratorError(
            f"cannot read the checkpoint {path}", got=type(error).__name__
        ) from None


def _check_start(source: ByteSource) -> None:
    start = source.read_at(0, min(16, source.size))
    for first, kind in _FIRST_BYTES.items():
        if start.startswith(first):
            raise GeneratorError(
                "not an official pickle", got=kind, fix="Use `convert_checkpoint`."
            )
    if len(start) < 2 or start[0] != 0x80 or not 2 <= start[1] <= 5:
        raise GeneratorError(
            "not an official pickle", got=f"a file that starts with {start!r}",
            expected="a pickle of protocol 2 to 5",
        )  # fmt: skip
    source.read_at(0, 0)


def check_name(name: Global) -> None:
    """Refuse a name that no checkpoint of PyTorch has a use for.

    Raises:
        GeneratorError: if it is hostile, or of a TensorFlow version.
    """
    if is_legacy_tensorflow(name):
        raise GeneratorError(
            "it is a checkpoint of a TensorFlow version of StyleGAN",
            got=str(name),
            expected="one of StyleGAN2-ADA (PyTorch), StyleGAN3 or StyleGAN-XL",
            fix="Its networks hold TensorFlow code; convert it with `legacy.py` of NVIDIA's"
            " stylegan2-ada-pytorch first.",
        )
    if is_hostile(name):
        raise GeneratorError(
            f"refused {name}: no checkpoint has a use for it",
            fix="Do not load this file with anything else either: it may be an attack.",
        )


class NetworkReader(TensorReader):
    """Turn the nodes of one network into records."""

    def network(self, root: object, name: str) -> ModuleRecord:
        """Return the record of a network of an official checkpoint, by its name.

        Raises:
            GeneratorError: if there is none, or it is damaged.
        """
        networks = self.named(root, "the dict of networks")
        if name not in networks:
            raise GeneratorError(
                f"there is no network {name!r}", got=", ".join(_few(networks)) or "nothing"
            )
        return self.module(networks[name])

    def module(self, node: object, depth: int = 0) -> ModuleRecord:
        """Return the record of a module."""
        self.count(1, depth)
        class_name, state = self._class_and_state(node)
        taken = self.named(state.get("_buffers"), "buffers")
        for name in self._names(state.get("_non_persistent_buffers_set")):
            taken.pop(name, None)
        tensors = {**self.named(state.get("_parameters"), "parameters"), **taken}
        children = self.named(state.get("_modules"), "submodules")
        for name in [*tensors, *children]:
            if not _NAME.fullmatch(name):
                raise GeneratorError("a tensor or submodule of impossible name", got=shown(name))
        attributes, unread = self._attributes(state)
        args = self.plain(state.get("_init_args", ()))
        kwargs = self.plain(state.get("_init_kwargs"))
        if not isinstance(args, tuple) or not isinstance(kwargs, dict | None):
            raise GeneratorError(f"the constructor arguments of {class_name} are damaged")
        return ModuleRecord(
            class_name=class_name,
            args=args,
            kwargs=kwargs or {},
            attributes=attributes,
            unread=unread,
            tensors={k: self.tensor(v) for k, v in tensors.items() if v is not None},
            children={k: self.module(v, depth + 1) for k, v in children.items() if v is not None},
        )

    def parts(self, node: object) -> frozenset[str]:
        """Return the names of the submodules of a module; none for one that is damaged."""
        try:
            _, state = self._class_and_state(node)
            return frozenset(self.named(state.get("_modules"), "submodules"))
        except GeneratorError:
            return frozenset()

    def _class_and_state(self, node: object) -> tuple[str, dict[str, object]]:
        if not isinstance(node, Call):
            raise refuse(node, "a module")
        name = function_name(node)
        if name == _EMBEDDING:
            return "Embedding", self.named(node.state, "the state of a module")
        if name != PERSISTENT:
            raise refuse(node, "a module")
        meta = self.named(self.arguments(node, 1)[0], "the description of a module")
        class_name = meta.get("class_name")
        if meta.get("type") != "class" or not isinstance(class_name, str):
            raise GeneratorError("a module does not say its class", got=describe(class_name))
        return class_name, self.named(meta.get("state"), "the state of a module")

    def _names(self, node: object) -> list[str]:
        found = self.plain(Items() if node is None else node)
        if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
            raise GeneratorError("a set of buffer names holds something else")
        return found

    def _attributes(self, state: dict[str, object]) -> tuple[dict[str, object], dict[str, str]]:
        """Return the attributes that are plain data, and why the others are not."""
        read, unread = {}, {}
        for name, node in state.items():
            # torch keeps hooks and its own tables under such names
            if name.startswith("_"):
                continue
            try:
                read[name] = self.plain(node)
            except GeneratorError as error:
                unread[name] = error.problem
        return read, unread


def _few(names: Iterable[str]) -> list[str]:
    return [describe(name) for name in list(names)[:MAX_DEPTH]]
