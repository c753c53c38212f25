"""The thousand classes of ImageNet, and the subsets of ten that papers distil."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Literal

Subset = Literal["nette", "woof", "meow", "squawk", "fruits", "yellow", "a", "b", "c", "d", "e"]

SUBSETS: dict[Subset, tuple[int, ...]] = {
    "nette": (0, 217, 482, 491, 497, 566, 569, 571, 574, 701),
    "woof": (193, 182, 258, 162, 155, 167, 159, 273, 207, 229),
    "meow": (281, 282, 283, 284, 285, 291, 292, 290, 289, 287),
    "squawk": (84, 130, 88, 144, 145, 22, 96, 9, 100, 89),
    "fruits": (953, 954, 949, 950, 951, 957, 952, 945, 943, 948),
    "yellow": (309, 986, 954, 951, 987, 779, 599, 291, 72, 11),
    "a": (255, 376, 984, 364, 500, 986, 333, 576, 148, 135),
    "b": (129, 916, 90, 275, 995, 874, 102, 259, 685, 139),
    "c": (565, 94, 554, 535, 92, 392, 291, 136, 324, 11),
    "d": (9, 258, 13, 262, 19, 339, 321, 24, 93, 322),
    "e": (816, 96, 100, 145, 739, 713, 783, 76, 688, 326),
}
"""By index in ImageNet-1k, in the order of the labels: nette and woof are fast.ai's (Howard, 2019),
meow to yellow those of Cazenavette et al. (CVPR 2022), a to e theirs of CVPR 2023."""

NUM_CLASSES = 1000
_CLASSES = Path(__file__).with_name("imagenet_classes.txt")
_WNID = re.compile(r"n\d{8}")


@cache
def imagenet_names() -> Mapping[str, str]:
    """Return the names of the thousand classes by their wnids, in the order of their indices.

    A wnid is a class's number in WordNet, the name of its folder: ``n01440764`` is the tench.
    """
    lines = _CLASSES.read_text(encoding="utf-8").splitlines()
    wnids, names = zip(*(line.split(" ", 1) for line in lines), strict=True)
    return dict(zip(wnids, different(names, wnids), strict=True))


@cache
def imagenet_indices() -> Mapping[str, int]:
    """Return the index of each of the thousand wnids."""
    return {wnid: index for index, wnid in enumerate(imagenet_names())}


@cache
def _indices_by_name() -> Mapping[str, int]:
    return {name: index for index, name in enumerate(imagenet_names().values())}


def imagenet_index(name: str) -> int | None:
    """Return the index of one of the thousand classes by its wnid or its name; None: it is none.

    >>> imagenet_index("n02102040"), imagenet_index("tench"), imagenet_index("7")
    (217, 0, None)
    """
    return imagenet_indices().get(name, _indices_by_name().get(name))


def is_wnid(name: str) -> bool:
    """Return whether a text has the form of a wnid, of ImageNet-1k or not.

    >>> is_wnid("n01440764"), is_wnid("tench")
    (True, False)
    """
    return _WNID.fullmatch(name) is not None


def wnids_of(subset: Subset) -> list[str]:
    """Return the wnids of a subset, in its order.

    >>> wnids_of("nette")[:2]
    ['n01440764', 'n02102040']
    """
    wnids = list(imagenet_names())
    return [wnids[index] for index in SUBSETS[subset]]


def different(names: Sequence[str], wnids: Sequence[str]) -> list[str]:
    """Return names with the wnid in parentheses where two are equal.

    >>> different(["crane", "crane", "ibis"], ["n02012849", "n03126707", "n02009912"])
    ['crane (n02012849)', 'crane (n03126707)', 'ibis']
    """
    count = Counter(names)
    return [
        f"{name} ({wnid})" if count[name] > 1 else name
        for name, wnid in zip(names, wnids, strict=True)
    ]
