"""The base class of our samplers: parameters as tokens, each trial read once, no two workers with one proposal."""

from __future__ import annotations

import inspect
import re
import secrets
import threading
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cache, wraps
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import Study
from optuna.trial import FrozenTrial
from threadpoolctl import ThreadpoolController

from nas_optuna.digests import seed_for
from nas_optuna.errors import SpecError
from nas_optuna.samplers.history import PROPOSAL, Canonical, History, Tokens
from nas_optuna.study.optuna_internals import (
    inner_sampler,
    partially_fixed,
    set_trial_system_attribute,
    storage_of,
    study_id_of,
)

if TYPE_CHECKING:
    from nas_optuna.spaces import SearchSpace

MAX_POOL = 400
"""The most listed architectures, drawn at random, that are candidates for one proposal."""

GRID_LIMIT = 10_000
"""The size up to which a space is enumerated: by ``grid``, and where random draws find nothing new."""

ATTEMPTS = 8
"""How often a proposal is replaced at most because another worker has published the same one."""

Allowed = Callable[[Mapping[str, Any]], bool]
"""Whether an architecture, given by its params, may be proposed."""

Config = TypeVar("Config")


class OneObjectiveError(SpecError, ValueError):
    """A study has several objectives; also a ValueError, which Optuna's own samplers raise."""

    def __init__(self) -> None:
        super().__init__("sampler 'controller' learns from one objective; for several use evolution or arch")


class ArchitectureSampler(BaseSampler):
    """A sampler of the parameters that every trial of a study has in common.

    It infers them from the study, as Optuna's own samplers do: the first trials, and every parameter that is not in
    all trials, are sampled independently and uniformly. All draws are seeded by (seed, trial number), so a study can be
    stopped, resumed and shared by workers: proposals depend on the history alone.

    From then on, no two running trials get the same architecture while the space offers another, however many workers
    propose at once. Each worker publishes its proposal in the study by one write, and then reads the study again. Of
    two workers with the same proposal, at least one sees the other's, and it proposes anew.

    Threads of one process may share an instance; an instance follows one study at a time.

    Args:
        config: The options; None is `Config` with its defaults.
        seed: The study's seed; None draws one.
        ordered: Names of the parameters whose neighbouring choices are alike; None means those whose choices are all
            numbers.
    """

    Config: ClassVar[type] = object  # of the options
    one_objective: ClassVar[bool] = False  # whether it refuses a study of several objectives
    numbers: ClassVar[bool] = False  # whether it also proposes floats and integers, which else are drawn uniformly
    obeys_list: ClassVar[bool] = False  # whether it proposes only what is in `among`, where that is given

    def __init__(self, config: Any = None, *, seed: int | None = None, ordered: Collection[str] | None = None) -> None:
        self._config: Any = config or self.Config()
        self._seed = secrets.randbelow(2**31) if seed is None else seed
        self.allowed: Allowed | None = None  # by limits on costs that are known before training; None allows everything
        self.canonical: Canonical | None = None  # so that equal networks are not proposed twice; see `for_space`
        self.ordered = None if ordered is None else frozenset(ordered)
        self.among: Sequence[Mapping[str, Any]] | None = None  # all that may be proposed, as params; None: the space
        self.pinned: Mapping[str, Any] = {}  # parameter name → the value that every proposal has
        self._space: SearchSpace | None = None
        self.repeated: Tokens | None = None  # the architecture whose training the last proposal continues
        self.repeated_params: Mapping[str, Any] = {}  # of its trial: another number of a level is another training
        self.attempt = 0  # how many times a proposal for this trial has collided with another worker's
        self._lock = threading.Lock()
        self._follow(None)

    def for_space(self, space: SearchSpace) -> Self:
        """Tell the sampler which params of a space are alike or give the same network, and return it."""
        self.canonical = space.canonical if space.conditional else None
        self.ordered = frozenset(name for name, parameter in space.parameters.items() if parameter.ordered)
        self._space = space
        return self

    def _follow(self, study: Study | None) -> None:
        """Forget what is known of another study."""
        # Not by its name, which a study in another storage, or a later one, may have, too.
        self._followed = None if study is None else (storage_of(study), study_id_of(study))
        self._intersection = IntersectionSearchSpace(include_pruned=True)
        self._history = History({})

    def __getstate__(self) -> dict[str, Any]:
        """Only the options are sent to another process: everything learned is in the study."""
        learned = ("_lock", "_followed", "_intersection", "_history")
        return {name: value for name, value in vars(self).items() if name not in learned}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._lock = threading.Lock()
        self._follow(None)

    @abstractmethod
    def propose(self, history: History, study: Study, trial: FrozenTrial) -> Tokens:
        """Choose a token for every parameter of `history`; called by one thread at a time.

        Args:
            history: The study's trials; a new object whenever the study or the parameters have changed.
            study: The study.
            trial: The trial that will evaluate the choice.
        """

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The parameters that complete and pruned trials share, in the natural order of their names."""
        self._require_one_objective(study)
        with self._lock:
            return self._common(study)

    def _require_one_objective(self, study: Study) -> None:
        if self.one_objective and len(study.directions) > 1:
            raise OneObjectiveError

    def _turn_to(self, study: Study) -> None:
        if self._followed != (storage_of(study), study_id_of(study)):
            self._follow(study)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Forget a deleted study, whose number in the database a new one has got, too."""
        if trial.number == 0:
            with self._lock:
                self._follow(study)

    def _shared(self, study: Study) -> dict[str, BaseDistribution]:
        self._turn_to(study)
        return self._intersection.calculate(study)

    def _common(self, study: Study) -> dict[str, BaseDistribution]:
        common = self._shared(study)
        names = [n for n, d in common.items() if self._proposes(d) and not d.single()]
        return {name: common[name] for name in sorted(names, key=natural)}

    def _proposes(self, distribution: BaseDistribution) -> bool:
        return self.numbers or isinstance(distribution, CategoricalDistribution)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """All parameters together; those that the class does not propose, one by one."""
        space = {name: d for name, d in search_space.items() if self._proposes(d)}
        params: dict[str, Any] = {}
        if space:
            whole = {**space, **self._hidden(study, trial)}
            with self._lock, one_blas_thread():
                history = self._read(study, {name: whole[name] for name in sorted(whole, key=natural)})
                tokens = self._propose_alone(history, study, trial)
            found = history.params(tokens, np.random.default_rng(seed_for(self._seed, trial.number, "level")))
            if tokens == self.repeated:
                found |= {name: self.repeated_params[name] for name in found if name in self.repeated_params}
            params = {name: found[name] for name in space}
        for name in search_space.keys() - space.keys():
            params[name] = self.sample_independent(study, trial, name, search_space[name])
        return params

    def _hidden(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The parameters that ``PartialFixedSampler`` keeps from us; without them, no network would be complete."""
        fixed = partially_fixed(study.sampler)
        common = self.infer_relative_search_space(study, trial) if fixed else {}
        return {name: d for name, d in common.items() if name in fixed and self._proposes(d)}

    def _propose_alone(self, history: History, study: Study, trial: FrozenTrial) -> Tokens:
        """A proposal that no other running trial has chosen or published."""
        for self.attempt in range(ATTEMPTS):
            tokens = self.propose(history, study, trial)
            if not history.is_new(tokens) and tokens != self.repeated:  # nothing new is left
                break
            set_trial_system_attribute(study, trial, PROPOSAL, [history.digest, *tokens])
            history.read(study)
            history.running.pop(trial.number, None)
            ours = history.canonical(tokens)
            rivals = [number for number, theirs in history.running.items() if history.canonical(theirs) == ours]
            if not rivals:
                break
            history.pending += rivals  # they may have seen ours, and be choosing something else now
        return tokens

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Uniformly at random, seeded by the trial and the parameter."""
        self._require_one_objective(study)
        sampler = RandomSampler(seed=seed_for(self._seed, trial.number, param_name))
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def _read(self, study: Study, space: Mapping[str, BaseDistribution]) -> History:
        self._turn_to(study)
        pinned = {**partially_fixed(study.sampler), **self.pinned}
        if list(self._history.space.items()) != list(space.items()) or self._history.pinned != pinned:
            self._history = History(space, self.canonical, pinned)
        self._history.read(study)
        return self._history

    def _rng(self, trial: FrozenTrial) -> np.random.Generator:
        return np.random.default_rng(seed_for(self._seed, trial.number, type(self).__name__))

    def _random(self, history: History, rng: np.random.Generator, attempts: int = 100) -> Tokens:
        """A uniform draw, if possible one that is allowed and new."""
        candidates = self.pool_tokens(history, rng, attempts)
        if candidates is None:
            draws = rng.integers(0, history.sizes, (attempts, len(history.sizes)))
            candidates = [history.proposed(tuple(int(t) for t in draw)) for draw in draws]
        unseen = [tokens for tokens in candidates if tokens not in history.seen] or self._left(history, rng)
        return next((tokens for tokens in unseen if self._allows(history, tokens)), (unseen or candidates)[0])

    def _left(self, history: History, rng: np.random.Generator) -> list[Tokens]:
        """The untried networks of a small space, in random order; none of a large one."""
        left = [tokens for tokens in self._all(history) if tokens not in history.seen]
        return [left[i] for i in rng.permutation(len(left))]

    def _all(self, history: History) -> list[Tokens]:
        """Every network of a small space, or of a list; a setting of the recipe has its first token."""
        if "networks" not in history.derived:
            found = self.among
            if found is None and self._space is not None and self._space.size <= GRID_LIMIT:
                found = [architecture.params for architecture in self._space.enumerate()]
            axes = history.axes.items()
            if self.among is not None:  # a list may lack the pinned values; in a space, some networks do not use them
                found = [self.among[place] for place in places_having(history.pinned, self.among)]
            tokens = [tuple(a.token(p[name]) if name in p else 0 for name, a in axes) for p in found or ()]
            history.derived["networks"] = list(dict.fromkeys(map(history.proposed, tokens)))
        networks: list[Tokens] = history.derived["networks"]
        return networks

    def pool_tokens(self, history: History, rng: np.random.Generator, most: int = MAX_POOL) -> list[Tokens] | None:
        """Listed architectures, new ones if any are left, in random order; None without a list."""
        if self.among is None:
            return None
        listed = self._all(history)
        unseen = [tokens for tokens in listed if tokens not in history.seen] or listed
        pool = [unseen[i] for i in rng.permutation(len(unseen))[:most]]
        free = [i for i, name in enumerate(history.axes) if name not in self.among[0]]  # a list says nothing of them
        drawn = {i: rng.integers(history.sizes[i], size=len(pool)) for i in free}
        return [tuple(int(drawn[i][j]) if i in drawn else t for i, t in enumerate(pool[j])) for j in range(len(pool))]

    def _order(self, history: History) -> list[bool]:
        """For each parameter, whether its neighbouring choices are alike, as those of a number always are."""
        return [
            axis.is_number or (_are_numbers(axis.distribution) if self.ordered is None else name in self.ordered)
            for name, axis in history.axes.items()
        ]

    def _allows(self, history: History, tokens: Tokens) -> bool:
        return self.allowed is None or self.allowed(history.params(tokens))


def one_blas_thread() -> AbstractContextManager[Any]:
    """Let NumPy use one thread: for small matrix products, waking others costs ten times the product."""
    limit: AbstractContextManager[Any] = _blas().limit(limits=1, user_api="blas")
    return limit


@cache
def _blas() -> ThreadpoolController:
    import scipy.linalg  # noqa: F401 - its own BLAS must be loaded before the controller looks for it

    return ThreadpoolController()


def completed(
    found: Mapping[str, Any], sampler: BaseSampler, study: Study, trial: FrozenTrial, space: Mapping[str, Any]
) -> dict[str, Any]:
    """What a sampler has proposed together, and its choice for each other parameter of a space."""
    return {
        name: found[name] if name in found else sampler.sample_independent(study, trial, name, distribution)
        for name, distribution in space.items()
    }


def places_having(fixed: Mapping[str, Any], listed: Sequence[Mapping[str, Any]]) -> list[int]:
    """The places of the listed params that have all fixed values; all places if none has."""
    having = [i for i, params in enumerate(listed) if all(params.get(name, v) == v for name, v in fixed.items())]
    return having or list(range(len(listed)))


def innermost(sampler: BaseSampler) -> BaseSampler:
    """The sampler that a chain of wrappers asks in the end."""
    while (inner := inner_sampler(sampler)) is not None:
        sampler = inner
    return sampler


def drawn_at_random(sampler: BaseSampler, settings: Mapping[str, BaseDistribution]) -> list[str]:
    """Names of the settings of a recipe that a sampler does not propose."""
    own = innermost(sampler)

    def proposes(d: BaseDistribution) -> bool:
        return bool(getattr(own, "choices" if isinstance(d, CategoricalDistribution) else "numbers", True))

    return [name for name, d in settings.items() if not proposes(d)]


def _are_numbers(distribution: Any) -> bool:
    return all(isinstance(c, int | float) and not isinstance(c, bool) for c in distribution.choices)


@cache
def natural(name: str) -> tuple[tuple[int, str], ...]:
    """A sort key that puts ``conv2.kernel`` before ``conv10.kernel``."""
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name))


def configured(
    config: Callable[..., Config],
) -> Callable[[Callable[[SearchSpace, int, Config], BaseSampler]], Callable[..., BaseSampler]]:
    """Turn a function of (space, seed, config) into a factory whose keywords are the fields of the config."""

    def decorate(make: Callable[[SearchSpace, int, Config], BaseSampler]) -> Callable[..., BaseSampler]:
        @wraps(make)
        def factory(space: SearchSpace, seed: int, **options: Any) -> BaseSampler:
            return make(space, seed, config(**options))

        first = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("space", "seed")]
        fields = inspect.signature(config).parameters.values()
        options = [field.replace(kind=inspect.Parameter.KEYWORD_ONLY) for field in fields]
        factory.__signature__ = inspect.Signature([*first, *options])  # type: ignore[attr-defined]
        return factory

    return decorate
