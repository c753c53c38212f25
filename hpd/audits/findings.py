"""What is found out about a set, question by question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

OPTIONS = {
    "values": "--range or --zca", "axes": "--axes", "channels": "--channels",
    "factor": "--factor", "order": "--class-order", "labels": "--labels",
}  # fmt: skip
WORDS = {
    "values": "what the values mean", "axes": "the order of the axes",
    "channels": "the order of the channels", "factor": "how many parts an image has",
    "order": "the order of the classes", "labels": "what the labels are",
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """What was found out about one question.

    Args:
        question: ``"values"``, ``"axes"``, ``"channels"``, ``"factor"``, ``"order"`` or
            ``"labels"``.
        answer: to it.
        by: what told: ``"score"``, ``"values"``, ``"file"``, ``"names"``, ``"convention"``,
            ``"shape"`` or ``"option"``.
        says: that, in a sentence.
        score: percent of the training images that the reading has right; None without any.
        next: the answer that fits next best; None: there was no other.
        loses: by how many points it loses, each beside as many random images seen likewise.
        error: the standard error of that.
    """

    question: str
    answer: str
    by: str
    says: str
    score: float | None = None
    next: str | None = None
    loses: float | None = None
    error: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Return it for `audit.json`."""
        numbers = {k: None if v is None else round(v, 2) for k, v in self._numbers().items()}
        told = {"question": self.question, "answer": self.answer, "by": self.by}
        return {**told, "next": self.next, **numbers, "says": self.says}

    def _numbers(self) -> dict[str, float | None]:
        return {"score": self.score, "loses": self.loses, "error": self.error}
