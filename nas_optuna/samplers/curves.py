"""A sampler that plans epochs rather than whole trainings: it starts networks, stops some, and resumes the best."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from operator import le
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.pruners import BasePruner
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas_optuna.digests import seed_for
from nas_optuna.samplers.base import natural, one_blas_thread
from nas_optuna.samplers.curve_model import MIN_COMPLETE, Curve, CurveModel, rate, rate_with_a_look, rungs, value_at
from nas_optuna.samplers.gaussian_process import Array
from nas_optuna.samplers.gp import ArchitectureGPConfig, ArchitectureGPSampler, candidates_near
from nas_optuna.samplers.history import History, Tokens
from nas_optuna.study.optuna_internals import all_trials, is_enqueued, set_trial_system_attribute
from nas_optuna.study.schema import TrialKey, attribute, reports_of

PLAN = "nas_optuna:plan"
"""System attribute of a trial: the epoch of the next decision whether to go on; 0 means to train to the end."""

EARLY_LOOKS = 5
"""How many random networks are trained to the first rung before the model chooses."""

MAX_ASKED = 100
"""The most candidates whose numbers known before training are computed."""

LOOK_DISCOUNT = 0.7
"""The value of a partial training: a whole one teaches the model more about other networks than its gain shows."""

LARGE_AMONG = 20
"""The first network is the largest of this many random ones, a good guess; the largest of all might take hours."""

PARENTS = 3
"""How many of the best at each rung have all their neighbours among the candidates."""

Known = Callable[[Mapping[str, Any]], Sequence[float]]
"""From params to numbers that are known of a network before training; at first, larger is assumed to be better."""


@dataclass(frozen=True)
class CurveConfig(ArchitectureGPConfig):
    """Options of `CurveSampler`.

    Attributes:
        n_startup_trials: How many trainings, of a large network and of random ones, end before the model chooses.

    Raises:
        ValueError: A value is out of its range.
    """

    n_startup_trials: int = MIN_COMPLETE


@dataclass(frozen=True)
class Choice:
    """A plan for a trial."""

    tokens: Tokens  # the architecture
    until: int  # the epoch of the next decision; 0 means to train to the end
    rate: float = 0.0  # expected improvement per epoch


class CurveSampler(ArchitectureGPSampler):
    """Bayesian optimisation over epochs: train a new network to the end, only to a rung, or resume a stopped one.

    One model (`samplers.curve_model`) predicts the final value of every architecture from the curves of all trials,
    complete, pruned and running. The sampler chooses the use of the next epochs with the highest expected improvement
    per epoch: to train a new network to the end; to train it to a rung and then decide; or to resume a stopped network.
    The pruner ``curves`` asks the same question at each rung, and stops the trial when the answer is another network.
    If early epochs predict nothing, or the study has another pruner, new networks are trained to the end unless that
    stops them, and are chosen much as `ArchitectureGPSampler` does.

    A stopped trial is an ordinary pruned trial. To resume it, its architecture is proposed again; the objective knows
    whether the weights were kept (`TrialKey.PAUSED`) or training starts anew, and the sampler counts epochs
    accordingly. Only one running trial trains an architecture, however many workers there are.

    With several objectives, the one that trials report is trained, and the others are costs: functions of the
    architecture, learned from whole trainings. The sampler then improves the hypervolume (`curve_model.Target`).

    Args:
        known: From a network's params to numbers known before training, such as its size.
        distributions: The parameters, if they are known before the first trial has chosen them.

    Attributes:
        images: From a study to the number of images on which its accuracies were measured; see `CurveModel`.
            None if that is not known.

    Examples:
        >>> import optuna
        >>> from nas_optuna.samplers.curve_pruner import CurvePruner
        >>> study = optuna.create_study(sampler=CurveSampler(seed=0), pruner=CurvePruner(epochs=10))
    """

    Config = CurveConfig
    images: Callable[[Study], int | None] | None = None

    def __init__(
        self,
        config: ArchitectureGPConfig | None = None,
        *,
        seed: int | None = None,
        ordered: Collection[str] | None = None,
        known: Known | None = None,
        distributions: Mapping[str, BaseDistribution] | None = None,
    ) -> None:
        super().__init__(config, seed=seed, ordered=ordered)
        self._known = known
        self._distributions = dict(distributions or {})
        given = self._distributions.items()
        self._only = {n: d.choices[0] for n, d in given if isinstance(d, CategoricalDistribution) and d.single()}

    def _common(self, study: Study) -> dict[str, BaseDistribution]:
        common = {**self._distributions, **super()._common(study)}
        names = [name for name, distribution in common.items() if not distribution.single()]
        return {name: common[name] for name in sorted(names, key=natural)}

    def propose(self, history: History, study: Study, trial: FrozenTrial) -> Tokens:
        """The architecture on which the next epochs are best spent; the plan is stored with the trial."""
        rng = self._rng(trial)
        curves = read_curves(history, study)
        choice = self._startup(history, study, curves, rng) or self._choose(history, study, curves, rng)
        if choice is None:
            choice = Choice(self._without_model(history, curves, rng), 0)
        self.repeated = None
        if choice.tokens in curves:
            self.repeated = choice.tokens
            latest = curves[choice.tokens].number  # no place, since rows may be removed
            self.repeated_params = next((t.params for t in all_trials(study) if t.number == latest), {})
        set_trial_system_attribute(study, trial, PLAN, choice.until)
        return choice.tokens

    def should_stop(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether the epochs of a running trial are better spent on another network."""
        with self._lock, one_blas_thread():
            history = self._read(study, self._common(study))
            chosen = history.tokens(trial)
            tokens = None if chosen is None else history.canonical(chosen)
            curves = read_curves(history, study)
            if tokens is None or tokens not in curves:
                return False
            curves[tokens] = replace(curves[tokens], running=False, resumable=True, kept=curves[tokens].last)
            rng = np.random.default_rng(seed_for(self._seed, trial.number, "stop", curves[tokens].last))
            choice = self._choose(history, study, curves, rng)
            return choice is not None and choice.tokens != tokens

    def _startup(
        self, history: History, study: Study, curves: Mapping[Tokens, Curve], rng: np.random.Generator
    ) -> Choice | None:
        """First a large network and random ones to the end, then random ones to the first rung; None if none is new."""
        epochs, until = _epochs(curves.values()), 0
        whole = sum(curve.final is not None or (curve.running and not epochs) for curve in curves.values())
        if whole < self._config.n_startup_trials or not epochs:
            # A study of several objectives begins with its cheapest network; a large one is the other end of the front.
            is_first = len(curves) < len(study.directions)
            drawn = self._large(history, study, rng) if is_first else self._random(history, rng)
        else:
            until = rungs(epochs)[0]
            looks = sum(curve.final is None and (curve.running or curve.last >= until) for curve in curves.values())
            if until == epochs or looks >= EARLY_LOOKS or not obeys_plans(study.pruner):
                return None
            drawn = self._random(history, rng)
        return Choice(drawn, until) if history.is_new(drawn) else None

    def _without_model(self, history: History, curves: Mapping[Tokens, Curve], rng: np.random.Generator) -> Tokens:
        """A random new network; if none is left, the stopped one that came furthest, or else any."""
        drawn = self._random(history, rng)
        if history.is_new(drawn):
            return drawn
        waiting = self._waiting(history, curves, _epochs(curves.values()))
        return max(waiting, key=lambda tokens: curves[tokens].last, default=drawn)

    def _large(self, history: History, study: Study, rng: np.random.Generator) -> Tokens:
        """The random architecture with the largest known numbers."""
        drawn = list(dict.fromkeys(self._random(history, rng) for _ in range(LARGE_AMONG)))
        known = self._known_of(history, study, drawn)
        if not known.shape[1]:
            return drawn[0]
        return drawn[int(np.argmax(((known - known.mean(0)) / (known.std(0) + 1e-9)).sum(1)))]

    def _choose(
        self, history: History, study: Study, curves: Mapping[Tokens, Curve], rng: np.random.Generator
    ) -> Choice | None:
        """The use of the next epochs with the highest expected improvement per epoch; None without a model."""
        epochs = _epochs(curves.values())
        if not epochs:
            return None
        images = self.images(study) if self.images else None
        model = CurveModel(curves, epochs, self._space_of(history), partial(self._known_of, history, study), images)
        if not model.is_complete:
            return None
        model.may_look = model.may_look and obeys_plans(study.pruner)
        busy = [tokens for tokens, curve in curves.items() if curve.running]
        if busy:
            model.fantasize(busy)
        candidates = self._fresh(history, curves, model, rng)
        ranked = sorted(_choices(model, candidates) if candidates else (), key=lambda choice: -choice.rate)
        new = (choice for choice in ranked if self._allows(history, choice.tokens))
        options = [*islice(new, 1), *self._paused(history, curves, model)]
        return max(options, key=lambda choice: choice.rate, default=None)

    def _fresh(
        self, history: History, curves: Mapping[Tokens, Curve], model: CurveModel, rng: np.random.Generator
    ) -> list[Tokens]:
        """Untrained candidates: neighbours of the best, more distant mutations, and random ones."""
        pool = self.pool_tokens(history, rng)
        if pool is None:
            pool = candidates_near(np.array(_leaders(curves, model)), history.sizes, rng)
        fresh = history.new(pool)
        if self._known is None or self.among is not None or len(fresh) <= MAX_ASKED:
            return fresh
        # Counting a network takes a millisecond, so only candidates that look good without it are counted.
        order = np.argsort(-rate(model.forecast(fresh, counted=False), 1.0), kind="stable")
        return [fresh[i] for i in order[:MAX_ASKED]]

    def _waiting(self, history: History, curves: Mapping[Tokens, Curve], epochs: int) -> list[Tokens]:
        """The stopped networks that may go on; `epochs` is 0 as long as none has ended."""
        waiting = [t for t, c in curves.items() if c.resumable and not c.running and c.last < (epochs or math.inf)]
        waiting = [tokens for tokens in waiting if history.proposed(tokens) == tokens]  # pinned values must match
        if self.among is not None:  # an earlier run may have had no list
            listed = [i for i, name in enumerate(history.axes) if name in self.among[0]]
            left = {tuple(tokens[i] for i in listed) for tokens in self._all(history)}
            waiting = [tokens for tokens in waiting if tuple(tokens[i] for i in listed) in left]
        return waiting

    def _paused(self, history: History, curves: Mapping[Tokens, Curve], model: CurveModel) -> Iterator[Choice]:
        """For each rung, the best of the networks that were stopped there."""
        by_rung: dict[int, list[Tokens]] = {}
        for one in self._waiting(history, curves, model.epochs):
            by_rung.setdefault(model.rung_of(curves[one].last), []).append(one)
        for reached, there in by_rung.items():
            step = model.steps[reached - 1] if reached else 0
            tokens = [t for t in there if not step or step in curves[t].values]
            if not tokens:
                continue
            values = np.array([curves[t].values[step] for t in tokens]) if step else None
            kept = np.array([float(curves[t].kept) for t in tokens])
            yield max(_choices(model, tokens, reached, values, kept), key=lambda choice: choice.rate)

    def _known_of(self, history: History, study: Study, tokens: Sequence[Tokens]) -> Array:
        """Numbers known of architectures before training, ``[architectures, numbers]``; each is computed once."""
        numbers: dict[Tokens, Sequence[float]] = history.derived.setdefault("numbers", {})
        for one in tokens:
            if one not in numbers:
                numbers[one] = self._known(self._only | history.params(one)) if self._known else ()
        known = [np.array([numbers[one] for one in tokens], float).reshape(len(tokens), -1)]
        known += [score(tokens)[:, None] for score, _ in self._scores(study, history)]
        return np.concatenate(known, 1)


def _choices(
    model: CurveModel,
    tokens: Sequence[Tokens],
    reached: int = 0,
    values: Array | None = None,
    kept: Array | float = 0.0,
) -> list[Choice]:
    """How long each architecture is best trained, given the values at the last rung reached and the epochs kept."""
    forecast = model.forecast(tokens, reached, values)
    best = rate(forecast, model.epochs - kept)
    until = np.zeros(len(tokens), int)
    looks = zip(forecast.later[:-1], model.steps[reached:-1], strict=True) if model.may_look else ()
    for later, step in looks:
        rates = LOOK_DISCOUNT * rate_with_a_look(forecast, later, step - kept, model.epochs - step)
        until = np.where(rates > best, step, until)
        best = np.maximum(rates, best)
    return list(map(Choice, tokens, until.tolist(), best.tolist()))


def read_curves(history: History, study: Study) -> dict[Tokens, Curve]:
    """Each architecture's curve over all trials, in order of completion."""
    objective = _trained(history)
    signs = [1.0 if direction == StudyDirection.MAXIMIZE else -1.0 for direction in study.directions]
    trials = {trial.number: trial for trial in all_trials(study)} if history.running else {}
    observed = [member.trial for member in history.finished] + [trials[number] for number in history.running]
    removed = {number for trial in observed for number in attribute(trial, TrialKey.REMOVED, ())}
    curves: dict[Tokens, Curve] = {}
    for member in history.finished:
        if trained_nothing(member.trial):
            continue
        curve = curves.setdefault(history.canonical(member.tokens), Curve())
        trial = member.trial
        if trial.state == TrialState.FAIL or member.violation > 0:
            curve.resumable = False
            curve.number = max(curve.number, trial.number)  # if nothing new is left, even it is proposed again
            continue
        before = curve.last
        _take(curve, trial, signs[objective], removed)
        # A trial that came no further than an earlier one of the same architecture would not do so the next time,
        # unless a person has asked for it: without kept weights it began anew, and was judged at other epochs.
        further = curve.last > before or (curve.resumable and is_enqueued(trial))
        curve.resumable = is_paused(trial) and further
        if trial.state == TrialState.COMPLETE and all(map(math.isfinite, trial.values)):
            gains = [sign * value for sign, value in zip(signs, trial.values, strict=True)]
            curve.final = gains.pop(objective)
            curve.costs = tuple(-gain for gain in gains)
    for number, tokens in history.running.items():
        curve = curves.setdefault(history.canonical(tokens), Curve())
        _take(curve, trials[number], signs[objective], removed)
        curve.running = True
    return curves


def is_paused(trial: FrozenTrial) -> bool:
    """Whether a trial was stopped only because other trainings seemed more promising."""
    return trial.state == TrialState.PRUNED and attribute(trial, TrialKey.CAUSE) is None


def trained_nothing(trial: FrozenTrial) -> bool:
    """Whether a trial only took over that an earlier one was stopped, which says nothing of going on with that."""
    return trial.state == TrialState.PRUNED and attribute(trial, TrialKey.DUPLICATE_OF) is not None


def obeys_plans(pruner: BasePruner) -> bool:
    """Whether a pruner asks this sampler at each planned epoch; one that wraps such a pruner need not."""
    return bool(getattr(pruner, "obeys_plans", False))


def _trained(history: History) -> int:
    """Which objective trials report: the one whose value equals a complete trial's last report; else the first."""
    for member in reversed(history.finished):
        reports = reports_of(member.trial)
        if member.trial.state == TrialState.COMPLETE and len(member.trial.values) > 1 and reports:
            last = reports[max(reports)]
            return next((place for place, value in enumerate(member.trial.values) if value == last), 0)
    return 0


def _take(curve: Curve, trial: FrozenTrial, sign: float, removed: Container[int]) -> None:
    finite = {step: sign * value for step, value in reports_of(trial).items() if math.isfinite(value)}
    curve.values.update(finite)
    curve.number = max(curve.number, trial.number)
    curve.kept = 0 if trial.number in removed else int(attribute(trial, TrialKey.PAUSED, 0))


def _epochs(curves: Collection[Curve]) -> int:
    """The epochs of a whole training: the last that a complete trial reported, or 1; 0 while no trial is complete."""
    return max((max(curve.last, 1) for curve in curves if curve.final is not None), default=0)


def _leaders(curves: Mapping[Tokens, Curve], model: CurveModel) -> list[Tokens]:
    """The best at each rung, and the front if there are costs."""
    result: dict[Tokens, None] = {}
    for step in model.steps:
        values = {tokens: value_at(curve, step, model.epochs) for tokens, curve in curves.items()}
        there = [tokens for tokens, value in values.items() if math.isfinite(value)]
        result |= dict.fromkeys(sorted(there, key=lambda tokens: -values[tokens])[:PARENTS])
    ended = {tokens: (-(c.final or 0.0), *c.costs) for tokens, c in curves.items() if c.final is not None and c.costs}
    for tokens, losses in ended.items():
        if not any(other != losses and all(map(le, other, losses)) for other in ended.values()):
            result[tokens] = None
    return list(result)
