"""What is left of an accuracy once the teacher's, the random images' and the data's part is gone.

Source: DD-Ranking (NUS-HPC-AI-Lab, 2025), whose package `ddranking` computes the same. Accuracies
are percents here, and so are the scores.
"""

from __future__ import annotations

import math

_LEAST, _MOST = math.exp(-1), math.e


def hard_label_recovery(full: float, hard: float) -> float:
    """Return HLR, the points that hard labels leave out: ``acc(full) - acc(set, hard labels)``.

    Args:
        full: accuracy of students trained on the whole training set.
        hard: accuracy of students trained on the set with hard labels.

    >>> hard_label_recovery(80.0, 30.0)
    50.0
    """
    return full - hard


def improvement_over_random(own: float, random: float) -> float:
    """Return IOR, the points over random images: ``acc(set, own labels) - acc(random images)``.

    Args:
        own: accuracy of students trained on the set with the labels that it is used with.
        random: the same of as many random real images, with labels of the same kind.

    >>> improvement_over_random(30.0, 20.0)
    10.0
    """
    return own - random


def label_robust_score(hlr: float, ior: float, weight: float = 0.5) -> float:
    """Return LRS, ``100 (e^a - e^-1) / (e - e^-1)`` with ``a = w IOR - (1 - w) HLR`` in shares.

    Args:
        hlr: in points.
        ior: in points.
        weight: w.

    Returns:
        from 0 for the worst, -100 and 100 points, to 100.

    >>> label_robust_score(100.0, -100.0), label_robust_score(-100.0, 100.0)
    (0.0, 100.0)
    """
    return _squashed((weight * ior - (1 - weight) * hlr) / 100)


def augmentation_robust_score(augmented: float, plain: float, weight: float = 0.5) -> float:
    """Return ARS, ``100 (e^b - e^-1) / (e - e^-1)`` with ``b = g IOR_aug + (1 - g) IOR_plain``.

    Args:
        augmented: improvement over random images where both train with augmentation, in points.
        plain: the same where both train without.
        weight: g.

    Returns:
        from 0 to 100.

    >>> augmentation_robust_score(100.0, 100.0)
    100.0
    """
    return _squashed((weight * augmented + (1 - weight) * plain) / 100)


def _squashed(share: float) -> float:
    return 100 * (math.exp(share) - _LEAST) / (_MOST - _LEAST)
