"""The list of what is in a file is complete, and making it runs nothing."""

from __future__ import annotations

import pickletools
import zipfile

import pickles
import pytest
import torch
from conftest import GOLDEN
from pickles import Call, Name, Raw

from generators.checkpoints import inspect_checkpoint
from generators.checkpoints.pickles.reader import KNOWN_NAMES
from hpd.errors import GeneratorError


def uses(inspection, *, nested=False):
    return {g.name: g for g in inspection.globals if g.nested == nested}


@pytest.mark.parametrize(
    "name, kind", [("ada_cond32", "official pickle"), ("xl_stem_cond", "dill pickle")]
)
def test_an_official_checkpoint(name, kind):
    path = GOLDEN / name / "network.pkl"
    inspection = inspect_checkpoint(path)
    assert (inspection.format, inspection.protocol, inspection.problem) == (kind, 4, None)
    assert inspection.total_bytes == path.stat().st_size
    assert inspection.keys == ("training_set_kwargs", "G", "D", "G_ema", "augment_pipe")
    assert inspection.refused == ()
    assert sum(inspection.sources.values()) == len("# source text removed\n")
    outer, inner = uses(inspection), uses(inspection, nested=True)
    stubs = {name for name, use in outer.items() if use.status == "stub"}
    assert stubs == ({"torch.nn.modules.linear.Linear"} if "dill" in kind else set())
    storages = outer["torch.storage._load_from_bytes"].calls
    assert inner["torch.FloatStorage"].named == storages > 100
    # the same facts by Python's own disassembler
    with path.open("rb") as file:
        ops = [op.name for op, _, _ in pickletools.genops(file)]
    assert inspection.opcodes == len(ops)
    assert sum(use.named for use in outer.values()) == ops.count("STACK_GLOBAL")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_all_known_names_are_in_use(tmp_path, protocol):
    path = tmp_path / "network.pkl"
    path.write_bytes(pickles.dumps(pickles.checkpoint(), protocol))
    inspection = inspect_checkpoint(path)
    assert inspection.protocol == protocol and inspection.problem is None
    assert set(uses(inspection)) <= KNOWN_NAMES
    assert inspection.sources == {"Generator, SynthesisLayer": len("# source\n")}


def test_refused_names_come_first(tmp_path):
    path = tmp_path / "network.pkl"
    content = pickles.checkpoint(D=[Call("a.b"), Name("os.system"), Call("torch.Size", ())])
    path.write_bytes(pickles.dumps(content))
    found = inspect_checkpoint(path).globals
    assert [g.name for g in found[:3]] == ["os.system", "a.b", "torch.Size"]
    assert [(g.status, g.named, g.calls) for g in found[:2]] == [("refused", 1, 0), ("stub", 1, 1)]


def test_names_before_the_damage_are_listed(tmp_path):
    path = tmp_path / "network.pkl"
    payload = pickles.dumps(Call("posix.system", "true"), 2)
    weight = {"weight": pickles.rebuilt(payload)}
    content = pickles.dumps(pickles.checkpoint(pickles.module("G", pickles.state(weight))))
    path.write_bytes(content[:-40])
    inspection = inspect_checkpoint(path)
    assert "truncated" in inspection.problem or "nested" in inspection.problem
    assert inspection.refused == ("posix.system",)
    assert uses(inspection, nested=True)["posix.system"].calls == 1


@pytest.mark.parametrize(
    "code, name",
    [
        (b"(S'true'\niposix\nsystem\n", "posix.system"),
        (b"(cposix\nsystem\nS'true'\no", "posix.system"),
        (b"cposix\nsystem\n(S'true'\ntR", "posix.system"),
        (b"cos\nsystem\n2\x81", "os.system"),
        (b"\x82\x07", "copyreg.extension_7"),
        (b"\x84\x07\x00\x00\x00", "copyreg.extension_7"),
        (b"I1\nL5L\nF1.5\nVtext\np0\ng0\nPid\n0cnt\nsystem\n", "nt.system"),
        (b"\x8c\x06systemq\x50\x8c\x05posixq\x510]0h\x51h\x50\x93", "posix.system"),
    ],
)
def test_every_way_to_name_something(tmp_path, code, name):
    path = tmp_path / "network.pkl"
    path.write_bytes(pickles.dumps({"G_ema": Raw(code)}))
    inspection = inspect_checkpoint(path)
    assert name in uses(inspection)


def test_torch_files(tmp_path):
    path = tmp_path / "model.pt"
    for zipped, kind in ((True, "torch zip"), (False, "torch legacy")):
        torch.save({"g_ema": {"w": torch.ones(3)}}, path, _use_new_zipfile_serialization=zipped)
        inspection = inspect_checkpoint(path)
        assert (inspection.format, inspection.protocol, inspection.problem) == (kind, 2, None)
        assert inspection.refused == ()
        assert {g.status for g in inspection.globals} == {"known"}
        assert "torch.FloatStorage" in uses(inspection)


def test_legacy_tensorflow(tmp_path):
    path = tmp_path / "network.pkl"
    network = Call("dnnlib.tflib.network.Network", state={"version": 4})
    path.write_bytes(pickles.dumps((network, network, network)))
    assert inspect_checkpoint(path).format == "legacy TensorFlow pickle"


def test_other_files(tmp_path):
    path = tmp_path / "file"
    for content, kind in ((b"", "unknown"), (b"<html>", "unknown"), (b"\x80\x04N.", "pickle")):
        path.write_bytes(content)
        assert inspect_checkpoint(path).format == kind
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x00" * 10**6)
    assert "compressed" in inspect_checkpoint(path).problem
    with pytest.raises(GeneratorError, match="cannot open"):
        inspect_checkpoint(tmp_path)
