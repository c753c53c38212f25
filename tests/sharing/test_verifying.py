"""Whether figures come out again, and what was other than it was where they do not."""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from conftest import tiny_generator
from small_runs import small_config

import hpd
from generators import save_generator
from hpd.cli import main
from hpd.disk.archives import ArchiveWriter
from hpd.disk.bundles import SUMS, as_sums
from hpd.disk.seals import sealed, unsealed
from hpd.errors import ConfigError, DataError, RunError
from hpd.evaluation import Row
from hpd.evaluation.again import figures, surroundings
from hpd.storage import Amount, Storage


def restated(packed, path, change):
    """Write a packed run whose newest evaluation says something else, with its checksums right."""
    with zipfile.ZipFile(packed) as archive:
        inside = {name: archive.read(name) for name in archive.namelist()}
    record = unsealed(json.loads(inside["evaluation.json"]))
    change(record)
    inside["evaluation.json"] = json.dumps(sealed(record)).encode()
    del inside[SUMS]
    inside[SUMS] = as_sums({n: hashlib.sha256(c).hexdigest() for n, c in inside.items()})
    with path.open("xb") as file:
        writer = ArchiveWriter(file)
        for name, content in inside.items():
            writer.add(name, content)
        writer.close()
    return path


def test_the_figures_come_out_to_the_last_digit(packed):
    found = hpd.verify(packed, evaluate=True)
    assert found.whole
    assert found.reproduced
    assert found.differs == {}
    assert {figure.verdict for figure in found.figures} == {"equal"}
    stated = hpd.load_run(packed).evaluation
    assert [figure.again for figure in found.figures] == [row.accuracy_mean for row in stated.rows]


def test_without_evaluating_nothing_is_said_of_figures(packed):
    found = hpd.verify(packed)
    assert (found.whole, found.reproduced, found.figures) == (True, None, [])


def test_figures_that_were_made_up_are_apart(packed, tmp_path):
    def better(record):
        record["rows"][0]["accuracies"] = [96.0, 97.0]
        record["rows"][0] |= {"accuracy_mean": 96.5, "accuracy_std": 0.7}

    path = restated(packed, tmp_path / "better.hpd", better)
    found = hpd.verify(path, evaluate=True)
    assert found.whole
    assert found.reproduced is False
    assert [f.set for f in found.figures if f.verdict == "apart"] == ["distilled"]
    result = CliRunner().invoke(main, ["verify", str(path), "--evaluate"])
    assert result.exit_code == 2
    assert "do not come out again" in result.output.splitlines()[-1]
    assert "apart" in result.output


def test_other_versions_and_machines_are_named(packed, tmp_path):
    def elsewhere(record):
        record["versions"] |= {"torch": "1.0.0"}
        record["machine"] |= {"threads": 99}
        record["rows"][0]["accuracies"][0] += 0.1

    found = hpd.verify(restated(packed, tmp_path / "old.hpd", elsewhere), evaluate=True)
    threads = str(torch.get_num_threads())
    assert found.differs == {
        "version of torch": ("1.0.0", torch.__version__.partition("+")[0]),
        "threads": ("99", threads),
    }
    assert found.reproduced
    assert next(f for f in found.figures if f.set == "distilled").verdict == "within"


def test_an_evaluation_is_made_by_its_own_settings(run, tmp_path):
    """Not by those of the configuration, nor by those of a later one."""
    hpd.evaluate(run, "training.epochs=1", "seeds=3", name="short")
    path = hpd.pack(run).path
    newest = hpd.verify(path, evaluate=True)
    assert (newest.evaluation, newest.reproduced) == ("short", True)
    first = hpd.verify(path, evaluate=True, name="dc-hard-convnet")
    assert {figure.verdict for figure in first.figures} == {"equal"}
    assert first.figures != newest.figures
    with pytest.raises(RunError, match="no evaluation 'shord'"):
        hpd.verify(path, evaluate=True, name="shord")


def test_other_data_are_named_and_nothing_is_judged(tmp_path, generator_folder):
    config = small_config(tmp_path / "data", generator_folder)
    config["source"] = {"kind": "pixel", "steps": 1}
    hpd.evaluate(hpd.distill(config, out=tmp_path / "run"))
    path = hpd.pack(tmp_path / "run").path
    moved = (tmp_path / "data").rename(tmp_path / "moved")
    with pytest.raises(DataError):
        hpd.verify(path, evaluate=True)
    assert hpd.verify(path, f"data.root={moved}", evaluate=True).reproduced
    picture = next((moved / "test").rglob("*.png"))
    picture.unlink()
    found = hpd.verify(path, f"data.root={moved}", evaluate=True)
    assert found.differs.keys() == {"test data"}
    assert (found.reproduced, found.figures) == (False, [])
    result = CliRunner().invoke(main, ["verify", str(path), "--evaluate", f"data.root={moved}"])
    assert result.exit_code == 2
    assert "other test data" in result.output.splitlines()[-1]


def test_another_generator_is_named(tmp_path):
    network = tiny_generator()
    folder = tmp_path / "g"
    save_generator(network, network.settings, folder, licence="MIT", provenance={})
    hpd.evaluate(hpd.distill(small_config(tmp_path / "data", str(folder)), out=tmp_path / "run"))
    path = hpd.pack(tmp_path / "run").path
    folder.rename(tmp_path / "moved")
    found = hpd.verify(path, evaluate=True)
    assert found.differs.keys() == {"generator"}
    assert {f.set for f in found.figures if f.verdict == "not made"} == {"prior_samples"}
    assert found.reproduced is False
    assert hpd.verify(path, evaluate=True, generator=tmp_path / "moved").reproduced
    other = tiny_generator(channel_max=8)
    save_generator(other, other.settings, tmp_path / "other", licence="MIT", provenance={})
    found = hpd.verify(path, evaluate=True, generator=tmp_path / "other")
    stated, here = found.differs["generator"]
    assert stated == json.loads((tmp_path / "run/manifest.json").read_text())["generator"]["sha256"]
    assert here != stated


def test_a_generator_for_a_run_without_one_is_refused(packed):
    with pytest.raises(ConfigError, match="has no generator"):
        hpd.verify(packed, evaluate=True, generator="digits16")


def test_a_run_without_an_evaluation_has_no_figures(run):
    (run / "evaluation.json").unlink()
    path = hpd.pack(run).path
    assert hpd.verify(path).whole
    with pytest.raises(RunError, match="holds no evaluation"):
        hpd.verify(path, evaluate=True)


def row(name="distilled", mean=50.0, std=2.0, count=4, accuracies=()):
    values = list(accuracies) or [mean] * count
    return Row(name, "convnet", 1.0, Storage(Amount.of(1)), mean, std, list(range(count)), values)


@pytest.mark.parametrize(
    ("again", "verdict"),
    [
        (row(), "equal"),
        # two standard errors of the difference: 2 * sqrt(4 / 4 + 4 / 4) = 2.83
        (row(mean=52.82), "within"), (row(mean=47.18), "within"), (row(mean=52.84), "apart"),
        (row(mean=50.0, accuracies=[49.0, 51.0, 50.0, 50.0]), "within"),
        (row(mean=50.0, std=0.0, count=1), "cannot be told"),
    ],
)  # fmt: skip
def test_what_is_allowed_is_two_standard_errors(again, verdict):
    (figure,) = figures([row()], [again])
    assert figure.verdict == verdict


def test_a_row_that_is_not_made_is_named():
    found = figures([row(), row("full")], [row("full")])
    assert [f.verdict for f in found] == ["not made", "equal"]


def test_earlier_evaluations_compare_by_their_means():
    old = replace(row(), accuracies=[])
    assert figures([old], [row()])[0].verdict == "equal"
    assert figures([old], [row(mean=51.0)])[0].verdict == "within"


def test_options_that_a_newer_version_changed_are_named():
    before = {"settings": {"seeds": 2, "training": {"lr": 0.1}, "teacher": "/a"}, "device": "cpu"}
    after = {
        "settings": {"seeds": 2, "training": {"lr": 0.2}, "new": 1, "teacher": "/b"},
        "device": "cpu", "machine": {"threads": 1},
    }  # fmt: skip
    assert surroundings(before, after) == {
        "options.training.lr": ("0.1", "0.2"), "options.new": ("not said", "1"),
    }  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record["rows"].append(3), lambda record: record["rows"][0].clear(),
        lambda record: record["rows"][0].update(accuracy_mean="x" * 900),
        lambda record: record["rows"][0].update(accuracy_mean=float("nan")),
        lambda record: record["rows"][0].update(seeds=["a"]),
        lambda record: record["rows"][0].update(network=["a"]),
        lambda record: record.update(settings=[]), lambda record: record.update(settings={"a": 1}),
        lambda record: record["settings"].update(students=3),
        lambda record: record["settings"].update(training=[]), lambda record: record.update(data=3),
    ],
)  # fmt: skip
def test_an_evaluation_that_is_none_is_one_line(packed, tmp_path, change):
    """One with its checksums right: whoever made it up."""
    path = restated(packed, tmp_path / "odd.hpd", change)
    for arguments in (["compare"], ["verify", "--evaluate"]):
        result = CliRunner().invoke(main, [*arguments, str(path)])
        if result.exit_code == 0:
            # settings that say nothing about a table say nothing wrong
            assert arguments == ["compare"]
            continue
        assert result.exit_code == 2, result.output
        assert [line for line in result.output.splitlines() if line.startswith("hpd: ")]
