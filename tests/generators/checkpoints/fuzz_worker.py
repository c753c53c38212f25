"""Feed mutated checkpoints to the readers, in a process with little memory and an alarm.

Run as a script: ``fuzz_worker.py FIRST COUNT FILE KIND``, with official pickles, or torch files
and safetensors. Prints one JSON object of figures; any
exception but a `GeneratorError` ends the process with its traceback.
"""

from __future__ import annotations

import io
import json
import pickle
import pickletools
import random
import re
import resource
import signal
import sys
import time
import warnings
from collections import Counter, OrderedDict
from pathlib import Path

import numpy as np
import pickles
import torch
from safetensors.torch import save
from test_rosinality import make_weights

from generators.checkpoints import (
    convert_checkpoint,
    inspect_checkpoint,
    read_checkpoint,
    stylegan2_from_record,
)
from generators.families.stylegan2 import StyleGAN2Settings
from hpd.errors import GeneratorError

# of processor time: how busy the machine is changes nothing
SECONDS, EXTRA_BYTES = 2, 2**30
OPCODES = [op.code.encode("latin-1")[0] for op in pickletools.opcodes]
LENGTHS = (0, 1, 0x7F, 0x80, 0xFF)


def seeds():
    """Small checkpoints of every protocol: all names of the table, and a StyleGAN2."""
    init = {"z_dim": 2, "c_dim": 2, "w_dim": 2, "img_resolution": 4, "img_channels": 1}
    init["mapping_kwargs"] = pickles.easy_dict(num_layers=1)
    init["synthesis_kwargs"] = pickles.easy_dict(channel_max=2)
    # few values leave more room for damage to what surrounds them
    options = {"mapping_layers": 1, "channel_max": 2, "resolution": 4, "channels": 1}
    network = StyleGAN2Settings(z_dim=2, w_dim=2, num_classes=2, **options).build()
    network.initialise(torch.Generator().manual_seed(0))
    real = pickles.official(network, _init_kwargs=init)
    for protocol in (2, 3, 4, 5):
        yield pickles.dumps(pickles.checkpoint(D=pickles.network()), protocol)
    yield pickles.dumps(pickles.checkpoint(real), 4)


def torch_seeds():
    """Small files of every format in which a state dict is found by its names."""
    weights = make_weights(4, width=2, layers=1, cut=4, most=2)
    average = np.ones((2, 2), dtype=np.float32)
    for zipped in (True, False):
        file = io.BytesIO()
        torch.save(
            {"g_ema": weights, "latent_avg": average}, file, _use_new_zipfile_serialization=zipped
        )
        yield file.getvalue()
    yield pickle.dumps({"g_ema": weights}, 4)
    yield save({name: value.clone() for name, value in weights.items()})
    file = io.BytesIO()
    torch.save({"decoder.net": OrderedDict(weights), "epoch": [1, 2.5, None]}, file)
    yield file.getvalue()


def without_addresses(content):
    """Number the storages: torch names them by where they lie, other in each process."""
    numbers = {}

    def number(match):
        return b"%0*d" % (len(match[0]), numbers.setdefault(match[0], len(numbers) + 1))

    return re.sub(rb"(?<!\d)\d{13,16}(?!\d)", number, content)


def mutate(content, rng):
    """Damage a file in one to four of six ways."""
    data = bytearray(content)
    places = opcode_places(content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        kind = rng.randrange(6)
        place = rng.randrange(len(data))
        if kind == 0:
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[place] = rng.randrange(256)
        elif kind == 2 and rng.random() < 0.5:
            del data[place:]
            data = data or bytearray(b"\x80")
        elif kind == 3:
            # another opcode where one stands; most other bytes are its arguments
            data[min(rng.choice(places), len(data) - 1)] = rng.choice(OPCODES)
        elif kind == 4:
            # the bytes behind an opcode are often a length or an index
            start = min(rng.choice(places) + 1, len(data) - 1)
            for i in range(start, min(start + rng.choice((1, 4, 8)), len(data))):
                data[i] = rng.choice(LENGTHS)
        else:
            stop = min(len(data), place + rng.randrange(1, 64))
            to = rng.randrange(len(data))
            data[to:to] = data[place:stop]
    return bytes(data)


_PLACES = {}


def opcode_places(content):
    if content not in _PLACES:
        # in a zip file the pickle comes after a name; safetensors have none
        start = max(0, content.find(b"\x80"))
        try:
            found = [start + place for _, _, place in pickletools.genops(content[start:])]
        except Exception:
            found = list(range(min(len(content), 4000)))
        _PLACES[content] = found
    return _PLACES[content]


def attempt(path):
    """Read, convert and inspect; return how it ended."""
    inspect_checkpoint(path)
    try:
        record = read_checkpoint(path)
        record.state_dict()
    except GeneratorError:
        return "refused"
    try:
        stylegan2_from_record(record)
    except GeneratorError:
        return "loaded"
    return "converted"


def attempt_torch(path):
    """Convert and inspect; return how it ended."""
    inspect_checkpoint(path)
    try:
        found = convert_checkpoint(path)
    except GeneratorError as error:
        assert str(error).isprintable() and len(str(error)) <= 600
        return "refused"
    assert all(bool(torch.isfinite(value).all()) for value in found.weights.values())
    return "converted"


def alarm(signum, frame):
    raise TimeoutError("too slow")


KINDS = {"official": (seeds, attempt), "torch": (torch_seeds, attempt_torch)}


def main(first, count, file, kind):
    warnings.simplefilter("error")
    make, attempt = KINDS[kind]
    path, contents = Path(file), [without_addresses(content) for content in make()]
    for content in contents:
        path.write_bytes(content)
        assert attempt(path) in ("loaded", "converted")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + EXTRA_BYTES, used + EXTRA_BYTES))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.signal(signal.SIGPROF, alarm)
    ends, slowest = Counter(), 0.0
    for index in range(first, first + count):
        path.write_bytes(mutate(contents[index % len(contents)], random.Random(index)))
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        start = time.process_time()
        ends[attempt(path)] += 1
        signal.setitimer(signal.ITIMER_PROF, 0)
        slowest = max(slowest, time.process_time() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    figures = {"slowest_seconds": slowest, "more_mib": (peak - before) / 1024}
    sys.stdout.write(json.dumps({**ends, **figures, "peak_mib": peak / 1024}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
