"""Files to the hub, in one commit: a push that was killed has changed nothing that others see."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpd.disk.bundles import MOST_SUMS_BYTES, SUMS, read_sums
from hpd.errors import HubError
from hpd.hub.failures import asked
from hpd.hub.repository import Repository, library, quietly

_CARD = "README.md"
# what a repository that nobody pushed to may hold
_OF_THE_HUB = frozenset({".gitattributes", _CARD})


def push_files(
    repository: Repository,
    files: Mapping[str, Path | bytes],
    *,
    message: str,
    private: bool | None = None,
) -> str:
    """Make a repository hold these files; those of an earlier push that are not among them go.

    Large files that reached the hub before a push was killed are not sent again.

    Args:
        repository: made where there is none.
        files: by name, `SHA256SUMS` among them.
        message: of the commit.
        private: whether only who may can read it, where it is made; None: as its owner has it.

    Returns:
        the commit.

    Raises:
        HubError: for no rights, no answer, or a repository that holds something else.
    """
    hub = library()
    api = hub.HfApi()

    def push() -> str:
        about = {"repo_type": repository.kind}
        api.create_repo(repository.name, private=private, exist_ok=True, **about)
        gone = _left_over(api, repository, files)
        additions = [
            hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=content)
            for name, content in files.items()
        ]
        deletions = [hub.CommitOperationDelete(path_in_repo=name) for name in gone]
        done = api.create_commit(
            repository.name, [*additions, *deletions], commit_message=message,
            revision=repository.revision, **about,
        )  # fmt: skip
        return str(done.oid)

    with quietly(hub):
        return asked(repository, "push to", push)


def _left_over(api: Any, repository: Repository, files: Mapping[str, Path | bytes]) -> list[str]:
    """Return the files of an earlier push that are not pushed any more.

    Raises:
        HubError: if the repository holds files, and nobody pushed there.
    """
    about = {"repo_type": repository.kind, "revision": repository.revision}
    there = set(api.list_repo_files(repository.name, **about))
    if SUMS not in there:
        if others := sorted(there - _OF_THE_HUB):
            raise HubError(
                f"cannot push to {repository}: it holds other files",
                got=others[0] + (f" and {len(others) - 1} more" if len(others) > 1 else ""),
                fix="Push to a repository of its own.",
            )
        return []
    path = Path(api.hf_hub_download(repository.name, SUMS, **about))
    try:
        with path.open("rb") as file:
            before = read_sums(file.read(MOST_SUMS_BYTES + 1))
    # nobody knows what belongs to it: what is pushed replaces what has its name
    except ValueError:
        return []
    return sorted((set(before) & there) - set(files))
