"""The card of a data set: what it is, where it came from, and under which licence."""

from __future__ import annotations

import re
from collections.abc import Mapping

import yaml

from hpd.artifacts.distilled import DistilledSet
from hpd.artifacts.exports.base import zca_of
from hpd.artifacts.packed.provenance import Provenance
from hpd.showing import count_text

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"))
_MOST_CLASSES = 200
_FILES = "data/train-*.parquet"


def card(distilled: DistilledSet, provenance: Provenance) -> str:
    """Return `README.md` of a data set on the Hugging Face hub: a YAML head and Markdown.

    Args:
        distilled: the set.
        provenance: where it came from.
    """
    return f"{card_head(distilled, provenance, _FILES)}\n{_text(distilled, provenance)}"


def card_head(distilled: DistilledSet, provenance: Provenance, files: str | None) -> str:
    """Return the YAML that a card begins with.

    Args:
        distilled: the set.
        provenance: where it came from.
        files: pattern of those that hold the images for `datasets`; None: there are none.
    """
    count, generated = len(distilled), bool(provenance.manifest.get("generator"))
    header: dict[str, object] = {
        "pretty_name": title_of(provenance),
        "task_categories": ["image-classification"],
        "tags": ["dataset-distillation", "synthetic", "hpd"],
        "size_categories": [next((name for most, name in _SIZES if count < most), "n>100K")],
        # the licences of generator and data both count, and hpd knows only the first
        "license": "other",
        "license_name": f"that-of-{'generator-and-' if generated else ''}data",
    }
    if files is not None:
        part = {"split": "train", "path": files}
        header["configs"] = [{"config_name": "default", "data_files": [part]}]
    return f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---\n"


def title_of(provenance: Provenance) -> str:
    """Return what to call a set."""
    return f"{provenance.data}, distilled" if provenance.data else "A distilled data set"


def about_images(distilled: DistilledSet, provenance: Provenance) -> str:
    """Return in a few lines how many images there are, of which classes, and what made them."""
    channels, height, width = distilled.images.shape[1:]
    note = f"\n{zca_of(distilled)['zca']['note']}\n" if zca_of(distilled) else ""
    names = ", ".join(as_code(name) for name in distilled.classes[:_MOST_CLASSES])
    if len(distilled.classes) > _MOST_CLASSES:
        names += f" and {len(distilled.classes) - _MOST_CLASSES} more"
    made = (
        "drawn from a generator around images that were distilled with hpd"
        if "sampled_around" in provenance.manifest
        else "made by dataset distillation with hpd: optimised for training a classifier on, not "
        "for looking real"
    )
    return f"""{len(distilled)} synthetic images of {len(distilled.classes)} classes
({count_text(distilled.images_per_class)} a class), {channels} x {height} x {width},
{made}.

Classes, in the order of their labels: {names}.
{note}"""


def _text(distilled: DistilledSet, provenance: Provenance) -> str:
    mean, std = distilled.normalisation.mean, distilled.normalisation.std
    return f"""# {title_of(provenance)}

{about_images(distilled, provenance)}
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

{storage_table(distilled)}

## Where it came from

{origin_list(provenance)}
## Licence

{licence_text(provenance)}
"""


def storage_table(distilled: DistilledSet) -> str:
    """Return the account as a table."""
    rows = [
        f"| {name} | {amount['floats']:,} | {amount['bits']:,} |"
        for name, amount in distilled.storage.as_json().items()
    ]
    return "\n".join(["| | floats | bits |", "|---|---|---|", *rows])


def origin_list(provenance: Provenance) -> str:
    """Return a list of the facts, nested ones with dots."""
    facts = provenance.lines()
    if not facts:
        return "Nothing is known: the set was exported without its run.\n"
    return "".join(f"- {name}: {as_code(value)}\n" for name, value in facts.items())


def licence_text(provenance: Provenance) -> str:
    """Return whose licences count."""
    generator = provenance.manifest.get("generator")
    data = (
        f"the data set {as_code(provenance.data)}" if provenance.data else "the original data set"
    )
    if not isinstance(generator, Mapping):
        return f"The images are derived from {data}: its licence says what may be done with them."
    return (
        f"The images are derived from {data} and from the generator "
        f"{as_code(generator.get('name'))}, whose licence is {as_code(generator.get('licence'))}. "
        f"What both of them allow may be done with the images."
    )


def as_code(text: object) -> str:
    """Return text as an inline code span, in which Markdown and HTML mean nothing.

    >>> as_code("a `b`  <script>")
    "`a 'b' <script>`"
    """
    # a code span ends at a backtick, and at an empty line
    return "`" + (re.sub(r"\s+", " ", str(text)).replace("`", "'").strip() or " ") + "`"
