"""What a supernet proposes, and how well it ranks: compared with stand-alone trainings, and with sizes alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from optuna.study import Study
from optuna.trial import FrozenTrial

from nas_optuna.costs.candidates import Candidates
from nas_optuna.errors import StudyError
from nas_optuna.execution.evaluator import Search
from nas_optuna.hyperparameters import PREFIX, own_values
from nas_optuna.oneshot.score import FEATURES, SIZES, Array, Score
from nas_optuna.oneshot.trained import accuracy_of, trained_trials
from nas_optuna.spaces import SearchSpace
from nas_optuna.spaces.architecture import Architecture, Choice
from nas_optuna.spec import StudySpec
from nas_optuna.study import lease
from nas_optuna.study.schema import TrialKey, attribute
from nas_optuna.study.studies import command
from nas_optuna.study.supernet_result import SupernetResult
from nas_optuna.study.trial_queue import enqueue_once

_MOST = 1024
"""The most combinations by alphas that are looked through for those that may be proposed."""
EXPORT_ORIGIN = "supernet"
"""The origin of trials that a supernet's export put into the queue."""


@dataclass(frozen=True)
class Candidate:
    """An architecture that a supernet proposes."""

    architecture: Architecture
    by: str  # "score": the best by the score (or short trainings); "alphas": the most probable choices
    probability: float  # under the alphas


def proposals(study: Study, result: SupernetResult, among: Candidates, count: int) -> list[Candidate]:
    """The best architectures that a study's supernet found, of those that the study may propose, best first."""
    wanted = count
    while True:
        ranked = candidates(result, among.space, wanted)
        found = [candidate for candidate in ranked if candidate.architecture in among]
        if len(found) >= count or len(ranked) < wanted or wanted >= _MOST:
            break
        wanted *= 4
    if not found:
        anew = command(study, "supernet", "train", "--study", study.study_name, "--restart")
        raise StudyError(
            f"of what the supernet of study {study.study_name!r} proposes, nothing is inside the study's limits, has"
            f" its pinned values and is listed; loosen limits, pins or list, or train it anew under them: {anew}"
        )
    return found[:count]


def candidates(result: SupernetResult, space: SearchSpace, count: int) -> list[Candidate]:
    """The best architectures that a study's supernet found, best first."""
    # With a score: the best by it, which differ from each other, with the argmax of the alphas in second place.
    # Otherwise the argmax, then the most probable by the alphas.

    def chosen(indices: Mapping[str, int]) -> dict[str, Choice]:
        named = {name: space.parameters[name].choices[i] for name, i in indices.items() if name in space.parameters}
        return space.canonical(named)

    def network(indices: Mapping[str, int]) -> tuple[Choice, ...]:
        return tuple(chosen(indices).values())

    scored = [space.architecture(params) for params in result.start_params()]
    most_probable = result.most_probable(1 if scored else count, network if space.conditional else None)
    by_alphas = [Candidate(space.architecture(chosen(one)), "alphas", math.exp(log)) for one, log in most_probable]
    shares = result.probabilities()

    def probability(architecture: Architecture) -> float:
        tokens = zip(space.parameters, space.tokens(architecture), strict=True)
        return float(math.prod(shares[name][token] for name, token in tokens if _matters(space, architecture, name)))

    argmax = space.architecture(chosen(result.derived))
    if argmax not in [candidate.architecture for candidate in by_alphas]:
        by_alphas.append(Candidate(argmax, "alphas", probability(argmax)))
    by_alphas.sort(key=lambda candidate: candidate.architecture != argmax)
    if not scored:
        return by_alphas[:count]
    by_score = [Candidate(a, "score", probability(a)) for a in scored]
    listed = [by_score[0], *by_alphas[:1], *by_score[1:]]
    distinct: dict[Architecture, Candidate] = {}
    for candidate in listed:
        distinct.setdefault(candidate.architecture, candidate)
    return list(distinct.values())[:count]


def _matters(space: SearchSpace, architecture: Architecture, name: str) -> bool:
    """Whether another choice of a parameter would give another architecture."""
    others = ({**architecture.params, name: choice} for choice in space.parameters[name].choices)
    return not space.conditional or any(space.architecture(params) != architecture for params in others)


_CHECK_ORIGIN = "supernet check"
"""Origin of the trials that a check trains."""
SCORE, ALPHAS, ALL_SIZES = "score", "alphas", "all sizes"
_RESAMPLES = 1000
_FOLDS = 5


@dataclass(frozen=True)
class RankCorrelation:
    """A rank correlation and its 95 % bootstrap interval."""

    value: float
    lower: float
    upper: float


@dataclass(frozen=True)
class Row:
    """How well one figure ranks the trained architectures; without shared weights only sizes and the score do."""

    name: str  # one of `score.FEATURES`; `ALL_SIZES`, a score of sizes alone, fitted to the same trainings; or `SCORE`
    kendall: RankCorrelation  # τ-b with the architectures' own accuracy
    regret_1: float  # the best own accuracy minus that of the architecture ranked first
    regret_5: float  # the best own accuracy minus the best of the five ranked first


@dataclass(frozen=True)
class Chosen:
    """An architecture that the supernet proposes, trained on its own."""

    by: str  # `SCORE` or `ALPHAS`
    architecture: str
    accuracy: float  # on validation images, 0 … 1
    rank: int  # among the random architectures and itself; 1 is best


@dataclass(frozen=True)
class Verdict:
    """The results of a check."""

    architectures: int  # random ones that were compared
    rows: tuple[Row, ...]  # one for each figure; the score is fitted without the architectures that it ranks
    short: int  # short trainings that the score was fitted to, in addition to those of other architectures
    advantage: RankCorrelation  # τ of the score minus the best without shared weights, and the difference's interval
    chosen: tuple[Chosen, ...]
    budget_seconds: float  # of the supernet's training and that of the first chosen architecture
    random_trained: int  # how many random architectures, in their order, could be trained in these seconds
    random_accuracy: float | None  # the best among them; None if there is none
    budget_covered: bool  # whether enough random architectures were trained to use up the budget

    def row(self, name: str) -> Row:
        """The row of that name."""
        return next(row for row in self.rows if row.name == name)

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        if self.row(SCORE).kendall.lower <= 0:
            ranking = "does not rank architectures better than chance"
        elif self.advantage.lower > 0:
            ranking = "ranks architectures better than their sizes alone do"
        else:
            ranking = "ranks architectures, but not surely better than their sizes alone do"
        if self.random_accuracy is None:
            return f"The supernet {ranking}; random search would not have trained one network in its time."
        best = self.chosen[0]
        gap = best.accuracy - self.random_accuracy
        outcome = "as good as" if gap == 0 else ("better than" if gap > 0 else "worse than")
        reach = "" if self.budget_covered else ", though these did not use its time up"
        return (
            f"The supernet {ranking}; its choice is {outcome} the best of {self.random_trained} random architectures"
            f" trained in the same time ({best.accuracy:.4f} against {self.random_accuracy:.4f}){reach}."
        )


def require_own_recipe(study: Study, spec: StudySpec) -> None:
    """Refuse to compare architectures in a study whose trials cannot choose the recipe's own settings."""
    known = own_values(spec.recipe, spec.search)
    other = [name for name in (f"{PREFIX}{name}" for name in spec.search) if name not in known]
    if other:
        raise StudyError(
            f"supernet check compares trainings by the recipe, whose own {', '.join(other)} no trial of study"
            f" {study.study_name!r} may choose; check in a study of its own without --search"
        )


def queue_untrained(study: Study, search: Search, architectures: Sequence[Architecture]) -> int:
    """Enqueue the architectures that the study has not yet trained to the end by its recipe, in order."""
    lease.release_abandoned(study, again=True)  # of a killed call; they wait again, and are counted
    by_recipe = own_values(search.spec.recipe, search.spec.search)
    trained, space = trained_trials(study, search), search.space
    missing = [space.architecture(a.params) for a in architectures if str(a) not in trained]
    return enqueue_once(study, space, [{**a.params, **by_recipe} for a in missing], _CHECK_ORIGIN)


def judge(
    study: Study,
    search: Search,
    architectures: Sequence[Architecture],
    chosen: Mapping[str, Architecture],
    score: Score,
    rows: Array,
    search_seconds: float,
) -> Verdict:
    """Compare the supernet's figures with the study's stand-alone trainings."""
    trained = trained_trials(study, search)
    kept = [i for i, architecture in enumerate(architectures) if str(architecture) in trained]
    trials = [trained[str(architectures[i])] for i in kept]
    chosen_trials = {by: trained[str(a)] for by, a in chosen.items() if str(a) in trained}
    for what, found, least in (("random", trials, 2), ("proposed", chosen_trials, 1)):
        if len(found) < least:
            shown = command(study, "study", "show", "--study", study.study_name)
            raise StudyError(f"too few {what} architectures were trained to the end ({len(found)}); why: {shown}")
    rows = rows[kept]
    own = np.array([accuracy_of(trial) for trial in trials])
    figures = dict(zip(FEATURES, rows.T[: len(FEATURES)], strict=True))
    figures |= {ALL_SIZES: cross_val_predict(score.of_sizes(), rows, own), SCORE: cross_val_predict(score, rows, own)}
    if not score.has_shared:  # then the score is that of all sizes
        figures = {name: values for name, values in figures.items() if name in (*FEATURES[SIZES], SCORE)}
    ranked = {name: ranking_row(name, values, own) for name, values in figures.items()}
    sizes = [name for name in ranked if name in (*FEATURES[SIZES], ALL_SIZES)]
    size = max(sizes, key=lambda name: ranked[name].kendall.value)
    first = next(iter(chosen_trials.values()))
    budget = search_seconds + _seconds(first)
    afforded = int((np.cumsum([_seconds(trial) for trial in trials]) <= budget).sum())
    return Verdict(
        architectures=len(trials),
        rows=tuple(ranked.values()),
        short=score.short,
        advantage=_bootstrapped(
            lambda ours, theirs, own: kendall(ours, own) - kendall(theirs, own), figures[SCORE], figures[size], own
        ),
        chosen=tuple(
            Chosen(by, str(chosen[by]), accuracy_of(trial), 1 + int((own > accuracy_of(trial)).sum()))
            for by, trial in chosen_trials.items()
        ),
        budget_seconds=budget,
        random_trained=afforded,
        random_accuracy=float(own[:afforded].max()) if afforded else None,
        budget_covered=afforded < len(trials),
    )


def cross_val_predict(score: Score, rows: Array, own: Array) -> Array:
    """The score of each architecture, fitted to the others: five folds."""
    part = np.random.default_rng(0).permutation(len(own)) % _FOLDS
    result = np.empty(len(own))
    for fold in range(_FOLDS):
        others = part != fold
        if not others.all():
            result[~others] = score.fit(rows[others], own[others].tolist())(rows[~others])
    return result


def rank_correlation(x: ArrayLike, y: ArrayLike) -> RankCorrelation:
    """Kendall's τ-b with a percentile bootstrap interval over the pairs."""
    return _bootstrapped(kendall, np.asarray(x), np.asarray(y))


def _bootstrapped(statistic: Callable[..., Array], *values: Array) -> RankCorrelation:
    """A statistic along the last axis of values that belong together, with its bootstrap interval."""
    size = len(values[0])
    drawn = np.random.default_rng(0).integers(size, size=(_RESAMPLES, size))
    lower, upper = np.percentile(statistic(*(each[drawn] for each in values)), [2.5, 97.5])
    return RankCorrelation(float(statistic(*values)), float(lower), float(upper))


def ranking_row(name: str, values: Array, own: Array) -> Row:
    """How well one figure ranks architectures with known accuracies."""
    order = np.argsort(-values, kind="stable")
    return Row(
        name,
        rank_correlation(values, own),
        float(own.max() - own[order[0]]),
        float(own.max() - own[order[:5]].max()),
    )


def _seconds(trial: FrozenTrial) -> float:
    return float(attribute(trial, TrialKey.SECONDS, 0.0))


def kendall(x: Array, y: Array) -> Array:
    """Kendall's τ-b along the last axis; 0 if one side has no order."""
    from scipy.stats import kendalltau

    return np.asarray(np.nan_to_num(kendalltau(x, y, axis=-1).statistic))
