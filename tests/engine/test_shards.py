"""Each process writes what it has, and any number of processes goes on from what is written."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest
import torch
from conftest import CPU, SMALL_STUDENT
from threads import together

from hpd.artifacts import RunFolder
from hpd.artifacts.shards import StoredTensor, read_shards, write_shard
from hpd.artifacts.stages import read_stage
from hpd.disk.files import write_tensors
from hpd.engine import SELECTORS, OptimizerSettings, optimise
from hpd.engine.keeper import RunKeeper, to_snapshot
from hpd.machine.device import Processes
from hpd.objectives import OBJECTIVES
from hpd.rng import Streams
from hpd.sources import SOURCES

STEPS = 4
DC = {
    "kind": "gradient", "student": SMALL_STUDENT, "real_batch": 4,
    "network": {"steps": 3, "epochs": 1, "momentum": 0.9},
}  # fmt: skip
KINDS = ("pixel", "gan", "learnt", "coded")


class Quiet:
    def on_step(self, report):
        pass

    def on_stage(self, report):
        pass


class KeepsAll(RunKeeper):
    """Keeps every checkpoint, and a copy of the folder as it is after each."""

    def _begin(self, take):
        super()._begin(take)
        self.finish()
        with self._processes.together():
            if self._processes.is_first:
                path = self._folder.path
                name = self._folder.checkpoints.newest().name
                shutil.copytree(path, path.with_name(f"{path.name}-at-{name}"))


@pytest.fixture
def sources(source_settings):
    gan = {"images_per_class": 2, "levels": [0, 2], "chunk_images": 2}
    return {
        "pixel": source_settings("pixel", images_per_class=2, steps=STEPS),
        "gan": source_settings("gan", steps=STEPS) | gan,
        "learnt": source_settings("pixel", images_per_class=2, steps=STEPS) | {"learnt_labels": {}},
        "coded": source_settings("pixel", images_per_class=2, steps=2 * STEPS)
        | {"storage": {"bits": 4, "start": 0.5}},
    }


@pytest.fixture
def run(images, sources, tmp_path):
    """Runs in one of several processes, writes to a folder, and returns what it came to."""

    def go(processes, kind, name, since=None):
        streams, path = Streams(0), tmp_path / name
        folder = processes.first(lambda: RunFolder.create(path, ""))
        if since is not None:
            since = to_snapshot(RunFolder(tmp_path / since).checkpoints.newest())
        keeper = KeepsAll(
            folder, every=3, interrupts=SimpleNamespace(number=0), facts={}, processes=processes
        )
        built = OBJECTIVES.parse(DC).build(images, CPU, streams.fork("objective"))
        selection = SELECTORS.parse({"kind": "loss"} if kind == "pixel" else "last")
        return optimise(
            SOURCES.parse(sources[kind]).build_whole(images, CPU, streams.fork("source")), built,
            selection.build(images, CPU, streams.fork("selection"), built), OptimizerSettings(),
            Quiet(), select_every=2, keeper=keeper, since=since, processes=processes,
        )  # fmt: skip

    return go


def moments(path):
    """Names of the copies of a run's folder, in the order of the run."""
    return sorted(p.name for p in path.parent.glob(f"{path.name}-at-*"))


@pytest.mark.parametrize("kind", KINDS)
def test_what_several_write_is_what_one_writes(run, tmp_path, kind):
    run(Processes(), kind, "one")
    together(2, lambda p: run(p, kind, "two"))
    assert len(moments(tmp_path / "one")) >= 2
    for name in moments(tmp_path / "one"):
        one = RunFolder(tmp_path / name).checkpoints.newest().loaded()
        two = RunFolder(tmp_path / name.replace("one", "two")).checkpoints.newest()
        assert one.tensors.keys() == two.tensors.keys()
        for key, wanted in one.tensors.items():
            assert two.tensors[key].shape == wanted.shape, key
            assert two.tensors[key].dtype == wanted.dtype, key
            assert torch.equal(two.tensors[key].rows(), wanted), key
    # the states of stages are put together
    for path in sorted((tmp_path / "one" / "checkpoints").glob("stage-*")):
        other = tmp_path / "two" / "checkpoints" / path.name
        assert other.read_bytes() == path.read_bytes(), path.name
    assert read_stage(tmp_path / "two" / "checkpoints" / "stage-00.json").state


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("wrote", "goes_on"), [(1, 2), (2, 1), (3, 2), (2, 3)])
def test_another_number_of_processes_goes_on_to_the_bit(run, tmp_path, kind, wrote, goes_on):
    wanted = run(Processes(), kind, "alone")
    together(wrote, lambda p: run(p, kind, "before"))
    for number, name in enumerate(moments(tmp_path / "before")):
        out = f"after-{number}"
        found = together(goes_on, lambda p: run(p, kind, out, since=name))  # noqa: B023
        for outcome in found:
            assert torch.equal(outcome.images, wanted.images), name
            assert torch.equal(outcome.initial_images, wanted.initial_images), name
            assert outcome.stages == wanted.stages, name
            if kind == "learnt":
                assert torch.equal(outcome.targets, wanted.targets), name


def test_a_process_writes_and_reads_the_rows_of_its_classes_only(run, tmp_path, monkeypatch):
    together(3, lambda p: run(p, "gan", "three"))
    name = moments(tmp_path / "three")[0]
    parts = sorted((tmp_path / name / "checkpoints").glob("*.safetensors"))
    assert [p.name.split(".")[1] for p in parts] == ["0-of-3", "1-of-3", "2-of-3"]
    # three classes of two images
    for rank, path in enumerate(parts):
        if rank:
            with pytest.raises(ValueError, match="are missing"):
                read_shards([path])
        sizes = sizes_in(path)
        assert sizes["source.ws"] == sizes["optimizer.0.exp_avg"] == sizes["initial_images"] == 2, (
            rank
        )
        assert ("objective.next" in sizes) == (rank == 0)
    asked, original = [], StoredTensor.rows

    def rows(kept, places=None):
        found = original(kept, places)
        # not where the state of a stage is put together
        if name in str(kept._paths[0]) and kept.shape:
            asked.append((kept.shape[0], len(found)))
        return found

    monkeypatch.setattr(StoredTensor, "rows", rows)
    together(3, lambda p: run(p, "gan", "again", since=name))
    of_images = [count for whole, count in asked if whole == 6]
    assert of_images
    assert set(of_images) == {2}


def sizes_in(path):
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return {name: (file.get_slice(name).get_shape() or [0])[0] for name in list(file.keys())}


def test_a_checkpoint_of_one_file_is_read_by_rows(tmp_path):
    whole = torch.arange(12.0).reshape(6, 2)
    write_tensors(tmp_path / "a", {"x": whole, "n": torch.tensor(3)})
    kept = read_shards([tmp_path / "a"])
    places = torch.tensor([5, 0, 1, 4])
    assert torch.equal(kept["x"].rows(places), whole[places])
    assert torch.equal(kept["n"].rows(), torch.tensor(3))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_rows_come_back_from_wherever_they_are(tmp_path, count, rng):
    whole = {
        "a": torch.randn(7, 3, 2, generator=rng), "b": torch.randn(7, generator=rng).half(),
        "c": torch.randn(14, 2, generator=rng), "all": torch.randn(4, generator=rng),
        "none": torch.randn(7, 0, generator=rng),
    }  # fmt: skip
    owner = {7: torch.randint(count, (7,), generator=rng)}
    owner[14] = owner[7].repeat_interleave(2)
    paths = []
    for rank in range(count):
        places = {
            k: (owner[len(v)] == rank).nonzero().flatten() for k, v in whole.items() if k != "all"
        }
        tensors = {k: whole[k][own] for k, own in places.items()}
        paths.append(tmp_path / f"{rank}")
        write_shard(paths[-1], tensors | ({"all": whole["all"]} if rank == 0 else {}), places)
    kept = read_shards(paths)
    assert kept.keys() == whole.keys()
    for name, wanted in whole.items():
        assert torch.equal(kept[name].rows(), wanted), name
        if name != "all":
            places = torch.randperm(len(wanted), generator=rng)[:5]
            assert torch.equal(kept[name].rows(places), wanted[places]), name
    # put together row by row, they are the same file
    write_tensors(tmp_path / "joined", kept)
    write_tensors(tmp_path / "whole", whole)
    assert (tmp_path / "joined").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_checkpoint_is_there_with_its_index_only(run, tmp_path, monkeypatch):
    """A process that ends before all have written leaves the checkpoint before."""
    together(2, lambda p: run(p, "pixel", "two"))
    path = tmp_path / moments(tmp_path / "two")[-1]
    checkpoints = RunFolder(path).checkpoints
    last = checkpoints.newest()
    part = checkpoints.part(last, 1, 2)
    (path / "checkpoints" / f"{last.name}.json").unlink()
    part.unlink()
    before = checkpoints.newest()
    assert before.name < last.name
    # what was half written is swept up
    assert not list((path / "checkpoints").glob(f"{last.name}*"))
