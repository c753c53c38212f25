"""Interrupting a run and going on with it, from the command line and from Python."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from conftest import ROOT
from small_runs import STEPS, contents, metrics, small_config

import hpd
from generators import read_generator, save_generator
from hpd.artifacts import RunFolder
from hpd.artifacts.ledger import Ledger
from hpd.cli import main
from hpd.disk.seals import read_sealed
from hpd.engine.watching.recorder import Recorder
from hpd.errors import RunError

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


@pytest.fixture
def here(tmp_path, monkeypatch, generator_folder):
    """A folder to run in, with `config.yaml` and a generator of its own in it."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(generator_folder, "generator")
    config = small_config(tmp_path / "data", "generator")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def distil(*arguments):
    return CliRunner().invoke(main, ["distill", "config.yaml", "--out", "run", *arguments])


@pytest.fixture
def interrupt(monkeypatch):
    """Sends this process a signal in a step of the next run."""
    original = Recorder.on_step

    def at(step, *numbers):
        seen = []

        def on_step(self, report):
            original(self, report)
            seen.append(report)
            if len(seen) == step:
                for number in numbers:
                    os.kill(os.getpid(), number)

        monkeypatch.setattr(Recorder, "on_step", on_step)

    yield at
    monkeypatch.undo()


@pytest.fixture(scope="module")
def whole(tmp_path_factory, generator_folder):
    """The same run without interruption."""
    folder = tmp_path_factory.mktemp("whole")
    shutil.copytree(generator_folder, folder / "generator")
    config = small_config(folder / "data", str(folder / "generator"))
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    command = ["distill", str(folder / "config.yaml"), "--out", str(folder / "run")]
    assert CliRunner().invoke(main, command).exit_code == 0
    return folder / "run"


def check_like(whole, run="run"):
    """Check that a run has the same files, and the same in them but for times and paths."""
    ours, theirs = contents(run), contents(whole)
    assert set(ours) == set(theirs)
    same = {"distilled.safetensors", "initial.safetensors", "grid.png"}
    assert not [name for name in same if ours[name] != theirs[name]]
    assert metrics(run) == metrics(whole)
    assert rows(run) == rows(whole)


def rows(run):
    return read_sealed(Path(run) / "evaluation.json")["rows"]


@pytest.mark.parametrize("number", CODES)
def test_a_signal_ends_the_run_after_a_checkpoint_and_says_how_to_go_on(
    here, whole, interrupt, number
):
    interrupt(2, number)
    result = distil("--seed", "0")
    assert result.exit_code == CODES[number]
    command = "hpd distill config.yaml --seed 0 --out run --resume"
    assert result.stderr == f"hpd: interrupted; this goes on: {command}\n"
    # at the very step, though one was not due
    assert RunFolder("run").checkpoints.newest().step.index == 2
    interrupt(10**6, number)
    result = distil("--seed", "0", "--resume")
    assert result.exit_code == 0, result.output
    assert f"going on after 2 of {STEPS} steps" in result.stdout
    check_like(whole)


def test_handlers_of_signals_are_put_back(here, interrupt):
    before = [signal.getsignal(number) for number in CODES]
    interrupt(1, signal.SIGTERM)
    assert distil().exit_code == 143
    assert [signal.getsignal(number) for number in CODES] == before


def test_a_second_signal_does_not_wait(here, whole, interrupt):
    interrupt(2, signal.SIGINT, signal.SIGINT)
    assert distil().exit_code == 130
    assert RunFolder("run").checkpoints.newest() is None
    interrupt(10**6)
    assert distil("--resume").exit_code == 0
    check_like(whole)


def test_python_hears_of_it_as_of_any_ctrl_c_and_goes_on(here, whole, interrupt):
    interrupt(5, signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        hpd.distill("config.yaml", out="run")
    interrupt(10**6)
    run = hpd.distill("config.yaml", out="run", resume=True)
    assert hpd.load_distilled(whole).images.equal(run.distilled.images)
    # and once more: it is finished, and comes back as it is
    again = hpd.distill("config.yaml", out="run", resume=True)
    assert again.distilled.images.equal(run.distilled.images)
    hpd.evaluate(again)
    hpd.report(again)
    check_like(whole)


def test_a_run_is_not_gone_on_with_by_chance_and_a_finished_one_is_left_alone(here):
    assert distil("--resume").exit_code == 0
    before = contents("run")
    result = distil()
    assert result.exit_code == 2
    assert "run already holds a run. Go on with it by --resume" in result.stderr
    result = distil("--resume")
    assert (result.exit_code, result.stdout) == (0, "nothing left to do: run\n")
    assert contents("run") == before


def test_what_comes_after_the_distillation_is_made_up_for(here, whole):
    hpd.distill("config.yaml", out="run")
    result = distil("--resume")
    assert result.exit_code == 0
    assert "trained on" in result.stdout
    check_like(whole)
    (here / "run" / "report.html").unlink()
    assert distil("--resume").exit_code == 0
    check_like(whole)


def test_other_files_are_left_alone_by_resume(here):
    (here / "run").mkdir()
    (here / "run" / "thesis.tex").write_text("")
    result = distil("--resume")
    assert result.exit_code == 2
    assert "already holds other files" in result.stderr


def test_another_config_is_refused_with_what_differs(here, interrupt):
    interrupt(2, signal.SIGTERM)
    distil()
    before = contents("run")
    result = distil("--resume", "source.steps=5", "selection.every=3", "--seed", "1")
    assert result.exit_code == 2
    for change in ("seed: 0 -> 1", "source.steps: 4 -> 5", "selection.every: 2 -> 3"):
        assert change in result.stderr
    assert contents("run") == before


def test_what_decides_nothing_may_change(here, whole, interrupt):
    interrupt(2, signal.SIGTERM)
    distil()
    interrupt(10**6)
    shutil.move("generator", "moved")
    result = distil(
        "--resume", "description=new", "evaluation.seeds=1", "checkpoint_every=1",
        "source.chunk_images=2", "source.generator=moved",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    settings = hpd.load_run("run").config
    assert (settings.description, settings.evaluation.seeds) == ("new", 1)
    ours, theirs = (hpd.load_distilled(run).images for run in ("run", whole))
    assert (ours - theirs).abs().max() < 1e-5


def test_data_that_changed_are_refused(here, interrupt):
    interrupt(2, signal.SIGTERM)
    distil()
    first, second = sorted((here / "data" / "train" / "a").iterdir())[:2]
    shutil.copy(first, second)
    result = distil("--resume")
    assert result.exit_code == 2
    assert "what the run in run rests on has changed since it was started" in result.stderr
    assert "data.sha256: " in result.stderr


def test_a_generator_that_changed_is_refused(here, interrupt):
    interrupt(2, signal.SIGTERM)
    distil()
    stored = read_generator("generator")
    for parameter in stored.generator.parameters():
        parameter.add_(1e-6)
    save_generator(
        stored.generator, stored.settings, "generator", licence="MIT", provenance={}
    )  # fmt: skip
    result = distil("--resume")
    assert result.exit_code == 2
    assert "generator.sha256: " in result.stderr


def test_two_processes_do_not_write_to_one_folder(here):
    class Meanwhile:
        def __init__(self):
            self.refused = 0

        def on_step(self, report):
            with pytest.raises(RunError, match="another process works in it"):
                hpd.distill("config.yaml", out="run", resume=True)
            self.refused += 1

        def on_stage(self, report):
            pass

    other = Meanwhile()
    hpd.distill("config.yaml", out="run", observers=[other])
    assert other.refused == STEPS


@pytest.fixture
def kept(monkeypatch):
    """Names of the students that evaluations keep, and what happens before some are kept."""
    original, names, before = Ledger.put_all, [], {}

    def put_all(self, accuracies):
        before.pop(len(names), lambda: None)()
        names.extend(accuracies)
        original(self, accuracies)

    monkeypatch.setattr(Ledger, "put_all", put_all)
    return names, before


def end_here():
    raise KeyboardInterrupt


def test_an_evaluation_goes_on_with_the_students_at_which_it_was(here, whole, kept):
    hpd.distill("config.yaml", out="run")
    names, before = kept
    before[4] = lambda: os.kill(os.getpid(), signal.SIGTERM)
    result = CliRunner().invoke(main, ["evaluate", "run"])
    assert result.exit_code == 143
    assert result.stderr == "hpd: interrupted; this goes on: hpd evaluate run\n"
    assert RunFolder("run").ledger_path.exists()
    assert not (here / "run" / "evaluation.json").exists()
    assert len(names) == 4
    assert CliRunner().invoke(main, ["evaluate", "run"]).exit_code == 0
    # two students of each row and of what its scores rest on, each kept once
    evaluation = read_sealed(Path(whole) / "evaluation.json")
    trained = [*evaluation["rows"], *evaluation["references"]]
    assert len(set(names)) == len(names) == 2 * len(trained)
    check_like(whole)


def test_students_of_another_evaluation_are_not_taken(here, kept):
    run = hpd.distill("config.yaml", out="run")
    names, before = kept
    before[2] = end_here
    with pytest.raises(KeyboardInterrupt):
        hpd.evaluate(run)
    names.clear()
    changed = hpd.evaluate(run, "training.epochs=3")
    assert len(names) == 2 * len([*changed.rows, *changed.references])
    assert changed.rows == hpd.evaluate(hpd.distill("config.yaml"), "training.epochs=3").rows


def test_an_interrupted_evaluation_outlives_another_one(here, kept):
    run = hpd.distill("config.yaml", out="run")
    names, before = kept
    before[3] = end_here
    with pytest.raises(KeyboardInterrupt):
        hpd.evaluate(run, "seeds=3")
    # the same with fewer students, and another: both come to their end
    hpd.evaluate(run, "training.epochs=3")
    hpd.evaluate(run, "seeds=1")
    assert RunFolder("run").ledger_path.exists()
    RunFolder("run").tidy()
    names.clear()
    again = hpd.evaluate(run, "seeds=3")
    trained = [*again.rows, *again.references]
    assert len(names) == 2 * (len(trained) - 1)
    assert again.rows == hpd.evaluate(hpd.distill("config.yaml"), "seeds=3").rows
    assert not RunFolder("run").ledger_path.exists()


def test_what_a_process_left_that_was_killed_at_the_end_of_an_evaluation_goes(here, monkeypatch):
    run = hpd.distill("config.yaml", out="run")
    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "close", lambda self: None)
        hpd.evaluate(run)
    assert RunFolder("run").ledger_path.exists()
    RunFolder("run").tidy()
    assert not RunFolder("run").ledger_path.exists()


@pytest.mark.parametrize("content", [b"", b"{}", b'{"accuracies": {}, "sha256": "0"}', b"[1]"])
def test_a_broken_ledger_starts_the_evaluation_over(here, content, caplog):
    run = hpd.distill("config.yaml", out="run")
    RunFolder("run").ledger_path.write_bytes(content)
    assert hpd.evaluate(run).rows == hpd.evaluate(hpd.distill("config.yaml")).rows
    assert "the evaluation starts over" in caplog.text


def test_nobody_is_let_in_while_the_first_evaluates(here, monkeypatch):
    """From the first step to the end of the evaluation, there is one holder."""
    refused = []

    def meanwhile(*args, **options):
        command = [sys.executable, "-m", "hpd", "distill", "config.yaml", "--out", "run"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        other = subprocess.run(
            [*command, "--resume"], capture_output=True, text=True, check=False, env=environment
        )
        refused.append((other.returncode, other.stderr.splitlines()[-1]))
        return evaluate(*args, **options)

    from hpd.api.judging import evaluating

    evaluate = evaluating.evaluate_sets
    monkeypatch.setattr(evaluating, "evaluate_sets", meanwhile)
    assert distil().exit_code == 0
    ((code, said),) = refused
    assert code == 2
    assert "another process works in it" in said
    if Path("/proc/locks").exists():
        assert f"process {os.getpid()} (" in said
    # and it is free again
    assert distil("--resume").exit_code == 0
