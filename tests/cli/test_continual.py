"""`hpd continual`: what it prints, writes and refuses; its bundled configs."""

from __future__ import annotations

import json

import pytest
import yaml
from click.testing import CliRunner
from conftest import SMALL_STUDENT
from PIL import Image
from small_runs import check_refused

from hpd.cli import main
from hpd.courses.settings import ContinualSettings, load_continual
from hpd.disk.yaml_text import parse_yaml
from hpd.given import bundled_configs

CONFIG = {
    "data": {"kind": "digits", "classes": ["0", "1", "3", "7"]},
    "device": "cpu",
    "orders": 1,
    "buffers": {"random": {"kind": "random"}},
    "rehearsal": {"students": [SMALL_STUDENT], "seeds": 1, "training": {"epochs": 1}},
}
BUNDLED = [name for name in bundled_configs() if name.endswith("-continual")]


def invoke(*arguments):
    return CliRunner().invoke(main, ["continual", *map(str, arguments)])


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    return path


def test_it_prints_an_estimate_and_a_table_and_goes_on(config, tmp_path):
    out = tmp_path / "out"
    result = invoke(config, "--out", out, "--seed", 2)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("about ")
    assert "1 buffers and steps" in result.stdout
    assert "random" in result.stdout
    content = json.loads((out / "continual.json").read_text())
    assert [cell["step"] for cell in content["cells"]] == [0, 1]
    assert (out / "continual.md").read_text().startswith("| buffer | images | floats |")
    with Image.open(out / "continual.png") as picture:
        picture.load()
    assert parse_yaml((out / "config.yaml").read_text(), "")["seed"] == 2
    result = invoke(config, "--out", out, "--seed", 2, "--resume")
    assert result.exit_code == 0, result.output
    assert "about" not in result.stdout


def test_it_says_how_to_go_on(config, tmp_path, monkeypatch):
    from hpd.courses.folder import CourseFolder

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(CourseFolder, "keep_cell", interrupt)
    out = tmp_path / "out"
    result = invoke(config, "orders=2", "--out", out, "--seed", 2)
    assert result.exit_code == 130
    assert f"hpd continual {config} orders=2 --seed 2 --out {out} --resume" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits-continuel"], "Did you mean 'digits-continual'?"),
        (["digits"], "the config is one of `hpd distill`"),
        (["mine.yaml", "classes_per_step=3"], "4 classes do not make whole steps"),
        (["mine.yaml", "budget_images=1000"], "too few images"),
        (["mine.yaml", "oders=3"], "Did you mean 'orders'?"),
        (["mine.yaml", "data.classes=[cat, dog]"], "unknown class 'cat'"),
        (["mine.yaml", "device=quantum"], "no device 'quantum'"),
        (["mine.yaml", "--out", "taken"], "already holds other files"),
        (["mine.yaml", "buffers.random.seed=3"], "unknown key 'seed' in buffer 'random'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    result = invoke(*([*arguments, "--out", "new"] if "--out" not in arguments else arguments))
    check_refused(result, message)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("buffers.large={kind: distilled, source: {kind: pixel, images_per_class: 5}}",
         "the buffer 'large' does not fit the budget"),
        ("budget_images=500", "has too few images"),
        ("rehearsal.students=[{kind: convnet, depth: 9}]", "depth of at most"),
    ],
)  # fmt: skip
def test_a_dry_run_weighs_each_buffer(override, message, config):
    assert invoke(config, "--dry-run").exit_code == 0
    refused = invoke(config, override, "--dry-run")
    assert refused.exit_code == 2
    assert message in refused.stderr


def test_a_config_of_courses_is_none_of_runs():
    result = CliRunner().invoke(main, ["distill", BUNDLED[0], "--dry-run"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Run it by `hpd continual`." in result.stderr


def test_help_shows_an_example():
    assert "hpd continual digits-continual --out" in invoke("--help").output


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_configs_survive_a_round_trip(name):
    settings = load_continual(name)
    assert settings.description
    again = ContinualSettings.read(parse_yaml(settings.to_yaml(), "yaml"))
    assert again == settings
    assert invoke(name, "--dry-run").stdout == settings.to_yaml()
