"""The parts of a spec: its code, its evaluator with space and data, what it may propose, its sampler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from optuna.samplers import BaseSampler

from nas_optuna.costs.candidates import Candidates
from nas_optuna.costs.latency import require_conditions
from nas_optuna.costs.runtimes import RUNTIMES, make_runtime
from nas_optuna.data import SearchData, load_data
from nas_optuna.data_sets import DATA_SETS
from nas_optuna.devices import resolve_device
from nas_optuna.errors import SpecError
from nas_optuna.execution.evaluator import EVALUATORS, Evaluator, EvaluatorContext, TrainingEvaluator, require_evaluator
from nas_optuna.execution.objective import EvaluatorObjective
from nas_optuna.execution.reference import REFERENCES
from nas_optuna.hyperparameters import PREFIX, check_new, parse_range
from nas_optuna.metrics import METRICS
from nas_optuna.objectives import parse_criteria, parse_criterion
from nas_optuna.oneshot.strategies import STRATEGIES, refuse_unread
from nas_optuna.pruners import PRUNERS
from nas_optuna.registry import Registry
from nas_optuna.samplers import SAMPLERS, create_sampler
from nas_optuna.samplers.base import ArchitectureSampler, OneObjectiveError, innermost
from nas_optuna.samplers.grid import GridSampler
from nas_optuna.samplers.wrapping import AmongSampler, FixedSampler, WithinLimitsSampler
from nas_optuna.spaces import SPACES, SearchSpace, create_space
from nas_optuna.spec import StudySpec
from nas_optuna.study.trial_queue import read_architectures


def code_named(spec: StudySpec) -> list[str]:
    """The user code that running a spec would import, as ``kind name``.

    Examples:
        >>> code_named(StudySpec.from_dict({"space": {"name": "my_net.py:network"}}))
        ['space my_net.py:network']
    """
    parts: list[tuple[Registry, str]] = [
        (SPACES, spec.space.name),
        (SAMPLERS, spec.sampler.name),
        (PRUNERS, spec.pruner.name),
        (EVALUATORS, spec.evaluator.name),
        (STRATEGIES, spec.supernet.strategy),
        (RUNTIMES, spec.latency.runtime),
        (DATA_SETS, spec.data.name),
        *([(REFERENCES, spec.reference)] if spec.reference else []),
        *((METRICS, c.code) for c in (parse_criterion(o, imports=False) for o in spec.objectives) if c.code),
    ]
    return [code for registry, name in parts for code in registry.code(name)]


def make_space(spec: StudySpec, data: SearchData) -> SearchSpace:
    """A spec's space for the images of its data."""
    return create_space(
        spec.space.name,
        spec.space.options,
        in_channels=data.train.channels,
        classes=len(data.train.classes),
        input_size=spec.recipe.input_size or data.train.side,
    )


def make_evaluator(
    spec: StudySpec, data_directory: Path | None, device: str, images: Callable[[], SearchData] | None = None
) -> tuple[SearchData | None, Evaluator]:
    """A spec's data, if it uses the built-in training, and its evaluator."""
    where = resolve_device(device)
    if spec.trains:
        if spec.evaluator.options:
            raise SpecError("evaluator 'training' has no options; its settings are those of [recipe]")
        data = images() if images else load_data(spec.data, data_directory, input_size=spec.recipe.input_size)
        space = make_space(spec, data)
        metrics = [c.metric for c in parse_criteria(spec.objectives) if c.metric]
        return data, TrainingEvaluator(space, data, spec.recipe, where, metrics)
    context = EvaluatorContext(partial(create_space, spec.space.name, spec.space.options), where, data_directory)
    made: Evaluator = EVALUATORS.make(spec.evaluator.name, context, options=spec.evaluator.options, wanted=object)
    require_evaluator(made, f"evaluator {spec.evaluator.name!r}")
    return None, made


def with_default_search(spec: StudySpec) -> tuple[StudySpec, str]:
    """The spec with a sampler and a pruner instead of ``"auto"``, and the reason for this sampler."""
    values, why = spec.to_dict(), ""
    if spec.sampler.name == "auto":
        if len(spec.objectives) > 1:
            name, why = "tpe", "for several objectives"
        elif spec.pruner.name not in ("auto", "curves"):
            name, why = "tpe", f"because pruner {spec.pruner.name} decides alone what is stopped"
        else:
            name, why = "curves", "learns from every epoch, and goes on with stopped networks"
        values["sampler"]["name"] = name
    if spec.pruner.name == "auto":
        values["pruner"]["name"] = "curves" if values["sampler"]["name"] == "curves" else "guarded"
    return type(spec).from_dict(values), why


def make_candidates(spec: StudySpec, objective: EvaluatorObjective) -> Candidates:
    """What a spec's search may propose, by its limits, its pinned values and its list."""
    found = Candidates(objective.limits, objective.space.pinned(spec.fixed))
    if spec.among is None:
        return found
    listed = tuple(dict.fromkeys(a for a in read_architectures(Path(spec.among), found.space) if a in found))
    if not listed:
        raise SpecError(
            "none of the listed architectures has the pinned values and is inside the limits; list some, pin less, or"
            " raise the limits"
        )
    return replace(found, listed=listed)


def make_sampler(spec: StudySpec, candidates: Candidates) -> BaseSampler:
    """The spec's sampler, which proposes candidates only."""
    make = partial(_with_seed, spec, candidates)
    sampler = make(spec.sampler.seed)
    if isinstance(grid := innermost(sampler), GridSampler):  # it proposes in order, so it cannot be asked again
        if known := candidates.limits.known:  # asked about others, it would measure many before one is inside
            grid.allowed = replace(candidates, limits=known).allows
        return sampler
    if not candidates.limits:
        return sampler
    limits, seed = candidates.limits, spec.sampler.seed
    return WithinLimitsSampler(make, limits.space, limits.total_excess, seed, candidates.fixed, limits.most_asked)


def require_new(spec: StudySpec, sampler: BaseSampler) -> None:
    """Refuse what a new study needs only later, or may not have, though stored ones may."""
    refuse_unread(spec.supernet)
    check_new(spec.recipe, spec.search)
    make_runtime(spec.latency.runtime)
    require_conditions(spec.latency)
    if isinstance(grid := innermost(sampler), GridSampler):
        grid.check({f"{PREFIX}{name}": parse_range(name, value) for name, value in spec.search.items()})


def _with_seed(spec: StudySpec, candidates: Candidates, seed: int) -> BaseSampler:
    space, fixed = candidates.space, candidates.fixed
    sampler = create_sampler(spec.sampler.name, space, seed, spec.sampler.options)
    if len(spec.objectives) > 1 and getattr(sampler, "one_objective", False):  # told before a study is made
        raise OneObjectiveError
    if candidates.listed is not None:
        return AmongSampler(sampler, space, [each.params for each in candidates.listed], seed)
    if isinstance(sampler, ArchitectureSampler):
        sampler.pinned = fixed
    return FixedSampler(sampler, fixed) if fixed else sampler
