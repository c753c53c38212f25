"""Soft labels for the images of a finished run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

from hpd.api.identity import check_teacher
from hpd.api.runs import Run, opened
from hpd.artifacts import DistilledSet, RunFolder
from hpd.artifacts.places import writing_to
from hpd.boundary import public
from hpd.codecs import Bits, LabelCodes
from hpd.disk.locks import held
from hpd.errors import ConfigError, RunError
from hpd.machine.device import open_device
from hpd.storage import FLOAT_BITS
from hpd.students.teachers import Teacher, read_teacher

_MEND = "What was written is whole: mend that, and relabel again."


@public
def relabel(run: Run | str | Path, teacher: str | Path, *, bits: int = 32) -> Run:
    """Store a teacher's probabilities beside the labels of a run's images.

    `evaluate` takes them with ``labels=stored``. Those that were stored before are replaced.

    Args:
        run: a run, or its folder, whose `distilled.safetensors` and manifest are written again.
        teacher: folder of `squeeze`, or the file of the published ResNet-20 for CIFAR-10.
        bits: of each probability: 2, 4, 8 (codes of its logarithm), 16 or 32; what is stored is
            what comes back from them.

    Returns:
        the run with the relabelled set. Soft labels are [N, K], float32, rows that sum to 1.

    Raises:
        ConfigError: if the teacher is of other images or classes, or was trained on other data
            than those of the run, as far as it says on which; if the run learnt its labels.
        RunError: if there is no finished run, or no teacher, or the folder cannot be written to, as
            that of a packed run.
    """
    if bits not in get_args(Bits):
        raise ConfigError("bits of a label are not valid", got=bits, expected="2, 4, 8, 16 or 32")
    width = cast(Bits, bits)
    run = opened(run)
    if run.origin is not None:
        raise RunError(
            f"{run.origin} is a run to read, not to write to",
            fix="Unpack it with any zip program, or `hpd pull` it, and give the folder.",
        )
    if run.config.source.learnt_labels is not None:
        raise ConfigError(
            "the labels of the run were learnt with its images",
            fix="Judge it by them (evaluation.labels=stored), or by a teacher's"
            " (evaluation.labels=soft evaluation.teacher=FOLDER), which replaces none.",
        )
    found = read_teacher(teacher)
    check_teacher(run.data_facts, found)
    if run.folder is None:
        return store_labels(run, found, width)
    # from the first look at the set on: nobody evaluates or replaces labels meanwhile
    with held(run.folder, "relabel"), writing_to(run.folder, _MEND):
        return store_labels(run, found, width)


def store_labels(run: Run, teacher: Teacher, bits: Bits, *, writes: bool = True) -> Run:
    """Return a run with a teacher's labels, written to its folder if it has one.

    Args:
        run: finished; its folder is held.
        teacher: for its images.
        bits: of each probability.
        writes: whether they are written; of several processes one does.
    """
    labelled = _labelled(run, teacher, bits)
    if run.folder is not None and writes:
        kept = None if labelled.codes is None else labelled.codes.kept
        RunFolder(run.folder).write_soft_labels(labelled.distilled, labelled.about, kept)
    return replace(run, distilled=labelled.distilled)


@dataclass(frozen=True)
class _Labelled:
    """A set with a teacher's probabilities.

    Args:
        distilled: the set.
        about: what is to say of them, as JSON.
        codes: what is stored of them, where it is no float32.
    """

    distilled: DistilledSet
    about: dict[str, Any]
    codes: LabelCodes | None = None


def _labelled(run: Run, teacher: Teacher, bits: Bits) -> _Labelled:
    """Return the set with a teacher's probabilities."""
    distilled, device = run.distilled, open_device(run.config.device, run.config.float32)
    soft = teacher.to(device).probabilities(distilled.images.to(device)).float().cpu()
    agreement = (soft.argmax(dim=1) == distilled.labels).double().mean()
    codes = LabelCodes.of(soft, bits) if bits < FLOAT_BITS else None
    if codes is not None:
        soft = codes.probabilities
    told = None if codes is None else codes.size
    distilled = replace(distilled, soft_labels=soft, label_bits=told)
    about = {
        "floats": distilled.label_floats,
        "bits": distilled.storage.labels.bits,
        "bits_each": bits,
        "agreement": round(float(agreement), 4),
        "teacher": teacher.provenance,
    }
    return _Labelled(distilled, about, codes)
