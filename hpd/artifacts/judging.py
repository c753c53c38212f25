"""What a set was judged by: which numbers stand beside each other, and which do not."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from hpd.disk.yaml_text import flatten

# options of an evaluation that change which rows there are, or how many students, and no accuracy
_FREE = (
    "seeds", "counts", "baselines", "card", "scores", "full_training", "prior_limit", "ars_augment",
    "students", "protocol",
)  # fmt: skip
# what `judged_by` says in words
_WORDED = frozenset({
    "labels", "training.lr", "training.augment", "training.epochs", "training.steps",
    "training.min_steps",
})  # fmt: skip
_HASH_DIGITS = 12


def student_names(students: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what the rows of an evaluation call its students: the kind, where that is enough.

    Args:
        students: as a configuration names them, no two alike.

    >>> student_names([{"kind": "convnet", "width": 8}, {"kind": "resnet18"}])
    ['convnet', 'resnet18']
    >>> student_names([{"kind": "convnet", "width": 8}, {"kind": "convnet", "width": 16}])
    ['convnet width 8', 'convnet width 16']
    """
    names = []
    for student in students:
        alike = [other for other in students if other.get("kind") == student.get("kind")]
        differ = [
            f" {key} {'auto' if value is None else value}"
            for key, value in student.items()
            if any(other.get(key) != value for other in alike)
        ]
        names.append(f"{student.get('kind')}{','.join(differ)}")
    return names


def judged_by(record: Mapping[str, Any], network: str | None = None) -> dict[str, str]:
    """Return what decides the accuracies of an evaluation, in words by name.

    Args:
        record: of `evaluation.json`. What earlier versions did not write is left out.
        network: name of the student; None: all that were trained.
    """
    settings = record.get("settings") or {}
    students = _students(settings, network)
    training = settings.get("training") or {}
    found = {
        "protocol": settings.get("protocol"),
        "student": "; ".join(map(_student, students)) or network,
        "length": _length(training),
        "labels": settings.get("labels"),
        "rate": training.get("lr"),
        "augmentation": ", ".join(training.get("augment") or []) if training else None,
    }
    return {name: str(value) for name, value in found.items() if value is not None}


def judged_text(record: Mapping[str, Any], network: str | None = None) -> str:
    """Return in one line what an evaluation was judged by; empty where it does not say.

    >>> settings = {"protocol": "dc", "labels": "hard", "training": {"steps": 50},
    ...     "students": [{"kind": "convnet", "width": 32}]}
    >>> judged_text({"settings": settings})
    'dc, convnet of width 32, 50 steps, hard labels'
    """
    facts = judged_by(record, network)
    if "protocol" not in facts:
        return ""
    labels = f"{facts['labels']} labels" if "labels" in facts else None
    parts = [facts.get("protocol"), facts.get("student"), facts.get("length"), labels]
    return ", ".join(part for part in parts if part)


def judging_key(record: Mapping[str, Any], network: str) -> str:
    """Return what is equal of evaluations whose accuracies can be compared, as text.

    These are the student, its whole training, its labels and the test images; not how many
    students there were, nor the name of a protocol that came to the same.
    """
    return json.dumps(_deciding(record, network), sort_keys=True)


def unworded(records: Sequence[tuple[Mapping[str, Any], str]]) -> list[dict[str, str]]:
    """Return what else differs between evaluations than what `judged_by` says of them.

    Args:
        records: each evaluation, with the name of a student.

    Returns:
        what decided the accuracies, by dotted name, for each: those that are not the same in all.
    """
    found = []
    for record, network in records:
        parts = _deciding(record, network)
        of_test = str(parts["test images"] or "not said")[:_HASH_DIGITS]
        more = {"batches of an earlier version": "yes"} if parts["earlier"] else {}
        found.append({**flatten(parts["options"]), "test images": of_test, **more})
    names = dict.fromkeys(name for one in found for name in one if name not in _WORDED)
    differ = [
        name
        for name in names
        if len({json.dumps(one.get(name), sort_keys=True) for one in found}) > 1
    ]
    return [{name: str(one[name]) for name in differ if name in one} for one in found]


def differences(facts: Sequence[Mapping[str, str]]) -> list[str]:
    """Return what differs between groups, as ``name: value | value``."""
    names = dict.fromkeys(name for group in facts for name in group)
    columns = {name: [group.get(name, "not said") for group in facts] for name in names}
    return [
        f"{name}: {' | '.join(values)}" for name, values in columns.items() if len(set(values)) > 1
    ]


def _deciding(record: Mapping[str, Any], network: str) -> dict[str, Any]:
    settings = record.get("settings") or {}
    return {
        "student": _students(settings, network) or network,
        "options": {key: value for key, value in settings.items() if key not in _FREE},
        "test images": (record.get("data") or {}).get("test_sha256"),
        "earlier": record.get("format", 1) == 1,
    }


def _students(settings: Mapping[str, Any], network: str | None) -> list[Mapping[str, Any]]:
    """Return the students of a name; of a kind, as earlier versions named them."""
    students = list(settings.get("students", []))
    if network is None:
        return students
    named = zip(student_names(students), students, strict=True)
    found = [student for name, student in named if name == network]
    return found or [student for student in students if student.get("kind") == network]


def _student(student: Mapping[str, Any]) -> str:
    """Return an architecture in words: kind, and what of it can be chosen."""
    width, depth = student.get("width"), student.get("depth")
    text = str(student.get("kind"))
    text += f" of width {width}" if width is not None else ""
    return text + (f" and depth {depth}" if depth is not None else "")


def _length(training: Mapping[str, Any]) -> str | None:
    if training.get("steps") is not None:
        return f"{training['steps']:,} steps"
    if training.get("epochs") is None:
        return None
    least = training.get("min_steps") or 0
    return f"{training['epochs']:,} epochs" + (f", {least:,} steps at least" if least else "")
