"""Sizes of the experiment on multi-index tasks."""

from __future__ import annotations

from pydantic import Field, model_validator
from typing_extensions import Self

from hpd.errors import ConfigError
from hpd.registry import Settings


class MultiIndexSettings(Settings):
    """Sizes of the experiment; its checks are made for the defaults."""

    dimension: int = Field(50, ge=2, description="d, of the inputs")
    width: int = Field(512, ge=2, multiple_of=2, description="L, units of the network")
    rank: int = Field(2, ge=1, description="r, in the parts on alignment and on stored floats")
    ranks: list[int] = Field([1, 2, 3, 4], min_length=1, description="r, in the part on points")
    points: int = Field(9, ge=1, description="m, where it is one number")
    point_counts: list[int] = Field([1, 2, 4, 6, 9, 12, 16, 25], min_length=1, description="m")
    examples: int = Field(20_000, ge=2, description="n, real ones that are distilled")
    example_counts: list[int] = Field(
        [1_000, 3_000, 10_000, 20_000, 50_000, 100_000], min_length=1,
        description="n, in the part on alignment",
    )  # fmt: skip
    real_counts: list[int] = Field(
        [9, 32, 128, 512], min_length=1, description="real examples that are stored instead"
    )
    fit_examples: int = Field(
        8_000, ge=1, description="the first so many real ones fit the second layer"
    )
    test_examples: int = Field(4_000, ge=2, description="that what was learnt is tested on")
    ridge: float = Field(1e-5, gt=0, description="of the second layer")
    seeds: int = Field(3, ge=1, description="tasks, each with starts and examples of its own")

    @classmethod
    def section(cls) -> str:
        """Return how messages name these options."""
        return "multi-index"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        lists = {"ranks": self.ranks, "point_counts": self.point_counts}
        lists |= {"example_counts": self.example_counts, "real_counts": self.real_counts}
        for name, values in {**lists, "rank": [self.rank]}.items():
            most = self.dimension if name.startswith("rank") else None
            if min(values) < 1 or (most is not None and max(values) > most):
                expected = "1 or more" if most is None else f"1 to {most}, the dimension"
                raise ConfigError(f"{name} in multi-index is not valid", got=values,
                                  expected=expected)  # fmt: skip
        return self
