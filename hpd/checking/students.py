"""What is asked of a student."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hpd.checking.examiner import Examiner, gap
from hpd.data import ImageSet
from hpd.students import Student

BuildStudent = Callable[[torch.Generator], Student]

_SAME = 1e-5
_IMAGES = 4


def check_student(say: Examiner, build: BuildStudent | Student, train: ImageSet) -> None:
    """Check a student.

    Args:
        say: takes what is found.
        build: makes one with weights from a generator of random numbers; or a student, whose
            weights are taken as they are.
        train: the real images that it is to classify.

    Raises:
        HpdError: naming the first thing that is wrong.
    """
    student = build if isinstance(build, Student) else _check_weights(say, build)
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(_IMAGES, *train.image_shape, generator=rng)
    _check_parts(say, student, x, train.num_classes)
    _check_functional(say, student, x)
    _check_gradients(say, student, x, train.num_classes)


def _check_weights(say: Examiner, build: BuildStudent) -> Student:
    """Check that weights are drawn, from the generator that is given and no other."""
    made = []
    for seed in (0, 0, 1):
        with say.asking("building"):
            made.append(build(torch.Generator().manual_seed(seed)))
    kind = type(made[0]).__name__
    say.holds(
        "is a Student", isinstance(made[0], Student), got=kind,
        expected="a class derived from hpd.students.Student",
    )  # fmt: skip
    first, again, other = (student.state_dict() for student in made)
    broken = [name for name, value in first.items() if not value.isfinite().all()]
    say.holds("weights are finite", not broken, got=", ".join(broken[:3]))
    differ = [name for name, value in first.items() if not torch.equal(value, again[name])]
    say.holds(
        "the same generator of random numbers gives the same weights", not differ,
        got=f"others in {', '.join(differ[:3])}",
    )  # fmt: skip
    fresh = [name for name, value in first.items() if not torch.equal(value, other[name])]
    say.holds("another one gives other weights", bool(fresh), got="the same")
    return made[0]


def _check_parts(say: Examiner, student: Student, x: Tensor, num_classes: int) -> None:
    with say.asking("logits"), torch.no_grad():
        features = student.features(x)
        embedding = student.pool(features)
        embedded, logits = student.embed(x), student(x)
        head = student.head
        again = student(x)
    say.holds(
        "features are maps [N, F, h, w]", features.ndim == 4 and len(features) == len(x),
        got=list(features.shape),
    )  # fmt: skip
    say.holds("the head is linear", isinstance(head, nn.Linear), got=type(head).__name__)
    wanted = (len(x), head.in_features)
    say.holds(
        "the embedding [N, E] is what the head takes", tuple(embedding.shape) == wanted,
        got=list(embedding.shape), expected=list(wanted),
    )  # fmt: skip
    wanted = (len(x), num_classes)
    say.holds(
        "logits are [N, K]", tuple(logits.shape) == wanted, got=list(logits.shape),
        expected=list(wanted),
    )  # fmt: skip
    say.holds("logits are finite", bool(logits.isfinite().all()))
    say.within("embed is pool of features", gap(embedded, embedding), _SAME)
    with torch.no_grad():
        say.within("forward is head of embed", gap(logits, head(embedding)), _SAME)
    say.holds(
        "a fresh student gives the same twice", torch.equal(logits, again),
        fix="Use nn.Dropout, which is off until training.",
    )  # fmt: skip


def _check_functional(say: Examiner, student: Student, x: Tensor) -> None:
    """Check that a student is a function of its parameters, as trajectories are matched."""
    values = {name: value.detach() for name, value in student.named_parameters()}
    moved = {name: value + 0.05 * value.abs().mean() for name, value in values.items()}
    with say.asking("logits of other parameters"), torch.no_grad():
        same = torch.func.functional_call(student, values, (x,))
        other = torch.func.functional_call(student, moved, (x,))
        logits = student(x)
    say.within("is a function of its parameters", gap(same, logits), _SAME)
    say.holds(
        "other parameters give other logits", not torch.equal(other, logits),
        fix="Keep weights as nn.Parameter, and use them where they are.",
    )  # fmt: skip


def _check_gradients(say: Examiner, student: Student, x: Tensor, num_classes: int) -> None:
    """Check gradients by images and weights, and through them once more, as objectives take."""
    leaf = x.clone().requires_grad_()
    labels = torch.arange(len(x)) % num_classes
    weights = {n: p for n, p in student.named_parameters() if p.requires_grad}
    with say.asking("gradients"):
        loss = F.cross_entropy(student(leaf), labels)
        by_weights = torch.autograd.grad(
            loss, list(weights.values()), create_graph=True, allow_unused=True
        )
        unused = [name for name, g in zip(weights, by_weights, strict=True) if g is None]
    say.holds("a gradient reaches every weight", not unused, got=f"none at {', '.join(unused[:3])}")
    with say.asking("gradients of gradients"):
        squares = sum((g.square().sum() for g in by_weights if g is not None), torch.zeros(()))
        (twice,) = torch.autograd.grad(squares, leaf, allow_unused=True)
    reached = twice is not None and bool(twice.isfinite().all()) and float(twice.abs().max()) > 0
    say.holds("gradients by weights can be derived by the images", reached)
    with say.asking("a class activation"), torch.no_grad():
        features = student.features(x)
        activation = student.class_activation(features, labels)
    wanted = (len(x), *features.shape[2:])
    say.holds(
        "class activations are [N, h, w] in [0, 1]",
        tuple(activation.shape) == wanted and float(activation.min()) >= 0
        and float(activation.max()) <= 1,
        got=list(activation.shape), expected=list(wanted),
    )  # fmt: skip
