"""What a checkpoint becomes, and how what it lacks is filled in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from generators.base import FamilySettings
from generators.checkpoints.families.stylegan2 import check_weights, expected_weights
from generators.checkpoints.finite import is_finite
from generators.checkpoints.pickles.nodes import shown
from generators.checkpoints.scope import Scope
from generators.families.stylegan2 import StyleGAN2Settings
from hpd.errors import GeneratorError

AVERAGES = ("latent_avg", "w_avg", "dlatent_avg", "mean_latent", "latent_mean")
"""What an average w is called where it stands beside a generator."""

_W_AVG, _NOISE = "mapping.w_avg", "noise_const"
_AVERAGE_DRAWS, _AVERAGE_SEED, _NOISE_SEED = 10_000, 0, 0
# what is drawn is bounded by nothing in the file
_MAX_DRAWN_RESOLUTION, _MAX_DRAWN_WIDTH = 2**12, 2**12


@dataclass(frozen=True)
class Converted:
    """A generator as this project's network takes it.

    Args:
        settings: what builds the network.
        weights: the state dict that it loads strictly.
        facts: what was decided in reading it, as JSON, so that it can be repeated.
        remarks: what a user should know of that, as sentences without a full stop.
    """

    settings: FamilySettings
    weights: dict[str, Tensor]
    facts: dict[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def beside(self, names: Sequence[str]) -> Converted:
        """Return this with a remark on what stands beside the generator and was not read."""
        if not names:
            return self
        some = ", ".join(shown(name[:40]) for name in names[:4]) + (", ..." if names[4:] else "")
        return self.adding(f"{some} beside it was left aside", left_aside=some)

    def adding(self, *remarks: str, **facts: str) -> Converted:
        """Return this with more facts and remarks."""
        return replace(self, facts=self.facts | facts, remarks=(*self.remarks, *remarks))


Converter = Callable[[Scope], Converted]
"""From the tensors of a family, in its names, to a generator."""


def complete(
    settings: StyleGAN2Settings, weights: Mapping[str, Tensor], average: Tensor | None
) -> Converted:
    """Fill in what a file of a StyleGAN2 may lack: constant noise and the average w.

    Constant noise is drawn from N(0, 1) in the order of the layers, with seed 0; it decides where
    details such as hairs lie, not what is in an image. The average w, which truncation needs, is
    the mean of 10,000 draws, with seed 0.

    Args:
        settings: of the network.
        weights: in official names; the noise of all layers may be missing.
        average: w, [D], or vectors w, [..., D], whose mean is taken; None if the file has none.

    Raises:
        GeneratorError: naming the first tensor that does not fit, or if what would be drawn is
            out of all proportion.
    """
    found, facts, remarks = dict(weights), {}, []
    if average is not None:
        found[_W_AVG], facts["average"] = _mean(average, settings.w_dim)
        if facts["average"] != _OWN_AVERAGE:
            remarks.append(f"its average w is {facts['average']}")
    if not any(name.endswith(_NOISE) for name in found):
        found |= _draw_noise(settings)
        facts["noise"] = f"not in the file: drawn from N(0, 1), seed {_NOISE_SEED}"
        remarks.append(f"it has no noise maps: they are drawn with seed {_NOISE_SEED}")
    check_weights(settings, {_W_AVG: torch.zeros(settings.w_dim), **found})
    if _W_AVG not in found:
        found[_W_AVG] = _draw_average(settings, found)
        facts["average"] = f"the mean of {_AVERAGE_DRAWS} draws, seed {_AVERAGE_SEED}"
    return Converted(settings, found, facts, tuple(remarks))


_OWN_AVERAGE = "that of the file"


def _mean(average: Tensor, width: int) -> tuple[Tensor, str]:
    """Return w, [D], of an average of W or W+, and what it is."""
    if average.ndim == 0 or average.shape[-1] != width or not average.numel():
        raise GeneratorError(
            "the average w of the file does not fit its generator", got=tuple(average.shape),
            expected=f"{width} values, or rows of them",
            fix="Save the file without it: hpd then computes one.",
        )  # fmt: skip
    rows = average.reshape(-1, width)
    if bool((rows == rows[0]).all()):
        return rows[0].clone(), _OWN_AVERAGE
    return rows.mean(dim=0), f"the mean of the {len(rows)} rows of the average in W+ of the file"


def _draw_noise(settings: StyleGAN2Settings) -> dict[str, Tensor]:
    if settings.resolution > _MAX_DRAWN_RESOLUTION:
        raise GeneratorError(
            "the file has no noise maps, and its images are too large to draw some",
            got=f"{settings.resolution} px", expected=f"at most {_MAX_DRAWN_RESOLUTION}",
        )  # fmt: skip
    rng = torch.Generator().manual_seed(_NOISE_SEED)
    return {
        name: torch.randn(value.shape, generator=rng)
        for name, value in expected_weights(settings).items()
        if name.endswith(_NOISE)
    }


@torch.no_grad()
def _draw_average(settings: StyleGAN2Settings, weights: Mapping[str, Tensor]) -> Tensor:
    """Return the mean w of many draws."""
    if max(settings.z_dim, settings.w_dim) > _MAX_DRAWN_WIDTH:
        raise GeneratorError(
            "the file has no average w, and its latents are too wide to compute one",
            got=f"{settings.z_dim} and {settings.w_dim}", expected=f"at most {_MAX_DRAWN_WIDTH}",
        )  # fmt: skip
    network = settings.build()
    network.load_state_dict({**weights, _W_AVG: torch.zeros(settings.w_dim)})
    rng = torch.Generator().manual_seed(_AVERAGE_SEED)
    if not settings.num_classes:
        return _checked(network.class_average(None, _AVERAGE_DRAWS, rng)[0])
    z = torch.randn(_AVERAGE_DRAWS, settings.z_dim, generator=rng)
    labels = torch.randint(settings.num_classes, (_AVERAGE_DRAWS,), generator=rng)
    return _checked(network.map(z, labels).mean(dim=(0, 1)))


def _checked(average: Tensor) -> Tensor:
    if not is_finite(average):
        raise GeneratorError(
            "the average w, which is not in the file, is not finite when it is computed",
            fix="The weights of the mapping network are too large.",
        )
    return average
