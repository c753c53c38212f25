"""The command that lists and clears the images that are kept ready."""

from __future__ import annotations

import shutil

import pytest
from click.testing import CliRunner
from layouts import LAYOUTS

import hpd.data.store as store
from hpd import api
from hpd.cli import main


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Two folders of pictures whose images are kept."""
    monkeypatch.setattr("hpd.data.row_cache.cache_folder", lambda name: tmp_path / "cache" / name)
    monkeypatch.setattr("hpd.disk.cache.cache_folder", lambda name: tmp_path / "cache" / name)
    monkeypatch.setattr(store, "_SMALL_COUNT", 0)
    for name in ("one", "two"):
        for part in ("train", "test"):
            LAYOUTS["folder"].write(tmp_path / name, part, *LAYOUTS["folder"].part(part))
        api.load_dataset(tmp_path / name)
    return tmp_path


def run(*arguments):
    result = CliRunner().invoke(main, ["data", "cache", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def test_sets_are_listed_with_their_size(places, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    shutil.rmtree(places / "two")
    text = run()
    assert "6 + 3" in text and "3x32x32" in text and "2 sets of images" in text
    assert f"{places / 'two'} (gone)" in text and f"{places / 'one'} (gone)" not in text


def test_one_place_is_cleared_by_its_path(places, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(places)
    assert "freed" in run("two", "--clear")
    text = run()
    assert str(places / "one") in text and str(places / "two") not in text
    assert "0 MB freed" in run("two", "--clear")


def test_all_are_cleared(places):
    run("--clear")
    assert run().startswith("0 sets of images")
    assert not list((places / "cache" / "rows").iterdir())


def test_an_empty_cache_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setattr("hpd.data.row_cache.cache_folder", lambda name: tmp_path / name)
    assert run().startswith("0 sets of images")
    assert "0 MB freed" in run("--clear")
