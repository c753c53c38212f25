"""Students: the small classifiers that an objective matches through or an evaluation trains."""

from hpd.students.base import STUDENTS, Student, StudentSettings
from hpd.students.networks import alexnet, convnet, resnet, resnet20, vgg, vit
from hpd.students.schedule import TrainingSettings
from hpd.students.stacked.together import train_student, train_students
from hpd.students.training import (
    Lesson,
    Taught,
    accuracy,
    in_batches,
    train_epoch,
)

__all__ = [
    "STUDENTS",
    "Lesson",
    "Student",
    "StudentSettings",
    "Taught",
    "TrainingSettings",
    "accuracy",
    "in_batches",
    "train_epoch",
    "train_student",
    "train_students",
]
_REGISTERED = (alexnet, convnet, resnet, resnet20, vgg, vit)
