"""Which rows each of several processes has of a source, of its images and of an optimiser.

Process r of W has the classes r, r + W, r + 2 W, ... from the first stage to the end of the run. A
row keeps its place in the whole, by which it is written down, and found again by any number of
processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from hpd.artifacts.shards import Kept, rows_of_kept
from hpd.checks import check_shardable
from hpd.errors import ConfigError, RunError
from hpd.machine.device import Processes
from hpd.machine.host import on_host
from hpd.typing import EntersByClass, ParameterGroup, Source, State


def check_count(processes: Processes, num_classes: int | None) -> None:
    """Check that there is a class for each process.

    Args:
        processes: that share the run.
        num_classes: of the data; None: not known yet.

    Raises:
        ConfigError: if there is not.
    """
    if num_classes is not None and processes.count > num_classes:
        raise ConfigError(
            "there are more processes than classes",
            got=f"{processes.count} processes",
            expected=f"at most {num_classes}",
            fix="Start fewer.",
        )


class Parts:
    """What one of several processes has of a source; a single one has all of it.

    Args:
        processes: those that share.
        source: whole, in no stage yet.
    """

    def __init__(self, processes: Processes, source: Source) -> None:
        self._processes, self._source = processes, source
        self._labels = source.labels
        every = on_host(self._labels).unique()
        self._classes = [every[rank :: processes.count] for rank in range(processes.count)]
        self._narrowed = False
        # class of each row of the whole tensors
        self._layout: Mapping[str, Tensor] = {}
        self._groups: Sequence[ParameterGroup] = ()

    @property
    def labels(self) -> Tensor:
        """Class of each image of the whole source [N]."""
        return self._labels

    @property
    def own(self) -> Tensor:
        """Places of the images of this process among all of them [n], on the host."""
        return self._own(self._labels)

    def enter(self, stage: int) -> Sequence[ParameterGroup]:
        """Move the source to a stage, and return what this process optimises there.

        It enters with all images where it has to, which every process then has for the moment.

        Raises:
            ConfigError: if the source cannot be shared out.
        """
        if self._processes.count == 1:
            return self._source.enter(stage)
        source = check_shardable(self._source)
        if isinstance(source, EntersByClass) and source.enters_by_class(stage):
            if not self._narrowed:
                self._narrow()
            self._groups = source.enter(stage)
            self._layout = {name: self._whole_of(own) for name, own in source.owned.items()}
        else:
            self.be_whole()
            source.enter(stage)
            self._groups = self._narrow()
        return self._groups

    def _narrow(self) -> Sequence[ParameterGroup]:
        """Leave the source the classes of this process."""
        source = check_shardable(self._source)
        self._layout, self._narrowed = dict(source.owned), True
        own = self._classes[self._processes.rank]
        return source.narrow(own.to(self._labels.device))

    def be_whole(self) -> None:
        """Make the source whole again, from what each process has."""
        if self._narrowed:
            state, self._narrowed = self._whole(self._source.state()), False
            check_shardable(self._source).widen(state, self._labels)

    def rows(self, state: Mapping[str, Kept]) -> State:
        """Return what is here of a state of the whole source, in memory or in files."""
        places = self.places()
        return {name: rows_of_kept(kept, places.get(name)) for name, kept in state.items()}

    def optimizer_rows(self, state: Mapping[str, Kept]) -> State:
        """Return what is here of the state of an optimiser of the whole source."""
        places = self.optimizer_places(state)
        return {name: rows_of_kept(kept, places.get(name)) for name, kept in state.items()}

    def image_rows(self, kept: Kept) -> Tensor:
        """Return the images here of those of the whole source, or what goes with images."""
        return rows_of_kept(kept, self.own if self._processes.count > 1 else None)

    def places(self) -> dict[str, Tensor]:
        """Return the place in the whole of each row of the source's tensors that are shared out."""
        return {name: self._own(classes) for name, classes in self._layout.items()}

    def optimizer_places(self, state: Mapping[str, Kept]) -> dict[str, Tensor]:
        """Return the same of an optimiser: of what goes with parameters of such rows."""
        if self._processes.count == 1:
            return {}
        of_parameters = [group.classes for group in self._groups for _ in group.tensors]
        found = {name: of_parameters[int(name.split(".")[0])] for name in state}
        # counts of steps have no rows
        rows = {k: own for k, own in found.items() if own is not None and state[k].shape}
        return {name: self._own(self._whole_of(own)) for name, own in rows.items()}

    def all_places(self, optimizer: Mapping[str, Kept]) -> dict[str, Tensor]:
        """Return the places of all that a checkpoint has, by its names; nothing for one process."""
        if self._processes.count == 1:
            return {}
        rows, images = self.places(), ("images", "initial_images", "targets")
        groups = {
            "source": rows, "best": rows, "optimizer": self.optimizer_places(optimizer),
        }  # fmt: skip
        found = {f"{group}.{k}": own for group, owned in groups.items() for k, own in owned.items()}
        return found | dict.fromkeys(images, self.own)

    def everywhere(self, rows: Tensor) -> Tensor:
        """Return, in each process, all images from those of each, or what goes with images."""
        return self._joined(rows, self._labels)

    def at_first(self, rows: Tensor) -> Tensor | None:
        """Return the same in the first process, None in the others, which keep their own alone."""
        if self._processes.count == 1:
            return rows
        joined = torch.empty(0)
        for places, part in self._in_turn(rows, self._labels):
            if self._processes.is_first:
                if not len(joined):
                    joined = part.new_empty(len(self._labels), *part.shape[1:])
                joined[places] = part
        return joined if self._processes.is_first else None

    def _whole(self, state: State) -> State:
        """Return the state of the whole source from those of all processes."""
        layout = self._layout
        return {k: self._joined(v, layout[k]) if k in layout else v for k, v in state.items()}

    def _joined(self, rows: Tensor, classes: Tensor) -> Tensor:
        """Return the rows of all processes, each in its place among rows of these classes."""
        if self._processes.count == 1:
            return rows
        joined = rows.new_empty(len(classes), *rows.shape[1:])
        for places, part in self._in_turn(rows, classes):
            joined[places] = part
        return joined

    def _in_turn(self, rows: Tensor, classes: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the rows of one process after another, each with their places."""
        places = self._places(classes)
        parts = self._processes.in_turn(rows, [len(own) for own in places])
        for own, part in zip(places, parts, strict=True):
            yield own.to(part.device), part

    def _places(self, classes: Tensor) -> list[Tensor]:
        """Return where the rows of each process are among rows of these classes, on the host."""
        of_rows = on_host(classes)
        return [torch.isin(of_rows, own).nonzero().flatten() for own in self._classes]

    def _own(self, classes: Tensor) -> Tensor:
        own = self._classes[self._processes.rank]
        return torch.isin(on_host(classes), own).nonzero().flatten()

    def _whole_of(self, classes: Tensor) -> Tensor:
        """Return the classes of all rows, of which this process has rows of these classes.

        Raises:
            RunError: if they are neither the images' nor those of rows that were there before.
        """
        own = on_host(classes)
        for whole in (self._labels, *self._layout.values()):
            if torch.equal(on_host(whole)[self._own(whole)], own):
                return whole
        raise RunError(
            "rows that a source has since a stage go neither with its images nor with rows that "
            "it had before",
            fix="Let enters_by_class return False there.",
        )
