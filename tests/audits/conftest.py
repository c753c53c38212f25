from __future__ import annotations

import foreign_sets
import pytest

import hpd


@pytest.fixture(autouse=True)
def statistics_are_kept_elsewhere(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setattr("hpd.data.whitening.cache_folder", lambda name: folder / name)


@pytest.fixture(scope="session")
def grey():
    return foreign_sets.grey()


@pytest.fixture(scope="session")
def colour():
    return foreign_sets.colour()


@pytest.fixture(scope="session")
def known(grey):
    return foreign_sets.distilled(grey)


@pytest.fixture(scope="session")
def known_colour(colour):
    return foreign_sets.distilled(colour)


@pytest.fixture
def audited():
    def audited(path, dataset, **options):
        return hpd.audit(path, dataset, *foreign_sets.OVERRIDES, **options)

    return audited
