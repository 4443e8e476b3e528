"""Every key under which a study or a trial of ours remembers something, and how long lists are kept in parts.

All keys begin with one prefix, so that they never meet those of a plain Optuna user. Values are JSON. A string may have
at most `LONGEST` characters, because MySQL and optuna-dashboard cut longer ones.

Whoever may write to a database may alter it, so every value is checked once, where rows are read: a trial with a value
of another kind counts as a failed one and says why (`flaw_of_trial`); a study is refused in one line (`flaw_of_study`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Annotated, Any, Required

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen, Predicate
from typing_extensions import TypedDict

from nas_optuna.errors import shown
from nas_optuna.quantities import LARGEST

if TYPE_CHECKING:  # a listing of names must not import Optuna
    from optuna.trial import BaseTrial, FrozenTrial

FORMAT = 2
"""Raised when studies are written that older versions would misread; no release wrote format 1."""

PREFIX = "nas_optuna:"
LONGEST = 2000
"""Characters of one attribute's JSON that every storage keeps, with a margin (the smallest limit is 2,046)."""


# --- what a stored value must be --------------------------------------------------------------------------------------

Number = Annotated[float, Predicate(lambda value: not math.isfinite(value) or abs(value) < LARGEST)]
Count = Annotated[int, Ge(0), Lt(2**53)]
Positive = Annotated[int, Gt(0), Lt(2**53)]
Seconds = Annotated[float, Ge(0), Lt(1e12)]
Share = Annotated[float, Ge(0), Le(1)]
Side = Annotated[int, Gt(0), Lt(10**6)]
Pair = Annotated[list[Any], MinLen(2), MaxLen(2)]
Finite = Annotated[Any, Predicate(lambda value: not isinstance(value, float) or math.isfinite(value))]
Epoch = Annotated[str, Predicate(lambda key: key.isdecimal() and len(key) < 10)]


class _Report(TypedDict, total=False):
    """A retraining's `TestReport`."""

    architecture: Required[str]
    recipe: str
    device: str
    mean: Required[Share]
    spread: Required[Number | None]
    seeds: Required[Annotated[list[Count], MinLen(1)]]
    accuracies: list[Share]
    class_accuracies: list[Number]
    images: Count
    test_images: Required[Positive]
    majority: Share | None
    classes: list[str]
    seconds: Seconds


class _Space(TypedDict, total=False):
    """Enough of a space to build it without its images."""

    in_channels: Required[Positive]
    classes: Required[Positive]
    input_size: Required[Side | list[Side]]
    parameters: dict[str, list[bool | int | float | str | None]]


class _Reference(TypedDict, total=False):
    name: str
    identity: str
    accuracy: Share
    spread: Number
    value: Number
    seconds: Seconds


class _Choice(TypedDict, total=False):
    trial: Count
    trials: Count


class _Fit(TypedDict, total=False):
    final: _Choice
    look: Count


class _Earlier(TypedDict):
    chunks: Count
    names: list[str]


_OF_A_TRIAL: dict[str, Any] = {}
"""The type of each user attribute of a trial, as Pydantic understands it; every other one of ours is a cost."""
_OF_A_STUDY: dict[str, Any] = {"study:metric_names": list[str]}
_PARTS: dict[str, Any] = {}
"""The type of numbered parts, by the prefix of their keys."""
_OF_OPTUNA: Mapping[str, Any] = {
    "fixed_params": dict[str, Any],
    "constraints": list[Number],
    "grid_id": Count,
    "nas_optuna:plan": Count,
}
"""System attributes of a trial that we read."""


def _key(types: dict[str, Any], name: str, kind: Any = Number) -> str:
    key = f"{PREFIX}{name}"
    types[key] = kind
    return key


_trial_key, _study_key, _parts = partial(_key, _OF_A_TRIAL), partial(_key, _OF_A_STUDY), partial(_key, _PARTS)


# --- keys -------------------------------------------------------------------------------------------------------------


class TrialKey:
    """User attributes of a trial. The type of each value is in its description."""

    ARCHITECTURE = _trial_key("architecture", str)
    """str: the canonical string of the architecture."""
    FEASIBLE = _trial_key("feasible", bool)
    """bool: whether the trial is inside the study's limits; absent where there are none."""
    ACCURACY = _trial_key("accuracy")
    """float: validation accuracy after the last epoch trained, 0 to 1, whatever the objectives."""
    METRICS = _trial_key("metrics", dict[str, Number])
    """dict[str, float]: every metric after the last epoch trained, by name."""
    REPORTS = _trial_key("reports", dict[Epoch, Number])
    """dict[str, float]: epoch → value that a study of several objectives is pruned by."""
    IDENTITY = _trial_key("identity", str)
    """str: digest of everything that decides the trial's value beside the architecture."""
    RECIPE = _trial_key("recipe", str)
    """str: the recipe's fingerprint."""
    SEED = _trial_key("seed", Count)
    """int: seed of the training."""
    DEVICE = _trial_key("device", str)
    """str: name of the device that trained it."""
    ORIGIN = _trial_key("origin", str)
    """str: who proposed it: a sampler's name, ``"enqueued"``, ``"cheapest"``, …"""
    WORKER = _trial_key("worker", str | None)
    """str: the process that ran it, in studies of release 0.2; see `nas_optuna.study.lease` for what is now."""
    LEASE = _trial_key("lease", Number | None)
    """float: until when, in seconds by the database's clock, that process had the trial."""
    EPOCHS = _trial_key("epochs", Count)
    """int: epochs trained, over all seeds."""
    STEPS = _trial_key("steps", Count | None)
    """int: optimiser steps, if the time decided how many; it and the next two are None if another training followed."""
    RUNG = _trial_key("rung", Count | None)
    """int: rung of a search with a clock, 1 is the shortest; each further run continues the numbers."""
    SHARE = _trial_key("share", Seconds | None)
    """float: seconds that a search with a clock gave to the training; absent if the recipe decided."""
    TRAINED = _trial_key("trained", str | None)
    """str: the identity whose last step is recorded; None if another training followed."""
    SECONDS = _trial_key("seconds", Seconds)
    """float: seconds of training, over all processes that worked on it."""
    SPREAD = _trial_key("spread", Number | None)
    """float: standard deviation over the recipe's repeats of the accuracy, of the first one if some are objectives."""
    MICRO_BATCHES = _trial_key("micro_batches", Count)
    """int: parts that a batch was divided into, if it did not fit in memory."""
    CAUSE = _trial_key("cause", str)
    """str: why the trial ended, if neither the pruner nor the last epoch ended it."""
    DEATHS = _trial_key("deaths", Annotated[list[Count], MinLen(2), MaxLen(2)])
    """[int, int]: the last step when its process died while the run went on, and its deaths since that step."""
    DUPLICATE_OF = _trial_key("duplicate_of", Count)
    """int: number of the trial whose training was reused."""
    PAUSED = _trial_key("paused", Count)
    """int: epochs after which the trial was stopped, if its state was kept to be continued."""
    REMOVED = _trial_key("removed", list[Count])
    """list[int]: numbers of stopped trials whose state was removed to make room for this one's."""
    CONTINUES = _trial_key("continues", Count)
    """int: number of the stopped trial whose training this one continued."""
    PROPOSALS = _trial_key("proposals", Positive)
    """int: how many proposals it took until one was inside the limits."""
    LOG_PROB = _trial_key("controller:log_prob")
    """float: log probability that the controller gave to its proposal."""
    ENTROPY = _trial_key("controller:entropy")
    """float: mean entropy of the controller's policy, in nats."""

    UNREADABLE = _trial_key("unreadable", str)
    """str: what is wrong with the trial's rows; set when they are read, never stored."""

    @staticmethod
    def cost(name: str) -> str:
        """Key of a cost: float, in the cost's unit."""
        return f"{PREFIX}{name}"


class StudyKey:
    """User attributes of a study."""

    UID = _study_key("uid", str)
    """str: distinguishes the study from all others, even from a later one of the same name."""
    FORMAT = _study_key("format", Count)
    """int: `FORMAT` of the version that made the study."""
    SPEC = _study_key("spec", dict[str, Any])
    """dict: the study spec."""
    SPACE = _study_key("space", _Space)
    """dict: what must not change about the search space during the study."""
    DATA = _study_key("data", dict[str, Any])
    """dict: fingerprint and figures of the data set that the study began with."""
    FIT = _study_key("fit", _Fit)
    """dict: how a fit divides its time, how much of it is spent, and what it has decided."""
    WITHIN = _study_key("within", dict[str, Any])
    """dict: the same for ``run --within``, which may also continue the study of a fit."""
    REFERENCE = _study_key("reference", _Reference)
    """dict: the user's own network that the search is compared with: its name, figures and training."""
    RETRAINED = _study_key("retrained", list[_Report])
    """list[dict]: the report of every retraining."""
    CONFUSION = _parts("retrained:confusion:", list[str | Count])
    """list[str], list[int], list[str]: classes, confusion matrix and mistakes of each retraining, in numbered parts."""
    NOTE = _study_key("note", str)
    """str: digest of the note that was written for the dashboard, which shows whether a person has changed it."""
    SUPERNET = _study_key("supernet", dict[str, Finite])
    """dict: settings and findings of the supernet's training; written last."""
    ALPHAS = _parts("supernet:alphas:", dict[str, list[Number]])
    """dict[str, list[float]]: logits by parameter, in numbered parts."""
    SCORE = _parts("supernet:score:", list[Number])
    """list[float]: intercept and coefficients of the predictor of the supernet's score, in numbered parts."""
    STARTS = _parts("supernet:starts:", list[list[Count]])
    """list[list[int]]: tokens of the supernet's best architectures, in numbered parts."""
    TEACHERS = _parts("supernet:teachers:", list[list[Number]])
    """list[list]: tokens and accuracy of the short trainings that the score was fitted to, in numbered parts."""
    CHOICES = _parts("supernet:choices:", list[Pair])
    """list: name and choices of each parameter that the supernet was trained for, in numbered parts."""
    FILES = _study_key("files", list[str])
    """list[str]: absolute paths of the folders that were named for the study's files, the latest last."""
    EARLIER = _study_key("earlier", _Earlier)
    """dict: the earlier study that this one learns from, and how many trials were copied from it; written last."""
    EARLIER_TRIALS = _parts("earlier:trials:", list[list[Any]])
    """list: the first objective's gain and the params of each copied trial, in numbered parts."""


def is_reserved(cost: str) -> bool:
    """Whether a cost of this name would have the key of another attribute."""
    return TrialKey.cost(cost) in _OF_A_TRIAL


def costs_of(attributes: Mapping[str, Any]) -> dict[str, float]:
    """Every cost among a trial's user attributes, by name, built in or not."""
    ours = (key for key in attributes if key.startswith(PREFIX) and key not in _OF_A_TRIAL)
    return {key.removeprefix(PREFIX): attributes[key] for key in ours}


def attribute(trial: FrozenTrial | BaseTrial, key: str, default: Any = None) -> Any:
    """A user attribute of a trial, by key.

    Examples:
        >>> import optuna
        >>> trial = optuna.create_trial(value=1.0, user_attrs={"nas_optuna:epochs": 3})
        >>> attribute(trial, TrialKey.EPOCHS)
        3
    """
    return trial.user_attrs.get(key, default)


def reports_of(trial: FrozenTrial) -> Mapping[int, float]:
    """Epoch → reported value; in a study of several objectives Optuna has no intermediate values."""
    if trial.intermediate_values:
        return trial.intermediate_values
    return {int(epoch): value for epoch, value in attribute(trial, TrialKey.REPORTS, {}).items()}


def flaw_of_trial(user: Mapping[str, Any], system: Mapping[str, Any]) -> str | None:
    """What is wrong with a trial's attributes, in a few words; None if nothing is.

    Examples:
        >>> flaw_of_trial({"nas_optuna:accuracy": []}, {})
        'accuracy: Input should be a valid number'
    """

    def of_optuna(key: str) -> Any:
        return Number if key.startswith("constraints:") else _OF_OPTUNA.get(key, Any)

    ours = {key: value for key, value in user.items() if key.startswith(PREFIX)}
    return _flaw(ours, lambda key: _OF_A_TRIAL.get(key, Number)) or _flaw(system, of_optuna)


def flaw_of_study(attributes: Mapping[str, Any]) -> str | None:
    """What is wrong with a study's user or system attributes, in a few words; None if nothing is."""

    def kind(key: str) -> Any:
        return next((_PARTS[start] for start in _PARTS if key.startswith(start)), _OF_A_STUDY.get(key, Any))

    return _flaw(attributes, kind)


def _flaw(values: Mapping[str, Any], kind: Callable[[str], Any]) -> str | None:
    from pydantic import ValidationError  # late, because the names alone do not need it

    for key, value in values.items():
        try:
            _type(kind(key)).validate_python(value, strict=True)
        except ValidationError as error:
            found = error.errors()[0]
            said = f"it cannot be {shown(found['input'])}" if found["type"] == "predicate_failed" else found["msg"]
            return f"{'.'.join(map(str, (key.removeprefix(PREFIX), *found['loc'])))}: {said}"
    return None


@cache
def _type(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


# --- long lists -------------------------------------------------------------------------------------------------------


def in_parts(items: Sequence[Any]) -> Iterator[list[Any]]:
    """Lists whose JSON every storage can hold."""
    part: list[Any] = []
    length = 2
    for item in items:
        more = len(json.dumps(item)) + 2
        if part and length + more > LONGEST:
            yield part
            part, length = [], 2
        part.append(item)
        length += more
    yield part


def attributes_of(prefix: str, items: Sequence[Any]) -> dict[str, list[Any]]:
    """A list as so many study attributes as it needs; `prefix` gets their numbers."""
    return {f"{prefix}{i}": part for i, part in enumerate(in_parts(items))}


def read_parts(attributes: Mapping[str, Any], prefix: str, count: int) -> list[Any]:
    """The list that was stored in `count` parts."""
    return [item for i in range(count) for item in attributes[f"{prefix}{i}"]]
