"""Code of one's own from the command line: imported because it is named, noted, never by itself."""

from __future__ import annotations

import hashlib
import importlib.metadata
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
import yaml
from conftest import SMALL_STUDENT
from own_modules import DATA, EVERYTHING, GENERATOR, OBJECTIVE, SELECTOR, SOURCE, STUDENT, Elsewhere

import hpd
from generators import GENERATORS
from hpd import plugins
from hpd.errors import ConfigError, GeneratorError, HpdError
from hpd.objectives import OBJECTIVES
from hpd.own_code import OwnCode
from hpd.plugins import import_module
from hpd.sources import SOURCES

QUICK = [
    "source.steps=2", "evaluation.seeds=1", "evaluation.full_training=null",
    "evaluation.training={epochs: 1}", "evaluation.scores=false",
    f"evaluation.students=[{SMALL_STUDENT}]",
]  # fmt: skip
PIXELS = ["source={kind: pixel, steps: 2}", *QUICK[1:]]


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    there = Elsewhere(tmp_path, monkeypatch)
    there.forget()
    yield there
    there.forget()


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        (OBJECTIVE, ["objective=to_mean", *PIXELS]),
        (SELECTOR, ["selection=brightness", *PIXELS]),
        (SOURCE, ["source={kind: my_pixels, steps: 2}", *QUICK[1:]]),
        (DATA, ["data=my_digits", *PIXELS]),
        (STUDENT, ["objective.student=flat", *PIXELS]),
        (GENERATOR, ["source.generator=mine", *QUICK]),
    ],
    ids=["objective", "selector", "source", "data", "student", "generator"],
)
def test_a_run_with_something_of_ones_own(elsewhere, caplog, text, overrides):
    """It needs the module, notes it, and can be told of without it."""
    elsewhere.write("my_module.py", text)
    command = ["distill", "digits", *overrides, "--out", "run"]
    refused = elsewhere.run(*command)
    assert refused.exit_code == 2
    done = elsewhere.run(*command, "--import", "my_module")
    assert done.exit_code == 0, done.output
    noted = yaml.safe_load(Path("run/config.yaml").read_text())["own_code"]
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert [(n["module"], n["given"], n["sha256"]) for n in noted] == [
        ("my_module", "my_module", digest)
    ]
    # in a process that does not know it
    for words in (
        ["report", "run"], ["compare", "run"],
        ["export", "run", "--format", "npz", "--out", "exported"],
    ):  # fmt: skip
        result = elsewhere.run(*words)
        assert result.exit_code == 0, result.output
    run = hpd.load_run("run")
    assert [note.module for note in run.config.own_code] == ["my_module"]
    assert yaml.safe_load(run.config.to_yaml()) == yaml.safe_load(
        Path("run/config.yaml").read_text()
    )
    assert "my_module" not in sys.modules
    result = elsewhere.run("evaluate", "run")
    if text == DATA:
        # there is nothing to test with
        assert result.exit_code == 2
        assert "data set 'my_digits' is not known here" in result.output
        assert "made with --import my_module: add it" in result.output
    else:
        assert result.exit_code == 0, result.output
        missing = "made with --import my_module: add it" in caplog.text
        assert missing == (text == GENERATOR)
    assert elsewhere.run("evaluate", "run", "--import", "my_module").exit_code == 0


def test_what_a_run_was_made_with_is_said(elsewhere):
    """And nothing is imported by what a folder says."""
    elsewhere.write("my_module.py", OBJECTIVE + "\nopen('imported', 'a').write('.')\n")
    command = ["distill", "digits", "objective=to_mean", *PIXELS, "--out", "run"]
    assert elsewhere.run(*command, "--import", "my_module").exit_code == 0
    assert Path("imported").read_text() == "."
    for words in (
        ["distill", "run/config.yaml", "--out", "run", "--resume"],
        ["distill", "run/config.yaml", "--dry-run"],
    ):
        result = elsewhere.run(*words)
        assert result.exit_code == 2
        assert "unknown objective 'to_mean'. It was made with --import my_module: add it" in (
            result.output
        )
    assert Path("imported").read_text() == "."
    result = elsewhere.run(
        "distill", "run/config.yaml", "--out", "run", "--resume", "--import", "my_module"
    )
    assert result.exit_code == 0, result.output
    assert "nothing left to do" in result.output


def test_code_that_changed_is_warned_of(elsewhere, caplog):
    elsewhere.write("my_module.py", OBJECTIVE)
    command = ["distill", "digits", "objective=to_mean", *PIXELS, "--out", "run"]
    command += ["--import", "my_module"]
    assert elsewhere.run(*command).exit_code == 0
    elsewhere.write("my_module.py", OBJECTIVE + "# another line\n")
    assert elsewhere.run(*command, "--resume").exit_code == 0
    assert "has changed since the run in run was started: objective 'to_mean'" in caplog.text


def test_a_generator_of_ones_own_has_to_be_there_for_new_images(elsewhere):
    elsewhere.write("my_module.py", GENERATOR)
    command = ["distill", "digits", "source.generator=mine", *QUICK, "--out", "run"]
    assert elsewhere.run(*command, "--import", "my_module").exit_code == 0
    more = ["sample", "run", "--per-class", "2"]
    result = elsewhere.run(*more, "--out", "more")
    assert result.exit_code == 2
    assert "no generator 'mine'" in result.output
    assert "made with --import my_module: add it" in result.output
    result = elsewhere.run(*more, "--out", "more", "--import", "my_module")
    assert result.exit_code == 0, result.output
    for words in (["levels", "mine"], ["sample", "mine", "--seeds", "0-1", "--out", "s.png"]):
        assert elsewhere.run("generator", *words).exit_code == 2
        assert elsewhere.run("generator", *words, "--import", "my_module").exit_code == 0


def test_a_generator_in_memory_is_asked_for(elsewhere):
    """A run whose generator was given in Python says what to give."""
    import_module(str(elsewhere.write("my_module.py", GENERATOR)))
    generator = hpd.load_generator("mine")
    hpd.distill("digits", *QUICK, "source.generator=other", generator=generator, out="run")
    elsewhere.forget()
    with pytest.raises(GeneratorError, match=r"no generator 'other'.*--import MODULE"):
        hpd.sample("run", 1)
    assert len(hpd.sample("run", 1, generator=generator)) == 10


def test_a_file_is_imported_by_its_path_and_finds_what_is_beside_it(elsewhere):
    elsewhere.write("there/helper.py", STUDENT)
    elsewhere.write("there/my-losses.py", "import helper\n" + OBJECTIVE)
    options = ["objective=to_mean", f"evaluation.students=[flat, {SMALL_STUDENT}]"]
    words = ["distill", "digits", *PIXELS, *options, "--out", "run"]
    done = elsewhere.run(*words, "--import", "there/my-losses.py")
    assert done.exit_code == 0, done.output
    noted = hpd.load_run("run").config.own_code
    assert [(n.what, n.module, n.given) for n in noted] == [
        ("objective 'to_mean'", "my-losses", "there/my-losses.py"),
        ("student 'flat'", "helper", "there/my-losses.py"),
    ]


def test_the_command_to_go_on_with_names_the_modules(elsewhere, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("hpd.api.distill", interrupted)
    elsewhere.write("my_module.py", OBJECTIVE)
    result = elsewhere.run("distill", "digits", "objective=to_mean", "--import", "my_module")
    assert "--resume --import my_module" in result.output


BROKEN = {
    "missing": (None, r"no module 'my_module', in .* neither"),
    "syntax": ("x = (\n", r"cannot import my_module: got SyntaxError: .* \(my_module.py, line 1\)"),
    "fails": ("\n\n1 / 0\n", r"got ZeroDivisionError: division by zero \(my_module.py, line 3\)"),
    "needs another": (
        "\nimport nowhere_at_all\n",
        r"got ModuleNotFoundError: No module named 'nowhere_at_all' \(my_module.py, line 2\)",
    ),
    "ends": ("import sys\nsys.exit(3)\n", r"got SystemExit: 3 \(my_module.py, line 2\)"),
    "registers what is taken": (
        "from hpd.sources.base import *\n@SOURCES.register('gan')\nclass A(SourceSettings): pass\n",
        r"got source 'gan' is registered twice \(my_module.py, line 2\)",
    ),
    "registers what is none": (
        "from hpd.sources.base import *\n@SOURCES.register('mine')\nclass A: pass\n",
        r"source 'mine' cannot be registered: .*SourceSettings \(my_module.py, line 2\)",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_module_that_cannot_be_imported_is_one_line(elsewhere, name):
    text, said = BROKEN[name]
    if text is not None:
        elsewhere.write("my_module.py", text)
    with pytest.raises(ConfigError, match=said):
        import_module("my_module")
    result = elsewhere.run("distill", "digits", "--import", "my_module")
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    assert "Traceback" not in result.output
    if text is not None:
        elsewhere.forget()
        with pytest.raises(ConfigError, match=said.replace("import my_module", "import .*py")):
            import_module("my_module.py")
        assert "my_module" not in sys.modules


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere.py", "no file nowhere.py"),
        ("", "cannot import"),
        (".relative", "cannot import .relative"),
        ("a b", "no module 'a b'"),
        ("json.py", "there is another module 'json'"),
        ("my_modul", r"Did you mean 'my_module'\?"),
        ("folder", "the folder 'folder' is no module: it has no __init__.py"),
        ("folder.inner", "the folder 'folder.inner' is no module"),
    ],
)
def test_what_is_no_module_is_said(elsewhere, name, said):
    elsewhere.write("folder/inner/text.txt", "")
    elsewhere.write("json.py", "")
    elsewhere.write("my_module.py", "")
    with pytest.raises(ConfigError, match=said):
        import_module(name)


def test_a_module_in_a_mere_folder_is_found_and_hidden_by_none(elsewhere):
    """The folder alone is no module, before and after something else is called like it."""
    elsewhere.write("folder/mine.py", "THERE = 1")
    assert import_module("folder.mine").THERE == 1
    elsewhere.forget()
    with pytest.raises(ConfigError, match="no module"):
        import_module("folder")
    elsewhere.write("folder.py", "THERE = 2")
    assert import_module("folder").THERE == 2


def test_a_module_in_the_folder_hides_none_of_a_library(elsewhere):
    elsewhere.write("colorsys.py", "raise ValueError('mine')")
    sys.modules.pop("colorsys", None)
    assert import_module("colorsys").rgb_to_hsv


def install(monkeypatch, **targets):
    """Let packages say that they bring something."""
    points = [EntryPoint(name, value, plugins.GROUP) for name, value in targets.items()]
    original = importlib.metadata.entry_points

    def entry_points(**given):
        return points if given.get("group") == plugins.GROUP else original(**given)

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)


def test_installed_packages_are_asked_for_what_is_unknown(elsewhere, monkeypatch, caplog):
    elsewhere.write("plain.py", OBJECTIVE)
    body = "\n".join(f"    {line}" for line in (SELECTOR + GENERATOR + DATA).splitlines())
    elsewhere.write("by_function.py", f"def register():\n{body}\n")
    elsewhere.write("broken.py", "\nraise ValueError('no')\n")
    install(monkeypatch, a="plain", b="by_function:register", c="broken", d="gone:it")
    monkeypatch.syspath_prepend(str(elsewhere.folder))
    assert OBJECTIVES["gradient"]
    assert "plain" not in sys.modules
    settings = hpd.load_config("digits", ["objective=to_mean", "selection=brightness"])
    assert OBJECTIVES.kind_of(settings.objective) == "to_mean"
    assert len(hpd.load_dataset("my_digits").test) == 500
    assert hpd.load_generator("mine").spec.resolution == 16
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert "the plugin c of broken is left out: ValueError: no (broken.py, line 2)" in said[0]
    assert "the plugin d of gone" in said[1]
    run = hpd.distill(settings.model_copy(update={"source": SOURCES.parse("pixel")}).model_copy(
        update={"source": SOURCES.parse({"kind": "pixel", "steps": 1})}
    ))  # fmt: skip
    assert [(note.what, note.given) for note in run.config.own_code] == [
        ("objective 'to_mean'", "package plain"), ("selector 'brightness'", "package by_function"),
    ]  # fmt: skip


def test_what_is_unknown_says_how_it_would_be_known(elsewhere):
    with pytest.raises(ConfigError, match=r"Known: .*recovery.*--import MODULE\."):
        hpd.load_config("digits", ["objective=to_mean"])
    with pytest.raises(ConfigError, match=r"Did you mean 'gradient'\?$"):
        hpd.load_config("digits", ["objective=gradients"])


def test_a_run_made_in_python_notes_where_its_class_is(elsewhere, tmp_path):
    """Without --import: by the module in which it is defined."""
    elsewhere.write("my_module.py", OBJECTIVE)
    sys.path.append(str(elsewhere.folder))
    __import__("my_module")
    run = hpd.distill("digits", "objective=to_mean", *PIXELS)
    (note,) = run.config.own_code
    assert (note.what, note.module, note.given) == (
        "objective 'to_mean'", "my_module", "my_module"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("mine.py", "made with --import mine.py: add it"),
        ("package more-losses", "It is of the package more-losses: install that"),
        ("", "defined in an interactive session"),
    ],
)
def test_each_origin_has_its_advice(given, said):
    note = OwnCode(what="objective 'lost'", module="m", given=given)
    values = {"data": "digits", "source": "pixel", "objective": "lost"}
    values["own_code"] = [note.model_dump()]
    with pytest.raises(ConfigError, match=f"unknown objective 'lost'. .*{said}"):
        hpd.load_config(values)
    kept = hpd.RunSettings.read_kept(values)
    with pytest.raises(ConfigError, match=f"'lost' is not known here. .*{said}"):
        kept.objective.build(None, None, None)


@pytest.mark.parametrize(
    "notes", [3, [3], [{}], [{"what": 3}], {"what": "objective 'lost'"}, [None], "text"]
)
def test_notes_that_are_none_are_an_error_like_others(notes):
    values = {"data": "digits", "source": "pixel", "objective": "lost", "own_code": notes}
    for read in (hpd.load_config, hpd.RunSettings.read_kept):
        with pytest.raises(HpdError, match=r"unknown objective 'lost'|own_code"):
            read(values)


def test_a_config_of_unknown_kinds_keeps_every_option():
    values = {
        "data": {"kind": "my_data", "root": "there", "classes": ["a"], "deep": {"x": [1, 2]}},
        "source": {"kind": "my_source", "generator": "mine"},
        "objective": {"kind": "my_objective", "student": {"kind": "my_student"}, "a": 1.5},
        "selection": {"kind": "my_selector", "every": 3, "b": None},
    }
    kept = hpd.RunSettings.read_kept(values)
    dumped = kept.model_dump(mode="json")
    assert {key: {k: dumped[key][k] for k in values[key]} for key in values} == values
    assert hpd.RunSettings.read_kept(dumped).model_dump(mode="json") == dumped
    assert kept.data.classes == ["a"]
    assert kept.selection.every == 3
    assert not kept.source.has_prior
    assert SOURCES.kind_of(kept.source) == "my_source"
    for ask in (
        lambda: kept.data.build(), lambda: kept.source.build(), lambda: kept.source.on("x"),
        lambda: kept.selection.split(None), lambda: kept.objective.build_whole(1, 2, 3),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=r"'my_\w+' is not known here. .*--import MODULE"):
            ask()


def test_everything_of_ones_own_in_one_file(elsewhere):
    elsewhere.write("all.py", EVERYTHING)
    import_module("all.py")
    again = import_module("all.py")
    assert again is sys.modules["all"]
    images = hpd.distill(
        "digits", "data=my_digits", "source={kind: my_pixels, steps: 1}", "objective=to_mean",
        "selection={kind: brightness, every: 1}",
    ).distilled.images  # fmt: skip
    assert torch.isfinite(images).all()


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("a.b", lambda: None, "no such name"), ("", lambda: None, "no such name"),
        ("a/b", lambda: None, "no such name"), (3, lambda: None, "no such name"),
        ("digits16", lambda: None, "comes with hpd"), ("mine", 3, "made by a function: got int"),
    ],
)  # fmt: skip
def test_a_generator_is_registered_by_a_name_and_a_function(elsewhere, name, make, said):
    with pytest.raises(ConfigError, match=said):
        GENERATORS.register(name)(make)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: 1 / 0, "fails: got ZeroDivisionError"),
        (lambda: None, "gives no generator: got NoneType"),
        (lambda x: None, "fails: got TypeError"),
    ],
)
def test_a_function_that_makes_no_generator_is_named(elsewhere, make, said):
    GENERATORS.register("mine")(make)
    with pytest.raises(GeneratorError, match=f"generator 'mine' {said}"):
        hpd.load_generator("mine")
    with pytest.raises(ConfigError, match="registered twice"):
        GENERATORS.register("mine")(dict)
