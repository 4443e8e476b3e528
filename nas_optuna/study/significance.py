"""Standard errors of accuracies, and whether a search has gained more than chance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial

from nas_optuna.metrics import ACCURACIES
from nas_optuna.objectives import describe
from nas_optuna.study.optuna_internals import study_user_attributes
from nas_optuna.study.schema import StudyKey, TrialKey, attribute


def remembered_images(study: Study) -> int | None:
    """How many images a study's accuracies were measured on; None if it does not remember that."""
    known = study_user_attributes(study).get(StudyKey.DATA)
    images = known.get("validation") if isinstance(known, dict) else None
    return images if isinstance(images, int) and images > 0 else None


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


def standard_error(accuracy: float | None, images: int | None, spread: float | None = None) -> float | None:
    """One standard error of an accuracy, as a share of 1, if repeated trainings have this standard deviation."""
    # It is the error of the sample of images or, if repeated trainings differ by more, that of their mean (of two, the
    # fewest that differ).
    if accuracy is None or not 0 <= accuracy <= 1:
        return None
    known = [sampling_error(accuracy, images)] if images else []
    known += [spread / math.sqrt(2)] if spread is not None and math.isfinite(spread) else []
    return max(known, default=None)


def error_of(trial: FrozenTrial, images: int | None) -> float | None:
    """One standard error of a trial's first value if that is an accuracy, whatever its precision."""
    return standard_error(trial.values[0], images, attribute(trial, TrialKey.SPREAD))


def with_error(name: str, value: float, error: float | None, *, brief: bool = False) -> str:
    """An objective's value as text without its unit, with the standard error of an accuracy.

    Examples:
        >>> with_error("accuracy", 0.97, 0.01), with_error("macs", 1234.0, 0.01)
        ('0.9700 ± 0.0100', '1,234')
    """
    described = describe(name)
    text = described.brief(value) if brief else described.number(value)
    return text if error is None or name not in ACCURACIES else f"{text} ± {error:.4f}"


CLAIM = 2.0
"""Standard errors of a difference that justify a claim: the best of a few equal networks is often ahead by one."""


@dataclass(frozen=True)
class Measured:
    """An accuracy and its standard error.

    Examples:
        >>> Measured.on_test({"mean": 0.97, "test_images": 359, "spread": None, "seeds": [0]}).exact
        '0.9700 ± 0.0097'
    """

    accuracy: float
    error: float
    majority: float | None = None  # the share of the largest class in the test images that it was measured on

    @classmethod
    def on(cls, images: int, accuracy: float, spread: float | None = None) -> Measured:
        """An accuracy on a sample of images, if repeated trainings have this standard deviation."""
        return cls(accuracy, max(sampling_error(accuracy, images), standard_error(accuracy, None, spread) or 0.0))

    @classmethod
    def on_test(cls, report: Mapping[str, Any]) -> Measured:
        """The mean test accuracy that a retraining found."""
        # Its error is that of the sample of images or, if the seeds differ by more, that of their mean.
        between = 0.0 if report["spread"] is None else float(report["spread"]) / math.sqrt(len(report["seeds"]))
        error = max(sampling_error(report["mean"], report["test_images"]), between)
        return cls(report["mean"], error, report.get("majority"))

    @classmethod
    def of_trial(cls, trial: FrozenTrial, images: int | None) -> Measured:
        """The first value of a complete trial; its error is 0 if that is unknown."""
        return cls(trial.values[0], error_of(trial, images) or 0.0)

    @property
    def exact(self) -> str:
        """The accuracy and its standard error with four decimals, as tests are reported; ``str`` has three."""
        return with_error("accuracy", self.accuracy, self.error)

    def __str__(self) -> str:
        return f"{self.accuracy:.3f} ± {self.error:.3f}"

    def is_ahead(self, other: Measured) -> bool:
        """Whether it is higher than another by more than two standard errors of the difference."""
        # The best of many networks is partly lucky, so the true error is larger, if anything.
        return self.accuracy - other.accuracy > CLAIM * math.hypot(self.error, other.error)


def is_ahead(value: float, other: float, images: int | None, *, maximize: bool) -> bool:
    """Whether a value is better than another by more than chance; of a loss no error is known, so by anything."""
    if not maximize:
        return value < other
    measured, known = (Measured(each, standard_error(each, images) or 0.0) for each in (value, other))
    return measured.is_ahead(known)


@dataclass(frozen=True)
class Gain:
    """What a search brought.

    Attributes:
        best: The accuracy of the best network, or of the one that was chosen instead.
        reference: That of the reference, where there is one; trained alike, by the recipe's own settings, and judged
            by the same images.
        majority: The share of the largest class of the images that select, i.e. the accuracy of always naming it; None
            if it is not known.
        is_reference: Whether the best network is the reference.
        tested: The test accuracy of the best network after its last training, if it was tested.

    Examples:
        >>> str(Gain(Measured(0.712, 0.011), Measured(0.640, 0.012), 0.1))
        '0.712 ± 0.011, reference 0.640 ± 0.012, majority class 0.10'
    """

    best: Measured
    reference: Measured | None = None
    majority: float | None = None
    is_reference: bool = False
    tested: Measured | None = None

    def __str__(self) -> str:
        return ", ".join(part for part in (str(self.best), self.beside) if part)

    @property
    def beside(self) -> str:
        """What to compare the best accuracy with."""
        parts = []
        if self.reference is not None:
            parts.append("the reference itself" if self.is_reference else f"reference {self.reference}")
        if self.majority is not None:
            parts.append(f"majority class {self.majority:.2f}")
        return ", ".join(parts)

    @property
    def beats_reference(self) -> bool | None:
        """Whether the best network is ahead by more than two standard errors of the difference; None without one."""
        return None if self.reference is None else self.best.is_ahead(self.reference)

    @property
    def _judged(self) -> tuple[Measured, float | None]:
        """The accuracy that says whether the best network has learned, and the share of its images' largest class."""
        judged = self.tested or self.best  # a search may train for seconds, the last training for minutes
        return judged, self.majority if judged.majority is None else judged.majority  # of an older test it is unknown

    @property
    def has_learned(self) -> bool:
        """Whether the best network is ahead of the largest class's share by more than two standard errors."""
        judged, majority = self._judged
        return majority is None or judged.accuracy > majority + CLAIM * judged.error

    def remarks(self) -> list[str]:
        """What a person should know about it, a line each."""
        found = []
        if not self.has_learned:
            judged, majority = self._judged
            found.append(
                f"Warning: {judged} is no better than always naming the largest class ({majority:.2f}). Are the labels"
                " right, and can a person tell the classes at this size? Try larger images (--image-size;"
                " recipe.input_size), more epochs or time, or more pictures."
            )
        # It may be the best inside a limit, or the cheapest: another network may be ahead.
        claim = "by more than two standard errors of the difference"
        if self.is_reference:
            found.append("This network is the reference: none that may be chosen is clearly ahead of it.")
        elif self.reference is not None and self.reference.is_ahead(self.best):
            found.append(f"The reference ({self.reference}) is ahead of this network {claim}.")
        elif self.beats_reference is False:
            found.append(f"This network is not ahead of the reference ({self.reference}) {claim}: it may be no better.")
        return found

    def to_dict(self) -> dict[str, float | bool | None]:
        """JSON-ready."""
        reference = self.reference
        return {
            "accuracy": self.best.accuracy,
            "standard_error": self.best.error,
            "reference_accuracy": reference.accuracy if reference else None,
            "reference_standard_error": reference.error if reference else None,
            "majority": self.majority,
            "beats_reference": self.beats_reference,
        }
