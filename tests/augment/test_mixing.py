"""CutMix and mixup, by their definitions."""

from __future__ import annotations

import pytest
import torch

from hpd.augment import cutmix, mixup


def test_every_pixel_is_the_own_or_the_others_and_the_share_counts_them(rng):
    images = torch.arange(6.0)[:, None, None, None].expand(6, 2, 8, 12)
    labels = torch.arange(6)
    for _ in range(50):
        mixed = cutmix(images, labels, rng)
        own = mixed.images == images
        other = mixed.images == mixed.other_labels[:, None, None, None]
        assert bool((own | other).all())
        assert sorted(mixed.other_labels.tolist()) == labels.tolist()
        for i, partner in enumerate(mixed.other_labels.tolist()):
            if partner != i:
                assert float(own[i].double().mean()) == pytest.approx(mixed.share)


def test_shares_are_spread_and_draws_are_repeatable():
    images, labels = (
        torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(1)),
        torch.arange(4),
    )

    def shares(seed):
        rng = torch.Generator().manual_seed(seed)
        return [cutmix(images, labels, rng).share for _ in range(400)]

    first = torch.tensor(shares(0))
    assert shares(0) == first.tolist()
    # the mean of the uniform share is a half, and cutting at the borders leaves more
    assert 0.5 < float(first.mean()) < 0.8
    assert float(first.min()) < 0.3
    assert float(first.max()) > 0.95


def test_mixup_blends_pairs_by_one_share(rng):
    images = torch.arange(6.0)[:, None, None, None].expand(6, 1, 2, 2)
    labels = torch.arange(6)
    for _ in range(20):
        mixed = mixup(images, labels, rng, 0.8)
        want = mixed.share * labels + (1 - mixed.share) * mixed.other_labels
        torch.testing.assert_close(mixed.images[:, 0, 0, 0], want)
        assert sorted(mixed.other_labels.tolist()) == labels.tolist()


@pytest.mark.parametrize("alpha", [0.2, 0.8, 4.0])
def test_shares_of_mixup_follow_the_beta_distribution(alpha):
    images, labels = torch.zeros(2, 1, 1, 1), torch.arange(2)

    def shares(seed):
        rng = torch.Generator().manual_seed(seed)
        return [mixup(images, labels, rng, alpha).share for _ in range(2000)]

    first = torch.tensor(shares(0), dtype=torch.float64)
    assert shares(0) == first.tolist()
    assert shares(1) != first.tolist()
    # of Beta(a, a): mean 1/2, variance 1 / (4 (2 a + 1))
    assert float(first.mean()) == pytest.approx(0.5, abs=0.04)
    assert float(first.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)
