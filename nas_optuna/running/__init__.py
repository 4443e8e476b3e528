"""Studies, the objective, and the loop that runs trials."""

from __future__ import annotations

from nas_optuna.running.loop import Outcome, StopRequest, Watcher, interruptible, run
from nas_optuna.running.objective import Objective
from nas_optuna.running.records import Attribute, TrialRecord, ranked

__all__ = [
    "Attribute",
    "Objective",
    "Outcome",
    "StopRequest",
    "TrialRecord",
    "Watcher",
    "interruptible",
    "ranked",
    "run",
]
