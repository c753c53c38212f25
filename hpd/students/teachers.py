"""Teachers: networks with batch norm that were trained on the real set, and are kept in a folder.

Recovery (`hpd.objectives.recovery`) leans on what a teacher's norms remember of real images, and
relabelling on its answers. A folder holds:

=========================== ==================================================================
teacher.json                what it is and what it came to: `TeacherRecord`
teacher.safetensors         its weights, and the running statistics of its norms
teacher.partial.safetensors a teacher in training: the same so far, and the optimiser's state
=========================== ==================================================================

Every file is there whole or not at all, and carries a checksum. Nothing in a file is executed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from typing_extensions import Self

from hpd.data import ImageSet, Normalisation
from hpd.disk.files import read_about, write_json, write_tensors
from hpd.disk.seals import digest_json, digest_tensor, read_sealed, sealed, unsealed
from hpd.errors import ConfigError, HpdError, RunError
from hpd.registry import Settings
from hpd.students.base import STUDENTS, ImageShape, Student, StudentSettings
from hpd.students.networks.resnet import ResNet18Settings
from hpd.students.networks.resnet20 import NAME, NORMALISATION, ResNet20Settings, read_resnet20
from hpd.students.schedule import HardTraining, TrainingSettings
from hpd.students.training import in_batches
from hpd.typing import State

RECORD, WEIGHTS, PARTIAL = "teacher.json", "teacher.safetensors", "teacher.partial.safetensors"
FORMAT = 1
_CIFAR10 = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())
_NETWORK, _OPTIMIZER = "network.", "optimizer."
_TRAINING = TrainingSettings(
    epochs=200, lr=0.1, momentum=0.9, weight_decay=5e-4, batch_size=128, schedule="cosine",
    augment=["crop", "flip"],
)  # fmt: skip
_BROKEN = (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError, HpdError)
_SQUEEZE = "Train one with `hpd squeeze --data DATA --out DIR`."


class SqueezeSettings(Settings):
    """Which network becomes the teacher, and how it is trained.

    Source: Du et al., NeurIPS 2024, for CIFAR: ResNet-18, 200 epochs of SGD 0.1 with a cosine.
    """

    student: Annotated[StudentSettings, STUDENTS] = Field(
        ResNet18Settings(norm="batch"), description="the architecture; it must have batch norms"
    )
    training: HardTraining = Field(_TRAINING, description="on the real training images")


class TeacherRecord(Settings):
    """What a teacher is.

    Args:
        format: of the folder.
        student: the architecture.
        origin: ``trained``, or whose published weights these are.
        image_shape: (C, H, W) of its images.
        classes: name of each class.
        mean: what it sees is ``(x - mean) / std``, x in [0, 1].
        std: see `mean`.
        training: how it was trained; None where that is not known.
        seed: root of all randomness; None likewise.
        images_sha256: hash of the training images and labels; None likewise.
        versions: of hpd and torch when it was written.
        losses: mean training loss of each epoch.
        accuracy_train: share of a sample of training images that it reads right; None if nobody
            looked.
        accuracy_test: the same of all test images. It is written down, and chooses nothing.
        weights: SHA-256 over all tensors.
    """

    format: int = FORMAT
    student: Annotated[StudentSettings, STUDENTS]
    origin: str = "trained"
    image_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    training: TrainingSettings | None = None
    seed: int | None = None
    images_sha256: str | None = None
    versions: dict[str, str]
    losses: tuple[float, ...] = ()
    accuracy_train: float | None = None
    accuracy_test: float | None = None
    weights: str = ""

    @classmethod
    def of(cls, settings: SqueezeSettings, train: ImageSet, seed: int) -> Self:
        """Return the record of a teacher that is to be trained.

        Raises:
            ConfigError: for an architecture without batch norm.
        """
        with torch.device("meta"):
            norms = batch_norms(settings.student.make(train.image_shape, train.num_classes))
        if not norms:
            raise ConfigError(
                "a teacher without batch norm remembers nothing of its images",
                got=f"student {STUDENTS.dump(settings.student)}",
                expected="norm: batch",
            )
        return cls(
            student=settings.student,
            image_shape=train.image_shape,
            classes=train.classes,
            mean=train.normalisation.mean,
            std=train.normalisation.std,
            training=settings.training,
            seed=seed,
            images_sha256=train.sha256,
            versions=versions_here(),
        )

    @property
    def normalisation(self) -> Normalisation:
        """Mean and std that its images are normalised by."""
        return Normalisation(self.mean, self.std)


@dataclass(frozen=True)
class Teacher:
    """A teacher, ready to answer.

    Args:
        network: in eval mode, without gradient by its parameters; takes images normalised by
            ``record.normalisation``.
        record: what it is.
    """

    network: Student
    record: TeacherRecord

    @property
    def provenance(self) -> dict[str, Any]:
        """What a run that rests on it writes down, as JSON."""
        record = self.record
        return {
            "student": STUDENTS.dump(record.student),
            "origin": record.origin,
            "weights_sha256": record.weights,
            "accuracy_test": record.accuracy_test,
        }

    def normalise(self, images: Tensor) -> Tensor:
        """Normalise images [N, C, H, W] in [0, 1] as the network expects."""
        return self.record.normalisation.apply(images)

    def to(self, device: torch.device) -> Teacher:
        """Return the teacher on a device, in torch's default dtype."""
        return Teacher(self.network.to(device, torch.get_default_dtype()), self.record)

    def probabilities(self, images: Tensor) -> Tensor:
        """Return its soft labels [N, K], without gradient, of images [N, C, H, W] in [0, 1]."""
        return in_batches(lambda part: self.network(self.normalise(part)).softmax(dim=1), images)

    def embed(self, images: Tensor) -> Tensor:
        """Return what its head reads [N, E], without gradient, of images as `probabilities`."""
        return in_batches(lambda part: self.network.embed(self.normalise(part)), images)

    def check_fits(self, image_shape: ImageShape, classes: Sequence[str]) -> None:
        """Check that it knows the images and classes of a data set.

        Raises:
            ConfigError: if the shape of the images or the classes differ.
        """
        record = self.record
        got, expected = (record.image_shape, record.classes), (image_shape, tuple(classes))
        if got != expected:
            differs = next((g, e) for g, e in zip(got, expected, strict=True) if g != e)
            raise ConfigError(
                "the teacher is of other images",
                got=list(differs[0]),
                expected=list(differs[1]),
                fix=_SQUEEZE,
            )


@dataclass(frozen=True)
class TeacherProgress:
    """A teacher in training, after as many epochs as there are losses.

    Args:
        network: its state.
        optimizer: tensors of the optimiser.
        losses: mean training loss of each epoch.
    """

    network: State
    optimizer: State
    losses: tuple[float, ...]


def batch_norms(network: nn.Module) -> list[nn.BatchNorm2d]:
    """Return the batch norms of a network that keep statistics, in the order of its modules."""
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    return [norm for norm in norms if norm.track_running_stats]


def digest_network(network: nn.Module) -> str:
    """Return the SHA-256 of all parameters and buffers."""
    return digest_json({name: digest_tensor(v) for name, v in network.state_dict().items()})


def read_teacher(path: str | Path) -> Teacher:
    """Read a teacher on the CPU.

    Args:
        path: a folder of `hpd squeeze`, or the file of the published ResNet-20 for CIFAR-10.

    Raises:
        RunError: if there is no teacher, it is still in training, or its files are not as they
            were written.
        DataError: for a file that is no ResNet-20.
    """
    path = Path(path).expanduser()
    if path.is_file():
        return published_resnet20(path)
    if not (path / RECORD).is_file():
        training = (path / PARTIAL).is_file()
        raise RunError(
            f"{path} holds " + ("a teacher in training" if training else "no teacher"),
            expected=f"a folder with {RECORD}",
            fix="Give the command again that trains it." if training else _SQUEEZE,
        )
    try:
        content = read_sealed(path / RECORD)
        if content["format"] != FORMAT:
            raise ValueError(f"it is of format {content['format']}, this hpd reads {FORMAT}")
        # JSON has lists where the settings have tuples, which strictness would refuse
        record = TeacherRecord.model_validate(content, strict=False)
        network = _bare(record)
        with safe_open(path / WEIGHTS, framework="pt") as file:
            state = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        network.load_state_dict(state, assign=True)
        if digest_network(network) != record.weights:
            raise ValueError("its weights were changed after they were written")
    # pydantic's report has several lines
    except ValidationError as error:
        reason = f"{error.error_count()} values that are not as expected"
        raise RunError(f"cannot read the teacher in {path}", got=reason) from None
    except (*_BROKEN, RuntimeError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise RunError(f"cannot read the teacher in {path}", got=reason, fix=_SQUEEZE) from None
    return Teacher(network.requires_grad_(False).eval(), record)


def published_resnet20(path: Path) -> Teacher:
    """Return the published ResNet-20 for CIFAR-10 as a teacher; see `read_resnet20`."""
    network = read_resnet20(path)
    record = TeacherRecord(
        student=ResNet20Settings(norm="batch"),
        origin=NAME,
        image_shape=(3, 32, 32),
        classes=_CIFAR10,
        mean=NORMALISATION.mean,
        std=NORMALISATION.std,
        versions=versions_here(),
        weights=digest_network(network),
    )
    return Teacher(network, record)


def write_teacher(path: Path, teacher: Teacher) -> None:
    """Write a teacher to a folder that is there, in the place of what was there of it."""
    write_tensors(path / WEIGHTS, teacher.network.state_dict())
    # a teacher counts as finished when its JSON is there, so this comes last
    write_json(path / RECORD, sealed(teacher.record.model_dump(mode="json")))
    (path / PARTIAL).unlink(missing_ok=True)


def write_progress(path: Path, record: TeacherRecord, progress: TeacherProgress) -> None:
    """Write how far the training of a teacher has come."""
    tensors = {f"{_NETWORK}{name}": value for name, value in progress.network.items()}
    tensors |= {f"{_OPTIMIZER}{name}": value for name, value in progress.optimizer.items()}
    about = {
        "record": digest_json(record.model_dump(mode="json")),
        "losses": progress.losses,
        "tensors": {name: digest_tensor(value) for name, value in tensors.items()},
    }
    write_tensors(path / PARTIAL, tensors, sealed(about))


def read_progress(path: Path, record: TeacherRecord) -> TeacherProgress | None:
    """Return how far the training of a teacher had come, None if it had not begun.

    Raises:
        RunError: if what is there is broken, or belongs to another teacher.
    """
    if not (path / PARTIAL).exists():
        return None
    try:
        with safe_open(path / PARTIAL, framework="pt") as file:
            about = unsealed(read_about(file.metadata()))
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        if about["tensors"] != {name: digest_tensor(value) for name, value in tensors.items()}:
            raise ValueError("its numbers were changed")
        if about["record"] != digest_json(record.model_dump(mode="json")):
            raise ValueError("it belongs to a teacher of other settings, data or versions")
    except _BROKEN as error:
        raise RunError(
            f"cannot go on with the teacher in {path}",
            got=error,
            fix=f"Choose another folder with --out, or delete {PARTIAL} to start over.",
        ) from None
    network, optimizer = (_below(tensors, prefix) for prefix in (_NETWORK, _OPTIMIZER))
    return TeacherProgress(network, optimizer, tuple(about["losses"]))


def _bare(record: TeacherRecord) -> Student:
    with torch.device("meta"):
        return record.student.make(record.image_shape, len(record.classes))


def _below(tensors: State, prefix: str) -> State:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def versions_here() -> dict[str, str]:
    """Return the versions of hpd and torch."""
    return {"hpd": version("hpd"), "torch": str(torch.__version__)}
