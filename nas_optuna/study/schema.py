"""Every key under which a study or a trial of ours remembers something.

All keys begin with one prefix, so that they never meet those of a plain Optuna user. Values are JSON. A string may have
at most `LONGEST` characters, because MySQL and optuna-dashboard cut longer ones.

Whoever may write to a database may alter it, so every value is checked once, where rows are read: a trial with a value
of another kind counts as a failed one and says why (`flaw_of_trial`); a study is refused in one line (`flaw_of_study`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a listing of names must not import Optuna
    from optuna.study import Study
    from optuna.trial import BaseTrial, FrozenTrial

FORMAT = 2
"""Raised when studies are written that older versions would misread; no release wrote format 1."""

PREFIX = "nas_optuna:"
LONGEST = 2000
"""Characters of one attribute's JSON that every storage keeps, with a margin (the smallest limit is 2,046)."""


class TrialKey:
    """User attributes of a trial. The type of each value is in its description."""

    ARCHITECTURE = f"{PREFIX}architecture"
    """str: the canonical string of the architecture."""
    FEASIBLE = f"{PREFIX}feasible"
    """bool: whether the trial is inside the study's limits; absent where there are none."""
    ACCURACY = f"{PREFIX}accuracy"
    """float: validation accuracy after the last epoch trained, 0 to 1, whatever the objectives."""
    METRICS = f"{PREFIX}metrics"
    """dict[str, float]: every metric after the last epoch trained, by name."""
    REPORTS = f"{PREFIX}reports"
    """dict[str, float]: epoch → value that a study of several objectives is pruned by."""
    IDENTITY = f"{PREFIX}identity"
    """str: digest of everything that decides the trial's value beside the architecture."""
    RECIPE = f"{PREFIX}recipe"
    """str: the recipe's fingerprint."""
    SEED = f"{PREFIX}seed"
    """int: seed of the training."""
    DEVICE = f"{PREFIX}device"
    """str: name of the device that trained it."""
    ORIGIN = f"{PREFIX}origin"
    """str: who proposed it: a sampler's name, ``"enqueued"``, ``"cheapest"``, …"""
    WORKER = f"{PREFIX}worker"
    """str: the process that ran it, in studies of release 0.2; see `nas_optuna.study.lease` for what is now."""
    LEASE = f"{PREFIX}lease"
    """float: until when, in seconds by the database's clock, that process had the trial for itself."""
    EPOCHS = f"{PREFIX}epochs"
    """int: epochs trained, over all seeds."""
    STEPS = f"{PREFIX}steps"
    """int: optimiser steps, where the time for the training decided how many."""
    RUNG = f"{PREFIX}rung"
    """int: 1 is the shortest training of a search with a clock; each run with one numbers on."""
    SHARE = f"{PREFIX}share"
    """float: seconds that a search with a clock gave to the training; absent where the recipe said how long."""
    SECONDS = f"{PREFIX}seconds"
    """float: seconds of training, over all processes that worked on it."""
    SPREAD = f"{PREFIX}spread"
    """float: standard deviation of the accuracy over the recipe's repeats."""
    MICRO_BATCHES = f"{PREFIX}micro_batches"
    """int: parts that a batch was divided into, where it did not fit in memory whole."""
    CAUSE = f"{PREFIX}cause"
    """str: why the trial ended, where neither the pruner nor the last epoch ended it."""
    DUPLICATE_OF = f"{PREFIX}duplicate_of"
    """int: number of the trial whose training was reused."""
    PAUSED = f"{PREFIX}paused"
    """int: epochs after which the trial was stopped, where its weights were kept to go on with."""
    CONTINUES = f"{PREFIX}continues"
    """int: number of the stopped trial whose training this one went on with."""
    PROPOSALS = f"{PREFIX}proposals"
    """int: how many proposals the sampler made until one was inside the limits."""
    LOG_PROB = f"{PREFIX}controller:log_prob"
    """float: log probability that the controller gave to its proposal."""
    ENTROPY = f"{PREFIX}controller:entropy"
    """float: mean entropy of the controller's policy, in nats."""

    UNREADABLE = f"{PREFIX}unreadable"
    """str: what is wrong with the trial's rows; given when they are read, never stored."""

    @staticmethod
    def cost(name: str) -> str:
        """Key of a cost: float, in the cost's unit."""
        return f"{PREFIX}{name}"


class StudyKey:
    """User attributes of a study."""

    UID = f"{PREFIX}uid"
    """str: tells the study from every other one, also from a later one of its name."""
    FORMAT = f"{PREFIX}format"
    """int: `FORMAT` of the version that made the study."""
    SPEC = f"{PREFIX}spec"
    """dict: the study spec."""
    SPACE = f"{PREFIX}space"
    """dict: what must not change about the search space while the study goes on."""
    DATA = f"{PREFIX}data"
    """dict: fingerprint and figures of the data set that the study began with."""
    FIT = f"{PREFIX}fit"
    """dict: how a fit divided its time, how much of it is spent, and what it has decided."""
    WITHIN = f"{PREFIX}within"
    """dict: the same of a search with a clock, which may go on in the study of a fit."""
    REFERENCE = f"{PREFIX}reference"
    """dict: the user's own network that the search is compared with: its name, accuracy, and how it was trained."""
    RETRAINED = f"{PREFIX}retrained"
    """list[dict]: the report of every retraining."""
    CONFUSION = f"{PREFIX}retrained:confusion:"
    """list[str], list[int], list[str]: classes, confusion matrix and mistakes of each retraining, in numbered parts."""
    NOTE = f"{PREFIX}note"
    """str: digest of the study's note as it was written for the dashboard, to tell whether a person has changed it."""
    SUPERNET = f"{PREFIX}supernet"
    """dict: what the supernet's training was and what it found; written last."""
    ALPHAS = f"{PREFIX}supernet:alphas:"
    """dict[str, list[float]]: logits by parameter, in numbered parts."""
    SCORE = f"{PREFIX}supernet:score:"
    """list[float]: intercept and coefficients of the predictor of the supernet's score, in numbered parts."""
    STARTS = f"{PREFIX}supernet:starts:"
    """list[list[int]]: tokens of the supernet's best architectures, in numbered parts."""
    TEACHERS = f"{PREFIX}supernet:teachers:"
    """list[list]: tokens and accuracy of each short training that taught the supernet's score, in numbered parts."""
    CHOICES = f"{PREFIX}supernet:choices:"
    """list: name and choices of each parameter that the supernet was trained for, in numbered parts."""
    FILES = f"{PREFIX}files"
    """list[str]: absolute paths of the folders that were named for the study's files, the latest last."""
    EARLIER = f"{PREFIX}earlier"
    """dict: the earlier study that this one learns from, and how many trials were copied from it; written last."""
    EARLIER_TRIALS = f"{PREFIX}earlier:trials:"
    """list: the first objective's gain and the params of each copied trial, in numbered parts."""


_TAKEN = frozenset(v for k, v in vars(TrialKey).items() if not k.startswith("_") and isinstance(v, str))
"""Keys of a trial that no cost may have."""


def is_reserved(cost: str) -> bool:
    """Whether trials remember something else under the key that a cost of this name would have."""
    return TrialKey.cost(cost) in _TAKEN


def costs_of(attributes: Mapping[str, Any]) -> dict[str, float]:
    """Every cost among a trial's user attributes, by name, whoever has registered it."""
    names = (key.removeprefix(PREFIX) for key in attributes if key.startswith(PREFIX))
    found = {name: attributes.get(TrialKey.cost(name)) for name in names if not is_reserved(name)}
    return {n: value for n, value in found.items() if isinstance(value, int | float) and not isinstance(value, bool)}


def attribute(trial: FrozenTrial | BaseTrial, key: str, default: Any = None) -> Any:
    """What a trial remembers under a key.

    Args:
        trial: The trial.
        key: One of `TrialKey`.
        default: Returned where the trial has no such key.

    Examples:
        >>> import optuna
        >>> trial = optuna.create_trial(value=1.0, user_attrs={"nas_optuna:epochs": 3})
        >>> attribute(trial, TrialKey.EPOCHS)
        3
    """
    return trial.user_attrs.get(key, default)


def readable(study: Study) -> dict[str, Any]:
    """The study's own attributes without the prefix, for a person or for JSON."""
    return {key.removeprefix(PREFIX): value for key, value in study.user_attrs.items() if key.startswith(PREFIX)}


# --- what a stored value must be --------------------------------------------------------------------------------------

Check = Callable[[Any], bool]
_Kind = tuple[str, Check]
"""What a person calls it, and whether a value is one."""


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and (not math.isfinite(value) or abs(value) < 1e30)
    )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def _is_duration(value: Any) -> bool:
    return _is_number(value) and 0 <= value < 1e12


def _each(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _by_name(check: Check) -> Check:
    return lambda value: isinstance(value, dict) and all(map(check, value.values()))


def _record(**fields: Check) -> Check:
    """A mapping in which these fields, where it has them, are what they must be."""
    return lambda value: isinstance(value, dict) and all(check(value[k]) for k, check in fields.items() if k in value)


def _or_none(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _is_by_epoch(value: Any) -> bool:
    return _by_name(_is_number)(value) and all(key.isdecimal() and len(key) < 10 for key in value)


def _is_report(value: Any) -> bool:
    """Whether a value is a `TestReport` as a study remembers it."""
    known = _record(
        architecture=_is_text,
        recipe=_is_text,
        device=_is_text,
        mean=_is_share,
        spread=_or_none(_is_number),
        seeds=_each(_is_count),
        accuracies=_each(_is_share),
        class_accuracies=_each(_is_number),
        images=_is_count,
        test_images=_is_positive,
        classes=_each(_is_text),
        seconds=_is_duration,
    )
    return known(value) and {"architecture", "mean", "test_images", "seeds", "spread"} <= set(value)


def _is_space(value: Any) -> bool:
    """Whether a value tells enough of a space to build it without its images."""
    sides = value.get("input_size") if isinstance(value, dict) else None
    sides = sides if isinstance(sides, list) else [sides]
    known = _record(in_channels=_is_positive, classes=_is_positive, parameters=_by_name(_each(_is_choice)))
    return known(value) and {"in_channels", "classes"} <= set(value) and all(_is_positive(s) and s < 1e6 for s in sides)


def _is_choice(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _is_positive(value: Any) -> bool:
    return _is_count(value) and value > 0


_TEXT: _Kind = "a text", _is_text
_NUMBER: _Kind = "a number", _is_number
_COUNT: _Kind = "a whole number", _is_count
_MAPPING: _Kind = "a mapping", lambda value: isinstance(value, dict)
_OF_A_TRIAL: Mapping[str, _Kind] = {
    **dict.fromkeys((TrialKey.ARCHITECTURE, TrialKey.IDENTITY, TrialKey.RECIPE, TrialKey.DEVICE), _TEXT),
    **dict.fromkeys((TrialKey.ORIGIN, TrialKey.CAUSE, TrialKey.UNREADABLE), _TEXT),
    **dict.fromkeys((TrialKey.STEPS, TrialKey.RUNG, TrialKey.PAUSED, TrialKey.CONTINUES), _COUNT),
    **dict.fromkeys((TrialKey.SEED, TrialKey.EPOCHS, TrialKey.MICRO_BATCHES, TrialKey.DUPLICATE_OF), _COUNT),
    TrialKey.FEASIBLE: ("true or false", lambda value: isinstance(value, bool)),
    TrialKey.METRICS: ("numbers by name", _by_name(_is_number)),
    TrialKey.REPORTS: ("numbers by epoch", _is_by_epoch),
    **dict.fromkeys((TrialKey.SECONDS, TrialKey.SHARE), ("a number of seconds", _is_duration)),
    TrialKey.PROPOSALS: ("a whole number above 0", _is_positive),
    TrialKey.WORKER: ("a text", _or_none(_is_text)),
    TrialKey.LEASE: ("a number", _or_none(_is_number)),
    TrialKey.SPREAD: ("a number", _or_none(_is_number)),
}
"""Every other key of ours is a number: a cost."""
_OF_ANY_TRIAL: Mapping[str, _Kind] = {
    "fixed_params": _MAPPING,
    "constraints": ("a list of numbers", _each(_is_number)),
    "grid_id": _COUNT,
    "nas_optuna:plan": _COUNT,
}
"""System attributes of Optuna that we read."""
_OF_A_STUDY: Mapping[str, _Kind] = {
    StudyKey.UID: _TEXT,
    StudyKey.FORMAT: _COUNT,
    StudyKey.FIT: _MAPPING,
    StudyKey.WITHIN: _MAPPING,
    StudyKey.REFERENCE: ("a reference", _record(name=_is_text, identity=_is_text, accuracy=_is_share)),
    StudyKey.SPEC: _MAPPING,
    StudyKey.SPACE: ("a description of a space", _is_space),
    StudyKey.DATA: _MAPPING,
    StudyKey.RETRAINED: ("a list of retrainings", _each(_is_report)),
    StudyKey.NOTE: _TEXT,
    StudyKey.SUPERNET: ("a mapping", _by_name(lambda value: not isinstance(value, float) or math.isfinite(value))),
    StudyKey.FILES: ("a list", lambda value: isinstance(value, list)),  # of which each is looked at with suspicion
    StudyKey.EARLIER: (
        "a mapping with its parts",
        lambda value: _record(chunks=_is_count, names=_each(_is_text))(value) and {"chunks", "names"} <= set(value),
    ),
}
_PARTS: Mapping[str, _Kind] = {
    StudyKey.CONFUSION: ("a list", _each(lambda value: _is_text(value) or _is_count(value))),
    StudyKey.ALPHAS: ("lists of numbers by name", _by_name(_each(_is_number))),
    StudyKey.SCORE: ("a list of numbers", _each(_is_number)),
    StudyKey.STARTS: ("lists of whole numbers", _each(_each(_is_count))),
    StudyKey.TEACHERS: ("lists of numbers", _each(_each(_is_number))),
    StudyKey.CHOICES: ("a list of lists", _each(lambda value: isinstance(value, list) and len(value) == 2)),
    StudyKey.EARLIER_TRIALS: ("a list of lists", _each(lambda value: isinstance(value, list))),
}
"""Numbered parts, by what their keys begin with."""


def flaw_of_trial(user: Mapping[str, Any], system: Mapping[str, Any]) -> str | None:
    """What is wrong with a trial's attributes, in a few words; None where nothing is.

    Args:
        user: Its user attributes.
        system: Its system attributes.

    Examples:
        >>> flaw_of_trial({"nas_optuna:accuracy": []}, {})
        'accuracy is not a number'
    """
    for key, value in user.items():
        if key.startswith(PREFIX):
            kind, check = _OF_A_TRIAL.get(key, _NUMBER)
            if not check(value):
                return f"{key.removeprefix(PREFIX)} is not {kind}"
    for key, value in system.items():
        kind, check = _NUMBER if key.startswith("constraints:") else _OF_ANY_TRIAL.get(key, _ANYTHING)
        if not check(value):
            return f"{key} is not {kind}"
    return None


_ANYTHING: _Kind = "anything", lambda value: True


def flaw_of_study(user: Mapping[str, Any]) -> str | None:
    """What is wrong with a study's user attributes, in a few words; None where nothing is.

    Examples:
        >>> flaw_of_study({"nas_optuna:supernet": True})
        'supernet is not a mapping'
    """
    for key, value in user.items():
        part = next((start for start in _PARTS if key.startswith(start)), None)
        kind, check = _PARTS[part] if part is not None else _OF_A_STUDY.get(key, _ANYTHING)
        if not check(value):
            return f"{key.removeprefix(PREFIX)} is not {kind}"
    return None
