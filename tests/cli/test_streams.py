"""Standard streams that are full, closed, of another encoding, or read by nobody."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from rich.console import Console
from surroundings import FULL, HPD, LONG, lines, needs_full, posix, start

from hpd.cli.tables import say, text_table


def test_a_reader_that_has_enough_is_no_error():
    reads, writes = os.pipe()
    os.close(reads)
    try:
        ended = start([*HPD, "--help"], stdout=writes)
    finally:
        os.close(writes)
    assert (ended.returncode, ended.stderr) == (0, b"")


@needs_full
@pytest.mark.parametrize(
    "arguments", [["--help"], ["data", "inspect", "digits", "--json"]], ids=["help", "json"]
)
def test_output_that_cannot_be_written_is_one_line(arguments):
    with FULL.open("wb") as full:
        ended = start([*HPD, *arguments], stdout=full)
    assert ended.returncode == 2
    assert lines(ended.stderr) == ["hpd: cannot write to standard output: No space left on device"]


@needs_full
@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), (["no-such-command"], 2)])
def test_errors_that_cannot_be_written_change_nothing(arguments, code):
    with FULL.open("wb") as full:
        ended = start([*HPD, *arguments], stderr=full)
    assert ended.returncode == code
    assert (b"Usage" in ended.stdout) == (code == 0)


@posix
@pytest.mark.parametrize(
    ("closed", "said"), [(">&-", b""), ("2>&-", b"Usage"), ("<&- >&- 2>&-", b"")]
)
def test_closed_streams_are_written_to_by_nobody(closed, said):
    ended = start(["sh", "-c", f'exec "$0" -m hpd --help {closed}', sys.executable])
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout.startswith(said)
    assert bool(ended.stdout) == bool(said)


@posix
def test_no_file_is_taken_for_a_closed_stream():
    """What libraries print would end up in it."""
    code = (
        "import os, sys\n"
        "from hpd.cli.streams import lasting_streams\n"
        "with lasting_streams():\n"
        "    number = os.open(os.devnull, os.O_RDONLY)\n"
        "    print('dropped'); print('dropped', file=sys.stderr)\n"
        "os._exit(10 + number)"
    )
    ended = start(["sh", "-c", 'exec "$0" -c "$1" <&- >&- 2>&-', sys.executable, code])
    assert ended.returncode > 12


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize(
    ("encoding", "changes"),
    [
        ("ascii", ASCII),
        ("ascii", {"PYTHONIOENCODING": "ascii"}),
        ("latin-1", {"PYTHONIOENCODING": "latin-1"}),
        ("utf-8", {"PYTHONIOENCODING": "utf-8"}),
    ],
)
def test_names_that_an_encoding_does_not_know_are_escaped_and_json_stays_json(encoding, changes):
    code = (
        "import json, sys\n"
        "from hpd.cli.streams import lasting_streams\n"
        "names = ['gr\\xf6\\xdfe', '\\u5927', '\\U0001f600', '\\udcff']\n"
        "with lasting_streams():\n"
        "    for stream in (sys.stdout, sys.stderr):\n"
        "        print(json.dumps(names, ensure_ascii=False), file=stream)"
    )
    ended = start([sys.executable, "-c", code], changes=changes)
    assert ended.returncode == 0, ended.stderr
    for said in (ended.stdout, ended.stderr):
        assert json.loads(said.decode(encoding)) == ["größe", "大", "\U0001f600", "\udcff"]


@pytest.mark.skipif(sys.platform != "linux", reason="the size of a pipe is set on Linux")
def test_a_stream_that_does_not_wait_gets_everything():
    """As programs leave it that share a terminal or a pipe with this one."""
    import fcntl

    reads, writes = os.pipe()
    fcntl.fcntl(writes, fcntl.F_SETFL, os.O_NONBLOCK)
    fcntl.fcntl(writes, fcntl.F_SETPIPE_SZ, 4096)
    code = (
        "from hpd.cli.streams import lasting_streams\n"
        "with lasting_streams() as failures:\n"
        "    for _ in range(300): print('x' * 999)\n"
        "assert not failures"
    )
    started = subprocess.Popen([sys.executable, "-c", code], stdout=writes)
    os.close(writes)
    with os.fdopen(reads, "rb") as file:
        assert len(file.read()) == 300_000
    assert started.wait(LONG) == 0


@pytest.mark.parametrize("columns", ["0", "1", "9" * 12, "-5", "x"])
def test_any_width_of_the_terminal_is_borne(columns, monkeypatch, capsys):
    # undone before pytest itself writes lines of that width
    with monkeypatch.context() as patched:
        patched.setenv("COLUMNS", columns)
        Console().print(text_table(["set", "images"], [["digits", "1,297"]], left=1))
    assert len(capsys.readouterr().out) < 1000


def test_names_in_a_table_are_no_markup(capsys):
    Console(width=80).print(text_table(["a"], [["[red]"], ["[/x]"], [":dog:"]], left=1))
    out = capsys.readouterr().out
    assert all(name in out for name in ("[red]", "[/x]", ":dog:"))


def test_names_in_a_line_are_no_markup_and_are_not_broken(capsys):
    line = "images and all else: runs/[bold]/:dog:/[/x] " + "long " * 40
    say(Console(width=40), line)
    assert capsys.readouterr().out == line + "\n"
