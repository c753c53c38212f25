"""What a run is labelled and judged by when it is done, looked at before hours go into it."""

from __future__ import annotations

from hpd.api.handing_on.relabelling import store_labels
from hpd.api.identity import check_teacher
from hpd.api.runs import Run
from hpd.config import RunSettings
from hpd.data import ImageSet
from hpd.errors import ConfigError
from hpd.students.teachers import read_teacher


def check_judges(settings: RunSettings, train: ImageSet) -> None:
    """Check what a set will be labelled and judged by.

    Raises:
        HpdError: if a student, or a teacher of labels, is not for such images; if labels are both
            learnt and given by a teacher.
    """
    evaluation, relabel = settings.evaluation, settings.relabel
    evaluation.check_fits(train.image_shape, train.num_classes)
    for teacher in (evaluation.teacher, None if relabel is None else relabel.teacher):
        if teacher is not None:
            read_teacher(teacher).check_fits(train.image_shape, train.classes)
    if relabel is not None and settings.source.learnt_labels is not None:
        raise ConfigError(
            "labels that are learnt are not a teacher's",
            got="source.learnt_labels and relabel",
            fix="Leave one of them out.",
        )


def with_labels(run: Run, settings: RunSettings, *, writes: bool) -> Run:
    """Return a run with the labels of the teacher that its settings name, if it has none yet.

    Args:
        run: finished; its folder is held.
        settings: of the run.
        writes: whether they are written to its folder, too.
    """
    wanted = settings.relabel
    if wanted is None or run.distilled.soft_labels is not None:
        return run
    teacher = read_teacher(wanted.teacher)
    check_teacher(run.data_facts, teacher)
    return store_labels(run, teacher, wanted.bits, writes=writes)
