"""The card of a run that is handed on: what a reader of a packed file or on the hub sees first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hpd.artifacts.distilled import FILE_NAME, DistilledSet
from hpd.artifacts.exports.card import (
    about_images,
    as_code,
    card_head,
    licence_text,
    origin_list,
    storage_table,
    title_of,
)
from hpd.artifacts.judging import judged_text
from hpd.artifacts.packed.provenance import Provenance
from hpd.artifacts.report.tables import accuracy_rows, legend
from hpd.disk.bundles import SUMS
from hpd.showing import count_text

_PICTURES = "images/**/*.png"
_HASH_DIGITS = 12


def share_card(
    distilled: DistilledSet,
    provenance: Provenance,
    evaluations: Sequence[Mapping[str, Any]],
    *,
    repository: str | None,
    has_all_pictures: bool,
) -> str:
    """Return `README.md` of a run: a YAML head for the hub, and Markdown.

    Args:
        distilled: its set.
        provenance: where it came from.
        evaluations: its records, the oldest first.
        repository: where it is on the hub; None: nowhere that is known.
        has_all_pictures: whether each image of the set is a file in `images`.
    """
    return f"""{card_head(distilled, provenance, _PICTURES if has_all_pictures else None)}
# {title_of(provenance)}

{about_images(distilled, provenance)}
![The images of each class under its name](grid.png)

## Figures

{_figures(evaluations)}
## Use

{_use(distilled, repository)}
## Check

`{SUMS}` holds the SHA-256 of every file here. With coreutils or with hpd:

```bash
sha256sum -c {SUMS}
hpd verify .
hpd verify . --evaluate
```

The last one trains the students of the newest evaluation again, and says whether its figures come
out, and if not what is other than it was: versions, data, generator or options.

## What it stores

{storage_table(distilled)}

## Where it came from

{origin_list(provenance)}- configuration: `config.yaml`, which `hpd distill` takes

## Licence

{licence_text(provenance)}

## How to cite

Cite the methods that `config.yaml` names, the data set, and hpd with the version above; give the
SHA-256 of `{SUMS}` or of the packed file, so that others know that they have the same set.
"""


def _figures(evaluations: Sequence[Mapping[str, Any]]) -> str:
    """Return a table for each evaluation."""
    if not evaluations:
        return "It was not evaluated.\n"
    return "\n".join(map(_table, evaluations))


def _table(record: Mapping[str, Any]) -> str:
    rows = accuracy_rows(record)
    lines = [
        "| trained on | student | images a class | bits | accuracy % |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        spread = f" ± {row.std:.1f}" if row.students > 1 else ""
        bits = row.storage.images.bits + row.storage.labels.bits
        needs = " and the generator" if row.storage.generator.floats else ""
        lines.append(
            f"| {_cell(row.label)} | {_cell(row.network)} | {count_text(row.images_per_class)} "
            f"| {bits:,}{needs} | {row.mean:.1f}{spread} |"
        )
    students = max((row.students for row in rows), default=0)
    how = judged_text(record) or "an earlier version of hpd, which did not say how"
    test = (record.get("data") or {}).get("test_sha256")
    on = f", on test images of SHA-256 {as_code(str(test)[:_HASH_DIGITS])}" if test else ""
    notes = [
        f"Judged by {as_code(how)}{on}; accuracy on real test images, mean and deviation over"
        f" {students} students.",
        legend(row.name for row in rows),
    ]
    return "\n".join([*lines, "", *(note for note in notes if note), ""])


def _cell(text: str) -> str:
    return as_code(text).replace("|", "\\|")


def _use(distilled: DistilledSet, repository: str | None) -> str:
    """Return how to get it and to train on it, with hpd and without."""
    fetch = "" if repository is None else f"hpd pull {repository} --out set\n"
    where = "set" if repository is not None else "FOLDER OR PACKED FILE"
    names = list(distilled.normalisation.mean), list(distilled.normalisation.std)
    got = f"```bash\n{fetch}```\n\n" if fetch else ""
    return f"""{got}With hpd:

```python
import hpd

distilled = hpd.load_distilled("{where}")
loader_of = distilled.tensor_dataset()  # (normalised image, label)
```

Without it:

```python
import torch
from safetensors.torch import load_file

tensors = load_file("{FILE_NAME}")
mean, std = (torch.tensor(v)[:, None, None] for v in ({names[0]}, {names[1]}))
images, labels = (tensors["images"] - mean) / std, tensors["labels"]
```

Mean and std are those of the real training images, in [0, 1]; give test images the same.
"""
