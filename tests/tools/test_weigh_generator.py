"""Weighing a step: it repeats to the byte, and chunks bound it."""

from __future__ import annotations

import pytest
import weigh_generator as tool


@pytest.fixture(scope="module")
def stored():
    return tool.random_generator(8, channel_base=512, channel_max=64)


def test_it_repeats_and_chunks_bound_what_the_generator_keeps(stored):
    whole, again, parts = (tool.weigh(stored, 4, 1, chunk, 4) for chunk in (40, 40, 4))
    assert whole == again
    assert parts < 0.6 * whole


def test_more_images_weigh_more_and_later_levels_keep_their_features(stored):
    assert tool.weigh(stored, 1, 1, 5, 4) < tool.weigh(stored, 4, 1, 5, 4)
    # features of 64 maps of 8 by 8, against those of 4 by 4
    assert tool.weigh(stored, 4, 1, 5, 4) < tool.weigh(stored, 4, 3, 5, 4)
