"""Folders of experts that are broken, changed or mixed up: each is refused by name."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import SMALL_STUDENT
from safetensors.torch import save_file

from hpd.disk.files import write_json
from hpd.disk.seals import sealed
from hpd.errors import RunError
from hpd.students import STUDENTS
from hpd.students.experts.checks import check_complete, check_learned
from hpd.students.experts.trajectories import (
    ExpertFolder,
    ExpertRecord,
    Progress,
)

STUDENT = STUDENTS.parse(SMALL_STUDENT)


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


def test_only_the_row_is_read(path):
    """Damage in one row leaves the others readable: nothing but the row is looked at."""
    flip(path / "000.safetensors", -1)
    folder = ExpertFolder.open(path)
    assert torch.isfinite(folder.parameters(0, 0)).all()
    assert torch.isfinite(folder.parameters(0, 2)).all()
    with pytest.raises(RunError, match="epoch 3 were changed"):
        folder.parameters(0, 3)


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
    write_json(path / "experts.json", sealed(values))
    seal = hashlib.sha256((path / "experts.json").read_bytes()).hexdigest()
    for expert in range(2):
        values = json.loads((path / f"00{expert}.json").read_text()) | {"record": seal}
        del values["sha256"]
        write_json(path / f"00{expert}.json", sealed(values))
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
