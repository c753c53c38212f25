"""Files that try to run code, or to use up time or memory, are refused by name."""

from __future__ import annotations

import pickle
import signal
import struct
import subprocess
import sys
import warnings
from collections import OrderedDict
from contextlib import contextmanager, suppress

import numpy as np
import pickles
import pytest
import torch
from pickles import Call, Name, Raw
from traps import Runs

from generators.checkpoints import inspect_checkpoint, read_checkpoint
from generators.checkpoints.pickles.tensors import read_storage
from hpd.errors import GeneratorError


def system(trap):
    return Call("posix.system", trap.command)


def evaluate(trap):
    return Call("builtins.eval", f"__import__('os').system({trap.command!r})")


def by_getattr(trap):
    path = Call("pathlib.Path", str(trap.file))
    return Call(Call("builtins.getattr", Name("pathlib.Path"), "touch"), path)


def by_reconstructor(trap):
    return Call("copyreg._reconstructor", Name("datetime.date"), Name("x.y"), trap.command)


def dill_function(trap):
    code = Call("dill._dill._create_code", trap.command.encode())
    return Call(Call("dill._dill._create_function", code, {}))


def dill_class(trap):
    return Call(Call("dill._dill._create_type", Name("x.type"), "T", (), {"__init__": trap.code}))


def dill_type(trap):
    return Call(Call("dill._dill._load_type", "CodeType"), trap.code)


def unpickler(trap):
    return Call("_pickle.loads", pickle.dumps(trap.code))


def torch_load(trap):
    return Call("torch.serialization.load", trap.command)


ATTACKS = {
    system: "posix.system",
    evaluate: "builtins.eval",
    by_getattr: "builtins.getattr",
    by_reconstructor: "copyreg._reconstructor",
    dill_function: "dill._dill._create_function",
    dill_class: "dill._dill._create_type",
    dill_type: "dill._dill._load_type of 'CodeType'",
    unpickler: "_pickle.loads",
    torch_load: "torch.serialization.load",
}
PLACES = {
    "network": lambda payload: payload,
    "parameter": lambda payload: pickles.module("G", pickles.state({"weight": payload})),
    "buffer": lambda payload: pickles.module("G", pickles.state({}, {"filter": payload})),
    "transient": lambda payload: pickles.module(
        "G", {**pickles.state(), "_non_persistent_buffers_set": payload}
    ),
    "child": lambda payload: pickles.module("G", pickles.state({}, {}, {"mapping": payload})),
    "state": lambda payload: pickles.module("G", payload),
    "arguments": lambda payload: pickles.network(_init_args=(payload,)),
    "keywords": lambda payload: pickles.network(_init_kwargs={"z_dim": [payload]}),
    "description": lambda payload: Call(
        "torch_utils.persistence._reconstruct_persistent_obj", payload
    ),
    "storage": lambda payload: pickles.module("G", pickles.state({"w": pickles.rebuilt(payload)})),
    "shape": lambda payload: pickles.module(
        "G", pickles.state({"w": pickles.rebuilt(pickles.storage(torch.ones(2)), size=payload)})
    ),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
@pytest.mark.parametrize("protocol", [2, 4])
def test_calls_where_the_network_needs_data(trap, attack, place, protocol):
    trap.write(pickles.checkpoint(PLACES[place](attack(trap))), protocol)
    trap.check(ATTACKS[attack])
    found = {use.name: use.status for use in inspect_checkpoint(trap.path).globals}
    named = ATTACKS[attack].partition(" ")[0]
    want = {system: "refused", evaluate: "refused", unpickler: "refused", dill_type: "known"}
    assert found[named] == want.get(attack, "stub")


@pytest.mark.parametrize("attack", [system, evaluate, by_getattr])
def test_the_attacks_are_real(trap, attack):
    """With an ordinary unpickler the same payload is called."""
    trap.write({"G_ema": attack(trap)})
    code = "import pickle, sys; pickle.load(open(sys.argv[1], 'rb'))"
    subprocess.run([sys.executable, "-c", code, str(trap.path)], check=True)
    assert trap.file.exists()
    trap.file.unlink()


@pytest.mark.parametrize("attack", [system, evaluate, unpickler])
def test_hostile_names_are_refused_wherever_they_stand(trap, attack):
    trap.write(pickles.checkpoint(D=attack(trap)))
    trap.check(ATTACKS[attack], "no checkpoint has a use for it")
    # made and thrown away, before the dict that the reader would look at
    honest = pickles.dumps(pickles.checkpoint(), 4)
    payload = pickles.dumps(attack(trap), 3)[2:-1]
    trap.path.write_bytes(honest[:2] + payload + b"0" + honest[2:])
    trap.check(ATTACKS[attack])


def test_a_name_assembled_from_the_memo(trap):
    """STACK_GLOBAL takes its words from anywhere; scanners that look backwards miss it."""
    code = (
        b"\x80\x04\x8c\x06system\x94\x8c\x05posix\x94\x8c\x04echo00]0h\x01h\x00\x93"
        b"\x8c\x04true\x85R."
    )
    trap.path.write_bytes(code)
    trap.check("posix.system")
    assert inspect_checkpoint(trap.path).refused == ("posix.system",)


def test_embedded_source_is_never_run(trap):
    for source in (trap.code, f"import os\nos.system({trap.command!r})", "syntax error ("):
        network = pickles.module("Generator", pickles.state(z_dim=4), source=source)
        trap.write(pickles.checkpoint(network))
        assert read_checkpoint(trap.path).attribute("z_dim") == 4
        assert inspect_checkpoint(trap.path).sources["Generator"] == len(source)


def nested(trap, content):
    weight = {"weight": pickles.rebuilt(content)}
    trap.write(pickles.checkpoint(pickles.module("G", pickles.state(weight))))


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_a_payload_in_a_nested_storage(trap, attack):
    payload, name = pickles.dumps(attack(trap), 2), ATTACKS[attack].partition(" ")[0]
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
    for content in (payload, magic + payload, magic + pickle.dumps({}, 2) + payload):
        nested(trap, content)
        trap.check("refused")
        found = {use.name for use in inspect_checkpoint(trap.path).globals if use.nested}
        assert name in found or "dill" in name


def test_a_payload_in_a_nested_zip_file(trap):
    torch.save({"weight": Runs(trap.command)}, trap.path)
    content = trap.path.read_bytes()
    nested(trap, content)
    trap.check("not in torch's older format")
    assert inspect_checkpoint(trap.path).refused == ("posix.system",)


@pytest.mark.parametrize(
    "code, names",
    [
        (b"Psprung\n", ["PERSID", "persistent_load"]),
        (b"\x8c\x06sprungQ", ["BINPERSID", "persistent_load"]),
        (b"\x82\x01", ["EXT1", "copyreg"]),
        (b"\x83\x01\x00", ["EXT2", "copyreg"]),
        (b"\x84\x01\x00\x00\x00", ["EXT4", "copyreg"]),
        (b"(S'true'\niposix\nsystem\n", ["STRING"]),
        (b"(\x8c\x04trueiposix\nsystem\n", ["INST"]),
        (b"(cx\ny\n\x8c\x04trueo", ["OBJ"]),
        (b"\x97", ["NEXT_BUFFER"]),
        (b"N2", ["DUP"]),
        (b"cx\ny\n}b", ["sets the state of x.y"]),
        (b"}}b", ["sets the state of a dict"]),
        (b"cx\ny\nNNs", ["sets items of x.y"]),
        (b"cx\ny\nNa", ["appends to x.y"]),
    ],
)  # fmt: skip
def test_refused_opcodes(trap, code, names):
    for content in (pickles.checkpoint(Raw(code)), pickles.checkpoint(D=Raw(code))):
        trap.write(content)
        trap.check(*names)


@pytest.mark.parametrize("code", [rb"S'\x\q\8'", rb"P\q", rb"S'\q"])
def test_text_with_escapes_that_nobody_knows_warns_of_nothing(trap, code):
    trap.path.write_bytes(b"\x80\x02" + code + b"\n.")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inspect_checkpoint(trap.path)
        trap.check("")


def test_state_that_would_replace_methods_stays_inert(trap):
    """OrderedDict and dtype take a state; it is not applied to anything."""
    evil = Call("collections.OrderedDict", state={"__setstate__": Name("x.run"), "keys": 1})
    trap.write(pickles.checkpoint(pickles.network(table=evil)))
    assert read_checkpoint(trap.path).attribute("table") == {}
    made = Call("x.Thing", state={"__class__": Name("y.Other"), "__reduce_ex__": Name("x.run")})
    trap.write(pickles.checkpoint(pickles.network(_init_kwargs={"a": made})))
    trap.check("x.Thing")


@pytest.mark.parametrize("kind", ["O8", "U4", "S3", "V8", "M8", "f8,O", "c16", "O"])
def test_numpy_arrays_that_are_not_numeric(trap, kind):
    dtype = Call("numpy.dtype", kind, False, True, state=(3, "|", None, None, None, -1, -1, 63))
    made = (Name("numpy.ndarray"), (0,), b"b")
    for state in ((1, (1,), dtype, False, [system]), (1, (1,), dtype, False, b"12345678")):
        data = [system(trap)] if isinstance(state[-1], list) else state[-1]
        array = Call("numpy.core.multiarray._reconstruct", *made, state=(*state[:-1], data))
        trap.write(pickles.checkpoint(pickles.network(_init_kwargs={"size": array})))
        trap.check("posix.system" if isinstance(data, list) else f"numpy.dtype of '{kind}'")


def test_numpy_arrays_of_objects_from_numpy_itself(trap):
    array = np.array([{"a": 1}, None], dtype=object)
    trap.write(pickles.checkpoint(pickles.network(_init_kwargs={"size": array})))
    trap.check("numpy.dtype of 'O8'")


def laughs(levels, start="ha"):
    """A value that doubles at each level."""
    value = [start]
    for _ in range(levels):
        value = [value, value]
    return value


def tuples(levels):
    value = ()
    for _ in range(levels):
        value = (value, value)
    return value


def knot():
    value = []
    value.append(value)
    return value


LIMITS = {
    "doubled lists": (laughs(40), "too many values"),
    "doubled tuples": (tuples(40), "too many values"),
    "a knot": (knot(), "nested too deeply"),
    "a deep list": (Raw(b"]" * 100_000 + b"a" * 99_999), "nested too deeply"),
    "a deep tuple": (Raw(b")" + b"\x85" * 100_000), "nested too deeply"),
    "a deep key": (Raw(b"})" + b"\x85" * 100_000 + b"Ns"), "a key"),
    "deep calls": (Raw(b"cx\ny\n" + b")R" * 100_000), "call of"),
    "long text": (Raw(b"\x8d" + struct.pack("<Q", 2**62)), "truncated"),
    "long bytes": (Raw(b"\x8e" + struct.pack("<Q", 2**62)), "truncated"),
    "negative bytes": (Raw(b"\x8a\xff"), "truncated"),
    "a far memo": (Raw(b"Nr\xff\xff\xff\xff0h\xfe"), "damaged"),
    "long names": (Raw(b"c" + b"a" * 10_000 + b"\nb\n"), "damaged"),
    "empty marks": (Raw(b"(" * 100_000 + b"1" * 100_001), "cannot read"),
}


@contextmanager
def no_hang(seconds=60):
    """End a block that burns the processor without end; how busy the machine is changes nothing."""

    def stop(signum, frame):
        raise TimeoutError("hangs")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@pytest.mark.parametrize("name", LIMITS)
def test_time_and_memory_are_bounded(trap, name):
    value, message = LIMITS[name]
    for place in ("keywords", "arguments"):
        trap.write(pickles.checkpoint(PLACES[place](value)))
        with no_hang():
            trap.check(message)


def test_a_list_of_modules_that_doubles(trap):
    state = pickles.state()
    for _ in range(40):
        layer = pickles.module("L", state)
        state = pickles.state({}, {}, {"a": layer, "b": layer})
    trap.write(pickles.checkpoint(pickles.module("G", state)))
    with no_hang():
        trap.check("too many values")


@pytest.mark.parametrize(
    "shape, message",
    [
        ({"size": (3,)}, "beyond its storage"),
        ({"size": (2,), "offset": 1}, "beyond its storage"),
        ({"size": (2,), "offset": -1}, "impossible shape"),
        ({"size": (2,), "stride": (-1,)}, "no tuple of sizes"),
        ({"size": (2**62,), "stride": (0,)}, "no tuple of sizes"),
        ({"size": (2**39,), "stride": (0,)}, "beyond its storage"),
        ({"size": (0, 2**39), "stride": (1, 1)}, "without values"),
        ({"size": (1,) * 9, "stride": (1,) * 9}, "no tuple of sizes"),
        ({"size": (2, 1)}, "impossible shape"),
        ({"size": (2.0,)}, "no tuple of sizes"),
        ({"size": (True,)}, "no tuple of sizes"),
    ],
)
def test_tensors_beyond_their_storage(trap, shape, message):
    weight = pickles.rebuilt(pickles.storage(torch.ones(2)), **shape)
    trap.write(pickles.checkpoint(pickles.module("G", pickles.state({"w": weight}))))
    trap.check(message)


@pytest.mark.parametrize("name", ["", "a.b", "a b", "\x1b[2J", "x" * 200, "\ud800"])
def test_names_that_no_module_has(trap, name):
    child = pickles.module("L", pickles.state())
    for state in (pickles.state({name: pickles.tensor(1)}), pickles.state({}, {}, {name: child})):
        trap.write(pickles.checkpoint(pickles.module("G", state)))
        trap.check("impossible name")


def test_one_storage_cannot_stand_for_more_than_the_file(trap):
    loaded = Call("torch.storage._load_from_bytes", pickles.storage(torch.ones(10_000)))
    parameters = {
        f"w{i}": Call(
            "torch._utils._rebuild_tensor_v2", loaded, 0, (10_000,), (1,), False, OrderedDict()
        )
        for i in range(100)
    }
    trap.write(pickles.checkpoint(pickles.module("G", pickles.state(parameters))))
    trap.check("more bytes than the file holds")


def test_an_array_of_no_values_is_not_many_lists(trap):
    state = (1, (2**39, 0), np.dtype("f8"), False, b"")
    made = (Name("numpy.ndarray"), (0,), b"b")
    array = Call("numpy.core.multiarray._reconstruct", *made, state=state)
    trap.write(pickles.checkpoint(pickles.network(_init_kwargs={"size": array})))
    trap.check("does not fit its shape")


def test_every_flipped_byte_of_a_storage_is_survived():
    """The part before the values is checked to the byte; the values are only values."""
    values = torch.arange(4.0)
    content = pickles.storage(values)
    for place in range(len(content) - 16):
        for flip in (0x01, 0x80, 0xFF):
            damaged = bytearray(content)
            damaged[place] ^= flip
            with suppress(GeneratorError):
                assert len(read_storage(bytes(damaged))) in (2, 4, 8, 16)
    for end in range(len(content)):
        with pytest.raises(GeneratorError):
            read_storage(content[:end])


def test_messages_can_be_printed(trap):
    for name in ("a\ud800.b", "x" * 5000 + ".y", "a\x1b[31m.b\nc"):
        trap.write(pickles.checkpoint(Call(name)))
        with pytest.raises(GeneratorError) as caught:
            read_checkpoint(trap.path)
        message = str(caught.value)
        assert message.encode("utf-8").isascii() and len(message) < 1000
        assert "\n" not in message and "\x1b" not in message
