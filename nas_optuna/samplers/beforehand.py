"""Prior knowledge of a study about architectures, and the samplers ``arch`` and ``curves``, which use it.

It is a supernet's score, and the trials of an earlier study of the same or an overlapping space. These are copied into
the study, so that every worker finds them and the earlier study may be deleted. A Gaussian process fitted to them
scores architectures. How far that score holds in the new study, and at which offset, is learned from its own trials
(`LearnedMean`), so that a misleading earlier study is ignored after a few trials.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas_optuna.costs.complexity import log_sizes
from nas_optuna.errors import ArchitectureError, StudyError
from nas_optuna.samplers.base import Allowed, configured
from nas_optuna.samplers.curves import CurveConfig, CurveSampler, Known
from nas_optuna.samplers.gaussian_process import GaussianProcess, Scorer
from nas_optuna.samplers.gp import ArchitectureGPConfig, ArchitectureGPSampler
from nas_optuna.samplers.history import History, Tokens
from nas_optuna.spaces import SearchSpace
from nas_optuna.spaces.architecture import Parameter
from nas_optuna.study.optuna_internals import study_user_attributes
from nas_optuna.study.schema import StudyKey, attributes_of, read_parts
from nas_optuna.study.significance import remembered_images
from nas_optuna.study.studies import command
from nas_optuna.study.supernet_result import find_predictor
from nas_optuna.study.transactions import change_study, metric_names

MOST = 200
"""The most trials that are copied: half are the best, half spread over the rest."""
FEWEST = 5
"""The fewest trials of an earlier study to learn from."""
LEARNING = ("curves", "arch", "evolution")
"""The samplers that read the copied trials."""
SUPERNET_FADING, EARLIER_FADING = 50.0, 10.0
"""Trials after which a coefficient has halved; an earlier study knows few architectures, a supernet all."""


def complete_trials(other: Study, direction: StudyDirection, names: Iterable[str]) -> list[FrozenTrial]:
    """The trials of an earlier study to learn from."""
    name = other.study_name
    if other.directions[0] != direction:
        raise StudyError(
            f"study {name!r} has another direction than the first objective here; learn from one that is to"
            f" {direction.name.lower()} it, too"
        )
    complete = [t for t in other.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if np.isfinite(t.values[0])]
    if len(complete) < FEWEST:
        raise StudyError(
            f"study {name!r} has too few complete trials to learn from ({len(complete)}, and it takes {FEWEST});"
            f" run: {command(other, 'run', '--study', name)}"
        )
    if not set(names) & {name for trial in complete for name in trial.params}:
        raise StudyError(f"study {name!r} has no parameter of this space; learn from a study of the same space")
    return complete


def remember(study: Study, other: Study, names: Iterable[str]) -> int:
    """Copy complete trials of another study into this one, replacing earlier copies; return their number."""
    names = list(names)
    complete = complete_trials(other, study.directions[0], names)
    sign = 1.0 if other.directions[0] == StudyDirection.MAXIMIZE else -1.0
    ranked = sorted(complete, key=lambda t: -sign * t.values[0])
    rest = ranked[MOST // 2 :]
    kept = ranked[: MOST // 2] + rest[:: max(1, -(-len(rest) // (MOST // 2)))]
    rows = [[sign * t.values[0], *(t.params.get(name) for name in names)] for t in kept]
    parts = attributes_of(StudyKey.EARLIER_TRIALS, rows)
    summary = {"study": other.study_name, "names": names, "chunks": len(parts), "trials": len(rows)}
    change_study(study, lambda known: {**parts, StudyKey.EARLIER: summary})
    return len(rows)


def trials_of(study: Study) -> list[tuple[float, dict[str, Any]]]:
    """Gain (the higher the better) and params of each copied trial, the best first."""
    attributes = study_user_attributes(study)
    summary = attributes.get(StudyKey.EARLIER)
    if summary is None:
        return []
    rows = read_parts(attributes, StudyKey.EARLIER_TRIALS, summary["chunks"])
    return [(float(gain), dict(zip(summary["names"], values, strict=True))) for gain, *values in rows]


def best_of(
    study: Study, parameters: Mapping[str, Parameter], count: int, allowed: Allowed | None = None
) -> list[dict[str, Any]]:
    """The best copied trials that are allowed points of a space and differ from each other in two parameters."""
    apart = min(2, len(parameters))
    taken: list[dict[str, Any]] = []
    for _, params in trials_of(study):
        if len(taken) == count:
            break
        try:
            point = {name: p.match(name, params.get(name)) for name, p in parameters.items()}
        except ArchitectureError:  # of another space
            continue
        is_apart = all(sum(point[n] != other[n] for n in parameters) >= apart for other in taken)
        if is_apart and (allowed is None or allowed(point)):
            taken.append(point)
    return taken


def experience_of(study: Study, history: History, ordered: Sequence[bool]) -> Scorer | None:
    """Scores of architectures learned from the copied trials; None if too few are of this space."""
    known = trials_of(study)
    if not known:
        return None
    names = list(history.space)
    places = tuple(i for i, name in enumerate(names) if any(params.get(name) is not None for _, params in known))
    rows: list[Tokens] = []
    gains: list[float] = []
    for gain, params in known:
        tokens = [_token(history, names[i], params.get(names[i])) for i in places]
        if None not in tokens:
            rows.append(tuple(t for t in tokens if t is not None))
            gains.append(gain)
    if not places or len(rows) < FEWEST:
        return None
    sizes, order = tuple(history.sizes[i] for i in places), tuple(ordered[i] for i in places)
    process = _fitted(sizes, order, tuple(rows), tuple(gains))
    return lambda tokens: process.predict(np.array([[one[i] for i in places] for one in tokens]))[0]


def _token(history: History, name: str, value: Any) -> int | None:
    """The token of a value; None if the parameter does not have that value."""
    axis = history.axes[name]
    return axis.token(value) if axis.has(value) else None


@lru_cache(maxsize=4)
def _fitted(
    sizes: tuple[int, ...], ordered: tuple[bool, ...], rows: tuple[Tokens, ...], gains: tuple[float, ...]
) -> GaussianProcess:
    """A process of ranks rather than values, since studies differ in scale, and a few failures would dominate it."""
    order = np.argsort(np.argsort(gains, kind="stable"), kind="stable")
    values = (order - order.mean()) / (order.std() + 1e-12)
    return GaussianProcess((sizes, ordered, range(len(sizes))), np.array(rows), values)


def score_of(study: Study, history: History) -> Scorer | None:
    """The supernet's scores; None if the study has none."""
    predictor = find_predictor(study, {name: getattr(d, "choices", ()) for name, d in history.space.items()})
    if predictor is None:
        return None
    return lambda tokens: np.array(predictor([history.params(one) for one in tokens]))


def beforehand(study: Study, history: History, ordered: Sequence[bool]) -> list[tuple[Scorer, float]]:
    """The scores that a study has, each with its fading; see `LearnedMean`."""
    found = (score_of(study, history), SUPERNET_FADING), (experience_of(study, history, ordered), EARLIER_FADING)
    return [(scorer, fading) for scorer, fading in found if scorer is not None]


def images_of(study: Study) -> int | None:
    """How many validation images the first objective was measured on; None if it is no accuracy."""
    names = metric_names(study) or [""]  # Hyperband shows a study without its names
    return remembered_images(study) if names[0] == "accuracy" else None


@configured(ArchitectureGPConfig)
def arch(space: SearchSpace, seed: int, config: ArchitectureGPConfig) -> ArchitectureGPSampler:
    """A Gaussian process over architectures: needs the fewest trials; for trainings that take minutes."""
    sampler = ArchitectureGPSampler(config, seed=seed)
    sampler.beforehand = beforehand
    return sampler.for_space(space)


@configured(CurveConfig)
def curves(space: SearchSpace, seed: int, config: CurveConfig) -> CurveSampler:
    """Learns from every epoch, stops networks and resumes them: needs the fewest epochs; with pruner curves."""
    own: Known | None = getattr(space, "known_numbers", None)  # of a table
    known = own or partial(log_sizes, space)
    sampler = CurveSampler(config, seed=seed, known=known, distributions=space.distributions())
    sampler.images, sampler.beforehand = images_of, beforehand
    return sampler.for_space(space)
