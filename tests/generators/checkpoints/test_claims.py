"""Files that claim to be large are refused before memory or time is spent on the claim."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pickles
import pytest
import torch
from conftest import ROOT, TESTS, tiny_generator
from pickles import Call, Name
from safetensors.torch import save
from test_rosinality import make_weights

from generators import save_generator
from generators.checkpoints.families.rosinality import ANCHORS

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="limits of memory need Linux"
)
HUGE = 2**40


class Outside:
    """A storage that the pickle names and does not hold."""

    def __init__(self, count, key="0"):
        self.facts = ("storage", Name("torch.FloatStorage"), key, "cpu", count)


class Writer(pickles.Writer):
    def persistent_id(self, obj):
        return obj.facts if isinstance(obj, Outside) else None


def pickled(content):
    file = io.BytesIO()
    Writer(file, 2).dump(content)
    return file.getvalue()


def tensor(count=2, size=(2,), stride=(1,), key="0"):
    arguments = (Outside(count, key), 0, size, stride, False, OrderedDict())
    return Call("torch._utils._rebuild_tensor_v2", *arguments)


def generator(make):
    """Enough for a generator to be found, with tensors that `make` makes from their number."""
    return {"g_ema": {name: make(i) for i, name in enumerate(ANCHORS)}}


def torch_zip(pickle, compression=zipfile.ZIP_STORED, **storages):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("a/data.pkl", pickle)
        for key, content in storages.items():
            archive.writestr(f"a/data/{key[1:]}", content)
    return file.getvalue()


def huge_directory():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", pickled({}))
        for i in range(60_000):
            archive.writestr(zipfile.ZipInfo(f"a/data/{i:0100d}"), b"")
    return file.getvalue()


def legacy(content, *keys):
    magic = pickles.dumps(0x1950A86A20F9469CFC6C, 2) + pickles.dumps(1001, 2)
    return magic + pickles.dumps({}, 2) + pickled(content) + pickles.dumps(list(keys), 2)


def doubled(levels):
    content = {"w": tensor()}
    for _ in range(levels):
        content = {"a": content, "b": content}
    return content


def safetensors(count):
    header = {"a": {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


def empty_array():
    state = (1, (2**39, 0), np.dtype("f8"), False, b"")
    made = (Name("numpy.ndarray"), (0,), b"b")
    return Call("numpy.core.multiarray._reconstruct", *made, state=state)


def wide():
    """Latents of 200,000 numbers: drawing 10,000 of them would take 8 GB."""
    weights = make_weights(4)
    weights["style.1.weight"] = torch.ones(16, 200_000)
    file = io.BytesIO()
    torch.save(weights, file)
    return file.getvalue()


FILES = {
    "storage of 2^40": (lambda: torch_zip(pickled(generator(lambda i: tensor(HUGE, (HUGE,))))),
                        "declare more bytes than the file holds"),
    "one value 2^40 times": (
        lambda: torch_zip(
            pickled(generator(lambda i: tensor(2, (2**20, 2**20), (0, 0)))), _0=b"\0" * 8
        ),
        "beyond its storage",
    ),
    "one storage many times": (
        lambda: torch_zip(
            pickled(generator(lambda i: tensor(2**20, (2**20, 1), (1, 1)))), _0=b"\0" * 2**22
        ),
        "declare more bytes than the file holds",
    ),
    "compressed storage": (
        lambda: torch_zip(
            pickled(generator(lambda i: tensor(2**24, (2**12, 2**12), (2**12, 1)))),
            zipfile.ZIP_DEFLATED, _0=b"\0" * 2**26,
        ),
        "compressed or too large",
    ),
    "compressed pickle": (
        lambda: torch_zip(b"\0" * 2**26, zipfile.ZIP_DEFLATED), "compressed or too large",
    ),
    "many files": (huge_directory, "list of files is out of all proportion"),
    "doubled dicts": (lambda: torch_zip(pickled(doubled(40))), "too many values to look through"),
    "many names": (
        lambda: torch_zip(pickled({f"{'x' * 200}{i}": 0 for i in range(150_000)})),
        "too many values to look through",
    ),
    "older format of 2^40": (
        lambda: legacy(generator(lambda i: tensor(HUGE, (HUGE,))), "0"), "truncated or damaged",
    ),
    "safetensors of 2^40": (lambda: safetensors(HUGE), "truncated or damaged"),
    "array of nothing": (
        lambda: pickles.dumps(generator(lambda i: empty_array())), "does not fit its shape",
    ),
    "wide latents": (wide, "too wide to compute one: got 200000"),
}  # fmt: skip
# what follows the first bytes is a hole, as downloads leave that were not finished
HOLES = {
    "zip with a hole": (lambda: torch_zip(pickled({}))[:50], "truncated or damaged"),
    "older format with a hole": (lambda: legacy(generator(lambda i: tensor()))[:200], "damaged"),
    "pickle with a hole": (lambda: pickles.dumps({"G_ema": 1})[:8], "not a pickle"),
    "safetensors with a hole": (lambda: save({"a": torch.ones(3)}), "truncated or damaged"),
    "hole alone": (lambda: b"", "nothing but zeros"),
}
DESCRIPTIONS = {
    "resolution": ({"kind": "stylegan2", "resolution": 2**14}, "does not fit the options"),
    "larger resolution": ({"kind": "stylegan2", "resolution": 2**30}, "out of all proportion"),
    "layers": ({"kind": "stylegan2", "mapping_layers": 10**9}, "out of all proportion"),
    "width": ({"kind": "stylegan2", "w_dim": 2**50}, "cannot read the generator"),
    "classes": ({"kind": "stylegan2", "num_classes": 2**40}, "does not fit the options"),
    "planned": ({"kind": "stylegan3", "num_layers": 10**9}, "out of all proportion"),
    "filters": ({"kind": "stylegan3", "filter_size": 10**9}, "out of all proportion"),
}


def write_files(folder):
    for name, (content, _) in FILES.items():
        (folder / name).write_bytes(content())
    for name, (content, _) in HOLES.items():
        (folder / name).write_bytes(content())
        os.truncate(folder / name, 2**31)
    network = tiny_generator()
    for name, (family, _) in DESCRIPTIONS.items():
        save_generator(network, network.settings, folder / name, licence="MIT", provenance={})
        file = folder / name / "generator.json"
        file.write_text(
            json.dumps(json.loads(file.read_text()) | {"family": family, "classes": []})
        )
    (folder / "deep").mkdir()
    (folder / "deep/generator.json").write_text("[" * 100_000)


ENDS = {
    **{name: end for name, (_, end) in (FILES | HOLES | DESCRIPTIONS).items()},
    "deep": "cannot read the generator",
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("claims")
    write_files(folder)
    worker = Path(__file__).with_name("claims_worker.py")
    paths = os.pathsep.join(map(str, (ROOT, TESTS, worker.parent)))
    done = subprocess.run(
        [sys.executable, str(worker), str(folder)],
        env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", ENDS)
def test_a_claim_is_refused_in_one_line(outcomes, name):
    message = outcomes[name]["message"]
    assert ENDS[name] in message
    assert message.isprintable() and len(message) <= 600


@pytest.mark.parametrize("name", ENDS)
def test_a_claim_costs_little_memory(outcomes, name):
    assert outcomes[name]["more_mib"] < 256


@pytest.mark.parametrize("name", ENDS)
def test_a_claim_costs_little_time(outcomes, name):
    """Of the processor; the worker ends what takes longer."""
    assert outcomes[name]["seconds"] < 20
