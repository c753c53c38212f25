"""The registries of objectives and of what can be added to any of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from hpd.data import ImageSet
from hpd.machine.host import on_host, send
from hpd.objectives.checked import checked_build, matches_targets
from hpd.registry import Registry, Settings
from hpd.rng import Streams
from hpd.typing import (
    Matched,
    MatchesByBlock,
    MatchesByClass,
    MatchesTargets,
    Objective,
    State,
    Step,
)


class BuildsChecked(Settings):
    """Settings whose `build`, of whichever class, gives objectives that are checked at every call.

    See `hpd.objectives.checked`.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "build" in vars(cls):
            cls.build = checked_build(vars(cls)["build"])  # type: ignore[attr-defined]


class AddOnSettings(BuildsChecked):
    """Options of an add-on: an objective that is added to another one, the host."""

    weight: float = Field(1.0, ge=0, description="of the add-on's loss beside the host's")

    def build(
        self, host: ObjectiveSettings, train: ImageSet, device: torch.device, streams: Streams
    ) -> Objective:
        """Return the add-on; see `ObjectiveSettings.build`.

        Args:
            host: the settings of the objective that it is added to.
            train: the real training images.
            device: where to match.
            streams: randomness, of its own.
        """
        raise NotImplementedError


ADD_ONS: Registry[AddOnSettings] = Registry("add-on", AddOnSettings)


class ObjectiveSettings(BuildsChecked):
    """Options of an objective."""

    add_ons: list[Annotated[AddOnSettings, ADD_ONS]] = Field(
        [], description="what is added to the loss, such as `mutual_information`"
    )

    @property
    def takes_all_classes(self) -> bool:
        """Whether a step needs the images of all classes."""
        return False

    def takes_all(self, asked: int | None) -> bool:
        """Return whether a step takes all classes, however many there are.

        Args:
            asked: how many classes a step should take; None: nobody said.
        """
        return self.takes_all_classes

    def build(self, train: ImageSet, device: torch.device, streams: Streams) -> Objective:
        """Return the objective, without what is added to it.

        Args:
            train: the real training images.
            device: where to match.
            streams: randomness of students, batches and augmentation.
        """
        raise NotImplementedError

    def build_whole(self, train: ImageSet, device: torch.device, streams: Streams) -> Objective:
        """Return the objective with its add-ons; see `build`."""
        host = self.build(train, device, streams)
        added = [
            Added(
                ADD_ONS.kind_of(settings),
                settings.weight,
                settings.build(self, train, device, streams.fork("add-on", number)),
            )
            for number, settings in enumerate(self.add_ons)
        ]
        if not added:
            return host
        kind = _AddedByClass if isinstance(host, MatchesByClass) else WithAddOns
        kind = _AddedByBlock if isinstance(host, MatchesByBlock) else kind
        return kind(host, added)


OBJECTIVES: Registry[ObjectiveSettings] = Registry("objective", ObjectiveSettings)


class Stateless:
    """An objective whose every step is derived from the step alone."""

    @property
    def provenance(self) -> Mapping[str, object]:
        """Nothing but the data."""
        return {}

    def state(self) -> State:
        """Return nothing."""
        return {}

    def load_state(self, state: State) -> None:
        """Restore nothing."""


@dataclass(frozen=True)
class Added:
    """An add-on at work.

    Args:
        name: for its metrics.
        weight: of its loss.
        objective: the add-on.
    """

    name: str
    weight: float
    objective: Objective


class WithAddOns:
    """An objective and its add-ons: ``host + sum of weight * add-on``, loss and gradient alike.

    The metrics of an add-on carry its name, and ``<name>_share`` says how long its weighted image
    gradient is beside the host's.

    Args:
        host: the objective.
        added: the add-ons, at least one.
    """

    def __init__(self, host: Objective, added: Sequence[Added]) -> None:
        self._host, self._added = host, added

    @property
    def provenance(self) -> Mapping[str, object]:
        """What all of them rest on."""
        parts = [self._host, *(one.objective for one in self._added)]
        return {key: value for part in parts for key, value in part.provenance.items()}

    def __call__(self, images: Tensor, labels: Tensor, step: Step) -> Matched:
        """Match images [N, C, H, W] in [0, 1] with labels [N] at `step`."""
        return self._add(self._host(images, labels, step), images, labels, step)

    def _add(self, host: Matched, images: Tensor, labels: Tensor, step: Step) -> Matched:
        """Return the match of the host with those of the add-ons."""
        return self._with(host, images, labels, step, slice(None), 1.0)

    def _with(
        self, host: Matched, images: Tensor, labels: Tensor, step: Step, kept: slice | Tensor,
        share: float,
    ) -> Matched:  # fmt: skip
        """Return the match of the host with some of what the add-ons give.

        Args:
            host: the match.
            images: all of the step.
            labels: of these.
            step: of the run.
            kept: whose gradient the host's match has.
            share: of the add-ons' loss that counts here.
        """
        loss, grad, metrics = host.loss, host.image_grad.clone(), dict(host.metrics)
        length = host.image_grad.norm().double().clamp_min(1e-30)
        for one in self._added:
            matched = one.objective(images, labels, step)
            own = one.weight * matched.image_grad[kept]
            loss = loss + share * (one.weight * matched.loss)
            grad += own
            metrics |= {f"{one.name}_{name}": value for name, value in matched.metrics.items()}
            metrics[f"{one.name}_loss"] = matched.loss
            metrics[f"{one.name}_share"] = own.norm().double() / length
        return Matched(loss, grad, metrics, host.label_grad)

    @property
    def matches_targets(self) -> bool:
        """Whether the host has a gradient to labels; add-ons match images with their classes."""
        return matches_targets(self._host)

    def match_targets(self, images: Tensor, labels: Tensor, targets: Tensor, step: Step) -> Matched:
        """Match images with label probabilities; see `MatchesTargets`."""
        assert isinstance(self._host, MatchesTargets)
        host = self._host.match_targets(images, labels, targets, step)
        return self._add(host, images, labels, step)

    def state(self) -> State:
        """Return clones of all that any of them needs."""
        return {
            f"{prefix}{name}": value
            for prefix, part in self._parts()
            for name, value in part.state().items()
        }

    def load_state(self, state: State) -> None:
        """Restore each of them."""
        for prefix, part in self._parts():
            own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            part.load_state(own)

    def _parts(self) -> list[tuple[str, Objective]]:
        added = [(f"add_on{i}.", one.objective) for i, one in enumerate(self._added)]
        return [("host.", self._host), *added]


class _AddedByClass(WithAddOns):
    """The same where the host is a sum over classes, which several processes share out.

    Add-ons look at the images of all classes, in each process; it keeps the gradient of its own.
    """

    def needs_all(self, step: Step) -> bool:
        """Return that add-ons need the images of all classes."""
        return True

    def match(self, images: Tensor, labels: Tensor, step: Step, own: Tensor) -> Matched:
        """Match some classes; see `MatchesByClass`."""
        assert isinstance(self._host, MatchesByClass)
        host = self._host.match(images, labels, step, own)
        where = send(on_host(own).nonzero().flatten(), images.device)
        return self._with(host, images, labels, step, where, len(where) / len(images))


class _AddedByBlock(WithAddOns):
    """The same where the host is a sum over blocks; add-ons are matched beside the first ones."""

    def match_blocks(self, images: Tensor, labels: Tensor, step: Step, share: slice) -> Matched:
        """Match some blocks; see `MatchesByBlock`."""
        assert isinstance(self._host, MatchesByBlock)
        host = self._host.match_blocks(images, labels, step, share)
        return host if share.start else self._add(host, images, labels, step)
