"""Attacks: every kind of finding is found, the ledger has neither gap nor repetition, hpd holds."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import mmap
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from attacks import damage, page
from attacks.calls import Calls
from attacks.checkpoints import Pickles
from attacks.configs import Configs, Overrides
from attacks.datasets import Arrays
from attacks.folders import Runs, write_folders
from attacks.kills import Killer
from attacks.ledger import Ledger, groups_of
from attacks.places import Place
from attacks.supervisor import Limits, Supervisor
from attacks.target import Input, Target
from attacks.watch import WrongResultError
from attacks.works import Work
from conftest import ROOT

import hpd
from hpd.errors import RunError

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="sees memory as Linux tells it"
)
# a few dozen of each target
INPUTS = 30
# what does not hang may take as long as a slow or busy machine needs
LIMITS = Limits(processor_seconds=120, seconds=600, more_bytes=2**26)
IMPATIENT = dataclasses.replace(LIMITS, processor_seconds=1.5, seconds=4)


@pytest.fixture
def place(tmp_path, monkeypatch):
    place = Place(tmp_path / "place")
    place.make()
    monkeypatch.chdir(place.current)
    monkeypatch.setenv("TMPDIR", str(place.temporary))
    monkeypatch.setattr("tempfile.tempdir", None)
    return place


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "ledger.jsonl")


class SaysError(RunError):
    """An error that says what it is told to; others make a short line of it."""

    def __str__(self):
        return self.problem


class Fed(Target):
    """A target that does what a test says with each number."""

    name = "fed"
    about = "nothing"

    def __init__(self, place, feed):
        super().__init__(place)
        self.feed = feed

    def input(self, number):
        return Input(f"number {number}", lambda: self.feed(number))


def attack(place, ledger, feed, count, limits=LIMITS, **options):
    """Feed the numbers up to `count`, as far as the ledger lacks them."""
    target = Fed(place, feed)
    left = count - ledger.next_numbers().get("fed", 0)
    supervisor = Supervisor(place, {"fed": target}, ledger, "now", limits=limits, **options)
    supervisor.run(inputs=max(left, 0))
    return [line for line in ledger.lines() if line["line"] == "span"]


def run_command(place):
    os.system(f"touch {place.root / 'was-run'}")


def import_what_the_input_says(place):
    __import__("".join(["anti", "gravity"]))


def run_code(place):
    exec(compile("was_run = 1", "<input>", "exec"))


def write_elsewhere(place):
    (place.root.parent / "elsewhere").write_text("x")


def hang(place):
    while True:
        pass


def wait_for_ever(place):
    time.sleep(1000)


def take_memory(place):
    # anew from the system, which freed memory of this process is not; pages that are not written to
    # are none
    with mmap.mmap(-1, 2**27) as pages:
        pages.write(b"x" * 2**27)


def crash(place):
    ctypes.string_at(0)


def leave(place):
    os._exit(3)


def raise_key_error(place):
    raise KeyError("x")


def say_too_much(place):
    raise SaysError("x" * 601)


def say_two_lines(place):
    raise SaysError("one\ntwo")


def say_colours(place):
    raise SaysError("\x1b[31mred")


def leave_a_file(place):
    (place.current / "left").write_text("x")


def leave_a_temporary_file(place):
    (place.temporary / "left").write_text("x")


def leave_a_draft(place):
    (place.outputs / ".set.safetensors.a1b2c3d4.part").write_text("x")


def change_the_environment(place):
    os.environ["LEFT"] = "x"


def change_the_folder(place):
    os.chdir(place.root)


def draw_from_torch(place):
    import torch

    torch.rand(1)


def be_wrong(place):
    raise WrongResultError("labels of no class")


KINDS = {
    run_command: "executed: os.system", import_what_the_input_says: "imported: antigravity",
    run_code: "executed: exec", write_elsewhere: "written: open", hang: "hang: hang in",
    wait_for_ever: "hang: hang in", take_memory: "memory: more than it may, fed",
    crash: "crash: SIGSEGV in", leave: "crash: exit code 3 in",
    raise_key_error: "exception: KeyError in outside of hpd",
    say_too_much: "message: SaysError, characters in",
    say_two_lines: "message: SaysError, not one line in",
    say_colours: "message: SaysError, control characters", leave_a_file: "left over: in cwd, fed",
    leave_a_temporary_file: "left over: in tmp, fed", leave_a_draft: "left over: in out, fed",
    change_the_environment: "state: environment", change_the_folder: "state: current folder",
    draw_from_torch: "state: random numbers of torch", be_wrong: "wrong: wrong: labels of no class",
}  # fmt: skip


@pytest.mark.parametrize("bad", KINDS, ids=lambda bad: bad.__name__)
def test_each_kind_of_finding_is_found_and_stops_nothing(place, ledger, bad):
    """And nothing is found in the inputs before and after it."""

    def feed(number):
        if number == 2:
            bad(place)
        if number == 3:
            raise RunError("no run", got="none")
        return "good"

    limits = IMPATIENT if bad in (hang, wait_for_ever) else LIMITS
    spans = attack(place, ledger, feed, 5, limits)
    groups = groups_of(ledger.lines())
    assert [name for name in groups if name.startswith(KINDS[bad])], groups
    assert all(group.count == 1 for group in groups.values())
    outcomes = sum_of(spans)
    assert outcomes == {"good": 3, "error: RunError": 1, "finding": 1}
    told = [line for line in ledger.lines() if line["line"] == "finding"]
    assert {(line["number"], line["what"]) for line in told} == {(2, "number 2")}
    assert not (place.root / "was-run").exists()
    assert not (place.root.parent / "elsewhere").exists()


def sum_of(spans):
    found = {}
    for span in spans:
        for name, count in span["outcomes"].items():
            found[name] = found.get(name, 0) + count
    return found


def numbers_of(spans):
    return [n for span in spans for n in range(span["first"], span["stop"])]


def test_a_ledger_goes_on_without_a_gap_or_a_repetition(place, ledger):
    seen = []
    for count in (7, 7, 20, 31):
        spans = attack(place, ledger, lambda number: "good", count, batch=9, save_seconds=0)
        seen = numbers_of(spans)
        assert seen == list(range(len(seen)))
        assert len(seen) == count
    with ledger.path.open("a") as file:
        file.write('{"line": "span", "target": "fed", "fir')
    again = Ledger(ledger.path)
    assert numbers_of(attack(place, again, lambda number: "good", 40)) == list(range(40))
    assert len(seen) < 40


def test_a_number_that_does_not_come_next_is_no_part_of_a_span(place, ledger):
    spans = attack(place, ledger, lambda number: crash(place) if number % 3 == 1 else "good", 8)
    assert numbers_of(spans) == list(range(8))
    assert sum_of(spans) == {"good": 5, "finding": 3}


def test_what_is_told_in_full_is_limited_and_all_are_counted(place, ledger):
    attack(place, ledger, raise_key_error, 40)
    (group,) = groups_of(ledger.lines()).values()
    assert group.count == 40
    assert 0 < len(group.examples) < 20


@pytest.mark.parametrize("kind", [Pickles, Configs, Overrides, Runs, Arrays, Calls])
def test_a_number_makes_the_same_input_again_wherever_it_is(kind, tmp_path):
    digests = []
    for name in ("one", "other"):
        place = Place(tmp_path / name)
        place.make()
        target = kind(place)
        target.prepare()
        digests.append([target.input(number).digest(place) for number in range(12)])
    assert digests[0] == digests[1]
    assert len(set(digests[0])) > 8


def test_all_public_functions_are_called(place):
    calls = Calls(place)
    calls.prepare()
    made = {calls.input(number).what.split(":")[0] for number in range(3000)}
    missing = [
        name for name in hpd.__all__
        if callable(getattr(hpd, name)) and name not in (*made, "HpdError", "Run")
    ]  # fmt: skip
    assert missing == []


def test_a_zip_that_is_written_is_read_and_a_bomb_is_one():
    import io
    import zipfile

    content = damage.write_zip(
        [("a", b"x"), ("b", b"y" * 99)], deflate=True, bombs={"a": damage.bomb(2**22)}
    )
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.read("b") == b"y" * 99
        assert archive.getinfo("a").file_size == 2**22
        assert archive.getinfo("a").compress_size < 2**14


def test_damage_is_decided_by_the_number_alone():
    for damaged in (damage.damage_bytes, damage.damage_json):
        once, again = (damaged(b'{"a": [1, 2, {"b": null}]}', random.Random(3)) for _ in range(2))
        assert once == again


def run_tool(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, str(ROOT / "tools" / "attack.py"), *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, **options,
    )  # fmt: skip


def finished(process):
    said, complained = process.communicate()
    assert process.returncode == 0, complained[-3000:]
    return said


def test_hpd_holds_against_a_few_dozen_inputs_of_each_target(tmp_path):
    from attacks.targets import TARGETS

    ledger = Ledger(tmp_path / "ledger.jsonl")
    count = INPUTS * len(TARGETS)
    finished(run_tool("run", "--ledger", ledger.path, "--inputs", count, "--batch", INPUTS))
    spans = [line for line in ledger.lines() if line["line"] == "span"]
    assert {span["target"] for span in spans} == set(TARGETS)
    found = {name: group.examples for name, group in groups_of(ledger.lines()).items()}
    assert found == {}
    outcomes = sum_of(spans)
    # neither all refused, which would show too little, nor none
    refused = sum(n for name, n in outcomes.items() if name.startswith("error"))
    assert 0.2 * count < refused < 0.9 * count


def test_hpd_survives_a_few_kills(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    works = ("kill-distil", "kill-squeeze", "kill-prune")
    finished(run_tool("kill", *works, "--ledger", ledger.path, "--kills", 4))
    spans = [line for line in ledger.lines() if line["line"] == "span"]
    assert sum_of(spans)["kills"] >= 4
    found = {name: group.examples for name, group in groups_of(ledger.lines()).items()}
    assert found == {}


def test_work_that_does_not_end_alike_is_found(place, ledger):
    def count_starts(out):
        out.mkdir(exist_ok=True)
        starts = out / "starts"
        starts.write_text((starts.read_text() if starts.exists() else "") + "x")
        time.sleep(0.3)

    work = Work("counted", "", count_starts)
    killer = Killer(place, {"kill-counted": work}, ledger, "now")
    kills = [killer.round("kill-counted") for _ in range(3)]
    assert sum(kills) > 0
    assert list(groups_of(ledger.lines())) == ["kill: another starts (counted)"]
    spans = [line for line in ledger.lines() if line["line"] == "span"]
    assert numbers_of(spans) == [0, 1, 2]
    assert sum_of(spans)["kills"] == sum(kills)


def test_folders_of_seeds_are_the_same_bytes_each_time(tmp_path):
    from attacks.folders import files_of

    one, other = (write_folders(tmp_path / name) for name in ("one", "other"))
    for name in one:
        assert files_of(one[name]) == files_of(other[name]), name


def test_the_page_is_made_of_its_figures(place, ledger):
    attack(place, ledger, lambda number: raise_key_error(place) if number == 1 else "good", 4)
    ledger.add({"line": "recheck", "group": "x", "sources": "now", "shows": False})
    found = json.loads(json.dumps(page.figures(ledger, "now", {"fed": "nothing"})))
    assert found["targets"]["fed"]["tried"] == found["targets"]["fed"]["with_this_code"] == 4
    text = page.page_of(found)
    assert "| `fed` | 4 | 4 | 3 | 0 | 1 | 1, 1 |" in text
    assert "- 1 x exception: KeyError in outside of hpd" in text


def test_what_a_later_look_does_not_show_is_mended(place, ledger):
    attack(place, ledger, lambda number: raise_key_error(place) if number == 1 else "good", 4)
    (name,) = groups_of(ledger.lines())
    ledger.add({"line": "recheck", "group": name, "sources": "later", "shows": False})
    assert groups_of(ledger.lines())[name].mended
    attack(place, ledger, raise_key_error, 5)
    assert not groups_of(ledger.lines())[name].mended


def test_the_page_in_the_documentation_is_that_of_its_figures():
    docs = ROOT / "docs"
    found = json.loads((docs / "reliability.json").read_text())
    assert (docs / "reliability.md").read_text() == page.page_of(found)
