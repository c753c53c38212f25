"""What is written in a config is what is read, or it is refused with its line."""

from __future__ import annotations

from itertools import pairwise

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hpd.config import load_config
from hpd.courses.settings import load_continual
from hpd.disk.yaml_text import as_yaml, parse_value, parse_yaml, read_yaml
from hpd.errors import LONGEST, ConfigError
from hpd.given import parse_options

# nine to the ninth values by aliases
NINES = "a: &a [x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n" for old, new in pairwise("abcdefghij")
)
PLAIN = "base: digits\ndescription: Größe\nseed: 3\n"


def refused(call, *words):
    with pytest.raises(ConfigError) as caught:
        call()
    message = str(caught.value)
    assert len(message) <= LONGEST
    assert message.isprintable()
    for word in words:
        assert word in message, message
    return caught.value


def written(tmp_path, content):
    path = tmp_path / "own.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_utf_8_is_read_with_and_without_a_mark_and_with_any_line_end(tmp_path, encoding, end):
    path = written(tmp_path, PLAIN.replace("\n", end).encode(encoding))
    settings = load_config(path)
    assert (settings.description, settings.seed) == ("Größe", 3)


@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        ("utf-16", "UTF-16"), ("utf-16-le", "UTF-16"), ("utf-16-be", "UTF-16"),
        ("utf-32", "UTF-32"), ("latin-1", "Latin-1"), ("cp1252", "code page"),
    ],
)  # fmt: skip
def test_another_encoding_is_named(tmp_path, encoding, name):
    path = written(tmp_path, PLAIN.encode(encoding))
    refused(lambda: load_config(path), "own.yaml", "UTF-8", name)


def test_the_line_of_a_wrong_byte_is_named(tmp_path):
    path = written(tmp_path, PLAIN.encode("latin-1"))
    refused(lambda: load_config(path), "line 2", "0xf6")


@pytest.mark.parametrize(
    ("text", "key", "lines"),
    [
        ("seed: 1\nseed: 2\n", "seed", "lines 1 and 2"),
        ("source:\n  steps: 7\nseed: 1\nsource:\n  lr_ws: 1.0\n", "source", "lines 1 and 4"),
        ("source:\n  steps: 7\n  steps: 7\n", "steps", "lines 2 and 3"),
        ('"seed": 1\nseed: 2\n', "seed", "lines 1 and 2"),
        ("a: [{b: 1, b: 2}]\n", "b", "lines 1 and 1"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n  <<: *x\n", "<<", "lines 3 and 4"),
    ],
)
def test_a_key_that_stands_twice_is_refused_with_both_lines(text, key, lines):
    refused(lambda: parse_yaml(text, "own.yaml"), repr(key), lines, "own.yaml")


def test_a_merged_key_may_be_replaced():
    text = "a: &x {b: 1, c: 2}\nd:\n  <<: *x\n  b: 3\n"
    assert parse_yaml(text, "own.yaml")["d"] == {"b": 3, "c": 2}


@pytest.mark.parametrize("text", ["root: /data/run #3\n", "a:\n- x\n- y #z\n", "a: b  #c\n"])
def test_a_text_that_a_number_sign_cuts_off_is_refused(text):
    refused(lambda: parse_yaml(text, "own.yaml"), "number sign", "quotes")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: b # a comment\n", "b"), ("a: b#c\n", "b#c"), ('a: "b #c"\n', "b #c"),
        ("a: 3 #three\n", 3), ("a: b #\n", "b"), ("#a\na: b\n#c\n", "b"), ("a: '#b'\n", "#b"),
    ],
)  # fmt: skip
def test_comments_are_comments(text, value):
    assert parse_yaml(text, "own.yaml")["a"] == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("run #3", "run #3"), ("a # b", "a # b"), ("'a' ", "a"), ("3", 3), ("", None),
        ("[1, 2]", [1, 2]), ("~", None), ("a#b", "a#b"), ("two words", "two words"),
    ],
)  # fmt: skip
def test_the_value_of_an_override_is_kept_whole(text, value):
    assert parse_value(text, "x") == value


@pytest.mark.parametrize("text", ["3 #three", "[1] # b", "'a' # b", "# 3", "#rrggbb"])
def test_an_override_that_would_lose_its_end_is_refused(text):
    refused(lambda: parse_value(text, "the value of x"), "the value of x")


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf", "1e999", "-1e999"])
@pytest.mark.parametrize("option", ["source.lr_ws", "optimizer.momentum", "source.lr_pixels"])
def test_numbers_are_finite(option, value):
    refused(lambda: load_config("digits", [f"{option}={value}"]), option.split(".")[1], "finite")


@pytest.mark.parametrize("value", ["9223372036854775808", "-" + "9" * 400, "9" * 5000])
def test_whole_numbers_are_those_that_tensors_hold(value):
    refused(lambda: load_config("digits", [f"source.steps={value}"]), "source")


def test_text_has_no_zeros():
    refused(lambda: load_config("digits", ['source.generator="a\\0b"']), "generator")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("  stepps: 7", ["line 4, column 3", "stepps", "Did you mean 'steps'?"]),
        ("  steps: fast", ["line 4, column 3", "steps", "'fast'"]),
        ("  init: Average", ["line 4, column 3", "init"]),
        ("  levels: [0, x]", ["line 4, column 15", "levels"]),
        ("  kind: gann", ["line 3, column 1", "gann", "gan"]),
    ],
)
def test_a_wrong_option_is_named_with_line_and_column(tmp_path, line, words):
    path = written(tmp_path, f"base: digits\nseed: 1\nsource:\n{line}\n")
    refused(lambda: load_config(path), "own.yaml", *words)


def test_a_wrong_option_deep_inside_is_named_with_its_line(tmp_path):
    text = "base: digits\nevaluation:\n  training:\n    lr: 0.1\n    drops: [0.5, 2]\n"
    refused(lambda: load_config(written(tmp_path, text)), "line 3", "drops")
    text = "base: digits\nevaluation:\n  students:\n  - convnet\n  - {kind: vit, widht: 3}\n"
    refused(lambda: load_config(written(tmp_path, text)), "line 5, column 17", "widht")


def test_a_wrong_option_of_a_base_is_named_with_the_file_of_the_base(tmp_path):
    (tmp_path / "below.yaml").write_text("base: digits\nsource: {steps: x}\n")
    path = written(tmp_path, "base: below.yaml\nseed: 1\n")
    refused(lambda: load_config(path), "below.yaml, line 2, column 10")


def test_a_course_names_lines_too(tmp_path):
    path = written(tmp_path, "data: digits\nbuffers:\n  a: {kind: randon}\n")
    refused(lambda: load_continual(path), "line 3", "randon")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 20_000,
        "{a: " * 300 + "}" * 300,
        "a: &a [*a]\n",
        "a: &a {b: *a}\n",
        "a: " + "-" * 100_000,
        "- " * 5000,
        NINES,
        "\x00", "a: \x07", "%YAML 3.0\n---\na: b", "a: !!python/object/apply:os.system [ls]",
        "a: !!python/name:os.system", "a: !own b", "? [a]\n: b", "? {a: b}\n: c", "a: *b",
        "--- a\n--- b\n", "a: b: c", "\ta: b", "a: [1, 2", "a: 'b", "{a: 1, b}: 3", "!!set {a, b}",
        "a: !!timestamp 2026-13-45", "a: !!int x", "a: !!float y", "a: !!binary '@'", "!!int",
        "a: !!omap 3", "a: !!pairs 3", "a: !!bool maybe",
    ],
    ids=lambda text: repr(text[:20]),
)  # fmt: skip
def test_what_is_no_config_is_refused_in_one_line(tmp_path, text):
    path = written(tmp_path, "base: digits\n" + text + "\n")
    refused(lambda: load_config(path), "own.yaml")


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "own.yaml"
    with path.open("wb") as file:
        file.truncate(2**40)
    refused(lambda: load_config(path), "too large")


def test_what_is_no_file_is_no_config(tmp_path):
    for given_ in (
        tmp_path,
        tmp_path / "none",
        "a\0b",
        "x" * 5000,
        "",
        ".",
        "/dev/null",
        "~nobody/x",
    ):
        refused(lambda given_=given_: load_config(given_), "config")


def test_a_mapping_of_options_is_no_file_of_its_own():
    refused(
        lambda: load_config({"base": "digits", "source": {"stepps": 1}}), "unknown key 'stepps'"
    )
    nested = {}
    nested["a"] = nested
    refused(lambda: load_config(nested), "too deep")


@pytest.mark.parametrize(
    "overrides", ["seed=1", 3, None, [3], [None], ["seed"], ["=1"], [b"seed=1"]]
)
def test_overrides_are_texts_in_a_list(overrides):
    refused(lambda: load_config("digits", overrides))


def test_options_that_are_no_text_are_kept():
    assert parse_options(["a.b=1", "a.c=x #1"]) == {"a": {"b": 1, "c": "x #1"}}


SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20)
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)  # fmt: skip


@given(st.dictionaries(st.text(max_size=8), VALUES, max_size=4))
@settings(max_examples=400, deadline=None)
def test_what_is_written_is_read_back_and_by_other_readers(values):
    text = as_yaml(values)
    assert parse_yaml(text, "own.yaml") == values
    assert yaml.safe_load(text) == values


@given(st.binary(max_size=80))
@settings(max_examples=400, deadline=None)
def test_any_bytes_are_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    try:
        read_yaml(path)
    except ConfigError as error:
        assert len(str(error)) <= LONGEST


TOKENS = st.sampled_from(
    ["a", "b", ":", " ", "\n", "  ", "-", "[", "]", "{", "}", ",", "&x", "*x", "!", "#", "'", '"',
     "|", ">", "%", "?", "<<", "1", "0", ".", "e", "~", "\t", "@", "`", "---", "...", "\\", "é"]
)  # fmt: skip


@given(st.lists(TOKENS, max_size=30).map("".join))
@settings(max_examples=800, deadline=None)
def test_any_tokens_are_read_or_refused(text):
    for read in (parse_yaml, parse_value):
        try:
            read(text, "own.yaml")
        except ConfigError as error:
            assert len(str(error)) <= LONGEST


@pytest.mark.parametrize("key", ["1", "null", "true", "1.5", "~"])
def test_a_key_that_is_no_text_is_refused(key):
    refused(lambda: parse_yaml(f"{key}: a\n", "own.yaml"), "no text", key, "line 1")
    assert parse_yaml(f"'{key}': a\n", "own.yaml") == {key: "a"}
