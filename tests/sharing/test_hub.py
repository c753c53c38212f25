"""Pushing and pulling, against a stand-in for the hub on the loopback."""

from __future__ import annotations

import json
import logging
import shutil
import socket
import sys
import traceback

import pytest
import torch
from click.testing import CliRunner
from conftest import tiny_generator
from stub_hub import READS, WRITES

import hpd
from generators import read_generator, save_generator
from hpd.cli import main
from hpd.disk.bundles import SUMS, as_sums
from hpd.errors import HubError, RunError
from hpd.hub import Repository, repository


def files_below(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def refused(call, *words):
    """Check that a call is refused in one line that holds words, with the token nowhere."""
    with pytest.raises(HubError) as caught:
        call()
    said = str(caught.value)
    for word in words:
        assert word in said, said
    assert "\n" not in said
    everything = "".join(traceback.format_exception(caught.value))
    assert WRITES not in everything
    assert READS not in everything
    # no request hangs on it, whose headers hold the token
    one = caught.value
    while one is not None:
        assert type(one).__module__.partition(".")[0] in ("hpd", "builtins"), one
        one = one.__cause__ or one.__context__
    return caught.value


# there and back


def test_a_run_goes_there_and_comes_back(hub, original, tmp_path):
    pushed = hpd.push(original, "me/digits")
    assert pushed.kind == "run"
    there = hub.files("me/digits")
    assert {
        "README.md", SUMS, "distilled.safetensors", "manifest.json", "config.yaml",
        "evaluation.json", "codes.safetensors", "grid.png", "images/8/000.png",
    } <= there.keys()  # fmt: skip
    assert not [name for name in there if name.startswith("checkpoints") or name == "report.html"]
    pulled = hpd.pull("me/digits", tmp_path / "theirs")
    assert (pulled.kind, pulled.commit) == ("run", pushed.commit)
    assert files_below(tmp_path / "theirs") == there.keys() - {".gitattributes"}
    assert not list(tmp_path.glob(".theirs*"))
    run = hpd.load_run(tmp_path / "theirs")
    assert torch.equal(run.distilled.images, hpd.load_run(original).distilled.images)
    assert hpd.verify(tmp_path / "theirs").whole
    # it is a run like any other
    assert hpd.evaluate(run, "seeds=1").name


def test_the_card_is_one_of_the_hub(hub, original):
    import yaml

    hpd.push(original, "me/digits")
    head, body = hub.files("me/digits")["README.md"].decode().split("---\n", 2)[1:]
    about = yaml.safe_load(head)
    assert about["license"] == "other"
    assert about["task_categories"] == ["image-classification"]
    for words in ("hpd pull me/digits", "](grid.png)", "| `distilled` |", "## How to cite"):
        assert words in body


def test_what_was_pulled_is_read_without_hpd(hub, original, tmp_path):
    datasets = pytest.importorskip("datasets")
    hpd.push(original, "me/digits")
    hpd.pull("me/digits", tmp_path / "theirs")
    rows = datasets.load_dataset(str(tmp_path / "theirs"), split="train", cache_dir=tmp_path / "c")
    assert rows.features["label"].names == ["0", "1", "8"]
    assert [row["label"] for row in rows] == [0, 1, 2]


def test_a_packed_run_is_pushed_as_well(hub, packed, original):
    hpd.push(packed, "me/packed")
    hpd.push(original, "me/folder")
    ours, theirs = hub.files("me/packed"), hub.files("me/folder")
    assert {n: c for n, c in ours.items() if n not in ("README.md", SUMS)} == {
        n: c for n, c in theirs.items() if n not in ("README.md", SUMS)
    }


def test_a_generator_goes_there_and_comes_back(hub, tmp_path):
    network = tiny_generator()
    save_generator(network, network.settings, tmp_path / "g", licence="CC0-1.0", provenance={})
    assert hpd.push(tmp_path / "g", "me/tiny").kind == "generator"
    assert hub.files("me/tiny", "models").keys() == {
        ".gitattributes", "README.md", SUMS, "model.safetensors", "generator.json"
    }  # fmt: skip
    card = hub.files("me/tiny", "models")["README.md"].decode()
    assert card.startswith("---\nlicense: cc0-1.0\n")
    pulled = hpd.pull("me/tiny", tmp_path / "theirs")
    assert pulled.kind == "generator"
    assert read_generator(tmp_path / "theirs").sha256 == read_generator(tmp_path / "g").sha256


def test_a_bundled_generator_is_pushed_by_its_name(hub, tmp_path):
    hpd.push("digits16", "me/digits16")
    hpd.pull("me/digits16", tmp_path / "theirs")
    there = read_generator(tmp_path / "theirs")
    assert there.sha256 == read_generator("digits16").sha256
    assert "# digits16" in (tmp_path / "theirs" / "README.md").read_text("utf-8")


def test_of_one_name_the_run_comes_unless_the_generator_is_asked_for(hub, original, tmp_path):
    hpd.push(original, "me/both")
    hpd.push("digits16", "me/both")
    assert hpd.pull("me/both", tmp_path / "a").kind == "run"
    assert hpd.pull("me/both", tmp_path / "b", kind="generator").kind == "generator"


def test_commands_say_what_they_did(hub, original, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["push", str(original), "me/digits", "--private"])
    assert result.exit_code == 0, result.output
    assert result.output.startswith("run pushed: 14 files to me/digits\ncommit ")
    assert "me/digits" in hub.private
    result = CliRunner().invoke(main, ["pull", "me/digits"])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "digits" / "manifest.json").is_file()


def test_a_name_on_the_hub_stands_for_a_folder(hub, original, tmp_path):
    hpd.push(original, "me/digits")
    run = hpd.load_run("hub:me/digits")
    assert run.home is None
    assert torch.equal(run.distilled.images, hpd.load_run(original).distilled.images)
    (line, *_) = hpd.compare(["hub:me/digits"])
    assert (line.run, line.origins) == ("me/digits", ["hub:me/digits"])
    # it is kept, and asked for again only where it changed
    hub.requests.clear()
    hpd.load_distilled("hub:me/digits")
    assert hub.requests == [("GET", "/api/datasets/me/digits")]


def test_a_revision_is_what_it_was(hub, original, run, tmp_path):
    first = hpd.push(original, "me/digits")
    hpd.evaluate(run, "seeds=3", name="more")
    second = hpd.push(run, "me/digits")
    assert second.commit != first.commit
    hpd.pull(f"me/digits@{first.commit}", tmp_path / "old")
    hpd.pull("me/digits", tmp_path / "new")
    assert list(hpd.load_run(tmp_path / "old").evaluations) == ["dc-hard-convnet"]
    assert list(hpd.load_run(tmp_path / "new").evaluations) == ["dc-hard-convnet", "more"]
    refused(lambda: hpd.pull("me/digits@nosuch", tmp_path / "none"), "no revision 'nosuch'")


def test_pushing_the_same_again_changes_nothing(hub, original):
    hpd.push(original, "me/digits")
    before = dict(hub.files("me/digits"))
    hpd.push(original, "me/digits")
    assert hub.files("me/digits") == before


def test_files_of_an_earlier_push_go_and_others_stay(hub, original, run):
    hpd.push(original, "me/digits")
    files = hub.files("me/digits")
    hub.put("me/digits", {**files, "paper.pdf": b"mine"})
    (run / "metrics.jsonl").unlink()
    (run / "cost.json").unlink()
    hpd.push(run, "me/digits")
    now = hub.files("me/digits")
    assert not {"metrics.jsonl", "cost.json"} & now.keys()
    assert now["paper.pdf"] == b"mine"


# what is refused


def test_a_repository_of_something_else_is_left_alone(hub, original):
    hub.put("me/photos", {"photo.jpg": b"mine", "README.md": b"# mine"})
    refused(lambda: hpd.push(original, "me/photos"), "it holds other files", "photo.jpg")
    assert hub.files("me/photos") == {"photo.jpg": b"mine", "README.md": b"# mine"}


@pytest.mark.parametrize(
    "name",
    ["digits", "me/", "/me", "me/a/b", "../x", "me/a b", "me/..", "", "me/a@", "hub:", "me/a--b",
     "https://there/me/a", "x" * 300],
)  # fmt: skip
def test_what_is_no_name_is_refused_before_anything_is_asked(hub, original, tmp_path, name):
    refused(lambda: hpd.push(original, name), "no name of a repository")
    refused(lambda: hpd.pull(name, tmp_path / "out"), "no name of a repository")
    assert hub.requests == []
    assert not (tmp_path / "out").exists()


def test_names_are_read():
    assert Repository.read("hub:me/a.b-c@v1.0") == Repository("me/a.b-c", "dataset", "v1.0")


@pytest.mark.parametrize(
    ("token", "pushing", "pulling"),
    [
        ("", ["status 401", "no token is given", "hf auth login"],
         ["neither a run nor a generator of this name", "hf auth login"]),
        (READS, ["status 403", "the right to do that", "Ask its owner"],
         ["neither a run nor a generator of this name", "a token that may read it"]),
        ("hf_unknown", ["status 401", "not known there"], ["not known there"]),
    ],
)  # fmt: skip
def test_without_rights_it_says_what_to_do(
    hub, original, tmp_path, monkeypatch, token, pushing, pulling
):
    monkeypatch.setenv("HF_TOKEN", token)
    refused(lambda: hpd.push(original, "me/digits"), "cannot push to me/digits", *pushing)
    assert hub.repositories == {}
    refused(lambda: hpd.pull("me/none", tmp_path / "out"), "cannot pull me/none", *pulling)
    assert not list(tmp_path.glob("*out*"))


def test_a_private_repository_needs_a_token(hub, original, tmp_path, monkeypatch):
    hpd.push(original, "me/digits", private=True)
    monkeypatch.setenv("HF_TOKEN", "")
    refused(lambda: hpd.pull("me/digits", tmp_path / "out"), "for a private one", "HF_TOKEN")
    monkeypatch.setenv("HF_TOKEN", READS)
    assert hpd.pull("me/digits", tmp_path / "out").folder == tmp_path / "out"


@pytest.mark.parametrize("where", ["create", "tree", "preupload", "batch", "/blobs/", "commit"])
@pytest.mark.parametrize("status", [403, 400])
def test_wherever_a_push_is_refused_nothing_changes(hub, original, where, status):
    hub.said = "no, {token}, you may not"
    hub.fault = lambda method, path: status if where in path else None
    error = refused(lambda: hpd.push(original, "me/digits"), f"status {status}")
    assert "you may not" in str(error)
    there = hub.repositories.get(("datasets", "me/digits"), {})
    assert all(files.keys() == {".gitattributes"} for files in there.values())
    hub.fault = lambda method, path: None
    hpd.push(original, "me/digits")
    assert SUMS in hub.files("me/digits")


@pytest.fixture
def impatient(monkeypatch):
    """Waits of the library between its tries, and for a silent server, are short."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(repository, "PATIENCE_SECONDS", 0.3)
    for name in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
        monkeypatch.setattr(constants, name, 0.3)
    monkeypatch.setattr("huggingface_hub.file_download._ETAG_RETRY_TIMEOUT", 0.3, raising=False)


FAULTS = {500: "status 500", 503: "status 503", "hang": "no answer from 127.0.0.1",
          "hang up": "no answer from 127.0.0.1"}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("where", ["/api/datasets/me/digits", "resolve"])
def test_a_server_that_fails_or_says_nothing_is_one_line(
    hub, original, tmp_path, impatient, fault, where
):
    hpd.push(original, "me/digits")
    hub.fault = lambda method, path: fault if where in path and "SUMS" not in path else None
    refused(lambda: hpd.pull("me/digits", tmp_path / "out"), FAULTS[fault], "same command again")
    assert not (tmp_path / "out").exists()
    hub.fault = lambda method, path: None
    hpd.pull("me/digits", tmp_path / "out")
    assert hpd.verify(tmp_path / "out").whole


@pytest.mark.parametrize("fault", FAULTS)
def test_a_push_to_such_a_server_is_one_line(hub, original, impatient, fault):
    hub.fault = lambda method, path: fault if "/commit/" in path else None
    refused(lambda: hpd.push(original, "me/digits"), FAULTS[fault], "same command again")


def test_a_server_that_is_gone_is_one_line(hub, original, tmp_path, impatient, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr(constants, "ENDPOINT", f"http://someone:secret@127.0.0.1:{port}")
    for call in (
        lambda: hpd.push(original, "me/digits"), lambda: hpd.pull("me/digits", tmp_path / "out")
    ):  # fmt: skip
        error = refused(call, f"no answer from 127.0.0.1:{port}", "Look at the network")
        assert "secret" not in str(error)


def test_offline_is_said_as_such(hub, tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused(lambda: hpd.pull("me/digits", tmp_path / "out"), "HF_HUB_OFFLINE is set")
    assert hub.requests == []


def test_without_the_library_it_says_how_to_get_it(original, tmp_path, monkeypatch):
    for name in [n for n in sys.modules if n.partition(".")[0] == "huggingface_hub"]:
        monkeypatch.setitem(sys.modules, name, None)
    for call in (
        lambda: hpd.push(original, "me/digits"), lambda: hpd.pull("me/digits", tmp_path / "out")
    ):  # fmt: skip
        with pytest.raises(HubError, match=r"pip install 'hpd\[hub\]'"):
            call()


# what comes is looked at


def test_a_file_that_is_not_what_its_checksum_says_is_named(hub, original, tmp_path):
    hpd.push(original, "me/digits")
    wrong = "images/8/000.png"
    hub.fault = lambda method, path: "wrong bytes" if path.endswith(wrong) else None
    refused(lambda: hpd.pull("me/digits", tmp_path / "out"), wrong, SUMS, "SHA-256", "Pull again")
    assert not (tmp_path / "out").exists()
    # the next one fetches that again
    hub.fault = lambda method, path: None
    hpd.pull("me/digits", tmp_path / "out")
    assert hpd.verify(tmp_path / "out").whole


def test_a_repository_whose_file_was_changed_is_refused(hub, original, tmp_path):
    hpd.push(original, "me/digits")
    files = hub.files("me/digits")
    hub.put("me/digits", {**files, "evaluation.json": files["evaluation.json"] + b" "})
    for _ in range(2):
        refused(lambda: hpd.pull("me/digits", tmp_path / "out"), "evaluation.json of me/digits")
    assert not (tmp_path / "out").exists()


def resummed(files):
    import hashlib

    own = {n: c for n, c in files.items() if n not in (SUMS, ".gitattributes")}
    return {**own, SUMS: as_sums({n: hashlib.sha256(c).hexdigest() for n, c in own.items()})}


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/../../outside", ".cache/x", "A\\b"])
def test_checksums_that_lead_out_of_the_folder_are_refused(hub, original, tmp_path, name):
    hpd.push(original, "me/digits")
    files = hub.files("me/digits")
    hub.put("me/digits", {**files, SUMS: files[SUMS] + f"{'0' * 64}  {name}\n".encode()})
    refused(lambda: hpd.pull("me/digits", tmp_path / "in" / "out"), "is no share of hpd")
    assert not (tmp_path / "outside").exists()
    assert not (tmp_path / "in" / "outside").exists()
    assert not (tmp_path / "in" / "out").exists()


def test_what_is_whole_and_no_run_is_refused(hub, original, tmp_path):
    hub.put("me/photos", {"photo.jpg": b"mine"})
    refused(lambda: hpd.pull("me/photos", tmp_path / "out"), "it lacks a file")
    hpd.push(original, "me/digits")
    files = dict(hub.files("me/digits"))
    del files["manifest.json"]
    hub.put("me/digits", resummed(files))
    refused(lambda: hpd.pull("me/digits", tmp_path / "out"), "holds no run that is whole")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out").exists()


def test_a_generator_that_is_none_is_refused(hub, tmp_path):
    hpd.push("digits16", "me/g")
    files = dict(hub.files("me/g", "models"))
    files["generator.json"] = b"{}"
    hub.put("me/g", resummed(files), "models")
    refused(lambda: hpd.pull("me/g", tmp_path / "out"), "holds no generator that is whole")


def test_a_folder_that_holds_something_stays(hub, original, tmp_path):
    hpd.push(original, "me/digits")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x", "utf-8")
    with pytest.raises(RunError, match="already holds"):
        hpd.pull("me/digits", tmp_path / "out")
    assert files_below(tmp_path / "out") == {"mine"}


def test_a_pull_takes_up_what_an_earlier_one_left(hub, original, run, tmp_path):
    """Files of another commit, half ones and ones that are not named any more among it."""
    hpd.push(original, "me/digits")
    hub.fault = lambda method, path: 403 if path.endswith("manifest.json") else None
    refused(lambda: hpd.pull("me/digits", tmp_path / "out"), "403")
    left = tmp_path / ".out.pull" / "files"
    (left / "old.txt").write_text("not named any more", "utf-8")
    (left / "grid.png").write_bytes(b"half")
    hub.fault = lambda method, path: None
    hpd.evaluate(run, "seeds=1", name="more")
    hpd.push(run, "me/digits")
    kept = {name for name, content in hub.files("me/digits").items()
            if (left / name).is_file() and (left / name).read_bytes() == content}  # fmt: skip
    hub.requests.clear()
    hpd.pull("me/digits", tmp_path / "out")
    fetched = {path.partition("/resolve/")[2].partition("/")[2] for _, path in hub.requests}
    assert kept
    assert not kept & fetched
    assert hpd.verify(tmp_path / "out").whole
    assert files_below(tmp_path / "out") == hub.files("me/digits").keys() - {".gitattributes"}
    assert "more" in hpd.load_run(tmp_path / "out").evaluations


def test_the_library_is_as_loud_afterwards_as_before(hub, original):
    library = pytest.importorskip("huggingface_hub")
    talk = library.utils.logging
    before = talk.get_verbosity()
    session = library.utils.get_session()
    patience = session.timeout
    talk.set_verbosity(logging.DEBUG)
    try:
        hpd.push(original, "me/digits")
        assert talk.get_verbosity() == logging.DEBUG
    finally:
        talk.set_verbosity(before)
    assert session.timeout == patience
    assert not library.utils.are_progress_bars_disabled()


def test_the_token_is_written_nowhere(hub, original, tmp_path, caplog):
    shutil.copytree(original, tmp_path / "run")
    with caplog.at_level(logging.DEBUG):
        hpd.push(tmp_path / "run", "me/digits")
        hpd.pull("me/digits", tmp_path / "out")
    assert WRITES not in caplog.text
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert WRITES.encode() not in path.read_bytes(), path
    assert WRITES not in json.dumps(hub.requests)
