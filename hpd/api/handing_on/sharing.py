"""Runs and generators on the Hugging Face hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from generators import read_generator
from generators.sharing import folder_of_generator, generator_files
from hpd.api.runs import folder_of, load_run
from hpd.artifacts import RunFolder, check_free
from hpd.artifacts.packed.contents import Contents, contents_of
from hpd.boundary import public
from hpd.disk.locks import held
from hpd.errors import HpdError, HubError
from hpd.hub import Repository, newest_commit, pull_files, push_files

_RUN, _GENERATOR = "run", "generator"
_KINDS: dict[str, Literal["dataset", "model"]] = {_RUN: "dataset", _GENERATOR: "model"}
What = Literal["run", "generator"]


@dataclass(frozen=True)
class Pushed:
    """What was pushed.

    Args:
        repository: its name on the hub.
        kind: ``run`` or ``generator``.
        commit: to cite it by.
        files: how many.
    """

    repository: str
    kind: str
    commit: str
    files: int


@dataclass(frozen=True)
class Pulled:
    """What was pulled.

    Args:
        folder: where it lies.
        kind: ``run`` or ``generator``.
        commit: of the repository.
    """

    folder: Path
    kind: str
    commit: str


@public
def push(
    run: str | Path,
    repository: str,
    *,
    latents: bool = False,
    private: bool | None = None,
) -> Pushed:
    """Put a run, or a generator, into a repository of the Hugging Face hub, in one commit.

    A run goes to a data set with what `pack` packs: set, manifest, configuration, evaluations,
    checksums, and a card with pictures, figures, licence, use and how to cite it. A generator goes
    to a model with the files of its folder. The token is that of `huggingface_hub`: HF_TOKEN, or
    what `hf auth login` keeps.

    A push that was killed has changed nothing that others see; pushed again, it goes on.

    Args:
        run: folder of a finished run, a packed file; or the folder or bundled name of a generator.
        repository: ``"org/name"``, or ``"org/name@branch"``; made if it is not there.
        latents: of a run, also what each stage ended with.
        private: whether only who may can read it, where it is made; None: as its owner has it.

    Raises:
        HubError: for no token, no rights, no answer, or a repository that holds something else.
        RunError: if there is no finished run, or it is not as it was written.
        GeneratorError: if the generator is broken.
    """
    named = Repository.read(repository)
    if (folder := folder_of_generator(run)) is not None:
        named = named.of("model")
        own = generator_files(folder, read_generator(folder), named.name)
        files = Contents(own, {}).summed()
        commit = push_files(named, files, message="A generator", private=private)
        return Pushed(named.name, _GENERATOR, commit, len(files))
    of_run = folder_of(load_run(run))
    with held(of_run.path, "push"):
        files = contents_of(of_run, latents=latents, repository=named.name).summed()
        commit = push_files(named, files, message="A distilled set", private=private)
    return Pushed(named.name, _RUN, commit, len(files))


@public
def pull(repository: str, out: str | Path | None = None, *, kind: What | None = None) -> Pulled:
    """Fetch a run, or a generator, that was pushed, and check every file of it.

    The folder is there when all of it came and is whole, and not before. A pull that was killed
    goes on, file by file, when it is given again.

    Args:
        repository: ``"org/name"``, or ``"org/name@revision"``: a branch, a tag or a commit.
        out: a new folder; None: one called as the repository, here.
        kind: of what is wanted; None: the run, or the generator where there is no run.

    Raises:
        HubError: if there is none, no right to read it, no answer, a file that is not what its
            checksum says, or if what came is neither run nor generator.
        RunError: if `out` holds something, or another process pulls to it.
    """
    wanted = Repository.read(repository)
    folder = Path(wanted.name.partition("/")[2]) if out is None else Path(out).expanduser()
    check_free(folder)
    named, commit = _found(wanted, kind)
    what = _RUN if named.kind == "dataset" else _GENERATOR

    def check(draft: Path) -> None:
        try:
            RunFolder(draft).check_whole() if what == _RUN else read_generator(draft)
        except HpdError as error:
            raise HubError(f"{named} holds no {what} that is whole", got=error.problem) from None

    pull_files(named, commit, folder, check)
    return Pulled(folder, what, commit)


def _found(wanted: Repository, kind: What | None) -> tuple[Repository, str]:
    """Return the repository of a name that there is, and its commit."""
    if kind is not None:
        named = wanted.of(_KINDS[kind])
        return named, newest_commit(named)
    try:
        return wanted, newest_commit(wanted)
    except HubError as error:
        if not error.missing:
            raise
        first = error
    try:
        model = wanted.of("model")
        return model, newest_commit(model)
    except HubError as error:
        if not error.missing:
            raise
    got = "neither a run nor a generator of this name"
    raise HubError(first.problem, got=got, fix=first.fix, missing=True)
