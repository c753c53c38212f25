"""Labels, probabilities, names and counts that users give: what is wrong with them is said."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hpd.arrays import as_count, as_labels, as_names, as_probabilities
from hpd.errors import HpdError, ShapeError


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (torch.eye(3), r"argmax\(1\)"),
        ([0.0, 1.0, 2.0], "must be class indices: got float64"),
        ([True, False, True], "must be class indices: got bool"),
        ([0, 1], "got 2 labels, expected 3"),
        ([0, 1, 3], r"got 0..3, expected 0..2"),
        ([0, 1, -1], r"got -1..1, expected 0..2"),
        (np.array([0, 1, 2**64 - 1], dtype=np.uint64), "out of range"),
    ],
)
def test_labels_are_told_what_is_wrong_with_them(labels, said):
    with pytest.raises(ShapeError, match=said):
        as_labels(labels, count=3, num_classes=3)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([[0.5, 0.4999], [1, 0]], None),
        ([[2.0, 8.0], [5.0, 5.0]], "sum to"),
        ([[-0.5, 1.5], [1, 0]], "Of logits take the softmax"),
        ([[0.5, np.nan], [1, 0]], "not finite"),
        ([[1.0], [1.0]], r"expected floats \[2, 2\]"),
        ([[True, False], [True, False]], "bool"),
    ],
)
def test_probabilities_sum_to_one(values, said):
    if said is None:
        soft = as_probabilities(values, "soft", count=2, num_classes=2)
        assert torch.equal(soft, torch.tensor(values))
        return
    with pytest.raises(HpdError, match=said):
        as_probabilities(values, "soft", count=2, num_classes=2)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("cat", "not a list of names"), ({"cat": 0}, "not a list of names"),
        (b"cat", "not a list of names"), (3, "not a list of names"),
        ([0, 1], r"\[str\(c\) for c in classes\]"), (["cat", None], "not all text"),
        (["cat", "dog", "cat"], "'cat' twice"), ([], "got none"),
    ],
)  # fmt: skip
def test_names_are_different_texts(names, said):
    with pytest.raises(ShapeError, match=said):
        as_names(names)


@pytest.mark.parametrize("value", [-1, 1.0, True, "1", None, np.float32(1), 10**30 * -1])
def test_a_count_is_a_whole_number(value):
    with pytest.raises(ShapeError, match=r"^floats is not valid"):
        as_count(value, "floats")
