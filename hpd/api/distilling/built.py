"""What the settings of a run name: data, source, objective, selector."""

from __future__ import annotations

import time

from generators import Generator, StoredGenerator
from hpd.api.judging.judges import check_judges
from hpd.config import RunSettings
from hpd.engine.parts import check_count
from hpd.engine.rendered import SomeClasses
from hpd.engine.watching.cost import Cost
from hpd.errors import ConfigError
from hpd.machine.device import Processes, open_device
from hpd.objectives import OBJECTIVES
from hpd.objectives.checked import matches_targets
from hpd.rng import Streams
from hpd.typing import LearnsLabels, Objective, Selector, Source


class Built:
    """What the settings of a run name, each made once; nothing is written.

    Data are read when it is made. Source and objective are built by `build`, the selector, which
    may train networks, when it is asked for.

    Args:
        settings: of the run.
        generator: in memory, in the place of the one that the source names.
        processes: that share the run.

    Raises:
        HpdError: for what is wrong with the data, or with what a set is labelled and judged by.
    """

    source: Source
    objective: Objective

    def __init__(
        self, settings: RunSettings, generator: Generator | None, processes: Processes
    ) -> None:
        self.settings, self.generator, self.started = settings, generator, time.perf_counter()
        self.device = open_device(settings.device, settings.float32)
        self.streams, self.cost = Streams(settings.seed), Cost(self.device)
        with self.cost.line("data"):
            self.images = settings.data.build().train
        check_judges(settings, self.images)
        self.train, self.held = settings.selection.split(self.images)
        check_count(processes, self.train.num_classes)

    def build(self) -> None:
        """Build source and objective; see `parts`."""
        self.source, self.objective = self.parts(self.settings)

    def parts(self, settings: RunSettings) -> tuple[Source, Objective]:
        """Return source and objective of settings that differ in these alone.

        Raises:
            HpdError: for what is wrong with them.
        """
        with self.cost.line("start"):
            stored = None if self.generator is None else StoredGenerator.of(self.generator)
            streams = self.streams.fork("source")
            source = settings.source.build_whole(self.train, self.device, streams, stored)
        with self.cost.line("objective"):
            streams = self.streams.fork("objective")
            objective = settings.objective.build_whole(self.train, self.device, streams)
        if isinstance(source, LearnsLabels) and not matches_targets(objective):
            raise ConfigError(
                "the objective has no gradient to labels, so they cannot be learnt",
                got=OBJECTIVES.kind_of(settings.objective),
                expected="regression, trajectory or gradient",
                fix="Leave out source.learnt_labels.",
            )
        return source, objective

    def selector(self, processes: Processes) -> Selector:
        """Return the selector; in other processes than the first one that is never asked."""
        streams = self.streams.fork("selection")
        with processes.together():
            if not processes.is_first:
                return lambda images, labels: None
            with self.cost.line("selector"):
                selection = self.settings.selection
                return selection.build(self.held, self.device, streams, self.objective)

    def some_classes(self) -> SomeClasses | None:
        """Return which classes each step takes; None for all."""
        wanted, streams = self.settings.classes_per_step, self.streams.fork("steps")
        some = SomeClasses(wanted, self.source.labels.unique().cpu(), streams)
        return None if self.settings.objective.takes_all(wanted) else some
