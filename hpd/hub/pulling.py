"""Files from the hub: each is checked, and the folder is there when all of them are."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from hpd.disk.bundles import MOST_SUMS_BYTES, SUMS, read_sums
from hpd.disk.locks import held
from hpd.disk.seals import digest_file
from hpd.errors import HubError
from hpd.hub.failures import asked
from hpd.hub.repository import Repository, library, patience, quietly
from hpd.progress import tell

_AT_ONCE = 8
_OF_THE_LIBRARY = ".cache"
_DIGITS = 12


def newest_commit(repository: Repository) -> str:
    """Return the commit that a repository is at.

    Raises:
        HubError: if there is none, or the hub does not tell.
    """
    hub = library()

    def ask() -> str:
        about = hub.HfApi().repo_info(
            repository.name, repo_type=repository.kind, revision=repository.revision,
            timeout=patience(),
        )  # fmt: skip
        return str(about.sha)

    with quietly(hub):
        return asked(repository, "pull", ask)


def pull_files(
    repository: Repository,
    commit: str,
    folder: Path,
    check: Callable[[Path], object] = lambda folder: None,
) -> None:
    """Fetch the files that `SHA256SUMS` of a repository names to a new folder.

    They come to a folder beside it, which becomes `folder` when all of them are whole. A pull that
    was killed and is begun again fetches what is not there yet.

    Args:
        repository: where they are.
        commit: of it.
        folder: where nothing is.
        check: is called with the folder before it gets its name, and raises what is wrong with it.

    Raises:
        HubError: if the hub does not give them, or one is not what its checksum says.
        RunError: if another process pulls to the same folder.
    """
    place = folder.parent / f".{folder.name}.pull"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with held(place, "pull to"):
        draft = place / "files"
        draft.mkdir(exist_ok=True)
        hub = library()
        with quietly(hub):
            _fetch(hub, repository, commit, draft)
        check(draft)
        draft.rename(folder)
        shutil.rmtree(place, ignore_errors=True)


def _fetch(hub: Any, repository: Repository, commit: str, draft: Path) -> None:
    """Bring a folder to what a repository holds at a commit."""

    def download(name: str) -> None:
        asked(
            repository,
            "pull",
            lambda: hub.HfApi().hf_hub_download(
                repository.name, name, repo_type=repository.kind, revision=commit, local_dir=draft
            ),
        )

    (draft / SUMS).unlink(missing_ok=True)
    download(SUMS)
    try:
        with (draft / SUMS).open("rb") as file:
            sums = read_sums(file.read(MOST_SUMS_BYTES + 1))
    except ValueError as error:
        raise HubError(f"{repository} is no share of hpd", got=error) from None
    _sweep(draft, sums)
    missing = [name for name in sums if not (draft / name).is_file()]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        jobs = {pool.submit(download, name): name for name in missing}
        try:
            for done, job in enumerate(as_completed(jobs), 1):
                job.result()
                _check(draft, jobs[job], sums, repository)
                tell(f"pulling {repository.name}", done, len(jobs))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    shutil.rmtree(draft / _OF_THE_LIBRARY, ignore_errors=True)


def _sweep(draft: Path, sums: Mapping[str, str]) -> None:
    """Delete what an earlier pull left that is not, or not any more, as it should be."""
    for path in draft.rglob("*"):
        name = path.relative_to(draft).as_posix()
        if name.startswith(f"{_OF_THE_LIBRARY}/") or not path.is_file() or name == SUMS:
            continue
        if name not in sums or digest_file(path) != sums[name]:
            path.unlink()


def _check(draft: Path, name: str, sums: Mapping[str, str], repository: Repository) -> None:
    """Check a file that came.

    Raises:
        HubError: if it is not what its checksum says; then it is deleted.
    """
    got = digest_file(draft / name)
    if got != sums[name]:
        (draft / name).unlink()
        raise HubError(
            f"{name} of {repository} is not what its {SUMS} says",
            got=f"SHA-256 {got[:_DIGITS]}...",
            expected=f"{sums[name][:_DIGITS]}...",
            fix="Pull again; if it stays so, tell its owner.",
        )
