"""Expert trajectories on disk: exact, lazy, and proof against damage and mix-ups."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import SMALL_STUDENT, SMALL_TRAINING
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.func import functional_call

from hpd.data import ImageSet, Normalisation
from hpd.errors import ConfigError, DataError, HpdError, NumericError, RunError, ShapeError
from hpd.files import write_json
from hpd.students import STUDENTS, TrainingSettings, trajectories
from hpd.students.expert_checks import check_complete, check_images, check_learned, check_matches
from hpd.students.trajectories import (
    ExpertFolder,
    ExpertRecord,
    ExpertSettings,
    Progress,
    flatten,
    layout_of,
    unflatten,
)

STUDENT = STUDENTS.parse(SMALL_STUDENT)


@pytest.fixture
def path(experts_folder, tmp_path) -> Path:
    """A copy of the experts, to be damaged."""
    return Path(shutil.copytree(experts_folder, tmp_path / "experts"))


@pytest.fixture
def record(experts_folder) -> ExpertRecord:
    return ExpertFolder.open(experts_folder).record


def doctor(path: Path, change) -> None:
    """Change a JSON file by hand."""
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def read_everything(path: Path) -> None:
    folder = ExpertFolder.open(path)
    for expert in range(len(folder)):
        for epoch in range(folder.epochs + 1):
            folder.parameters(expert, epoch)


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


def test_defaults_are_those_of_the_paper_whatever_is_given_of_them():
    training = ExpertSettings().training
    assert (training.epochs, training.lr, training.momentum, training.weight_decay) == (
        50,
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


def test_only_the_row_is_read(path):
    """Damage in one row leaves the others readable: nothing but the row is looked at."""
    flip(path / "000.safetensors", -1)
    folder = ExpertFolder.open(path)
    assert torch.isfinite(folder.parameters(0, 0)).all()
    assert torch.isfinite(folder.parameters(0, 2)).all()
    with pytest.raises(RunError, match="epoch 3 were changed"):
        folder.parameters(0, 3)


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
        0: {"momentum_buffer": rows[0, :6].view(2, 3).clone()},
        11: {"step": torch.tensor(3.0)},
    }
    assert folder.read_progress(2) is None
    folder.write_progress(2, Progress(rows, (0.1,), 0.3, state))
    found = folder.read_progress(2)
    assert torch.equal(found.rows, rows)
    assert (found.losses, found.accuracy_before) == ((0.1,), 0.3)
    assert set(found.optimizer) == {0, 11}
    assert torch.equal(found.optimizer[0]["momentum_buffer"], state[0]["momentum_buffer"])
    assert found.optimizer[11]["step"].shape == ()


def test_leftovers_of_a_killed_process_are_removed_and_nothing_else(path):
    before = sorted(p.name for p in path.iterdir())
    for name in (".000.partial.safetensors.a1b2", ".001.json.xyz_", ".experts.json.k8"):
        (path / name).touch()
    (path / ".keep").touch()
    ExpertFolder.open(path).remove_leftovers()
    assert sorted(p.name for p in path.iterdir()) == [".keep", *before]


# attacks


@pytest.mark.parametrize("name", ["experts.json", "000.json", "001.safetensors"])
@pytest.mark.parametrize("length", [0, 1, 8, 60, -1])
def test_truncated_files_are_noticed(path, name, length):
    content = (path / name).read_bytes()
    # the last byte of a JSON file is a line feed
    (path / name).write_bytes(content.rstrip()[:length])
    with pytest.raises(RunError, match=name):
        ExpertFolder.open(path)


@pytest.mark.parametrize("name", ["experts.json", "000.json", "000.safetensors"])
def test_every_flipped_byte_is_noticed(path, name, rng):
    content = (path / name).read_bytes()
    size = len(content.rstrip()) if name.endswith("json") else len(content)
    whole = ExpertFolder.open(path)
    for position in torch.randperm(size, generator=rng)[:60].tolist():
        flip(path / name, position)
        try:
            read_everything(path)
        except RunError:
            pass
        else:
            # a letter of another tensor's name, or white space, changes nothing that is read
            same = ExpertFolder.open(path)
            assert same.record == whole.record
            assert same.result(0) == whole.result(0)
        (path / name).write_bytes(content)
    read_everything(path)


def test_flipped_numbers_are_found_before_a_run(path):
    flip(path / "001.safetensors", -3)
    with pytest.raises(RunError, match=r"001.safetensors.*epoch 3 were changed.*Delete 001\."):
        check_learned(ExpertFolder.open(path))


@pytest.mark.parametrize(
    "rows",
    [torch.zeros(4, 5), torch.zeros(3, 255), torch.zeros(4, 255).double(), torch.zeros(1020)],
)
def test_shards_of_another_form_are_refused(path, rows):
    save_file({"parameters": rows}, path / "000.safetensors")
    with pytest.raises(RunError, match=r"000.safetensors.*expected F32 \[4, 255\]"):
        ExpertFolder.open(path)
    save_file({"weights": torch.zeros(4, 255)}, path / "000.safetensors")
    with pytest.raises(RunError, match=r"000.safetensors"):
        ExpertFolder.open(path)


def test_a_shard_that_is_a_pickle_is_not_run(path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (path / "boom",))

    torch.save(Bomb(), path / "000.safetensors")
    with pytest.raises(RunError, match=r"000.safetensors"):
        ExpertFolder.open(path)
    assert not (path / "boom").exists()


def test_missing_experts_are_named(path):
    (path / "000.json").unlink()
    with pytest.raises(RunError, match=r"expert 0 in .* is missing"):
        ExpertFolder.open(path)
    assert len(ExpertFolder.open(path, unfinished=True)) == 1
    (path / "001.safetensors").unlink()
    with pytest.raises(RunError, match=r"no 001.safetensors"):
        ExpertFolder.open(path)
    (path / "001.json").unlink()
    with pytest.raises(RunError, match=r"expert 0 in .* is missing"):
        ExpertFolder.open(path)
    (path / "experts.json").unlink()
    with pytest.raises(RunError, match="holds no experts"):
        ExpertFolder.open(path)


def test_an_expert_far_out_is_a_gap_and_costs_no_time(path):
    for suffix in ("json", "safetensors"):
        shutil.copy(path / f"001.{suffix}", path / f"99999999999.{suffix}")
    with pytest.raises(RunError, match=r"expert 2 in .* is missing"):
        ExpertFolder.open(path)


def test_files_of_other_names_are_no_experts(path):
    for name in ("0001", "12", "\u0663\u0663\u0663", "2e3", "notes"):
        (path / f"{name}.json").write_text("{}")
    assert len(ExpertFolder.open(path)) == 2


def test_too_few_experts_are_refused(experts_folder):
    folder = ExpertFolder.open(experts_folder)
    check_complete(folder, 2)
    with pytest.raises(RunError, match="got 2, expected at least 3"):
        check_complete(folder, 3)


def test_files_edited_by_hand_are_refused(path):
    def scale(values):
        values["std"] = [0.5]

    def praise(values):
        values["accuracy_after"] = 1.0

    doctor(path / "000.json", praise)
    with pytest.raises(RunError, match=r"000.json.*changed after it was written"):
        ExpertFolder.open(path)
    doctor(path / "experts.json", scale)
    with pytest.raises(RunError, match=r"experts.json.*changed after it was written"):
        ExpertFolder.open(path)


@pytest.mark.parametrize(
    "content",
    ["[]", "null", "{}", "[" * 100_000, '{"format": 1}', '{"format": 2, "sha256": ""}', "\udcff"],
)
def test_foreign_json_is_refused(path, content):
    (path / "experts.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(RunError, match=r"experts.json"):
        ExpertFolder.open(path)


def test_a_newer_format_is_named(path):
    doctor(path / "experts.json", lambda values: values.update(format=2))
    with pytest.raises(RunError, match="format 2, this hpd reads 1"):
        ExpertFolder.open(path)


def test_a_record_written_before_an_option_existed_is_still_read(path):
    """A later release fills in its default, and the experts still belong to the record."""
    values = json.loads((path / "experts.json").read_text())
    del values["student"]["norm"], values["sha256"]
    write_json(path / "experts.json", trajectories._sealed(values))
    seal = hashlib.sha256((path / "experts.json").read_bytes()).hexdigest()
    for expert in range(2):
        values = json.loads((path / f"00{expert}.json").read_text()) | {"record": seal}
        del values["sha256"]
        write_json(path / f"00{expert}.json", trajectories._sealed(values))
    assert ExpertFolder.open(path).record.student == STUDENT


def test_shards_of_other_experts_are_refused(path, images, tmp_path):
    """The same student with another seed has shards of the same form."""
    other = ExpertRecord.of(STUDENT, images, ExpertFolder.open(path).record.training, seed=1)
    folder = ExpertFolder.create(tmp_path / "other", other)
    for name in ("000.json", "000.safetensors"):
        shutil.copy(path / name, folder.path)
    with pytest.raises(RunError, match="belongs to other experts"):
        ExpertFolder.open(folder.path)


def test_broken_progress_is_refused(path, rng):
    folder = ExpertFolder.open(path)
    file = path / "002.partial.safetensors"
    folder.write_progress(2, Progress(torch.randn(2, 50, generator=rng), (0.1,), 0.3, {}))
    content = file.read_bytes()
    for position in torch.randperm(len(content), generator=rng)[:60].tolist():
        flip(file, position)
        with pytest.raises(RunError):
            folder.read_progress(2)
        file.write_bytes(content)
    file.write_bytes(content[:-1])
    with pytest.raises(RunError):
        folder.read_progress(2)
    file.write_bytes(content)
    file.rename(path / "003.partial.safetensors")
    with pytest.raises(RunError, match="belongs to another expert"):
        folder.read_progress(3)


# checks before a run


def another(base: ImageSet, **changes) -> ImageSet:
    return replace(base, **changes)


def one_ulp(values: tuple[float, ...]) -> tuple[float, ...]:
    return (math.nextafter(values[0], 1), *values[1:])


def one_pixel(images: ImageSet) -> ImageSet:
    pixels = images.images.clone()
    pixels[17, 0, 3, 4] ^= 1
    return replace(images, images=pixels)


def test_what_fits_passes(record, images):
    check_matches(record, student=STUDENT, train=images)
    check_matches(record, student=STUDENT, train=images, training=record.training, seed=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: another(x, images=x.images[:, :, :7]), r"image shape.*\(1, 8, 8\).*\(1, 7, 8\)"),
        (lambda x: another(x, classes=("a", "c", "b")), "classes.*'a', 'b', 'c'.*'a', 'c', 'b'"),
        (lambda x: another(x, classes=("a", "b", "c", "d")), "classes"),
        (lambda x: x.only([0, 2, 1]), "classes"),
        (lambda x: another(x, labels=x.labels.flip(0)), "training images .SHA"),
        (one_pixel, "training images .SHA"),
        (lambda x: another(x, images=x.images[1:], labels=x.labels[1:]), "got 36, expected 35"),
        (
            lambda x: another(
                x, normalisation=Normalisation(one_ulp(x.normalisation.mean), x.normalisation.std)
            ),
            r"normalisation \(mean\)",
        ),
        (
            lambda x: another(
                x, normalisation=Normalisation(x.normalisation.mean, one_ulp(x.normalisation.std))
            ),
            r"normalisation \(std\)",
        ),
    ],
)
def test_other_data_are_refused_by_name(record, images, change, message):
    with pytest.raises(RunError, match=message) as caught:
        check_matches(record, student=STUDENT, train=change(images))
    assert "hpd experts CONFIG" in caught.value.fix
    assert caught.value.got != caught.value.expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "group"}, "student: got norm='instance', expected norm='group'"),
        ({"width": 8}, "student: got width=4, expected width=8"),
        ({"depth": 1, "norm": "none"}, "got depth=2, norm='instance', expected depth=1, norm="),
    ],
)
def test_another_student_is_refused_by_name(record, images, options, message):
    with pytest.raises(RunError, match=message):
        check_matches(record, student=STUDENTS.parse(SMALL_STUDENT | options), train=images)


def test_a_student_whose_parameters_changed_meanwhile_is_refused(record, images):
    """As a release does that names or shapes them otherwise."""
    older = record.model_copy(update={"layout": record.layout[1:]})
    with pytest.raises(RunError, match="layout of the student"):
        check_matches(older, student=STUDENT, train=images)


def test_another_training_is_refused_by_name_if_it_matters(record, images):
    other = record.training.model_copy(update={"lr": 0.3, "epochs": 4})
    with pytest.raises(RunError, match=r"got lr=0\.2, epochs=3, expected lr=0\.3"):
        check_matches(record, student=STUDENT, train=images, training=other)
    with pytest.raises(RunError, match="another seed: got 0, expected 1"):
        check_matches(record, student=STUDENT, train=images, seed=1)


def test_experts_that_learned_pass(experts_folder):
    check_learned(ExpertFolder.open(experts_folder))


def forge(path: Path, expert: int, rows: torch.Tensor | None = None, **changes) -> ExpertFolder:
    """Rewrite an expert as if it had been trained to this."""
    folder = ExpertFolder.open(path)
    result = folder.result(expert)
    kept = {
        key: getattr(result, key) for key in ("losses", "accuracy_before", "accuracy_after")
    } | changes
    if rows is None:
        rows = torch.stack([folder.parameters(expert, e) for e in range(folder.epochs + 1)])
    folder.write(expert, rows, **kept)
    return ExpertFolder.open(path)


def rows_of(path: Path, expert: int) -> torch.Tensor:
    return load_file(path / f"{expert:03d}.safetensors")["parameters"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_named(path, value):
    rows = rows_of(path, 1)
    rows[2, 7] = value
    message = r"1 of 2 experts .* not finite: got expert 1 after epoch 2"
    with pytest.raises(NumericError, match=message):
        check_learned(forge(path, 1, rows))


def test_experts_that_stand_still_are_named(path):
    rows = rows_of(path, 0)
    rows[3] = rows[2]
    with pytest.raises(RunError, match=r"stand still: got expert 0 in epoch 3.*Raise .*lr"):
        check_learned(forge(path, 0, rows))


@pytest.mark.parametrize(
    "result",
    [
        {"accuracy_after": 1 / 3},
        # a guess of 36 reaches 0.57 within three deviations
        {"accuracy_before": 0.2, "accuracy_after": 0.55},
        {"accuracy_before": 0.9, "accuracy_after": 0.8},
        {"losses": (1.0, 0.5, 1.0)},
        {"losses": (1.0, 0.5, math.nan)},
        {"accuracy_after": math.nan},
    ],
)
def test_experts_that_did_not_learn_are_named(path, result):
    with pytest.raises(RunError, match=r"1 of 2 experts in .* did not learn: got expert 1 with"):
        check_learned(forge(path, 1, **result))


def test_constant_images_are_named(images):
    check_images(images)
    pixels = images.images.clone()
    pixels[[3, 12, 13, 14, 35]] = 200
    with pytest.raises(DataError, match="5 of 36 training images are constant") as caught:
        check_images(replace(images, images=pixels))
    assert caught.value.got == (
        "image 3 of class 'a', image 12 of class 'b', image 13 of class 'b' and 2 more"
    )
    # one channel that is constant is not an image that is
    coloured = images.images.repeat(1, 2, 1, 1)
    coloured[5, 0] = 0
    check_images(replace(images, images=coloured, normalisation=Normalisation((0, 0), (1, 1))))


def test_every_refusal_is_one_line(path, record, images):
    """The command line shows an error as one line; these must not lose anything by it."""
    (path / "experts.json").write_text("{\n\n")
    for call in (
        lambda: ExpertFolder.open(path),
        lambda: check_matches(record, student=STUDENT, train=one_pixel(images)),
    ):
        with pytest.raises(HpdError) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_rows_are_read_from_the_file_not_from_memory(experts_folder):
    """A shard is not kept: a folder of any size costs no memory."""
    folder = ExpertFolder.open(experts_folder)
    assert not [v for v in vars(folder).values() if isinstance(v, torch.Tensor)]
    with safe_open(folder.path / "000.safetensors", framework="pt") as file:
        assert list(file.keys()) == ["parameters"]
