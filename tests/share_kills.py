"""Packs, pushes and pulls in processes that are killed, and again: see sharing/test_kills.py.

One process imports everything once and forks a child for each attempt. Usage: ``python
share_kills.py FOLDER`` with HF_ENDPOINT of a stand-in for the hub; writes FOLDER/report.json.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from kills import FORK, attempt, count_events

import hpd
from hpd.disk.archives import ArchiveWriter

CONFIG = {
    "data": {"kind": "digits", "classes": ["0", "1", "8"]},
    "device": "cpu",
    "source": {"kind": "pixel", "steps": 1},
    "objective": {
        "kind": "distribution", "real_batch": 4,
        "student": {"kind": "convnet", "width": 4, "depth": 2},
    },
    "selection": {"kind": "last"},
}  # fmt: skip
EVENTS = 12


def killed_in(work: Callable[[], object]) -> bool:
    """Do some work in a child, and return whether it was killed."""
    child = FORK.Process(target=work)
    child.start()
    child.join()
    if child.exitcode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"the child ended with {child.exitcode}")
    return child.exitcode != 0


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def state(path: Path) -> str:
    """What is at a place."""
    if not path.exists():
        return "nothing"
    return "whole" if hpd.verify(path).whole else "half"


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def chosen(work: Callable[[Path], object], folder: Path) -> list[int]:
    """Do some work, and return at which of the changes of files to be killed in it."""
    count = folder.with_name("count")

    def child() -> None:
        counts: list[int] = []
        count_events(folder, counts.append)
        work(folder)
        count.write_text(str(len(counts)), "utf-8")

    folder.mkdir(parents=True)
    killed_in(child)
    every = range(1, int(count.read_text("utf-8")) + 1)
    return list(every[:: max(1, len(every) // EVENTS)])


def packs(folder: Path, run: Path) -> list[dict[str, object]]:
    """Kill packs in the middle of each member, and at changes of files."""
    report = []

    def pack(out: Path) -> None:
        hpd.pack(run, out / "run.hpd")

    def pack_and_die(out: Path, at: int) -> Callable[[], object]:
        add, count = ArchiveWriter.add, 0

        def half(writer: ArchiveWriter, name: str, content: Path | bytes) -> str:
            nonlocal count
            count += 1
            if count == at:
                writer._file.write(b"PK\x03\x04 and no more")
                writer._file.flush()
                die()
            return add(writer, name, content)

        def child() -> None:
            ArchiveWriter.add = half
            pack(out)

        return child

    ways = [("member", at) for at in (1, 3, 8, 14)]
    ways += [("event", at) for at in chosen(pack, folder / "count-pack" / "out")]
    for way, at in ways:
        out = folder / f"pack-{way}-{at}"
        out.mkdir()
        killed = (
            killed_in(pack_and_die(out, at))
            if way == "member"
            else attempt(out, event=at, work=pack)
        )
        between = state(out / "run.hpd")
        if between == "nothing":
            killed_in(lambda out=out: pack(out))
        report.append({"what": "pack", "killed": killed, "between": between,
                       "after": state(out / "run.hpd"), "left": left(out)})  # fmt: skip
    return report


def pushes(run: Path) -> list[dict[str, object]]:
    """Kill pushes before each of their requests."""
    import huggingface_hub

    from hpd.hub.repository import library

    client = type(library().utils.get_session())
    report = []
    for at in range(1, 30):
        name = f"me/pushed-{at}"

        def child(name: str = name, at: int = at) -> None:
            send, count = client.send, 0

            def counted(*arguments: object, **options: object) -> object:
                nonlocal count
                count += 1
                if count == at:
                    die()
                return send(*arguments, **options)

            client.send = counted
            hpd.push(run, name)

        def files(name: str = name) -> list[str]:
            api = huggingface_hub.HfApi()
            if not api.repo_exists(name, repo_type="dataset"):
                return []
            found = set(api.list_repo_files(name, repo_type="dataset"))
            return sorted(found - {".gitattributes"})

        killed = killed_in(child)
        between = files()
        killed_in(lambda name=name: hpd.push(run, name))
        report.append({"what": "push", "killed": killed, "between": between, "after": files()})
        if not killed:
            return report
    raise RuntimeError("a push takes more requests than anybody thought")


def pulls(folder: Path, run: Path) -> list[dict[str, object]]:
    """Kill pulls at changes of files."""
    hpd.push(run, "me/pulled")
    report = []

    def pull(out: Path) -> None:
        hpd.pull("me/pulled", out / "theirs")

    for at in chosen(pull, folder / "count-pull" / "out"):
        out = folder / f"pull-{at}"
        out.mkdir()
        killed = attempt(out, event=at, work=pull)
        between = state(out / "theirs")
        files = out / ".theirs.pull" / "files"
        kept = sum(path.is_file() for path in files.rglob("*")) if files.is_dir() else 0
        if between == "nothing":
            killed_in(lambda out=out: pull(out))
        report.append({"what": "pull", "killed": killed, "between": between, "kept": kept,
                       "after": state(out / "theirs"), "left": left(out)})  # fmt: skip
    return report


def main(folder: Path) -> None:
    run = folder / "run"
    hpd.distill(CONFIG, out=run)
    report = [*packs(folder, run), *pushes(run), *pulls(folder, run)]
    (folder / "report.json").write_text(json.dumps(report), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
