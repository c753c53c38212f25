"""Write pickles in the official layout, honest and hostile, without the official code."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict

import numpy as np
import torch
from torch import nn


class Name:
    """A global that the pickle names, whether or not it exists here."""

    def __init__(self, dotted):
        self.module, _, self.name = dotted.rpartition(".")

    def __call__(self):
        raise AssertionError("nothing may be called")


class Call:
    """A call that the pickle makes: REDUCE, then BUILD if there is a state."""

    def __init__(self, dotted, *arguments, state=None, items=None):
        self.name = Name(dotted) if isinstance(dotted, str) else dotted
        self.arguments, self.state, self.items = arguments, state, items

    def __call__(self):
        raise AssertionError("nothing may be called")

    def __reduce__(self):
        pairs = None if self.items is None else iter(self.items.items())
        return self.name, self.arguments, self.state, None, pairs


class Raw:
    """Opcodes as they are, leaving one object on the stack."""

    def __init__(self, code):
        self.code = code


class Writer(pickle._Pickler):
    """Python's own pickler, which also writes names that do not exist."""

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Raw):
            self.write(obj.code)
            return None
        if not isinstance(obj, Name):
            return super().save(obj, save_persistent_id)
        if id(obj) in self.memo:
            self.write(self.get(self.memo[id(obj)][0]))
        elif self.proto >= 4:
            self.save(obj.module)
            self.save(obj.name)
            self.write(pickle.STACK_GLOBAL)
            self.memoize(obj)
        else:
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
            self.memoize(obj)
        return None


def dumps(content, protocol=4):
    file = io.BytesIO()
    Writer(file, protocol).dump(content)
    return file.getvalue()


def module(class_name, state, source="# source\n"):
    meta = {"type": "class", "version": 6, "module_src": source, "class_name": class_name}
    return Call("torch_utils.persistence._reconstruct_persistent_obj", {**meta, "state": state})


def state(parameters=(), buffers=(), modules=(), transient=(), **attributes):
    hooks = ("_backward_hooks", "_forward_hooks", "_state_dict_hooks")
    return {
        "training": False,
        "_parameters": dict(parameters),
        "_buffers": dict(buffers),
        "_non_persistent_buffers_set": set(transient),
        **{name: OrderedDict() for name in hooks},
        "_modules": dict(modules),
        **attributes,
    }


def easy_dict(**items):
    return Call(Name("dnnlib.util.EasyDict"), items=items)


def tensor(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def array(values):
    """A numpy array the way dill writes it."""
    function, arguments, filled = values.__reduce__()
    return Call("dill._dill._create_array", function, arguments, filled, None)


def network(**attributes):
    """A small network in which every entry of the table of names is used."""
    embedding = Call(
        "torch.nn.modules.sparse.Embedding",
        state=state({"weight": nn.Parameter(tensor(3, 2))}, num_embeddings=3),
    )
    layer = module(
        "SynthesisLayer",
        state(
            {"weight": nn.Parameter(tensor(2, 3, seed=1)), "bias": None},
            {"filter": tensor(4, seed=2), "scratch": tensor(5, seed=3)},
            transient=["scratch"],
            weight_gain=np.float64(0.25),
            in_size=np.array([4, 6]),
            out_size=array(np.array([[1.5, 2.5]], dtype=np.float32)),
            _init_args=(2, 3),
            _init_kwargs={"w_dim": 8, "is_torgb": False},
        ),
    )
    attributes.setdefault("_init_kwargs", {"c_dim": 3, "mapping_kwargs": easy_dict(num_layers=2)})
    return module(
        "Generator", state({}, {}, {"embed": embedding, "layer": layer}, z_dim=4, **attributes)
    )


def checkpoint(g_ema=None, **others):
    content = {"training_set_kwargs": easy_dict(path="x.zip"), "G": None, "D": None}
    return {**content, "augment_pipe": None, **others, "G_ema": g_ema or network()}


def storage(values):
    """The bytes that torch puts into `_load_from_bytes`."""
    # a tensor's own reduction holds its typed storage, whose reduction holds the bytes
    typed = values.__reduce_ex__(2)[1][0]
    return typed.__reduce__()[1][0]


def rebuilt(content, *, size=(2,), stride=(1,), offset=0):
    """A tensor around any bytes."""
    loaded = Call("torch.storage._load_from_bytes", content)
    arguments = (loaded, offset, size, stride, False, OrderedDict())
    return Call("torch._utils._rebuild_tensor_v2", *arguments)


def official(network, class_name="Generator", **init):
    """This project's network in the layout of the official code."""
    children = {
        name: official(child, type(child).__name__) for name, child in network.named_children()
    }
    own = dict(network.named_parameters(recurse=False))
    buffers = dict(network.named_buffers(recurse=False))
    plain = {"_init_args": (), "_init_kwargs": {}, **init}
    return module(class_name, state(own, buffers, children, **plain))
