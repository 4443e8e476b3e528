"""What a fit gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.study import Study

from nas_optuna.errors import StudyError
from nas_optuna.execution.retrain import TestReport, confusion
from nas_optuna.study.schema import StudyKey
from nas_optuna.study.significance import Gain

if TYPE_CHECKING:
    from nas_optuna.training import ImageClassifier


@dataclass(frozen=True)
class Fitted:
    """A network that was found, trained and tested.

    Attributes:
        network: It takes raw pictures, and has `predict` and `probabilities`.
        report: Its test figures.
        study: The search; any Optuna tool reads it.
        gain: What the search brought over the reference and over always naming the largest class.
        folder: Where everything was written: ``network/``, ``report.html`` and ``search.db``.
        seconds: That it took in all.
        facts: What it costs of what was limited, and its accuracy in eight bits where that was an objective.
    """

    network: ImageClassifier
    report: TestReport
    study: Study
    gain: Gain | None
    folder: Path
    seconds: float
    facts: Mapping[str, str] = field(default_factory=dict)

    def predict(self, images: Any) -> list[str]:
        """The class of each picture; see `nas_optuna.training.ImageClassifier.predict`."""
        return self.network.predict(images)


def tested(study: Study) -> TestReport:
    """The latest test figures that a study remembers."""
    reports: list[dict[str, Any]] = study.user_attrs.get(StudyKey.RETRAINED, [])
    if not reports:
        raise StudyError("the network was not tested yet")
    found = reports[-1]
    matrix = confusion(study.user_attrs, len(reports) - 1)
    classes, cells = matrix if matrix is not None else ([], [])
    names = ("architecture", "recipe", "device", "images", "test_images", "seconds")
    return TestReport(
        **{name: found[name] for name in names},
        seeds=tuple(found["seeds"]),
        accuracies=tuple(found["accuracies"]),
        classes=tuple(classes),
        confusions=(tuple(map(tuple, cells)),),
    )
