"""A study's trials as tokens, each read once, and how trials rank against each other."""

from __future__ import annotations

import math
import zlib
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas_optuna.study.optuna_internals import all_trials, contains

Tokens = tuple[int, ...]
"""One token per parameter, in the natural order of the parameters' names."""

LEVELS = 33
"""The most levels into which the range of a number is divided: four decades in steps of a factor of 1.3."""

Canonical = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""See `SearchSpace.canonical`."""

PROPOSAL = "nas_optuna:proposal"
"""System attribute of a trial, written before its choices are stored: a digest of the parameters, and tokens."""

_MAX_CANONICAL = 100_000
"""The most token sequences whose canonical form is cached."""

SPREAD = 0.29
"""Standard deviation of a rank that is uniform in [0, 1]; standardised values are scaled to the same."""


class Axis:
    """One parameter as tokens: its choices, or at most `LEVELS` levels of a range, each with a value at least."""

    def __init__(self, distribution: BaseDistribution) -> None:
        self.distribution = d = distribution
        self.is_number = not isinstance(d, CategoricalDistribution)
        self._firsts: list[int] = []  # of a range with a step, the place of each level's first value, and of the end
        if isinstance(d, CategoricalDistribution):
            self.size = len(d.choices)
            return
        assert isinstance(d, IntDistribution | FloatDistribution)
        if d.step is not None:
            self._firsts = _firsts(d)
            self.size = len(self._firsts) - 1
            return
        self.size = 1 if d.single() else LEVELS
        self._low = self._scaled(d.low)
        self._length = self._scaled(d.high) - self._low

    def has(self, value: Any) -> bool:
        """Whether it is a value of the distribution."""
        if self.is_number and not isinstance(value, int | float):
            return False
        with suppress(ValueError, TypeError):
            return contains(self.distribution, self.distribution.to_internal_repr(value))
        return False

    def token(self, value: Any) -> int:
        """The token of a value of the distribution."""
        d = self.distribution
        if isinstance(d, CategoricalDistribution):
            return int(d.to_internal_repr(value))
        assert isinstance(d, IntDistribution | FloatDistribution)
        if d.step is not None:
            return bisect_right(self._firsts, round((value - d.low) / d.step), hi=self.size) - 1
        return min(self.size - 1, int(self.size * (self._scaled(value) - self._low) / self._length))

    def value(self, token: int, place: float) -> Any:
        """The value of a token; `place`, from 0 to 1, is the position in a level."""
        d = self.distribution
        if isinstance(d, CategoricalDistribution):
            return d.choices[token]
        assert isinstance(d, IntDistribution | FloatDistribution)
        if d.step is not None:
            first, end = self._firsts[token], self._firsts[token + 1]
            return min(d.low + min(first + int(place * (end - first)), end - 1) * d.step, d.high)
        scaled = self._low + (token + place) / self.size * self._length
        return float(min(max(math.exp(scaled) if d.log else scaled, d.low), d.high))

    def _scaled(self, value: float) -> float:
        return math.log(value) if getattr(self.distribution, "log", False) else float(value)


def _firsts(d: IntDistribution | FloatDistribution) -> list[int]:
    """Divide the values of a range with a step, counted from 0, into levels; a level without a value is left out."""
    # Such a level would never count as tried, so that the values beside it were proposed again and again.
    assert d.step is not None
    count = round((d.high - d.low) / d.step) + 1
    if not d.log:
        levels = min(count, LEVELS)
        return [i * count // levels for i in range(levels + 1)]
    ratio = (d.high + 1) / d.low
    return sorted({*(round(d.low * ratio ** (i / LEVELS) - d.low) for i in range(LEVELS)), count})


@dataclass(frozen=True)
class Observation:
    """A finished trial that chose every parameter."""

    tokens: Tokens  # what it chose
    trial: FrozenTrial  # the trial; complete, pruned or failed
    violation: float  # see the function of that name


class History:
    """The trials of one study as tokens. A trial is read again only until it has finished."""

    def __init__(
        self,
        space: Mapping[str, BaseDistribution],
        canonical: Canonical | None = None,  # None where different params are different architectures
        pinned: Mapping[str, Any] | None = None,  # parameter name → the only value that a proposal may have
    ) -> None:
        self.space = dict(space)
        self.axes = {name: Axis(distribution) for name, distribution in space.items()}
        self.sizes = tuple(a.size for a in self.axes.values())
        known = [f"{name}:{size}" for name, size in zip(space, self.sizes, strict=True)]
        self.digest = zlib.crc32("/".join(known).encode())  # to recognise tokens of other parameters
        self._canonical = canonical
        self.pinned = dict(pinned or {})
        self._pins = {
            i: axis.token(self.pinned[name])
            for i, (name, axis) in enumerate(self.axes.items())
            if name in self.pinned and axis.has(self.pinned[name])
        }
        self._canonical_tokens: dict[Tokens, Tokens] = {}
        self.finished: list[Observation] = []  # in order of completion, as far as this process could know it
        self.informative: list[Observation] = []  # those that have a value, or were pruned after they had reported one
        self.running: dict[int, Tokens] = {}  # by number, what unfinished trials chose, or their samplers published
        self.pending: list[int] = []  # numbers of running trials without either
        self.seen: set[Tokens] = set()  # canonical, of all that was evaluated or is being evaluated; see `is_new`
        self.derived: dict[str, Any] = {}  # what a sampler keeps that depends on these trials and parameters
        self._evaluated: set[Tokens] = set()
        self._unfinished: list[int] = []
        self._count = 0

    def tokens(self, trial: FrozenTrial) -> Tokens | None:
        """The tokens of a trial's choices; None if a parameter is missing or has another distribution."""
        if any(trial.distributions.get(name) != d for name, d in self.space.items()):
            return None
        return tuple(a.token(trial.params[name]) for name, a in self.axes.items())

    def params(self, tokens: Tokens, rng: np.random.Generator | None = None) -> dict[str, Any]:
        """The values of tokens; a number is drawn within its level, or without `rng` is the middle of that."""
        return {
            name: a.value(token, 0.5 if rng is None or not a.is_number else rng.random())
            for (name, a), token in zip(self.axes.items(), tokens, strict=True)
        }

    def read(self, study: Study) -> None:
        """Read the trials that have started or finished since the last call."""
        # Not study.get_trials, which under Hyperband shows one bracket. Rows may be removed, so numbers are no places.
        trials = all_trials(study)
        places = [*(i for i in self._unfinished if i < len(trials)), *range(self._count, len(trials))]
        self._count = len(trials)
        self._unfinished = [i for i in places if not trials[i].state.is_finished()]
        news, unfinished = [trials[i] for i in places], [trials[i] for i in self._unfinished]
        chosen = {trial.number: self.tokens(trial) or self._published(trial) for trial in unfinished}
        self.running = {number: tokens for number, tokens in chosen.items() if tokens is not None}
        self.pending = [t.number for t in unfinished if t.state == TrialState.RUNNING and chosen[t.number] is None]
        finished = [trial for trial in news if trial.state.is_finished()]
        for trial in sorted(finished, key=lambda t: (t.datetime_complete or datetime.min, t.number)):
            tokens = self.tokens(trial)
            if tokens is not None:
                self.finished.append(Observation(tokens, trial, violation(trial)))
                self._evaluated.add(self.canonical(tokens))
                if is_informative(trial):
                    self.informative.append(self.finished[-1])
        self.seen = self._evaluated.union(map(self.canonical, self.running.values()))

    def canonical(self, tokens: Tokens) -> Tokens:
        """The token sequence that represents all with the same network."""
        if self._canonical is None:
            return tokens
        if tokens not in self._canonical_tokens:
            if len(self._canonical_tokens) >= _MAX_CANONICAL:
                self._canonical_tokens.clear()
            found = self._canonical(self.params(tokens))
            self._canonical_tokens[tokens] = tuple(
                a.token(found[name]) if name in found else token
                for (name, a), token in zip(self.axes.items(), tokens, strict=True)
            )
        return self._canonical_tokens[tokens]

    def proposed(self, tokens: Tokens) -> Tokens:
        """The canonical tokens of a proposal with the pinned values."""
        if self._pins:
            tokens = tuple(self._pins.get(i, token) for i, token in enumerate(tokens))
        return self.canonical(tokens)

    def new(self, several: Iterable[Tokens]) -> list[Tokens]:
        """The new networks among several proposals, each once, in their order."""
        return [tokens for tokens in dict.fromkeys(map(self.proposed, several)) if tokens not in self.seen]

    def is_new(self, tokens: Tokens) -> bool:
        """Whether no trial has evaluated, or is evaluating, the network of a proposal."""
        return self.proposed(tokens) not in self.seen

    def _published(self, trial: FrozenTrial) -> Tokens | None:
        digest, *tokens = trial.system_attrs.get(PROPOSAL) or [None]
        return tuple(tokens) if digest == self.digest else None


def best_and_latest(gains: NDArray[Any], most: int, order: Sequence[int] | None = None) -> NDArray[np.int64]:
    """Sorted places of the best and the latest trials, `most` in all; NaN, an unknown gain, is the worst."""
    best = np.argsort(-np.nan_to_num(gains, nan=-np.inf), kind="stable")[: most // 2]
    latest = np.argsort(range(len(gains)) if order is None else order, kind="stable")[-(most // 2) :]
    return np.union1d(best, latest)


def is_informative(trial: FrozenTrial) -> bool:
    """Whether a trial has a value to learn from: it is complete, or was pruned after at least one epoch."""
    return trial.state == TrialState.COMPLETE or (trial.state == TrialState.PRUNED and bool(trial.intermediate_values))


def violation(trial: FrozenTrial) -> float:
    """The sum of a trial's constraint violations; 0 if it is feasible."""
    return sum(max(0.0, value) for value in trial.constraints.values())


def quantile_rank(trial: FrozenTrial, others: Collection[FrozenTrial], sign: float) -> float:
    """The share of `others` that a trial beats, from 0 to 1; equals, such as itself, count half."""
    return sum(_beats(trial, other, sign) for other in others) / len(others)


def z_score(trial: FrozenTrial, others: Collection[FrozenTrial], sign: float) -> float:
    """How far a trial is above the mean of `others`, in standard deviations within ±3, times `SPREAD`."""
    # A pruned trial is compared at its last epoch with all trials that reached it. Failed and infeasible ones get -3.
    if trial.state == TrialState.FAIL or violation(trial) > 0:
        return -3 * SPREAD
    step = _last_step(trial)
    values = np.array([v for other in others if (v := _value_at(other, step)) is not None])
    values = values[np.isfinite(values)]
    value = _value_at(trial, step)
    assert value is not None
    mean, deviation = (values.mean(), values.std()) if len(values) else (0.0, 0.0)
    deviations = np.nan_to_num(sign * (value - mean) / (deviation + 1e-12), nan=-3)
    return SPREAD * float(np.clip(deviations, -3, 3))


def first_nondominated(trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection]) -> int:
    """The place of the first trial of rank 0, without comparing all pairs of many."""
    tier, losses = _tiers_and_losses(trials, directions)
    left = np.flatnonzero(tier == tier.min())
    while len(better := np.flatnonzero(_dominates(losses[left], losses[left[0]]))):
        left = left[~_dominates(losses[left[better[-1]]], losses[left])]  # nor is any of them of rank 0
    return int(left[0])


def nondominated_ranks(trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection]) -> NDArray[np.int64]:
    """Rank complete and pruned trials; 0 is the first front."""
    tier, losses = _tiers_and_losses(trials, directions)
    if losses.shape[1] == 1:  # one objective sorts them, so no pairs need to be compared
        return np.unique(np.column_stack((tier, losses)), axis=0, return_inverse=True)[1].reshape(-1)
    better = _dominates(losses[:, None], losses)
    dominates = (tier[:, None] < tier) | ((tier[:, None] == tier) & better)
    ranks = np.full(len(trials), -1)
    dominators, rank = dominates.sum(0), 0  # how many unranked trials dominate each
    while (left := ranks < 0).any():
        front = left & (dominators == 0)
        ranks[front] = rank
        dominators -= dominates[front].sum(0)
        rank += 1
    return ranks


def _dominates(losses: NDArray[Any], others: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether trials are nowhere worse and somewhere better than others."""
    return np.asarray((losses <= others).all(-1) & (losses < others).any(-1))


def _tiers_and_losses(
    trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The tier of each trial, the lowest being the best, and its values, to be minimised within the tier."""
    signs = np.array([1.0 if d == StudyDirection.MINIMIZE else -1.0 for d in directions])
    # Complete before pruned, then by violation, or by the last step reached.
    tiers: list[tuple[int, float]] = []
    losses = np.empty((len(trials), len(signs)))
    for i, trial in enumerate(trials):
        if trial.state == TrialState.COMPLETE:
            tiers.append((0, violation(trial)))
            losses[i] = signs * np.asarray(trial.values)
        else:
            step = max(trial.intermediate_values)
            tiers.append((1, -step))
            losses[i] = signs * trial.intermediate_values[step]
    losses = np.nan_to_num(losses, nan=np.inf, posinf=np.inf, neginf=-np.inf)
    order = {tier: i for i, tier in enumerate(sorted(set(tiers)))}
    return np.array([order[t] for t in tiers]), losses


def _beats(a: FrozenTrial, b: FrozenTrial, sign: float) -> float:
    """1, ½ or 0. The first difference decides: failure, constraint violation, value at the last common epoch."""
    step = min(_last_step(a), _last_step(b))
    x, y = _value_at(a, step), _value_at(b, step)
    if x is None or y is None:  # they have no epoch in common: the one that came further wins
        x, y, sign = _last_step(a), _last_step(b), 1.0
    mine = (a.state != TrialState.FAIL, -violation(a), sign * x)
    theirs = (b.state != TrialState.FAIL, -violation(b), sign * y)
    return 0.5 if mine == theirs else float(mine > theirs)


def _last_step(trial: FrozenTrial) -> float:
    return math.inf if trial.state == TrialState.COMPLETE else max(trial.intermediate_values, default=-1)


def _value_at(trial: FrozenTrial, step: float) -> float | None:
    if step == math.inf:
        return trial.value if trial.state == TrialState.COMPLETE else None
    return trial.intermediate_values.get(int(step))
