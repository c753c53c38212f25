"""Training the experts that a run matches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpd.boundary import public
from hpd.config import RunSettings, resolve_config
from hpd.engine import experts
from hpd.engine.experts import MatchesExperts
from hpd.errors import ConfigError
from hpd.machine.device import open_device
from hpd.objectives import OBJECTIVES
from hpd.students.experts.checks import check_learned
from hpd.students.experts.trajectories import ExpertFolder, ExpertSettings


@public
def train_experts(
    config: str | Path | Mapping[str, Any] | RunSettings,
    *overrides: str,
    out: str | Path | None = None,
    seed: int | None = None,
    count: int | None = None,
    report: experts.Report = lambda expert, epoch, loss: None,
    on_setup: Callable[[ExpertSettings, int], None] = lambda settings, epochs: None,
) -> ExpertFolder:
    """Train the networks that an objective rests on, as far as they are not there yet.

    An interrupted training goes on where it stopped, to the same bytes on a CPU. Several processes,
    however they were started, may call this at once for one folder, and share the experts out.

    Args:
        config: of a run whose objective is ``trajectory``, or ``gradient`` with a bank; see
            `distill`.
        overrides: ``"key.sub=value"`` each.
        out: folder of the experts; None: the one that the objective names.
        seed: replaces the configuration's.
        count: number of experts; None: as the objective says.
        report: hears (expert, epochs done, mean training loss) after each epoch.
        on_setup: hears before the first how many experts there will be and how they are trained,
            and of how many epochs each is.

    Raises:
        ConfigError: for another objective, or a student with batch norm.
        RunError: if the folder holds something else or experts of another training, or if an
            expert learned nothing.
        HpdError: for what is wrong with configuration or data; `NumericError` if an expert
            diverges.
    """
    settings = resolve_config(config, overrides, seed)
    objective = settings.objective
    train = settings.selection.split(settings.data.build().train)[0]
    wanted = objective.experts_wanted(train) if isinstance(objective, MatchesExperts) else None
    if wanted is None:
        kind = OBJECTIVES.kind_of(objective)
        raise ConfigError(
            "the objective needs no experts",
            got=kind,
            expected="trajectory, or gradient with a bank of networks",
        )
    if count is not None:
        counted = {"count": count, "training": wanted.settings.training}
        wanted = replace(wanted, settings=ExpertSettings.read(counted))
    if out is not None:
        wanted = replace(wanted, path=str(out))
    on_setup(wanted.settings, wanted.settings.training.pace(len(train)).epochs)
    folder = experts.train_experts(
        wanted,
        train,
        device=open_device(settings.device, settings.float32),
        seed=settings.seed,
        report=report,
    )
    check_learned(folder)
    return folder
