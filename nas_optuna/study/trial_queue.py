"""Architectures to be tried first."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas_optuna.errors import ArchitectureError, named, shown
from nas_optuna.files import read_text
from nas_optuna.hyperparameters import of_architecture
from nas_optuna.lazily import lazily
from nas_optuna.objectives import parse_criterion
from nas_optuna.spaces import SearchSpace
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.study.optuna_internals import all_trials, enqueued_params
from nas_optuna.study.results import REFERENCE
from nas_optuna.study.schema import TrialKey
from nas_optuna.study.transactions import add_trial, metric_names

with lazily():
    from nas_optuna.costs.candidates import Candidates


UNFINISHED = (TrialState.WAITING, TrialState.RUNNING)


def read_architectures(path: Path, space: SearchSpace) -> list[Architecture]:
    """Read a file of architectures."""
    name = named(path)
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise ArchitectureError(f"cannot read {name}: {getattr(error, 'strerror', None) or error}") from error
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError):
        entries = text.split()
    if not isinstance(entries, list):
        entries = [entries]
    if not entries:
        raise ArchitectureError(f'{name} holds no architecture; write for example {{"conv1.filters": 16, …}}')
    return [_architecture(entry, space, f"{name}, entry {i}") for i, entry in enumerate(entries, start=1)]


def _architecture(entry: object, space: SearchSpace, place: str) -> Architecture:
    try:
        if isinstance(entry, str):
            return space.parse(entry)
        if isinstance(entry, dict):
            return space.architecture(entry)
    except ArchitectureError as error:
        raise ArchitectureError(f"{place}: {error}") from None
    except ValueError:  # Python reads no number of more than some thousand digits
        raise ArchitectureError(f"{place}: {shown(entry)} holds what is no number of the space") from None
    raise ArchitectureError(f"{place}: {shown(entry)} is neither a params dict nor an architecture string")


def enqueue_new(
    study: Study,
    space: SearchSpace,
    params: Mapping[str, Any],
    origin: str,
    states: Collection[TrialState] = tuple(TrialState),
    times: int = 1,
) -> bool:
    """Enqueue params unless so many trials in these states have them; safe with any number of processes."""
    architecture = space.architecture(of_architecture(params))  # beside it there may be settings of the recipe
    wanted = {**params, **architecture.params}
    chosen, marked = {"fixed_params": wanted}, {TrialKey.ORIGIN: origin}
    waiting = create_trial(state=TrialState.WAITING, system_attrs=chosen, user_attrs=marked)
    while True:
        known = all_trials(study)
        if sum(trial.state in states and _has(trial, wanted) for trial in known) >= times:
            return False
        if add_trial(study, waiting, len(known).__eq__) is not None:  # no trial was added meanwhile
            return True


def _has(trial: FrozenTrial, params: Mapping[str, Any]) -> bool:
    return params.items() <= (enqueued_params(trial) or trial.params).items()


def enqueue_once(study: Study, space: SearchSpace, params: Mapping[str, Any], origin: str) -> int:
    """Enqueue params unless they already wait; return how many trials must begin for these to begin, too."""
    enqueue_new(study, space, params, origin, (TrialState.WAITING,))
    waiting = all_trials(study, (TrialState.WAITING,))
    return next((place for place, trial in enumerate(waiting, start=1) if _has(trial, params)), 1)


def enqueue_reference(study: Study, candidates: Candidates, settings: Mapping[str, Any]) -> Architecture | None:
    """Begin a study with the network that its user would have taken without a search, and the recipe's settings."""
    # Does nothing once a trial of the study has begun, or if the space names no such network.
    begun = any(trial.state != TrialState.WAITING for trial in study.get_trials(deepcopy=False))
    reference = None if begun else candidates.reference()
    if reference is not None:
        enqueue_new(study, candidates.space, {**reference.params, **settings}, REFERENCE)
    return reference


def enqueue_cheapest(study: Study, candidates: Candidates) -> dict[str, Architecture]:
    """Begin a study of several objectives at the cheap ends of its front."""
    # The cheapest architecture is an end of the front, and is known without a search, while a sampler would hardly
    # find it. In a large space it is the cheapest that descents find, and for measured latency the one with the fewest
    # MACs. ``benchmarks/limits.py`` compares fronts with and without it.
    # Does nothing once a trial of the study has begun, and leaves out what may not be proposed.
    criteria = [parse_criterion(text, imports=False) for text in metric_names(study) or ()]
    directions = {c.cost: c.direction for c in criteria if c.cost and not c.metric}
    begun = any(trial.state != TrialState.WAITING for trial in study.get_trials(deepcopy=False))
    if len(criteria) < 2 or begun:
        return {}
    best = {name: candidates.best_in_cost(name, direction) for name, direction in directions.items()}
    found = {name: architecture for name, architecture in best.items() if architecture is not None}
    for architecture in found.values():  # another process that begins at the same time may already have run them
        enqueue_new(study, candidates.space, architecture.params, "cheapest")
    return found
