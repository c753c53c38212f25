"""The objective on fixed draws: a curve that falls because the images got better, not the draws.

The losses of a run's own steps cannot be compared: each is of another student, other real images
and another augmentation. So the objective is asked again, always at the same step of no stage.
"""

from __future__ import annotations

import math

from torch import Tensor

from hpd.engine.rendered import Drawn, Rendered, SomeClasses
from hpd.engine.sharing import Share
from hpd.errors import NumericError
from hpd.machine.device import Processes
from hpd.machine.host import told
from hpd.typing import LearnsLabels, Objective, Source, Step

FIXED = Step(-1, 0)
"""The first step of a stage that no run has: its draws are always the same, its network fresh."""


def fixed_loss(
    source: Source,
    objective: Objective,
    share: Share,
    processes: Processes,
    images: Tensor | None = None,
    some: SomeClasses | None = None,
) -> float | None:
    """Return the loss of the present state on fixed draws, and leave everything as it was.

    Of a source that draws batches, of one batch, always the same. All processes call this at once.

    Args:
        source: in a stage.
        objective: what it is matched to; what it learns on the way is undone.
        share: of this process.
        processes: that share the run.
        images: all images of this process, if they are at hand; a source of batches does not need
            them.
        some: which classes a step takes; None: all.

    Returns:
        the loss; None if it is not finite, which is the steps' to complain about.
    """
    with processes.together():
        drawn = Drawn.of(source, FIXED, some)
        chosen = drawn.indices
        if images is None or not drawn.all:
            rendered = Rendered.of(source, chosen)
            images, targets = rendered.images, rendered.targets
        else:
            targets = source.targets(chosen)[0] if isinstance(source, LearnsLabels) else None
    needed = share.needs_all(objective, FIXED, some)
    whole = share.join(images, drawn, targets) if needed else None
    with processes.together():
        kept = objective.state()
        try:
            matched = share.match(objective, images, drawn.labels, FIXED, whole, targets)
            (loss,) = told([matched.loss])
        except NumericError:
            loss = math.nan
        finally:
            objective.load_state(kept)
    loss = share.total(loss)
    return loss if math.isfinite(loss) else None
