"""What every tracker is told of a trial that has ended, and of a retraining."""

from __future__ import annotations

import posixpath
import re
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial

from nas_optuna.errors import NasOptunaError
from nas_optuna.report.drawing import draw_trial
from nas_optuna.report.selection import objective_names, space_of
from nas_optuna.study.results import TrialRecord
from nas_optuna.study.schema import TrialKey, attribute


def figures(study: Study, ended: FrozenTrial) -> dict[str, float]:
    """Every figure of a trial, by name: objectives (a formula, too), all costs, the last metrics, epochs, seconds."""
    record = TrialRecord.of(ended)
    found: dict[str, float] = {"epochs": record.epochs, "seconds": record.seconds, **record.costs}
    found |= attribute(ended, TrialKey.METRICS, {})
    if record.accuracy is not None:
        found["accuracy"] = record.accuracy
    found |= dict(zip(objective_names(study), record.values, strict=False))
    return {name: float(value) for name, value in found.items()}


def facts(ended: FrozenTrial) -> dict[str, Any]:
    """What is no number: architecture, state, and the choices that the trial made."""
    record = TrialRecord.of(ended)
    own = {"architecture": record.architecture, "state": record.state}
    return own | {f"param.{name}" if name in own else name: value for name, value in ended.params.items()}


class AcceptableNames:
    """Names as another tool takes them: what it refuses becomes ``_``, and two names stay two.

    Args:
        refused: Matches a run of characters that the tool refuses.
        longest: Characters that it keeps.
    """

    def __init__(self, refused: str, longest: int) -> None:
        self._refused = re.compile(refused)
        self._longest = longest
        self._known: dict[str, str] = {}

    def __call__(self, name: str) -> str:
        """The name to use, the same at every call."""
        if name not in self._known:
            clean = self._refused.sub("_", name)[: self._longest - 4] or "_"
            if posixpath.normpath(clean) != clean or clean.startswith((".", "/")):  # it would be a path to elsewhere
                clean = clean.replace("/", "_").replace(".", "_")
            taken, number = set(self._known.values()), 2
            self._known[name] = clean
            while self._known[name] in taken:
                self._known[name] = f"{clean}_{number}"
                number += 1
        return self._known[name]


def drawing(study: Study, ended: FrozenTrial) -> str | None:
    """A trial's network as SVG; None where it has none or cannot be drawn."""
    if not TrialRecord.of(ended).architecture:
        return None
    try:
        return draw_trial(space_of(study), ended).svg
    except NasOptunaError:
        return None
