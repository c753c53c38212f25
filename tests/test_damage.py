"""What may happen to the folder of a run: each ends in a clear error or a right recovery."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_runs import EndsAfter, contents, metrics, small_config

import hpd
from hpd.artifacts import RunFolder
from hpd.artifacts.run_folder import FORMAT
from hpd.config import load_config
from hpd.disk.files import write_json
from hpd.disk.seals import read_sealed, sealed
from hpd.engine.watching.recorder import Recorder
from hpd.errors import ConfigError, HpdError, NumericError, RunError

# damage to these is found by whoever reads them, and they decide nothing of the set
BY_THE_WAY = {"cost.json", "metrics.jsonl"}


@pytest.fixture(scope="module")
def made(tmp_path_factory, generator_folder):
    """A folder with a finished run, and one that was left after five of its eight steps."""
    folder = tmp_path_factory.mktemp("made")
    config = small_config(folder / "data", generator_folder)
    hpd.distill(config, out=folder / "finished")
    with pytest.raises(KeyboardInterrupt):
        hpd.distill(config, out=folder / "left", observers=[EndsAfter(5)])
    return folder, config


@pytest.fixture
def run(made, tmp_path):
    """Copies one of these runs, to be damaged."""

    def copy(name):
        return Path(shutil.copytree(made[0] / name, tmp_path / "run"))

    return copy


def flip(path, share):
    content = bytearray(path.read_bytes())
    content[int(share * (len(content) - 1))] ^= 4
    path.write_bytes(content)


def files_of(kind):
    """Names of the files that such a run has, as test ids: checked against what it has."""
    common = {
        "config.yaml", "metrics.jsonl", "checkpoints/stage-00.json",
        "checkpoints/stage-00.safetensors",
    }  # fmt: skip
    if kind == "left":
        return sorted(
            common
            | {f"checkpoints/step-01-000000.{end}" for end in ("json", "safetensors")}
            | {f"checkpoints/step-00-000003.{end}" for end in ("json", "safetensors")}
        )
    return sorted(
        common
        | {f"checkpoints/step-02-000000.{end}" for end in ("json", "safetensors")}
        | {f"checkpoints/stage-01.{end}" for end in ("json", "safetensors")}
        | {f"images/{c}/000.png" for c in "abc"}
        | {"cost.json", "distilled.safetensors", "grid.png", "initial.safetensors"}
        | {"manifest.json"}
    )


@pytest.mark.parametrize("kind", ["left", "finished"])
def test_these_are_all_the_files_of_a_run(made, kind):
    assert sorted(contents(made[0] / kind)) == files_of(kind)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in ("left", "finished") for name in files_of(kind)]
)
def test_a_flipped_bit_anywhere_is_refused_or_made_good(made, run, kind, name, share, caplog):
    folder, config = made
    path = run(kind)
    flip(path / name, share)
    try:
        hpd.distill(config, out=path, resume=True)
    except HpdError as error:
        # only of what a user may have written there: all else is made again
        assert name == "config.yaml"
        assert "config" in str(error)
        return
    whole = contents(folder / "finished")
    ours = contents(path)
    assert set(ours) == set(whole)
    for file in ("distilled.safetensors", "initial.safetensors", "grid.png", "config.yaml"):
        assert ours[file] == whole[file], file
    hpd.load_run(path)
    # in YAML a bit may also fall into a key that decides nothing
    silent = (name in BY_THE_WAY and kind == "finished") or name == "config.yaml"
    silent |= kind == "finished" and name.startswith("checkpoints/")
    # the older one is not needed where the newer one is whole
    silent |= name.startswith("checkpoints/step-00-000003")
    assert silent or caplog.messages, name
    if name != "metrics.jsonl":
        assert metrics(path) == metrics(folder / "finished")


@pytest.mark.parametrize("name", ["distilled.safetensors", "initial.safetensors", "config.yaml"])
def test_damage_is_found_by_whoever_reads_a_finished_run(run, name):
    path = run("finished")
    flip(path / name, 0.95)
    with pytest.raises(RunError, match=name):
        hpd.load_run(path)


def test_without_any_whole_checkpoint_the_run_starts_over(made, run, caplog):
    folder, config = made
    path = run("left")
    for checkpoint in (path / "checkpoints").glob("step-*.json"):
        flip(checkpoint, 0.5)
    hpd.distill(config, out=path, resume=True)
    assert "has no checkpoint: the run starts at its beginning" in caplog.text
    assert (
        contents(path)["distilled.safetensors"]
        == contents(folder / "finished")["distilled.safetensors"]
    )
    assert metrics(path) == metrics(folder / "finished")


def test_what_a_newer_version_wrote_is_refused_and_kept(made, run):
    _, config = made
    path = run("finished")
    manifest = read_sealed(path / "manifest.json")
    write_json(path / "manifest.json", sealed(manifest | {"format": FORMAT + 1, "new": 1}))
    before = contents(path)
    for use in (
        lambda: hpd.load_run(path),
        lambda: hpd.evaluate(path),
        lambda: hpd.distill(config, out=path, resume=True),
    ):
        with pytest.raises(RunError, match=r"manifest.json was written by a newer version"):
            use()
    assert contents(path) == before
    with pytest.raises(ConfigError, match=r"newer version of hpd: got format 2"):
        hpd.distill(config | {"format": 2, "unheard_of": True})
    newer = (path / "config.yaml").read_text().replace("format: 1", "format: 2")
    (path / "config.yaml").write_text(newer)
    with pytest.raises(RunError, match=r"config.yaml: got the config is for a newer version"):
        hpd.distill(config, out=path, resume=True)


@pytest.fixture
def small_files():
    """Lets files grow to some size only, as a quota does; a full disk fails alike."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("steps", [1, 3, 4, 7, 8])
def test_a_disk_that_fills_up_ends_the_run_and_it_goes_on_later(
    made, tmp_path, small_files, monkeypatch, steps
):
    folder, config = made
    path, original, seen = tmp_path / "run", Recorder.on_step, []

    def on_step(self, report):
        original(self, report)
        seen.append(report)
        if len(seen) == steps:
            # a line of the metrics still fits, a checkpoint does not
            small_files((path / "metrics.jsonl").stat().st_size + 200)

    monkeypatch.setattr(Recorder, "on_step", on_step)
    with pytest.raises(RunError, match=r"cannot write to .*run: .*go on with --resume"):
        hpd.distill(config, out=path)
    small_files(-1)
    assert not [name for name in contents(path) if name.endswith(".part")]
    hpd.distill(config, out=path, resume=True)
    ours, whole = contents(path), contents(folder / "finished")
    assert set(ours) == set(whole)
    assert ours["distilled.safetensors"] == whole["distilled.safetensors"]
    assert metrics(path) == metrics(folder / "finished")


@pytest.fixture
def open_to_all():
    """A folder that every user may read, and this one may write to."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def read_only():
    """Makes a folder read-only, by being another user where this one may do everything."""
    if sys.platform == "win32":
        pytest.skip("has no such permissions")
    changed = []

    def make(folder):
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
            changed.append(path)
        if os.geteuid() == 0:
            os.seteuid(65534)

    yield make
    if os.geteuid() != os.getuid():
        os.seteuid(os.getuid())
    for path in changed:
        path.chmod(0o755)


def test_a_read_only_folder_is_one_clear_error(made, open_to_all, read_only):
    _, config = made
    for name in ("finished", "left", "data"):
        shutil.copytree(made[0] / name, open_to_all / name)
    shutil.copytree(config["source"]["generator"], open_to_all / "generator")
    config = config | {
        "data": config["data"] | {"root": str(open_to_all / "data")},
        "source": config["source"] | {"generator": str(open_to_all / "generator")},
    }
    loaded = replace(hpd.load_run(open_to_all / "finished"), config=load_config(config))
    read_only(open_to_all)
    before = contents(open_to_all)
    for use in (
        lambda: hpd.distill(config, out=open_to_all / "left", resume=True),
        lambda: hpd.distill(config, out=open_to_all / "new"),
        # before any student is trained
        lambda: hpd.evaluate(loaded),
    ):
        with pytest.raises(RunError, match="cannot write to"):
            use()
    # what only reads, works
    assert hpd.distill(config, out=open_to_all / "finished", resume=True).distilled.images.equal(
        loaded.distilled.images
    )
    assert contents(open_to_all) == before


@pytest.mark.parametrize("lr", [1e30, 1e38])
def test_a_run_that_diverges_keeps_the_last_good_checkpoint(made, tmp_path, lr):
    """Whether the loss shows it first, or the parameters: nothing that is not finite is kept."""
    _, config = made
    source = config["source"] | {"levels": [0, 1], "lr_features": lr, "lr_ws": 0.01}
    path = tmp_path / "run"
    with pytest.raises(NumericError):
        hpd.distill(config | {"source": source, "checkpoint_every": 1}, out=path)
    newest = RunFolder(path).checkpoints.newest().loaded()
    assert newest.step.stage == 1
    for name, tensor in newest.tensors.items():
        assert bool(torch.isfinite(tensor).all()), name
    assert not (path / "manifest.json").exists()


def test_a_killed_start_does_not_occupy_a_folder(made, tmp_path):
    """Not even without --resume: there is no run yet."""
    _, config = made
    path = tmp_path / "run"
    path.mkdir()
    (path / ".config.yaml.a1b2c3d4.part").write_text("sour")
    hpd.distill(config, out=path)
    assert not [name for name in contents(path) if name.endswith(".part")]


def test_runs_of_before_there_were_checksums_are_read(made, run):
    path = run("finished")
    manifest = read_sealed(path / "manifest.json")
    for name in ("format", "files"):
        del manifest[name]
    (path / "manifest.json").write_text(json.dumps(manifest))
    flip(path / "grid.png", 0.5)
    assert hpd.load_run(path).distilled.images.equal(
        hpd.load_run(made[0] / "finished").distilled.images
    )
    # a seal that is broken is not the same as none
    for missing in ("format", "sha256"):
        content = json.loads((made[0] / "finished" / "manifest.json").read_text())
        del content[missing]
        (path / "manifest.json").write_text(json.dumps(content))
        with pytest.raises(RunError, match=r"cannot read .*manifest.json.*--resume"):
            hpd.load_run(path)
