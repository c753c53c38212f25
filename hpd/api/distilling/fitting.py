"""What to change in a configuration whose steps need more memory than there is."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from hpd.config import RunSettings, load_config
from hpd.disk.yaml_text import flatten
from hpd.errors import OutOfMemoryError
from hpd.machine.device import open_device
from hpd.machine.memory import LESS, is_out_of_memory
from hpd.sources.base import USUAL_CHUNK
from hpd.typing import DrawsBatches, Objective, Source, Step

# how much of a batch is in memory at a time: changes nothing but rounding
_CHUNK = "chunk_images"
# what a step computes with: changes the result
_BATCHES = ("objective.real_batch", "objective.synthetic_batch")
_METHOD, _LEAN = "objective.method", "constant_memory"
_GO_ON = "add it to the command, and --resume if the run has an --out"

Build = Callable[[RunSettings], tuple[Source, Objective]]


def out_of_memory(
    settings: RunSettings, build: Build, stage: int | None, reason: str
) -> OutOfMemoryError:
    """Return an error that names settings with which a step fits, found by taking steps.

    Args:
        settings: with which the memory ran out.
        build: makes source and objective.
        stage: in which it ran out; None: outside of a step.
        reason: what the error said.
    """
    if stage is None:
        return OutOfMemoryError("the memory ran out", got=reason, fix=LESS)
    problem, fix = f"the memory ran out in stage {stage}", f"No smaller batch fits. {LESS}"
    for overrides, changes_result in _candidates(settings):
        if _fits(load_config(settings.model_dump(mode="json"), overrides), build, stage):
            use = "start anew with it, as the result is another" if changes_result else _GO_ON
            fix = f"A step fits with {' '.join(overrides)}, as was tried: {use}."
            break
    return OutOfMemoryError(problem, got=reason, fix=fix)


def _candidates(settings: RunSettings) -> Iterator[tuple[list[str], bool]]:
    """Yield (overrides, whether they change the result), the mildest first."""
    values = flatten(settings.model_dump(mode="json"))
    smallest = []
    for key, value in values.items():
        if key.startswith("source.") and key.endswith(_CHUNK):
            for size in _halves(USUAL_CHUNK if value == "auto" else int(value)):
                yield [f"{key}={size}"], False
            smallest.append(f"{key}=1")
    if values.get(_METHOD) not in (None, _LEAN):
        yield [*smallest, f"{_METHOD}={_LEAN}"], True
    for key in _BATCHES:
        for size in _halves(int(values.get(key) or 1)):
            yield [*smallest, f"{key}={size}"], True


def _halves(size: int) -> Iterator[int]:
    while size > 1:
        size //= 2
        yield size


def _fits(settings: RunSettings, build: Build, stage: int) -> bool:
    """Return whether one step of a stage can be taken."""
    try:
        source, objective = build(settings)
        for index in range(min(stage + 1, len(source.stages))):
            source.enter(index)
        step = Step(stage, 0)
        everything = torch.arange(len(source.labels), device=source.labels.device)
        chosen = source.batch(step) if isinstance(source, DrawsBatches) else everything
        images, pullback = source.render(chosen)
        pullback(objective(images, source.labels[chosen], step).image_grad)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        _release(open_device(settings.device, settings.float32))
    return True


def _release(device: torch.device) -> None:
    """Give memory that torch keeps for later back to the device."""
    if device.type != "cpu":
        torch.get_device_module(device).empty_cache()
