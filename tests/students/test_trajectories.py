"""Expert trajectories on disk: exact, lazy, and proof against damage and mix-ups."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from conftest import SMALL_STUDENT, SMALL_TRAINING
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from torch.func import functional_call

from hpd.data import Normalisation
from hpd.errors import ConfigError, RunError, ShapeError
from hpd.students import STUDENTS, TrainingSettings
from hpd.students.experts.trajectories import (
    ExpertFolder,
    ExpertRecord,
    ExpertSettings,
    Progress,
    flatten,
    layout_of,
    unflatten,
)

STUDENT = STUDENTS.parse(SMALL_STUDENT)


# vectors


def test_flatten_and_back_is_the_student(rng):
    student = STUDENT.build((1, 8, 8), 3, rng)
    layout = layout_of(student)
    vector = flatten(student)
    assert vector.shape == (sum(p.numel() for p in student.parameters()),)
    assert not vector.requires_grad
    assert [name for name, _ in layout] == [name for name, _ in student.named_parameters()]
    values = unflatten(vector, layout)
    for name, parameter in student.named_parameters():
        assert torch.equal(values[name], parameter)
        assert values[name].data_ptr() != parameter.data_ptr()


def test_gradients_flow_through_unflatten(rng):
    """The gradient by the vector is the gradients by the parameters, one after another."""
    student = STUDENT.build((1, 8, 8), 3, rng)
    x = torch.randn(4, 1, 8, 8, generator=rng)
    vector = flatten(student).requires_grad_()
    functional_call(student, unflatten(vector, layout_of(student)), (x,)).square().sum().backward()
    student(x).square().sum().backward()
    wanted = torch.cat([p.grad.flatten() for p in student.parameters()])
    torch.testing.assert_close(vector.grad, wanted)


def test_unflatten_gives_views(rng):
    student = STUDENT.build((1, 8, 8), 3, rng)
    vector = flatten(student)
    unflatten(vector, layout_of(student))["head.bias"].fill_(7)
    assert vector[-3:].tolist() == [7, 7, 7]


@pytest.mark.parametrize("shape", [(7,), (9,), (2, 4), ()])
def test_a_vector_that_does_not_fit_is_refused(shape):
    with pytest.raises(ShapeError, match=r"expected \[8\]"):
        unflatten(torch.zeros(shape), layout_of(nn.Linear(3, 2, device="meta")))


# settings and record


def test_defaults_are_those_of_the_paper_but_short_whatever_is_given_of_them():
    training = ExpertSettings().training
    assert (training.epochs, training.lr, training.momentum, training.weight_decay) == (
        2,
        0.01,
        0,
        0,
    )
    assert (training.batch_size, training.schedule, len(training.augment)) == (256, "constant", 6)
    partly = ExpertSettings.read({"training": {"epochs": 3}}).training
    assert partly == training.model_copy(update={"epochs": 3})
    with pytest.raises(ConfigError, match="Did you mean 'epochs'"):
        ExpertSettings.read({"training": {"epoch": 3}})


def test_the_record_comes_back_to_the_bit(images, tmp_path, rng):
    """Every float of mean and std survives JSON, whatever it is."""
    for i, (a, b) in enumerate(torch.rand(20, 2, generator=rng, dtype=torch.float64).tolist()):
        odd = replace(images, normalisation=Normalisation((a / 3,), (math.nextafter(b, 2),)))
        record = ExpertRecord.of(STUDENT, odd, TrainingSettings(lr=a / 7), 5)
        ExpertFolder.create(tmp_path / str(i), record)
        found = ExpertFolder.open(tmp_path / str(i), unfinished=True).record
        assert found == record
        assert found.normalisation == odd.normalisation
        assert found.student == STUDENT


def test_the_record_says_what_it_is_of(record, images):
    assert STUDENTS.dump(record.student).items() >= SMALL_STUDENT.items()
    assert record.image_shape == (1, 8, 8)
    assert record.classes == ("a", "b", "c")
    assert (record.images, record.sampled_images, record.chance) == (36, 36, 1 / 3)
    assert len(record.images_sha256) == 64
    assert set(record.versions) == {"hpd", "torch"}
    assert record.training.epochs == SMALL_TRAINING["epochs"]


def test_chance_is_the_share_of_the_commonest_class(images):
    uneven = replace(images, labels=images.labels.clamp(max=1))
    assert ExpertRecord.of(STUDENT, uneven, TrainingSettings(), 0).chance == 24 / 36


def test_batch_norm_is_refused(images):
    student = STUDENTS.parse(SMALL_STUDENT | {"norm": "batch"})
    with pytest.raises(ConfigError, match="instance, group, layer or none"):
        ExpertRecord.of(student, images, TrainingSettings(), 0)


# the folder


def test_the_folder_holds_what_was_trained(experts_folder):
    folder = ExpertFolder.open(experts_folder)
    names = sorted(p.name for p in folder.path.iterdir())
    assert names == ["000.json", "000.safetensors", "001.json", "001.safetensors", "experts.json"]
    assert (len(folder), folder.epochs) == (2, 3)
    for expert in range(2):
        rows = load_file(folder.path / f"00{expert}.safetensors")["parameters"]
        assert rows.dtype == torch.float32
        assert len(rows) == 4
        for epoch in range(4):
            assert torch.equal(folder.parameters(expert, epoch), rows[epoch])
        assert len(folder.result(expert).losses) == 3
    assert folder.size_bytes == sum(p.stat().st_size for p in folder.path.glob("*.safetensors"))


def test_a_row_is_a_copy_of_its_own(path):
    """What is read does not follow the file."""
    folder = ExpertFolder.open(path)
    row = folder.parameters(0, 1)
    before = row.clone()
    content = (path / "000.safetensors").read_bytes()
    with (path / "000.safetensors").open("r+b") as file:
        file.write(bytes(len(content)))
    assert torch.equal(row, before)
    row.zero_()
    assert (path / "000.safetensors").read_bytes() == bytes(len(content))


def test_numbers_that_are_not_there(experts_folder):
    folder = ExpertFolder.open(experts_folder)
    for expert, epoch in ((2, 0), (-1, 0), (0, 4), (0, -1)):
        with pytest.raises(RunError, match="expected"):
            folder.parameters(expert, epoch)
    with pytest.raises(RunError):
        folder.result(2)


def test_a_folder_with_other_things_is_left_alone(tmp_path, record):
    (tmp_path / "thesis.txt").write_text("important")
    with pytest.raises(RunError, match=r"already holds other files: got thesis.txt"):
        ExpertFolder.create(tmp_path, record)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(RunError, match="cannot write"):
        ExpertFolder.create(tmp_path / "thesis.txt", record)


def test_progress_comes_back_to_the_bit(path, rng):
    folder = ExpertFolder.open(path)
    rows = torch.randn(2, 50, generator=rng)
    state = {
        "0.momentum_buffer": rows[0, :6].view(2, 3).clone(),
        "11.step": torch.tensor(3.0),
    }
    assert folder.read_progress(2) is None
    folder.write_progress(2, Progress(rows, (0.1,), 0.3, state))
    found = folder.read_progress(2)
    assert torch.equal(found.rows, rows)
    assert (found.losses, found.accuracy_before) == ((0.1,), 0.3)
    assert set(found.optimizer) == set(state)
    assert torch.equal(found.optimizer["0.momentum_buffer"], state["0.momentum_buffer"])
    assert found.optimizer["11.step"].shape == ()


def test_leftovers_of_a_killed_process_are_removed_by_who_goes_on_and_nothing_else(path):
    (path / "001.json").unlink()
    before = sorted(p.name for p in path.iterdir())
    killed = (".001.partial.safetensors.a1b2", ".001.json.xyz_", ".experts.json.k8")
    # another process may be at this one
    others = ".000.partial.safetensors.a1b2"
    for name in (*killed, others, ".keep"):
        (path / name).touch()
    folder = ExpertFolder.open(path)
    folder.remove_leftovers()
    with folder.work_on(1) as work:
        assert work
    assert sorted(p.name for p in path.iterdir()) == sorted([others, ".keep", *before])


def test_rows_are_read_from_the_file_not_from_memory(experts_folder):
    """A shard is not kept: a folder of any size costs no memory."""
    folder = ExpertFolder.open(experts_folder)
    assert not [v for v in vars(folder).values() if isinstance(v, torch.Tensor)]
    with safe_open(folder.path / "000.safetensors", framework="pt") as file:
        assert list(file.keys()) == ["parameters"]
