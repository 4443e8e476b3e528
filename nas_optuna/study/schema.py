"""Every key under which a study or a trial of ours remembers something.

All keys begin with one prefix, so that they never meet those of a plain Optuna user. Studies of format 1 were written
without it; `attribute` and `study_attribute` still read their keys, and nothing writes them any more.

Values are JSON. A string may have at most `LONGEST` characters, because MySQL and optuna-dashboard cut longer ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a listing of names must not import Optuna
    from optuna.study import Study
    from optuna.trial import BaseTrial, FrozenTrial

FORMAT = 2
"""Raised when studies are written that older versions would misread. Format 1 had no prefix on trial keys."""

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
    """str: the process that runs it; see `nas_optuna.study.lease`."""
    LEASE = f"{PREFIX}lease"
    """float: until when, in seconds by the database's clock, the worker has the trial for itself."""
    EPOCHS = f"{PREFIX}epochs"
    """int: epochs trained, over all seeds."""
    STEPS = f"{PREFIX}steps"
    """int: optimiser steps, where the time for the training decided how many."""
    RUNG = f"{PREFIX}rung"
    """int: 1 is the shortest training of a search with a clock; networks of different rungs are not compared."""
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
    PROPOSALS = f"{PREFIX}proposals"
    """int: how many proposals the sampler made until one was inside the limits."""
    LOG_PROB = f"{PREFIX}controller:log_prob"
    """float: log probability that the controller gave to its proposal."""
    ENTROPY = f"{PREFIX}controller:entropy"
    """float: mean entropy of the controller's policy, in nats."""

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
    """dict: how a search with a clock divided its time, how much of it is spent, and what it has decided."""
    RETRAINED = f"{PREFIX}retrained"
    """list[dict]: the report of every retraining."""
    CONFUSION = f"{PREFIX}retrained:confusion:"
    """list[str], list[int]: classes and confusion matrix of each retraining, row by row, in numbered parts."""
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
    SNAPSHOT = f"{PREFIX}controller:snapshot"
    """list: the controller's weights, in numbered parts."""


_TAKEN = frozenset(v for k, v in vars(TrialKey).items() if not k.startswith("_") and isinstance(v, str))
"""Keys of a trial that no cost may have."""


def is_reserved(cost: str) -> bool:
    """Whether trials remember something else under the key that a cost of this name would have."""
    return TrialKey.cost(cost) in _TAKEN


def costs_of(attributes: Mapping[str, Any]) -> dict[str, float]:
    """Every cost among a trial's user attributes, by name, whoever has registered it."""
    names = (key.removeprefix(PREFIX) for key in attributes if key.startswith(PREFIX) or is_format_1(attributes))
    found = {name: attribute_of(attributes, TrialKey.cost(name)) for name in names if not is_reserved(name)}
    return {n: value for n, value in found.items() if isinstance(value, int | float) and not isinstance(value, bool)}


_WITHOUT_PREFIX = frozenset({f"{PREFIX}recipe", f"{PREFIX}worker", f"{PREFIX}origin"})
"""A trial of format 1 has at least one of these without the prefix."""
_LOG_OF_FORMAT_1 = ("controller:log_prob", "controller:entropy")


def attribute(trial: FrozenTrial | BaseTrial, key: str, default: Any = None) -> Any:
    """What a trial remembers under a key, also where format 1 wrote it.

    Args:
        trial: The trial.
        key: One of `TrialKey`.
        default: Returned where the trial has no such key.

    Example:
        >>> import optuna
        >>> trial = optuna.create_trial(value=1.0, user_attrs={"nas_optuna:epochs": 3})
        >>> attribute(trial, TrialKey.EPOCHS)
        3
    """
    return attribute_of(trial.user_attrs, key, default)


def attribute_of(attributes: Mapping[str, Any], key: str, default: Any = None) -> Any:
    """`attribute`, for user attributes that were read already."""
    if key in attributes:
        return attributes[key]
    old = key.removeprefix(PREFIX)
    if old in attributes and (is_format_1(attributes) or old in _LOG_OF_FORMAT_1):
        return attributes[old]
    return default


def is_format_1(attributes: Mapping[str, Any]) -> bool:
    """Whether a trial's user attributes were written by format 1, rather than by another user of Optuna."""
    return any(key.removeprefix(PREFIX) in attributes for key in _WITHOUT_PREFIX)


def study_attribute(attributes: Mapping[str, Any], key: str, default: Any = None) -> Any:
    """What a study remembers under a key, also where format 1 wrote it.

    Args:
        attributes: ``study.user_attrs``, read once by the caller, because each reading asks the storage.
        key: One of `StudyKey`, with a part's number where the key is numbered.
        default: Returned where the study has no such key.
    """
    return attributes.get(key, attributes.get(key.removeprefix(PREFIX), default))


def readable(study: Study) -> dict[str, Any]:
    """The study's own attributes without the prefix, for a person or for JSON."""
    return {key.removeprefix(PREFIX): value for key, value in study.user_attrs.items() if key.startswith(PREFIX)}
