"""The card of a data set: what it is, where it came from, and under which licence."""

from __future__ import annotations

import re
from collections.abc import Mapping

import yaml

from hpd.artifacts.distilled import DistilledSet
from hpd.artifacts.exports.base import zca_of
from hpd.artifacts.provenance import Provenance

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"))
_MOST_CLASSES = 200


def card(distilled: DistilledSet, provenance: Provenance) -> str:
    """Return `README.md` of a data set on the Hugging Face hub: a YAML head and Markdown.

    Args:
        distilled: the set.
        provenance: where it came from.
    """
    count = len(distilled)
    header = {
        "pretty_name": _title(provenance),
        "task_categories": ["image-classification"],
        "tags": ["dataset-distillation", "synthetic", "hpd"],
        "size_categories": [next((name for most, name in _SIZES if count < most), "n>100K")],
        # the licences of generator and data both count, and hpd knows only the first
        "license": "other",
        "license_name": "that-of-generator-and-data",
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": "train", "path": "data/train-*.parquet"}],
            }
        ],
    }
    head = yaml.safe_dump(header, sort_keys=False, allow_unicode=True)
    return f"---\n{head}---\n\n{_text(distilled, provenance)}"


def _title(provenance: Provenance) -> str:
    return f"{provenance.data}, distilled" if provenance.data else "A distilled data set"


def _text(distilled: DistilledSet, provenance: Provenance) -> str:
    channels, height, width = distilled.images.shape[1:]
    mean, std = distilled.normalisation.mean, distilled.normalisation.std
    note = f"\n{zca_of(distilled)['zca']['note']}\n" if zca_of(distilled) else ""
    names = ", ".join(_code(name) for name in distilled.classes[:_MOST_CLASSES])
    if len(distilled.classes) > _MOST_CLASSES:
        names += f" and {len(distilled.classes) - _MOST_CLASSES} more"
    made = (
        "drawn from a generator around images that were distilled with hpd"
        if "sampled_around" in provenance.manifest
        else "made by dataset distillation with hpd: optimised for training a classifier on, not "
        "for looking real"
    )
    return f"""# {_title(provenance)}

{len(distilled)} synthetic images of {len(distilled.classes)} classes
({distilled.images_per_class:g} a class), {channels} x {height} x {width},
{made}.

Classes, in the order of their labels: {names}.
{note}
## Training on it

```python
import torch
from datasets import load_dataset
from torchvision.transforms.v2.functional import pil_to_tensor

rows = load_dataset("PATH OR NAME OF THIS DATA SET", split="train")
images = torch.stack([pil_to_tensor(row["image"]) for row in rows]) / 255
labels = torch.tensor(rows["label"][:])
mean = torch.tensor({list(mean)})[:, None, None]
std = torch.tensor({list(std)})[:, None, None]
images = (images - mean) / std
```

Mean and std are those of the real training images, in [0, 1]; give test images the same. Values
are rounded to 8 bits and clipped to [0, 1].

## What it stores

{_storage(distilled)}

## Where it came from

{_origin(provenance)}
## Licence

{_licence(provenance)}
"""


def _storage(distilled: DistilledSet) -> str:
    """Return the account as a table."""
    rows = [
        f"| {name} | {amount['floats']:,} | {amount['bits']:,} |"
        for name, amount in distilled.storage.as_json().items()
    ]
    return "\n".join(["| | floats | bits |", "|---|---|---|", *rows])


def _origin(provenance: Provenance) -> str:
    """Return a list of the facts, nested ones with dots."""
    facts = provenance.lines()
    if not facts:
        return "Nothing is known: the set was exported without its run.\n"
    return "".join(f"- {name}: {_code(value)}\n" for name, value in facts.items())


def _licence(provenance: Provenance) -> str:
    generator = provenance.manifest.get("generator")
    data = f"the data set {_code(provenance.data)}" if provenance.data else "the original data set"
    if not isinstance(generator, Mapping):
        return f"The images are derived from {data}: its licence says what may be done with them."
    return (
        f"The images are derived from {data} and from the generator "
        f"{_code(generator.get('name'))}, whose licence is {_code(generator.get('licence'))}. "
        f"What both of them allow may be done with the images."
    )


def _code(text: object) -> str:
    """Return text as an inline code span, in which Markdown and HTML mean nothing.

    >>> _code("a `b`  <script>")
    "`a 'b' <script>`"
    """
    # a code span ends at a backtick, and at an empty line
    return "`" + (re.sub(r"\s+", " ", str(text)).replace("`", "'").strip() or " ") + "`"
