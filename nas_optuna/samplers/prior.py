"""What a supernet found as a sampler's prior: drawn from, used for the first trials, or asked for a score.

Alphas, the best architectures and a predictor of the supernet's score reach every worker through the study's user
attributes. Nothing here knows the supernet itself.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nas_optuna.errors import SpecError, StudyError
from nas_optuna.samplers.per_trial_seed import seed_for
from nas_optuna.spaces import SearchSpace
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.study.hints import command
from nas_optuna.study.optuna_internals import all_trials, is_enqueued, set_trial_attribute, study_user_attributes
from nas_optuna.study.schema import LONGEST, StudyKey, TrialKey, attribute

_REDRAWS = 50
"""Draws before an architecture that the study has seen is proposed again."""
_FLATTEN = 1.1
"""Factor of the temperature after each draw of such an architecture."""
WARM_START = "supernet warm start"
"""What the trial user attribute ``origin`` of a warm-started trial says."""

Canonical = Callable[[Mapping[str, Any]], Mapping[str, Any]]
Alphas = Mapping[str, Sequence[float]]
"""Parameter name → logits, one per choice."""


def write_alphas(study: Study, alphas: Alphas, summary: Mapping[str, Any]) -> None:
    """Store alphas in a study, in as many attributes as they need.

    Args:
        study: The study.
        alphas: The logits; kept to four decimals.
        summary: What else to remember, JSON-ready and short.
    """
    chunks: list[dict[str, list[float]]] = [{}]
    length = 2
    for name, logits in alphas.items():
        values = [round(x, 4) for x in logits]
        more = len(json.dumps({name: values}))
        if length + more > LONGEST and chunks[-1]:
            chunks.append({})
            length = 2
        chunks[-1][name] = values
        length += more
    for i, chunk in enumerate(chunks):
        study.set_user_attr(f"{StudyKey.ALPHAS}{i}", chunk)
    start = len(_trials(study))
    study.set_user_attr(StudyKey.SUPERNET, {**summary, "chunks": len(chunks), "first_trial": start})


def read_alphas(study: Study) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """The alphas and the summary that `write_alphas` stored.

    Raises:
        StudyError: The study has none.
    """
    attributes = study_user_attributes(study)
    summary = attributes.get(StudyKey.SUPERNET)
    if summary is None:
        raise StudyError(
            f"study {study.study_name!r} has no trained supernet;"
            f" run: {command(study, 'supernet', 'train', '--study', study.study_name)}"
        )
    alphas: dict[str, list[float]] = {}
    for i in range(summary["chunks"]):
        alphas |= attributes.get(f"{StudyKey.ALPHAS}{i}", {})
    return alphas, summary


@dataclass(frozen=True)
class Predictor:
    """A linear predictor of the supernet's score from the choices alone.

    Its inputs are one indicator for each choice and one for each pair of choices of two parameters that are at most
    `REACH` places apart: a layer's own parameters and those of the next.

    Attributes:
        choices: Parameter name → choices, in the space's order.
        coefficients: ``[inputs]``.
        intercept: Added to the sum.
    """

    choices: Mapping[str, Sequence[Any]]
    coefficients: NDArray[np.float64]
    intercept: float

    def __call__(self, params: Sequence[Mapping[str, Any]]) -> list[float]:
        """The predicted score of each params dict; the higher, the better.

        A parameter with a single choice may be left out, as Optuna's samplers leave it out.
        """
        tokens = [
            [values.index(one[name]) if name in one else 0 for name, values in self.choices.items()] for one in params
        ]
        inputs = indicators([len(values) for values in self.choices.values()], tokens)
        result: list[float] = (inputs @ self.coefficients + self.intercept).tolist()
        return result


REACH = 3


def indicators(sizes: Sequence[int], tokens: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """The predictor's inputs: ``[architectures, inputs]`` of zeros and ones.

    Args:
        sizes: Choices of each parameter.
        tokens: The index of each choice, one row for each architecture.
    """
    index = np.asarray(tokens, dtype=np.int64).reshape(len(tokens), len(sizes))
    single = [np.eye(size)[index[:, i]] for i, size in enumerate(sizes)]
    pairs = [
        (single[i][:, :, None] * single[j][:, None, :]).reshape(len(index), -1)
        for i in range(len(sizes))
        for j in range(i + 1, min(i + 1 + REACH, len(sizes)))
    ]
    return np.concatenate([*single, *pairs], axis=1)


def write_score(study: Study, predictor: Predictor, starts: Sequence[Sequence[int]]) -> dict[str, int]:
    """Store a predictor of the score and the architectures to begin with, in as many attributes as they need.

    Args:
        study: The study.
        predictor: Its coefficients are kept to three decimals.
        starts: Tokens of the architectures to begin with, the best first.

    Returns:
        What the summary given to `write_alphas` must hold, so that the parts are found again.
    """
    numbers = [round(float(x), 3) for x in (predictor.intercept, *predictor.coefficients)]
    return {
        "score_chunks": write_chunks(study, StudyKey.SCORE, numbers),
        "start_chunks": write_chunks(study, StudyKey.STARTS, [list(map(int, tokens)) for tokens in starts]),
        "choice_chunks": write_chunks(
            study, StudyKey.CHOICES, [[n, list(values)] for n, values in predictor.choices.items()]
        ),
    }


def write_chunks(study: Study, prefix: str, items: Sequence[Any]) -> int:
    """Store a list in as many study attributes as it needs, and return how many; `prefix` gets their numbers."""
    chunks: list[list[Any]] = [[]]
    length = 2
    for item in items:
        more = len(json.dumps(item)) + 2
        if length + more > LONGEST and chunks[-1]:
            chunks.append([])
            length = 2
        chunks[-1].append(item)
        length += more
    for i, chunk in enumerate(chunks):
        study.set_user_attr(f"{prefix}{i}", chunk)
    return len(chunks)


def load_predictor(study: Study, choices: Mapping[str, Sequence[Any]]) -> Predictor | None:
    """The predictor that `write_score` stored; None where there is none, or it is of another space.

    Args:
        study: The study.
        choices: Parameter name → choices, as the space has them; parameters with a single choice may be missing.
    """
    attributes = study_user_attributes(study)
    summary = attributes.get(StudyKey.SUPERNET, {})
    if "score_chunks" not in summary:
        return None
    of_space = _choices(attributes, summary)
    if {name: list(values) for name, values in choices.items() if len(values) > 1} != {
        name: values for name, values in of_space.items() if len(values) > 1
    }:
        return None
    intercept, *coefficients = read_chunks(attributes, StudyKey.SCORE, summary["score_chunks"])
    return Predictor(of_space, np.array(coefficients), intercept)


def load_scorer(study: Study, space: SearchSpace) -> Callable[[Sequence[Architecture]], list[float]] | None:
    """What a study's supernet thinks of architectures, without its weights; None where the study has none.

    Args:
        study: The study.
        space: The study's space.

    Returns:
        From architectures to scores, the higher the better, in standard deviations over random architectures.
    """
    predictor = load_predictor(study, {name: p.choices for name, p in space.parameters.items()})
    if predictor is None:
        return None
    return lambda architectures: predictor([architecture.params for architecture in architectures])


def starts(study: Study) -> list[dict[str, Any]]:
    """The params to begin with, the best first; empty where the study has no score."""
    attributes = study_user_attributes(study)
    summary = attributes.get(StudyKey.SUPERNET, {})
    if "start_chunks" not in summary:
        return []
    choices = _choices(attributes, summary)
    return [
        {name: values[i] for (name, values), i in zip(choices.items(), tokens, strict=True)}
        for tokens in read_chunks(attributes, StudyKey.STARTS, summary["start_chunks"])
    ]


def _choices(attributes: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, list[Any]]:
    return dict(read_chunks(attributes, StudyKey.CHOICES, summary["choice_chunks"]))


def read_chunks(attributes: Mapping[str, Any], prefix: str, count: int) -> list[Any]:
    """The list that `write_chunks` stored in `count` attributes."""
    return [item for i in range(count) for item in attributes[f"{prefix}{i}"]]


def top(alphas: Alphas, count: int) -> list[tuple[dict[str, int], float]]:
    """The most probable combinations of choices, best first.

    Args:
        alphas: The logits.
        count: How many.

    Returns:
        ``(parameter name → index of the choice, log probability)``, fewer where there are fewer.
    """
    best: list[tuple[dict[str, int], float]] = [({}, 0.0)]
    for name, logits in alphas.items():
        logs = [math.log(p) if p > 0 else -math.inf for p in probabilities(logits)]
        grown = [({**indices, name: i}, log + more) for indices, log in best for i, more in enumerate(logs)]
        best = sorted(grown, key=lambda item: -item[1])[:count]
    return best


def probabilities(logits: Sequence[float], temperature: float = 1.0) -> list[float]:
    """``softmax(logits / temperature)``."""
    largest = max(logits)
    powers = [math.exp((x - largest) / temperature) for x in logits]
    return [p / sum(powers) for p in powers]


def propose(
    study: Study,
    distributions: Mapping[str, CategoricalDistribution],
    *,
    seed: int,
    temperature: float,
    canonical: Canonical | None = None,
) -> dict[str, Any]:
    """The best by the score, or the alphas' argmax, while not seen; then draws from the prior, new ones if possible.

    A supernet of strategy ``"fair"`` has a list of the best that differ from each other; it comes first.

    Args:
        study: The study; its trials and its alphas are read.
        distributions: Optuna's distribution of each parameter.
        seed: Of this draw.
        temperature: Above 1 flattens the prior, below 1 sharpens it.
        canonical: The space's, where different params may give the same network.

    Raises:
        StudyError: The study has no alphas, or they are of another space.
    """
    alphas, _ = read_alphas(study)
    if {name: len(logits) for name, logits in alphas.items()} != {n: len(d.choices) for n, d in distributions.items()}:
        raise StudyError(
            f"the supernet of study {study.study_name!r} was trained for another space;"
            f" run: {command(study, 'supernet', 'train', '--study', study.study_name, '--restart')}"
        )
    first = {name: d.choices[0] for name, d in distributions.items()}

    def key(params: Mapping[str, Any]) -> tuple[Any, ...]:
        found = params if canonical is None else canonical(params)
        return tuple(map(found.get, distributions))

    seen = {key(trial.params) for trial in _trials(study)}
    for params in ({**first, **start} for start in starts(study)):  # a supernet may hold a part of the space
        if key(params) not in seen:
            return params
    rng = random.Random(seed)
    indices = {name: max(range(len(logits)), key=logits.__getitem__) for name, logits in alphas.items()}
    params = {}
    for _ in range(_REDRAWS):
        params = {name: d.choices[indices[name]] for name, d in distributions.items()}
        if key(params) not in seen:
            break
        indices = {
            name: rng.choices(range(len(logits)), probabilities(logits, temperature))[0]
            for name, logits in alphas.items()
        }
        temperature *= _FLATTEN
    return params


def _trials(study: Study) -> list[FrozenTrial]:
    """Every trial: what Hyperband hands to samplers shows those of one bracket, and no user attributes."""
    return all_trials(study)


class SupernetSampler(BaseSampler):
    """Draws every parameter from the study's supernet, at a temperature that anneals from trial to trial.

    Args:
        distributions: The space's distributions.
        seed: The study's seed; each draw's comes from it and the trial's number.
        start_temperature: Temperature of the first trial after the supernet's training.
        end_temperature: Temperature from `anneal_trials` trials on.
        anneal_trials: How many trials the geometric way from one to the other takes.
        canonical: The space's, where different params may give the same network.

    Raises:
        SpecError: A temperature or `anneal_trials` is not positive.
    """

    numbers = False  # its alphas are of choices

    def __init__(
        self,
        distributions: Mapping[str, CategoricalDistribution],
        seed: int,
        *,
        start_temperature: float = 2.0,
        end_temperature: float = 0.5,
        anneal_trials: int = 50,
        canonical: Canonical | None = None,
    ) -> None:
        if min(start_temperature, end_temperature, anneal_trials) <= 0:
            raise SpecError("sampler 'supernet' needs temperatures and anneal_trials above 0")
        self._distributions = dict(distributions)
        self._seed = seed
        self._start, self._end, self._trials = start_temperature, end_temperature, anneal_trials
        self._canonical = canonical

    def temperature(self, trials: int) -> float:
        """The temperature when that many trials have begun since the supernet's training."""
        return float(self._start * (self._end / self._start) ** min(1.0, trials / self._trials))

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The whole space."""
        return dict(self._distributions)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The argmax first, then draws; raises as `propose`."""
        if not search_space:
            return {}
        begun = max(0, trial.number - read_alphas(study)[1]["first_trial"])
        return propose(
            study,
            self._distributions,
            seed=seed_for(self._seed, trial.number),
            temperature=self.temperature(begun),
            canonical=self._canonical,
        )

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """At random, for a parameter that the space does not have."""
        sampler = optuna.samplers.RandomSampler(seed=seed_for(self._seed, trial.number, param_name))
        return sampler.sample_independent(study, trial, param_name, param_distribution)


class WarmStartSampler(BaseSampler):
    """Begins with the supernet's argmax and draws from its prior, then goes on with another sampler.

    The trials it proposes have the origin `WARM_START`; every worker counts those of all.

    Args:
        sampler: What goes on.
        distributions: The space's distributions.
        seed: The study's seed.
        trials: How many trials the supernet proposes.
        temperature: Of the prior.
        canonical: The space's, where different params may give the same network.

    Raises:
        SpecError: `trials` or `temperature` is not positive.
    """

    def __init__(
        self,
        sampler: BaseSampler,
        distributions: Mapping[str, CategoricalDistribution],
        seed: int,
        *,
        trials: int = 5,
        temperature: float = 1.0,
        canonical: Canonical | None = None,
    ) -> None:
        if trials < 1 or temperature <= 0:
            raise SpecError("a warm start needs at least one trial and a temperature above 0")
        self._sampler = sampler
        self._distributions = dict(distributions)
        self._seed = seed
        self._trials = trials
        self._temperature = temperature
        self._canonical = canonical
        self._warm: set[int] = set()

    def __str__(self) -> str:
        return f"{self._sampler}, warm-started by a supernet"

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Decide who proposes this trial."""
        if self._is_warm(study, trial):
            self._warm.add(trial.number)
            set_trial_attribute(study, trial, TrialKey.ORIGIN, WARM_START)
            trial.set_user_attr(TrialKey.ORIGIN, WARM_START)  # the running trial reads this copy
        else:
            self._sampler.before_trial(study, trial)

    def _is_warm(self, study: Study, trial: FrozenTrial) -> bool:
        if attribute(trial, TrialKey.ORIGIN) is not None:  # it was begun before, or enqueued
            return bool(attribute(trial, TrialKey.ORIGIN) == WARM_START)
        begun = sum(attribute(t, TrialKey.ORIGIN) == WARM_START for t in _trials(study))
        return begun < self._trials and not is_enqueued(trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The whole space while warm, then the other sampler's."""
        if trial.number in self._warm:
            return dict(self._distributions)
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The supernet's proposal while warm, then the other sampler's."""
        if trial.number in self._warm:
            seed = seed_for(self._seed, trial.number, "warm start")
            return propose(
                study, self._distributions, seed=seed, temperature=self._temperature, canonical=self._canonical
            )
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Ask the other sampler."""
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Tell the other sampler that a trial has ended; it learns from warm trials, too."""
        self._warm.discard(trial.number)
        self._sampler.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        """Let the other sampler draw from another seed."""
        self._sampler.reseed_rng()


def supernet(
    space: SearchSpace,
    seed: int,
    *,
    start_temperature: float = 2.0,
    end_temperature: float = 0.5,
    anneal_trials: int = 50,
) -> BaseSampler:
    """Draws from the prior of the study's supernet; train one first."""
    return SupernetSampler(
        space.distributions(),
        seed,
        start_temperature=start_temperature,
        end_temperature=end_temperature,
        anneal_trials=anneal_trials,
        canonical=space.canonical if space.conditional else None,
    )
