"""StyleGAN3, configurations T and R, cut into levels.

Source: Karras et al., Alias-Free Generative Adversarial Networks, NeurIPS 2021.
"""

from __future__ import annotations

from torch import Tensor

from generators.base import FAMILIES
from generators.families.alias_free import AliasFreeGenerator
from generators.families.alias_free_plan import AliasFreeSettings
from generators.families.stylegan2 import MappingNetwork, StyleGAN2Settings


@FAMILIES.register("stylegan3")
class StyleGAN3Settings(AliasFreeSettings):
    """Constructor arguments of a StyleGAN3 generator; the defaults are those of T at 256 px."""

    def build(self, classes: tuple[str, ...] = ()) -> StyleGAN3:
        """Return the network with uninitialised weights."""
        return StyleGAN3(self, classes)


class StyleGAN3(AliasFreeGenerator):
    """A StyleGAN3 generator: StyleGAN2's mapping network and alias-free synthesis.

    Args:
        settings: constructor arguments.
        classes: names of the classes, if known.
    """

    family = "stylegan3"

    def __init__(self, settings: StyleGAN3Settings, classes: tuple[str, ...] = ()) -> None:
        super().__init__(settings, classes)
        self.settings = s = settings
        mapping = StyleGAN2Settings(
            z_dim=s.z_dim, w_dim=s.w_dim, num_classes=s.num_classes,
            mapping_layers=s.mapping_layers, mapping_lr_multiplier=s.mapping_lr_multiplier,
        )  # fmt: skip
        self.mapping = MappingNetwork(mapping, self.spec.num_ws)

    def _map(self, z: Tensor, labels: Tensor | None, truncation_psi: float) -> Tensor:
        return self.mapping(z, labels, truncation_psi)
