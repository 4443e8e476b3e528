"""Architectures to be tried first."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
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
from nas_optuna.study.transactions import add_trials, metric_names

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


def enqueue_all(
    study: Study,
    space: SearchSpace,
    several: Iterable[Mapping[str, Any]],
    origin: str,
    states: Collection[TrialState] = tuple(TrialState),
) -> int:
    """Enqueue params, as often as they are listed more than trials in these states have them; return how many.

    Either all of them or none are enqueued, and nothing twice by any number of processes.
    """
    wanted = [_whole(params, space) for params in several]
    while True:
        known = all_trials(study)
        having = _by_choices((trial for trial in known if trial.state in states), space)
        missing = []
        for params in wanted:
            alike = having[_choices(params, space)]
            counted = next((i for i, (_, chosen) in enumerate(alike) if params.items() <= chosen.items()), None)
            if counted is None:
                missing.append(params)
            else:
                alike.pop(counted)
        waiting = [_waiting(params, origin) for params in missing]
        if not waiting or add_trials(study, waiting, len(known).__eq__):  # no trial was added meanwhile
            return len(waiting)


def enqueue_once(study: Study, space: SearchSpace, several: Iterable[Mapping[str, Any]], origin: str) -> int:
    """Enqueue params unless they already wait; return how many trials must begin for all of these to begin, too."""
    wanted = {_choices(whole, space): whole for whole in (_whole(params, space) for params in several)}
    if not wanted:
        return 0
    enqueue_all(study, space, wanted.values(), origin, (TrialState.WAITING,))
    waiting = _by_choices(all_trials(study, (TrialState.WAITING,)), space)
    places = [
        next((place for place, chosen in waiting[choices] if params.items() <= chosen.items()), 1)
        for choices, params in wanted.items()
    ]
    return max(places)


def _whole(params: Mapping[str, Any], space: SearchSpace) -> dict[str, Any]:
    """Params with all choices of their architecture; beside it there may be settings of the recipe."""
    return {**params, **space.architecture(of_architecture(params)).params}


def _waiting(params: Mapping[str, Any], origin: str) -> FrozenTrial:
    chosen, marked = {"fixed_params": params}, {TrialKey.ORIGIN: origin}
    return create_trial(state=TrialState.WAITING, system_attrs=chosen, user_attrs=marked)


def _choices(params: Mapping[str, Any], space: SearchSpace) -> tuple[Any, ...]:
    return tuple(map(params.get, space.parameters))


def _by_choices(
    trials: Iterable[FrozenTrial], space: SearchSpace
) -> defaultdict[tuple[Any, ...], list[tuple[int, Mapping[str, Any]]]]:
    """Places, from 1, and params of trials by what they choose in the space, so that each is compared with few."""
    found: defaultdict[tuple[Any, ...], list[tuple[int, Mapping[str, Any]]]] = defaultdict(list)
    for place, trial in enumerate(trials, start=1):
        params = enqueued_params(trial) or trial.params
        with suppress(TypeError):  # a list, which somebody may have enqueued, is no choice
            found[_choices(params, space)].append((place, params))
    return found


def enqueue_reference(study: Study, candidates: Candidates, settings: Mapping[str, Any]) -> Architecture | None:
    """Begin a study with the network that its user would have taken without a search, and the recipe's settings."""
    # Does nothing once a trial of the study has begun, or if the space names no such network.
    begun = any(trial.state != TrialState.WAITING for trial in study.get_trials(deepcopy=False))
    reference = None if begun else candidates.reference()
    if reference is not None:
        enqueue_all(study, candidates.space, [{**reference.params, **settings}], REFERENCE)
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
        enqueue_all(study, candidates.space, [architecture.params], "cheapest")
    return found
