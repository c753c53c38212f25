"""What users give as arrays: plain meanings give the same bits, all else is a short error."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import hpd
from hpd.arrays import (
    as_count,
    as_images,
    as_labels,
    as_names,
    as_numbers,
    as_probabilities,
    as_tensor,
)
from hpd.errors import NumericError, ShapeError

INTEGERS = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8")
FLOATS = ("f2", "f4", "f8")


def naive_images(array):
    """The rule for images, value by value; None where they are refused."""
    if array.ndim != 4 or array.size == 0:
        return None
    _, first, _, last = array.shape
    if first not in (1, 3) and last in (1, 3, 4):
        return None
    values = [value.item() for value in array.flatten()]
    if array.dtype == np.uint8:
        made = [np.float32(value) / np.float32(255) for value in values]
    elif array.dtype.kind == "f":
        made = [np.float32(value) for value in values]
        if not all(math.isfinite(value) for value in made):
            return None
        beyond = sum(value < -0.25 or value > 1.25 for value in made)
        outside = any(value <= -1 or value >= 2 for value in made)
        if outside or beyond > 0.05 * len(made):
            return None
    else:
        return None
    return np.array(made, dtype=np.float32).reshape(array.shape)


def naive_labels(array, num_classes):
    """The rule for labels, value by value; None where they are refused."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.dtype.kind not in "iu" or not len(array):
        return None
    values = [value.item() for value in array]
    return values if all(0 <= value < num_classes for value in values) else None


def backwards_in_memory(array):
    return np.ascontiguousarray(array[::-1])[::-1] if array.ndim else array


def every_other_in_memory(array):
    roomy = np.zeros((*array.shape, 2), dtype=array.dtype)
    roomy[..., 0] = array
    return roomy[..., 0]


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def as_torch(array):
    return torch.from_numpy(array.copy())


CONTAINERS = {
    "as it is": lambda array: array,
    "Fortran order": lambda array: np.array(array, order="F"),
    "negative strides": backwards_in_memory,
    "gaps": every_other_in_memory,
    "read-only": read_only,
    "big-endian": lambda array: array.astype(array.dtype.newbyteorder(">")),
    "a tensor": as_torch,
    "a tensor with gaps": lambda array: torch.stack([as_torch(array)] * 2, dim=-1)[..., 0],
    "a parameter": lambda array: nn.Parameter(as_torch(array), requires_grad=False),
    "a tensor with a graph": lambda array: (
        as_torch(array).requires_grad_() * 1 if array.dtype.kind == "f" else as_torch(array)
    ),
    "a list of arrays": lambda array: list(array) if array.ndim and len(array) else array,
    "a list of tensors": lambda array: (
        list(as_torch(array)) if array.ndim and len(array) else array
    ),
}


@st.composite
def arrays(draw, dtypes, shapes, values):
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    shape = draw(shapes)
    kind = values[dtype.kind]
    size = math.prod(shape)
    drawn = draw(st.lists(kind, min_size=size, max_size=size))
    with np.errstate(over="ignore"):
        return np.array(drawn).astype(dtype).reshape(shape)


sides = st.integers(0, 4)
image_shapes = st.one_of(
    st.tuples(st.integers(1, 3), st.sampled_from([1, 3]), st.integers(1, 4), st.integers(1, 4)),
    st.lists(sides, max_size=5).map(tuple),
)
image_values = {
    "f": st.one_of(
        st.floats(0, 1), st.floats(-0.3, 1.3), st.floats(-3, 300), st.sampled_from([np.nan, np.inf])
    ),
    "u": st.integers(0, 255),
    "i": st.integers(-100, 100),
    "b": st.booleans(),
    "c": st.floats(0, 1),
}
label_shapes = st.one_of(st.tuples(st.integers(0, 6)), st.lists(sides, max_size=3).map(tuple))
label_values = image_values | {"u": st.integers(0, 8), "i": st.integers(-1, 8)}
containers = st.sampled_from(sorted(CONTAINERS))


def or_error(convert):
    """What comes out, or None for an error, which is short and of hpd."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return convert()
        except (ShapeError, NumericError) as error:
            assert len(str(error)) <= 600
            assert "\n" not in str(error)
            return None


@settings(derandomize=True, database=None, deadline=None, max_examples=400)
@given(arrays((*INTEGERS, *FLOATS, "?", "c8"), image_shapes, image_values), containers)
def test_images_in_any_container_are_those_of_the_naive_rule(array, container):
    want = naive_images(array)
    got = or_error(lambda: as_images(CONTAINERS[container](array)))
    if want is None:
        assert got is None
        return
    assert got is not None
    assert got.dtype == torch.float32
    assert not got.requires_grad
    assert got.contiguous().numpy().tobytes() == want.tobytes()


@settings(derandomize=True, database=None, deadline=None, max_examples=400)
@given(
    arrays((*INTEGERS, *FLOATS, "?", "c8"), label_shapes, label_values), containers,
    st.integers(1, 9),
)  # fmt: skip
def test_labels_in_any_container_are_those_of_the_naive_rule(array, container, num_classes):
    want = naive_labels(array, num_classes)
    got = or_error(lambda: as_labels(CONTAINERS[container](array), num_classes=num_classes))
    assert (None if got is None else got.tolist()) == want
    assert got is None or got.dtype == torch.int64


@settings(derandomize=True, database=None, deadline=None, max_examples=200)
@given(arrays(FLOATS, st.tuples(st.just(2), st.just(1), sides, sides), {"f": st.floats(0, 1)}))
def test_nested_lists_of_numbers_are_arrays(array):
    want = naive_images(array)
    got = or_error(lambda: as_images(array.tolist()))
    assert (got is None) == (want is None)
    assert got is None or got.numpy().tobytes() == want.tobytes()


anything = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.binary(),
        st.just(object()), st.complex_numbers(), st.just(torch.zeros(2)), st.just(np.ones(2)),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.tuples(inner, inner),
        st.dictionaries(st.text(max_size=2), inner, max_size=2), st.sets(st.integers(), max_size=2),
    ),
    max_leaves=8,
)  # fmt: skip


@pytest.mark.parametrize(
    "convert",
    [
        as_images, as_labels, as_names, lambda x: as_numbers(x, "z"), lambda x: as_count(x, "n"),
        lambda x: as_probabilities(x, "soft", count=2, num_classes=2),
    ],
    ids=["images", "labels", "names", "numbers", "count", "probabilities"],
)  # fmt: skip
@settings(derandomize=True, database=None, deadline=None, max_examples=200)
@given(value=anything)
def test_whatever_is_given_ends_in_a_value_or_a_short_error(convert, value):
    or_error(lambda: convert(value))


class BreaksAsAnArray:
    def __array__(self, dtype=None, copy=None):
        raise KeyError("gone")


def of_itself():
    endless = [torch.zeros(2)]
    endless.append(endless)
    return endless


# made where they are tried: torch warns of some
FOREIGN = {
    "None": lambda: None,
    "text": lambda: "images",
    "objects": lambda: np.array([{}, None]),
    "texts": lambda: np.array(["a", "b"]),
    "dates": lambda: np.array(["2020-01-01"], dtype="M8[D]"),
    "records": lambda: np.zeros(2, dtype=[("a", "f4")]),
    "complex array": lambda: np.ones(2, dtype=complex),
    "complex tensor": lambda: torch.ones(2, dtype=torch.complex64),
    "masked": lambda: np.ma.masked_array([1.0, 2.0], mask=[True, False]),
    "sparse": lambda: torch.eye(2).to_sparse(),
    "compressed": lambda: torch.eye(2).to_sparse_csr(),
    "quantised": lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]),
    "without values": lambda: torch.ones(2, device="meta"),
    "eight bits": lambda: torch.ones(2).to(torch.float8_e4m3fn),
    "ragged": lambda: [[1.0], [1.0, 2.0]],
    "ragged tensors": lambda: [torch.ones(1), torch.ones(2)],
    "tensors of two dtypes": lambda: [torch.ones(2), torch.ones(2).double()],
    "a list in itself": lambda: of_itself(),
    "huge numbers": lambda: [2**80, 1],
    "broken": lambda: BreaksAsAnArray(),
    "generator": lambda: (x for x in [1.0]),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_no_dense_array_of_real_numbers_is_refused_by_name(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = FOREIGN[kind]()
        with pytest.raises(ShapeError, match=r"^mine") as error:
            as_tensor(values, "mine")
    assert len(str(error.value)) <= 600


def test_a_longdouble_is_rounded_to_what_torch_has():
    got = as_tensor(np.array([0.1], dtype=np.longdouble), "x")
    assert got.dtype == torch.float64
    assert got.item() == 0.1


def test_a_negated_view_gives_its_values():
    imaginary = torch.tensor([1 + 2j]).conj().imag
    assert imaginary.is_neg()
    assert as_tensor(imaginary, "x").numpy().tolist() == [-2.0]


def test_a_tensor_of_the_right_kind_is_not_copied():
    images = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    assert as_images(images).data_ptr() == images.data_ptr()


def test_an_array_of_numpy_is_copied():
    array = np.zeros((1, 1, 2, 2), dtype=np.float32)
    got = as_images(array)
    array[:] = 1
    assert got.sum() == 0


@pytest.fixture(scope="module")
def digits():
    train = hpd.load_dataset("digits").train
    return train.unit(slice(0, 40)), train.normalisation


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x, n: x * 255, r"0 to 255: x / 255"),
        (lambda x, n: x * 65535, r"Divide them by the value of white"),
        (lambda x, n: x * 2 - 1, r"look like \[-1, 1\]: \(x \+ 1\) / 2"),
        (lambda x, n: n.apply(x), r"look normalised: undo it with x \* std \+ mean"),
        (lambda x, n: x.permute(0, 2, 3, 1), r"channels are last: permute\(0, 3, 1, 2\)"),
        (lambda x, n: x[:, 0], r"Grey images without channels: x\[:, None\]"),
        (lambda x, n: x[0], r"A single image: x\[None\]"),
        (lambda x, n: x[:0], r"There are none"),
        (lambda x, n: (x * 255).to(torch.int16), r"got int16.*or uint8"),
        (lambda x, n: x > 0.5, r"got bool"),
        (lambda x, n: x.to(torch.complex64), r"got complex64"),
    ],
)
def test_images_are_told_what_they_look_like(change, said, digits):
    with pytest.raises(ShapeError, match=said):
        as_images(change(*digits))


def test_bytes_are_the_floats_that_a_data_set_gives(digits):
    pixels = hpd.load_dataset("digits").train.pixels(slice(0, 40))
    assert torch.equal(as_images(pixels), digits[0])


def test_images_may_leave_their_range_as_far_as_optimised_ones_do(rng):
    """As CIFAR-10 in the levels of a generator: -0.98 to 1.61, one value in fifty far outside."""
    images = torch.rand(10, 3, 16, 16, generator=rng) * 1.4 - 0.2
    flat = images.view(-1)
    flat[::50] = torch.linspace(-0.98, 1.61, len(flat[::50]))
    assert torch.equal(as_images(images), images)


@pytest.mark.parametrize("value", [-1.0, 2.0])
def test_one_value_as_far_out_as_no_optimised_one_is_enough(value):
    images = torch.zeros(1, 1, 16, 16)
    images[0, 0, 0, 0] = value
    with pytest.raises(ShapeError, match=r"not in \[0, 1\]"):
        as_images(images)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("any_range", [False, True])
def test_one_value_that_is_not_finite_is_enough(value, any_range):
    images = torch.zeros(2, 1, 4, 4)
    images[1, 0, 2, 3] = value
    with pytest.raises(NumericError, match="got 1 NaN or Inf of 32 values"):
        as_images(images, any_range=any_range)


def test_a_double_that_no_float_holds_is_not_finite():
    with pytest.raises(NumericError):
        as_images(torch.full((1, 1, 2, 2), 1e300, dtype=torch.float64), any_range=True)


def test_a_shape_that_is_known_is_asked_for():
    with pytest.raises(ShapeError, match=r"got \[1, 3, 4, 4\], expected \[N, 1, 4, 4\]"):
        as_images(torch.zeros(1, 3, 4, 4), shape=(1, 4, 4))


def test_numbers_keep_their_graph():
    z = torch.ones(2, requires_grad=True)
    (grad,) = torch.autograd.grad(as_numbers(z, "z", dtype=torch.float64).sum(), z)
    assert grad.tolist() == [1, 1]
