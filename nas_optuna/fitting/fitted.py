"""What a fit gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.study import Study

from nas_optuna.execution.retrain import TestReport
from nas_optuna.study.gain import Gain

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
    """

    network: ImageClassifier
    report: TestReport
    study: Study
    gain: Gain | None
    folder: Path
    seconds: float

    def predict(self, images: Any) -> list[str]:
        """The class of each picture; see `nas_optuna.training.ImageClassifier.predict`."""
        return self.network.predict(images)
