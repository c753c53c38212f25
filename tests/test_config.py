"""Configurations: complete, checked, and the same after a round trip."""

from __future__ import annotations

import pytest
import yaml

from hpd.config import RunSettings, load_config
from hpd.data import DATASETS
from hpd.disk.yaml_text import parse_yaml
from hpd.engine import SELECTORS
from hpd.errors import ConfigError
from hpd.given import bundled_configs
from hpd.sources import SOURCES
from hpd.sources.pixel import PixelSettings
from hpd.students.networks.resnet import ResNet18Settings

# those of courses have tests of their own
RUNS = [name for name in bundled_configs() if not name.endswith("-continual")]


@pytest.mark.parametrize("name", RUNS)
def test_bundled_configs_survive_a_round_trip(name):
    settings = load_config(name)
    assert settings.description
    again = RunSettings.read(parse_yaml(settings.to_yaml(), "yaml"))
    assert again == settings
    assert again.to_yaml() == settings.to_yaml()


@pytest.mark.parametrize("name", list(bundled_configs()))
def test_bundled_configs_tell_command_cost_and_result(name):
    text = bundled_configs()[name].read_text()
    header = "".join(line for line in text.splitlines(True) if line.startswith("#"))
    for heading in ("Command:", "Cost:", "Result:"):
        assert heading in header, f"{name}.yaml needs a comment with {heading}"


def test_overrides_set_nested_values():
    settings = load_config(
        "digits", ["source.steps=7", "source.lr_ws=1e-3", "objective.student=convnet", "seed=3"]
    )
    assert (settings.source.steps, settings.source.lr_ws, settings.seed) == (7, 1e-3, 3)
    assert load_config("digits", ["seed=3"], seed=4).seed == 4
    assert load_config("digits", ["data.classes=[1, '2']"]).data.classes == [1, "2"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["source.stepps=7"], "unknown key 'stepps' in source 'gan'. Did you mean 'steps'?"),
        (["sourc.steps=7"], "unknown key 'sourc' in the config. Did you mean 'source'?"),
        (["seed=zero"], "seed in the config is not valid: got 'zero'"),
        (["seed"], "expected key=value"),
        ([["seed=1"]], "expected a list of str"),
        (["=3"], "expected key=value"),
        (["seed.x=3"], "'seed' holds no options"),
        (["data.classes=[1"], "the value of data.classes is not valid YAML"),
        (["objective.student.kind=convnett"], "Did you mean 'convnet'?"),
        (["objective.augment=[colour]"], "objective 'distribution'"),
    ],
)
def test_wrong_overrides_are_named(overrides, message):
    with pytest.raises(ConfigError) as caught:
        load_config("digits", ["seed=0", *overrides])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_kind_takes_none_of_the_options_below_it():
    pixel = load_config("digits", ["source.kind=pixel"]).source
    assert pixel == PixelSettings()
    # those that were given beside it, in any order, stay
    for overrides in (
        ["source.steps=7", "source.kind=pixel", "source.images_per_class=2"],
        ["source.kind=pixel", "source.images_per_class=2", "source.steps=7"],
    ):
        given = load_config("digits", overrides).source
        assert given == PixelSettings(steps=7, images_per_class=2)
    student = load_config("digits", ["objective.student.kind=resnet18"]).objective.student
    assert student == ResNet18Settings()
    assert load_config("digits", ["source.kind=gan"]).source == load_config("digits").source


def test_a_search_over_levels_needs_scores():
    with pytest.raises(ConfigError, match="a search over levels needs scores: got selection last"):
        load_config("digits", ["source.search=levels", "selection=last"])
    inside = "source={kind: multi_formation, of: {kind: gan, generator: digits16, search: levels}}"
    with pytest.raises(ConfigError, match="a search over levels needs scores"):
        load_config("digits", [inside, "selection=last"])
    with pytest.raises(ConfigError, match="trial_steps"):
        load_config("digits", ["source.trial_steps=5"])
    assert load_config("digits", ["source.search=levels"]).source.trial_steps == 10


def test_bundled_configs_are_not_all_listed_in_a_message():
    with pytest.raises(ConfigError, match=r"no config 'zzzqqq'.*`hpd configs` lists them"):
        load_config("zzzqqq")


def test_what_is_no_config_is_named():
    with pytest.raises(ConfigError, match="got None, expected str or Path or Mapping"):
        load_config(None)


def test_one_override_in_place_of_a_list_is_named():
    with pytest.raises(ConfigError, match=r"Give a list, \['seed=1'\]\."):
        load_config("digits", "seed=1")


def test_unknown_configs_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"Did you mean 'digits'\?"):
        load_config("digist")
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(tmp_path / "broken.yaml")
    (tmp_path / "list.yaml").write_text("- a")
    with pytest.raises(ConfigError, match="is not a config"):
        load_config(tmp_path / "list.yaml")


def test_yaml_runs_nothing(tmp_path):
    (tmp_path / "attack.yaml").write_text(f"a: !!python/object/apply:os.mkdir [{tmp_path}/ran]")
    with pytest.raises(ConfigError):
        load_config(tmp_path / "attack.yaml")
    assert not (tmp_path / "ran").exists()


def write(folder, name, text):
    path = folder / name
    path.write_text(text)
    return path


def test_a_config_says_only_what_differs_from_its_base(tmp_path):
    write(tmp_path, "middle.yaml", "base: digits\nseed: 5\nevaluation: {seeds: 2}\n")
    path = write(tmp_path, "top.yaml", "base: middle.yaml\nsource: {steps: 7}\n")
    wanted = load_config("digits", ["seed=5", "evaluation.seeds=2", "source.steps=7"])
    assert load_config(path) == wanted
    assert load_config({"base": str(path)}) == wanted
    assert load_config(path, ["source.steps=8"]).source.steps == 8


def test_another_kind_takes_no_options_of_the_base(tmp_path):
    path = write(tmp_path, "top.yaml", "base: digits\nsource: {kind: pixel}\nselection: last\n")
    settings = load_config(path)
    assert settings.source == SOURCES.parse({"kind": "pixel"})
    assert SELECTORS.kind_of(settings.selection) == "last"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: digitz\n", "Did you mean 'digits'?"),
        ("base: [digits]\n", "base is not valid"),
        ("base: top.yaml\n", "is its own base"),
        ("base: digits\nsource: {stepps: 7}\n", "Did you mean 'steps'?"),
    ],
)
def test_a_wrong_base_is_named(tmp_path, text, message):
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, "top.yaml", text))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "length"),
    [
        ([], (300, None, 1000)),
        (["evaluation.training.epochs=7"], (7, None, 0)),
        (["evaluation.training.steps=7"], (None, 7, 0)),
        (["evaluation.training.steps=7", "evaluation.training.epochs=3"], (3, None, 0)),
        (["evaluation.training.epochs=7", "evaluation.training.min_steps=9"], (7, None, 9)),
        (["evaluation.training.min_steps=9", "evaluation.training.epochs=7"], (7, None, 9)),
        (["evaluation.training={min_steps: 9, lr: 0.02}", "evaluation.training.epochs=7"],
         (7, None, 9)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("times", [1, 2])
def test_a_length_replaces_a_length(tmp_path, overrides, length, times):
    """Epochs and steps say one thing: the later one counts, over a base and a resolved config."""
    config = "data: digits\nsource: pixel\nevaluation: {training: {lr: 0.02}}\n"
    (tmp_path / "mine.yaml").write_text(config)
    values = tmp_path / "mine.yaml"
    for _ in range(times):
        settings = load_config(values, overrides)
        values = settings.model_dump(mode="json")
    own = settings.evaluation.training
    assert (own.epochs, own.steps, own.min_steps) == length
    assert own.lr == 0.02
    (tmp_path / "over.yaml").write_text("base: mine.yaml\nevaluation: {training: {steps: 4}}\n")
    assert load_config(tmp_path / "over.yaml").evaluation.training.steps == 4


def test_the_least_steps_need_epochs():
    """Nothing that is given is left out in silence."""
    for options in (["min_steps=9", "steps=7"], ["steps=7", "min_steps=9"]):
        with pytest.raises(ConfigError, match="Give `epochs`, with `min_steps`"):
            load_config("digits", [f"evaluation.training.{option}" for option in options])


@pytest.mark.parametrize(
    ("config", "option", "meant"),
    [
        ("digits", "steps=3", "'source.steps' or 'evaluation.training.steps'"),
        ("digits", "images_per_class=3", "'source.images_per_class'?"),
        ("digits", "seeds=3", "'evaluation.seeds'?"),
        ("digits", "evaluation.min_steps=3", "'training.min_steps' or 'full_training.min_steps'?"),
        # of the kind that is given, or that is inside
        ("digits", "objective.depth=3", "'student.depth'?"),
        ("photos32", "steps=3", "'source.of.steps' or"),
        ("digits", "objective.student={kind: vit}", None),
    ],
)
def test_an_option_of_another_place_is_told_where_it_belongs(config, option, meant):
    if meant is None:
        with pytest.raises(ConfigError, match=r"Did you mean 'student\.mlp_width'\?"):
            load_config(config, [option, "objective.mlp_width=3"])
        return
    with pytest.raises(ConfigError) as caught:
        load_config(config, [option])
    assert f"Did you mean {meant}" in str(caught.value)


def test_lengths_of_what_is_no_training_stand_side_by_side():
    """The network of gradient matching has steps and epochs, both of which count."""
    network = {"kind": "gradient", "network": {"steps": 3, "epochs": 2}}
    settings = load_config({"data": "digits", "source": "pixel", "objective": network})
    again = load_config(settings.model_dump(mode="json"), ["objective.network.steps=5"])
    assert (again.objective.network.steps, again.objective.network.epochs) == (5, 2)


@pytest.mark.parametrize("source", ["pixel", "low_rank", "hmn", {"kind": "multi_formation"}])
def test_samples_of_a_generator_need_one(source):
    values = {"data": "digits", "source": source, "evaluation": {"baselines": ["prior_samples"]}}
    with pytest.raises(ConfigError, match=r"prior_samples.*generator"):
        load_config(values)


@pytest.mark.parametrize("source", [
    {"kind": "gan", "generator": "digits16"},
    {"kind": "hmn", "decoder": {"kind": "stylegan", "generator": "digits16"}},
    {"kind": "multi_formation", "of": {"kind": "gan", "generator": "digits16"}},
])  # fmt: skip
def test_every_source_with_a_generator_tells_its_prior(source):
    settings = load_config(
        {"data": "digits", "source": source, "evaluation": {"baselines": ["prior_same_count"]}}
    )
    prior = settings.source.prior(settings.data.build().train)
    assert (prior.sample_floats, list(prior.classes)) == (64, list(range(10)))
    assert prior.generator_floats == 370008


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", "010"), ("0", 0), ("-3", -3), ("+12", 12), ("0x1f", 31), ("0o17", 15),
        ("1:30", "1:30"), ("1_000", "1_000"), ("yes", "yes"), ("off", "off"), ("n", "n"),
        ("true", True), ("False", False), ("null", None), ("~", None), ("", None), ("1e-3", 1e-3),
        ("1.5", 1.5), (".5", 0.5), ("2.", 2.0), ("6.02E+23", 6.02e23), ("2026-11-28", "2026-11-28"),
        ("0b11", "0b11"), ("1.2.3", "1.2.3"), ("'10'", "10"), ("e5", "e5"),
        ("[010, 011]", ["010", "011"]), ("{on: no}", {"on": "no"}),
    ],
)  # fmt: skip
def test_scalars_are_those_of_yaml_1_2(text, value):
    found = parse_yaml(text, "a test")
    assert found == value and isinstance(found, type(value))


@pytest.mark.parametrize(
    "name",
    ["010", "0o17", "1:30", "yes", "on", "1e-3", "null", "~", "12", ".5", "true", "2026-11-28"],
)
def test_text_that_looks_like_something_else_survives_a_round_trip(name):
    options = {"kind": "digits", "classes": [name, "b"]}
    settings = load_config("digits-pixel-dm").model_copy(update={"data": DATASETS.parse(options)})
    text = settings.to_yaml()
    assert load_config(parse_yaml(text, "yaml")).data.classes == [name, "b"]
    # readers of YAML 1.1 see the same
    assert yaml.safe_load(text)["data"]["classes"] == [name, "b"]
