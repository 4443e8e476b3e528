"""How far chance may have moved an accuracy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from nas_optuna.metrics import ACCURACIES
from nas_optuna.objectives import describe
from nas_optuna.study.records import TrialRecord


def sampling_error(accuracy: float, images: int) -> float:
    """Standard error of an accuracy that was measured on a sample of images, as a share.

    Two successes and two failures are added (Agresti and Coull 1998), so that an accuracy of 1 has an error, too.
    Repeated trainings judged by the same images do not lessen it.

    Examples:
        >>> round(sampling_error(0.97, 288), 3)
        0.011
    """
    if images < 1 or not 0 <= accuracy <= 1:
        raise ValueError(f"an accuracy of {accuracy} on {images} images has no standard error")
    share = (accuracy * images + 2) / (images + 4)
    return math.sqrt(share * (1 - share) / (images + 4))


def standard_error(record: TrialRecord, images: int | None) -> float | None:
    """How far a trial's accuracy may be off by chance: one standard error, as a share of 1."""
    # It is the error of the sample of images, or, where several trainings differ by more, that of their mean (of two,
    # the fewest that differ).
    if record.accuracy is None or not 0 <= record.accuracy <= 1:
        return None
    known = [sampling_error(record.accuracy, images)] if images else []
    known += [record.spread / math.sqrt(2)] if record.spread is not None else []
    return max(known, default=None)


def with_error(name: str, value: float, error: float | None, *, brief: bool = False) -> str:
    """An objective's value as text, without its unit, and if it is an accuracy its standard error.

    Examples:
        >>> with_error("accuracy", 0.97, 0.01), with_error("macs", 1234.0, 0.01)
        ('0.9700 ± 0.0100', '1,234')
    """
    described = describe(name)
    text = described.brief(value) if brief else described.number(value)
    return text if error is None or name not in ACCURACIES else f"{text} ± {error:.4f}"


def error_on_test(report: Mapping[str, Any]) -> float:
    """Standard error of the test accuracy that a retraining found."""
    # It is the error of the sample of images, or that of the mean over the seeds where they differ by more.
    between = 0.0 if report["spread"] is None else float(report["spread"]) / math.sqrt(len(report["seeds"]))
    return max(sampling_error(report["mean"], report["test_images"]), between)


def accuracy_on_test(report: Mapping[str, Any]) -> str:
    """The test accuracy that a retraining found, with its standard error.

    Examples:
        >>> accuracy_on_test({"mean": 0.97, "test_images": 359, "spread": None, "seeds": [0]})
        '0.9700 ± 0.0097'
    """
    return with_error("accuracy", report["mean"], error_on_test(report))
