"""Every key under which a study or a trial of ours remembers something.

All keys begin with one prefix, so that they never meet those of a plain Optuna user. Values are JSON. A string may have
at most `LONGEST` characters, because MySQL and optuna-dashboard cut longer ones.

Whoever may write to a database may alter it, so every value is checked once, where rows are read: a trial with a value
of another kind counts as a failed one and says why (`flaw_of_trial`); a study is refused in one line (`flaw_of_study`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a listing of names must not import Optuna
    from optuna.study import Study
    from optuna.trial import BaseTrial, FrozenTrial

FORMAT = 2
"""Raised when studies are written that older versions would misread; no release wrote format 1."""

PREFIX = "nas_optuna:"
LONGEST = 2000
"""Characters of one attribute's JSON that every storage keeps, with a margin (the smallest limit is 2,046)."""


# --- what a stored value must be --------------------------------------------------------------------------------------

Check = Callable[[Any], bool]
_Kind = tuple[str, Check]
"""A name for people, and a check whether a value is of that kind."""


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


def _is_earlier(value: Any) -> bool:
    return _record(chunks=_is_count, names=_each(_is_text))(value) and {"chunks", "names"} <= set(value)


_NUMBER: _Kind = "a number", _is_number
_MAYBE_NUMBER: _Kind = "a number", _or_none(_is_number)
_TEXT: _Kind = "a text", _is_text
_COUNT: _Kind = "a whole number", _is_count
_DURATION: _Kind = "a number of seconds", _is_duration
_MAPPING: _Kind = "a mapping", lambda value: isinstance(value, dict)
_ANYTHING: _Kind = "anything", lambda value: True
_OF_A_TRIAL: dict[str, _Kind] = {}
"""What each of our user attributes of a trial is; every other one is a number: a cost."""
_OF_A_STUDY: dict[str, _Kind] = {}
_PARTS: dict[str, _Kind] = {}
"""Numbered parts, by what their keys begin with."""
_OF_OPTUNA: Mapping[str, _Kind] = {
    "fixed_params": _MAPPING,
    "constraints": ("a list of numbers", _each(_is_number)),
    "grid_id": _COUNT,
    "nas_optuna:plan": _COUNT,
}
"""System attributes of a trial that we read."""


def _key(kinds: dict[str, _Kind], name: str, what: str = "a number", check: Check = _is_number) -> str:
    key = f"{PREFIX}{name}"
    kinds[key] = what, check
    return key


_trial_key, _study_key, _parts = partial(_key, _OF_A_TRIAL), partial(_key, _OF_A_STUDY), partial(_key, _PARTS)


# --- keys -------------------------------------------------------------------------------------------------------------


class TrialKey:
    """User attributes of a trial. The type of each value is in its description."""

    ARCHITECTURE = _trial_key("architecture", *_TEXT)
    """str: the canonical string of the architecture."""
    FEASIBLE = _trial_key("feasible", "true or false", lambda value: isinstance(value, bool))
    """bool: whether the trial is inside the study's limits; absent where there are none."""
    ACCURACY = _trial_key("accuracy")
    """float: validation accuracy after the last epoch trained, 0 to 1, whatever the objectives."""
    METRICS = _trial_key("metrics", "numbers by name", _by_name(_is_number))
    """dict[str, float]: every metric after the last epoch trained, by name."""
    REPORTS = _trial_key("reports", "numbers by epoch", _is_by_epoch)
    """dict[str, float]: epoch → value that a study of several objectives is pruned by."""
    IDENTITY = _trial_key("identity", *_TEXT)
    """str: digest of everything that decides the trial's value beside the architecture."""
    RECIPE = _trial_key("recipe", *_TEXT)
    """str: the recipe's fingerprint."""
    SEED = _trial_key("seed", *_COUNT)
    """int: seed of the training."""
    DEVICE = _trial_key("device", *_TEXT)
    """str: name of the device that trained it."""
    ORIGIN = _trial_key("origin", *_TEXT)
    """str: who proposed it: a sampler's name, ``"enqueued"``, ``"cheapest"``, …"""
    WORKER = _trial_key("worker", "a text", _or_none(_is_text))
    """str: the process that ran it, in studies of release 0.2; see `nas_optuna.study.lease` for what is now."""
    LEASE = _trial_key("lease", *_MAYBE_NUMBER)
    """float: until when, in seconds by the database's clock, that process had the trial for itself."""
    EPOCHS = _trial_key("epochs", *_COUNT)
    """int: epochs trained, over all seeds."""
    STEPS = _trial_key("steps", *_COUNT)
    """int: optimiser steps, where the time for the training decided how many."""
    RUNG = _trial_key("rung", *_COUNT)
    """int: 1 is the shortest training of a search with a clock; each run with one numbers on."""
    SHARE = _trial_key("share", *_DURATION)
    """float: seconds that a search with a clock gave to the training; absent where the recipe said how long."""
    SECONDS = _trial_key("seconds", *_DURATION)
    """float: seconds of training, over all processes that worked on it."""
    SPREAD = _trial_key("spread", *_MAYBE_NUMBER)
    """float: standard deviation of the accuracy over the recipe's repeats."""
    MICRO_BATCHES = _trial_key("micro_batches", *_COUNT)
    """int: parts that a batch was divided into, where it did not fit in memory whole."""
    CAUSE = _trial_key("cause", *_TEXT)
    """str: why the trial ended, where neither the pruner nor the last epoch ended it."""
    DUPLICATE_OF = _trial_key("duplicate_of", *_COUNT)
    """int: number of the trial whose training was reused."""
    PAUSED = _trial_key("paused", *_COUNT)
    """int: epochs after which the trial was stopped, where its weights were kept to go on with."""
    REMOVED = _trial_key("removed", "a list of whole numbers", _each(_is_count))
    """list[int]: numbers of stopped trials whose weights were removed to make room for this one's."""
    CONTINUES = _trial_key("continues", *_COUNT)
    """int: number of the stopped trial whose training this one went on with."""
    PROPOSALS = _trial_key("proposals", "a whole number above 0", _is_positive)
    """int: how many proposals the sampler made until one was inside the limits."""
    LOG_PROB = _trial_key("controller:log_prob")
    """float: log probability that the controller gave to its proposal."""
    ENTROPY = _trial_key("controller:entropy")
    """float: mean entropy of the controller's policy, in nats."""

    UNREADABLE = _trial_key("unreadable", *_TEXT)
    """str: what is wrong with the trial's rows; given when they are read, never stored."""

    @staticmethod
    def cost(name: str) -> str:
        """Key of a cost: float, in the cost's unit."""
        return f"{PREFIX}{name}"


class StudyKey:
    """User attributes of a study."""

    UID = _study_key("uid", *_TEXT)
    """str: tells the study from every other one, also from a later one of its name."""
    FORMAT = _study_key("format", *_COUNT)
    """int: `FORMAT` of the version that made the study."""
    SPEC = _study_key("spec", *_MAPPING)
    """dict: the study spec."""
    SPACE = _study_key("space", "a description of a space", _is_space)
    """dict: what must not change about the search space while the study goes on."""
    DATA = _study_key("data", *_MAPPING)
    """dict: fingerprint and figures of the data set that the study began with."""
    FIT = _study_key("fit", "what a fit has decided", _record(final=_record(trial=_is_count, trials=_is_count)))
    """dict: how a fit divided its time, how much of it is spent, and what it has decided."""
    WITHIN = _study_key("within", *_MAPPING)
    """dict: the same of a search with a clock, which may go on in the study of a fit."""
    REFERENCE = _study_key("reference", "a reference", _record(name=_is_text, identity=_is_text, accuracy=_is_share))
    """dict: the user's own network that the search is compared with: its name, accuracy, and how it was trained."""
    RETRAINED = _study_key("retrained", "a list of retrainings", _each(_is_report))
    """list[dict]: the report of every retraining."""
    CONFUSION = _parts("retrained:confusion:", "a list", _each(lambda value: _is_text(value) or _is_count(value)))
    """list[str], list[int], list[str]: classes, confusion matrix and mistakes of each retraining, in numbered parts."""
    NOTE = _study_key("note", *_TEXT)
    """str: digest of the study's note as it was written for the dashboard, to tell whether a person has changed it."""
    SUPERNET = _study_key(
        "supernet", "a mapping", _by_name(lambda value: not isinstance(value, float) or math.isfinite(value))
    )
    """dict: what the supernet's training was and what it found; written last."""
    ALPHAS = _parts("supernet:alphas:", "lists of numbers by name", _by_name(_each(_is_number)))
    """dict[str, list[float]]: logits by parameter, in numbered parts."""
    SCORE = _parts("supernet:score:", "a list of numbers", _each(_is_number))
    """list[float]: intercept and coefficients of the predictor of the supernet's score, in numbered parts."""
    STARTS = _parts("supernet:starts:", "lists of whole numbers", _each(_each(_is_count)))
    """list[list[int]]: tokens of the supernet's best architectures, in numbered parts."""
    TEACHERS = _parts("supernet:teachers:", "lists of numbers", _each(_each(_is_number)))
    """list[list]: tokens and accuracy of each short training that taught the supernet's score, in numbered parts."""
    CHOICES = _parts(
        "supernet:choices:", "a list of lists", _each(lambda value: isinstance(value, list) and len(value) == 2)
    )
    """list: name and choices of each parameter that the supernet was trained for, in numbered parts."""
    FILES = _study_key("files", "a list of texts", _each(_is_text))
    """list[str]: absolute paths of the folders that were named for the study's files, the latest last."""
    EARLIER = _study_key("earlier", "a mapping with its parts", _is_earlier)
    """dict: the earlier study that this one learns from, and how many trials were copied from it; written last."""
    EARLIER_TRIALS = _parts("earlier:trials:", "a list of lists", _each(lambda value: isinstance(value, list)))
    """list: the first objective's gain and the params of each copied trial, in numbered parts."""


def is_reserved(cost: str) -> bool:
    """Whether trials remember something else under the key that a cost of this name would have."""
    return TrialKey.cost(cost) in _OF_A_TRIAL


def costs_of(attributes: Mapping[str, Any]) -> dict[str, float]:
    """Every cost among a trial's user attributes, by name, whoever has registered it."""
    ours = (key for key in attributes if key.startswith(PREFIX) and key not in _OF_A_TRIAL)
    return {key.removeprefix(PREFIX): attributes[key] for key in ours}


def attribute(trial: FrozenTrial | BaseTrial, key: str, default: Any = None) -> Any:
    """What a trial remembers under a key.

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


def flaw_of_trial(user: Mapping[str, Any], system: Mapping[str, Any]) -> str | None:
    """What is wrong with a trial's attributes, in a few words; None where nothing is.

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
        kind, check = _NUMBER if key.startswith("constraints:") else _OF_OPTUNA.get(key, _ANYTHING)
        if not check(value):
            return f"{key} is not {kind}"
    return None


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
