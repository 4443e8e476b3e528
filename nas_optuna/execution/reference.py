"""The user's own network, trained like every trial, for comparison with the search."""

from __future__ import annotations

import copy
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import optuna
from optuna.study import Study
from torch import Tensor, nn

from nas_optuna.errors import SpecError, StudyError, TrainingError
from nas_optuna.execution.evaluator import TrainingEvaluator, checked_measurements
from nas_optuna.execution.events import Callback, Subject
from nas_optuna.execution.objective import EvaluatorObjective
from nas_optuna.metrics import ACCURACIES
from nas_optuna.quantities import LARGEST
from nas_optuna.registry import Registry
from nas_optuna.spaces import SearchSpace
from nas_optuna.spaces.built import of_network
from nas_optuna.study.schema import StudyKey
from nas_optuna.study.studies import study_uid
from nas_optuna.training.checkpoint import KeptWeights, require_tensors

REFERENCES = Registry("reference", "nas_optuna.references")
"""Functions ``(task) -> nn.Module`` of installed packages; most references are a ``file.py:function`` instead."""
_KEPT = "reference"
"""The name of its weights among those of trials."""


def as_space(name: str, like: SearchSpace) -> SearchSpace:
    """A space that contains only the user's network."""
    function = of_network(REFERENCES.find(name), name)
    with _told_of(name):
        return function(in_channels=like.in_channels, classes=like.classes, input_size=like.input_size)


@contextmanager
def _told_of(name: str) -> Iterator[None]:
    """Say of the reference what is said of the space of one network that it is to us."""
    try:
        yield
    except (SpecError, TrainingError) as error:
        problem = re.sub(r"^((space '[^']*'|fixed): )+", "", str(error))
        remedy = "; name a function (task) -> nn.Module" if "TypeError" in problem else ""
        raise SpecError(f"reference {name!r}: {problem}{remedy}") from error


def require_training(objective: EvaluatorObjective) -> TrainingEvaluator:
    """The objective's evaluator, which trains by the recipe, as a reference needs it."""
    if not isinstance(objective.evaluator, TrainingEvaluator):
        raise SpecError("a reference is trained by the recipe, and the study has an evaluator of its own")
    return objective.evaluator


def measure(
    study: Study, name: str, objective: EvaluatorObjective, told: Callback, own: Callable[[], SearchSpace]
) -> None:
    """Train the user's network like a trial of the objective, once, and record its figures with the study.

    Args:
        study: Remembers the figures.
        name: The reference.
        objective: Has the training.
        told: Is told of the training and of each step; it was told of a run before.
        own: Returns what `as_space` has made.
    """
    known: dict[str, Any] = study.user_attrs.get(StudyKey.REFERENCE, {})
    if (known.get("name"), known.get("identity")) == (name, objective.identity):
        return
    evaluator = copy.copy(require_training(objective))
    evaluator.space = own()
    first = objective.criteria[0]
    judged = first.metric if first.metric in ACCURACIES else "accuracy"
    last, seconds = None, 0.0
    architecture = evaluator.space.architecture({})
    folder = objective.checkpoints and objective.checkpoints / f"reference-{objective.identity}"
    stop: Callable[[], bool] = objective.interrupted
    subject = Subject("reference", None, name)
    told.trial_started(subject)
    try:
        with _told_of(name):
            for last in checked_measurements(evaluator, architecture, {judged}, resume=folder, stop=stop):
                told.step_finished(subject, last)
                seconds += last.seconds
    except optuna.TrialPruned as error:
        raise SpecError(
            f"the reference {name} is too slow for its share of the time ({error}); give more time"
        ) from None
    told.trial_finished(subject, None)
    objective.keep_training(_KEPT, folder, study)
    assert last is not None
    entry = {"name": name, "identity": objective.identity, "accuracy": last.metrics[judged], "epochs": last.step}
    entry["seconds"] = round(seconds, 3)
    if judged == first.metric and "SPREAD" in last.details:  # else it may be that of another accuracy
        entry["spread"] = last.details["SPREAD"]
    if first.metric and first.cost is None and abs(last.metrics[first.metric]) < LARGEST:  # no cost of it is known
        entry["value"] = last.metrics[first.metric]
    weights = sum(parameter.numel() for parameter in evaluator.space.build(architecture).parameters())
    study.set_user_attr(StudyKey.REFERENCE, entry | {"params": weights})
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def trained_reference(
    study: Study, name: str | None, network: nn.Module, kept: KeptWeights
) -> tuple[dict[str, Tensor], float] | None:
    """The weights of the user's network from `measure`, and its training time; None if they were not kept."""
    known: dict[str, Any] = study.user_attrs.get(StudyKey.REFERENCE, {})
    with suppress(StudyError, ValueError):
        found = kept.load(_KEPT) if known.get("name") == name else None  # a study may be given another reference
        if found is not None and found[1].get("study_uid") == study_uid(study):
            require_tensors(found[0], network.state_dict())
            return found[0], float(known.get("seconds", 0.0))
    return None
