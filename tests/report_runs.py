"""Run folders and data for tests of the report, with names that would like to be more."""

from __future__ import annotations

from html.parser import HTMLParser

import torch
import yaml

from hpd.artifacts import RunFolder
from hpd.data import ImageSet, Normalisation

HOSTILE = (
    "<script>document.title='taken'</script>",
    '"><img src=x onerror="document.title=\'taken\'">',
    "'; alert(1); //{{ 7 * 7 }}</style></dialog>",
)
ROWS = [("distilled", 91.25), ("initial", 80.5), ("random_real", 60.0), ("my_rows <b>", 99.0)]


def metrics(stages=("0 ws", "1 b4.conv1", "2 pixels"), steps=20):
    return [
        {
            "stage": name, "step": i, "loss": 10.0 / (k + 1) - i / 10,
            "score": 2.0 - k / 10 - i / 100 if i % 5 == 0 else None,
            "seconds": 0.5, "score_seconds": 0.1 if i % 5 == 0 else 0.0,
        }
        for k, name in enumerate(stages)
        for i in range(steps)
    ]  # fmt: skip


STORAGE = {
    "images": {"floats": 1152, "bits": 36864},
    "labels": {"floats": 0, "bits": 0},
    "generator": {"floats": 370008, "bits": 11840256},
}


def write_run(path, distilled, *, config=None, rows=ROWS, more=None, **facts):
    """Write a run folder as a finished run leaves it."""
    config = config or {"description": "Trial & error", "data": {"kind": "digits"}}
    folder = RunFolder.create(path, yaml.safe_dump(config))
    for line in metrics():
        folder.append_metrics(line)
    folder.write_cost({"seconds": 95.0, "selection_seconds": 9.5, "selection_share": 0.1})
    folder.write_evaluation(
        {
            "rows": [
                {
                    "name": name, "network": "convnet", "images_per_class": 2.0,
                    "storage": STORAGE, "accuracy_mean": mean, "accuracy_std": 1.5,
                    "seeds": [0, 1, 2], "hlr": 100 - mean,
                }
                for name, mean in rows
            ],
            **(more or {}),
        }
    )  # fmt: skip
    manifest = {
        "classes": distilled.classes,
        "seed": 7,
        "best_stage": {"name": "1 b4.conv1", "step": 15, "score": 1.75},
        "generator": {"name": "digits16", "licence": "MIT <i>"},
        "image_range": {"min": -0.1, "max": 1.1, "share_outside": 0.125},
        **facts,
    }
    folder.write_result(distilled, distilled, manifest)
    return folder


def real_images(classes, size=8, each=5):
    rng = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (each * len(classes), 3, size, size), generator=rng)
    labels = torch.arange(len(classes)).repeat_interleave(each)
    pixels = images.to(torch.uint8)
    return ImageSet(pixels, labels, tuple(classes), Normalisation.of(pixels))


class Page(HTMLParser):
    """Counts elements, and gathers attributes and the text that is seen."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.attributes, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_data(self, data):
        self.text += data
