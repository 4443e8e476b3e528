"""What an evaluator yields, checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import torch

from nas_optuna.errors import Interrupted, NasOptunaError, TrainingError
from nas_optuna.execution.evaluator import Evaluator, Measurement
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.training.failure import describe, is_out_of_memory


def checked_measurements(
    evaluator: Evaluator,
    architecture: Architecture,
    needed: set[str],
    *,
    resume: Path | None,
    stop: Callable[[], bool],
    device: torch.device,
) -> Iterator[Measurement]:
    """What an evaluator yields, checked, with whatever it raises as one kind of error."""
    last = 0
    try:
        for measured in evaluator.evaluate(architecture, resume=resume, stop=stop):
            _require_sound(measured, last + 1, needed)
            last = measured.step
            yield measured
    except (NasOptunaError, Interrupted, optuna.TrialPruned):
        raise
    except Exception as error:
        if is_out_of_memory(error) or isinstance(error, MemoryError):
            raise TrainingError(f"{architecture} does not fit into the memory of {device}", "oom") from error
        cause = describe(error)
        raise TrainingError(f"{architecture}: {cause}", cause) from error
    if last == 0:
        raise TrainingError(f"{architecture}: the evaluator yielded no measurement", "no measurement")


def _require_sound(measured: object, step: int, needed: set[str]) -> None:
    """Refuse what an evaluator must not yield."""
    if not isinstance(measured, Measurement):
        cause = f"the evaluator yielded a {type(measured).__name__}, not a Measurement"
        raise TrainingError(cause, cause)
    if measured.step != step:
        cause = f"the evaluator yielded step {measured.step} where step {step} was due"
        raise TrainingError(cause, cause)
    for name in sorted(needed):
        value = measured.metrics.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            known = ", ".join(sorted(map(str, measured.metrics)))[:80]
            cause = f"the evaluator measured no {name!r} (it measured: {known or 'nothing'})"
            if name in measured.metrics:
                cause = f"the evaluator measured {name!r} as a {type(value).__name__}, not a number"
            raise TrainingError(cause, cause)
        if not math.isfinite(value):
            raise TrainingError(f"{name} is {value} in step {step}", f"non-finite {name}")
