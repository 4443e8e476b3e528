"""Strategies by name: how a supernet's weights, and perhaps its alphas, are trained.

A strategy is a subclass of `Strategy` with an options class of its own: a file here and a line below, an entry point
``nas_optuna.strategies``, or ``package.module:name`` and ``file.py:name`` in a spec.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from pydantic import ValidationError

from nas_optuna.errors import SpecError, unknown
from nas_optuna.registry import Registry
from nas_optuna.spec import SupernetSpec
from nas_optuna.spec_text import problem_of

if TYPE_CHECKING:
    from nas_optuna.oneshot.strategies.base import Strategy, StrategyOptions

STRATEGIES = Registry(
    "strategy",
    "nas_optuna.strategies",
    {
        "fair": "nas_optuna.oneshot.strategies.fair:FairStrategy",
        "darts": "nas_optuna.oneshot.strategies.darts:DartsStrategy",
        "gumbel": "nas_optuna.oneshot.strategies.darts:GumbelStrategy",
    },
)


def find_strategy(name: str) -> type[Strategy]:
    """Import the strategy of a name."""
    from nas_optuna.oneshot.strategies.base import RankedOptions, Strategy, StrategyOptions

    found = STRATEGIES.find(name)
    if not (isinstance(found, type) and issubclass(found, Strategy)):
        raise SpecError(f"strategy {name!r} is no subclass of nas_optuna.oneshot.strategies.base.Strategy")
    needed = StrategyOptions if found.learns_alphas else RankedOptions
    if not (isinstance(found.Options, type) and issubclass(found.Options, needed)):
        other = "" if found.learns_alphas else ", which a strategy needs that does not set learns_alphas = True"
        raise SpecError(f"the Options of strategy {name!r} are no subclass of {needed.__name__}{other}")
    return found


def strategy_options(spec: SupernetSpec) -> StrategyOptions:
    """Validate the keys of a ``[supernet]`` section that belong to its strategy, by that strategy's options class."""
    wanted = find_strategy(spec.strategy).Options
    for key in spec.strategy_options:
        if key not in wanted.model_fields:
            raise SpecError(_misplaced(key, spec.strategy, {*wanted.model_fields, *SupernetSpec.model_fields}))
    try:
        return wanted.model_validate(spec.strategy_options)
    except ValidationError as error:
        raise SpecError(problem_of(error, "supernet")) from None


_LENGTHS = {"budget", "epochs"}
"""Either says how long a training is."""


def without_displaced(spec: SupernetSpec, said: Collection[str], *, new: bool = False) -> SupernetSpec:
    """A section without what keys that were said just now displace: the options of another strategy, another length.

    Those may be of an earlier supernet, whose settings a study remembers. In a `new` study it is also what these keys
    leave without effect, with which the supernet of a stored one goes on.
    """
    known = find_strategy(spec.strategy).Options.model_fields
    length = _LENGTHS if _LENGTHS & set(said) else set()

    def is_stale(key: str) -> bool:
        return key in length or ("strategy" in said and key not in known and bool(_owners(key)))

    stale = {key for key in spec.strategy_options if key not in said and is_stale(key)}
    left = SupernetSpec.model_validate(spec.model_dump(exclude=stale))
    if not new:
        return left
    stale = {key for key, why in unread(left).items() if key not in said and why.partition("=")[0] in said}
    return SupernetSpec.model_validate(left.model_dump(exclude=stale))


_OF_RANKING = {"budget", "evaluations", "short_trainings"}
"""The options of a strategy that a ranking without shared weights reads."""


def unread(spec: SupernetSpec) -> dict[str, str]:
    """Keys whose values have no effect → the other key, and its value, that leaves them so.

    Examples:
        >>> unread(SupernetSpec(budget=0, clip=1.0, seed=3))
        {'clip': 'budget=0'}
    """
    from nas_optuna.oneshot.strategies.base import Strategy

    strategy, options = find_strategy(spec.strategy), strategy_options(spec)
    common = [name for name, usual in (("alpha_init", "zero"), ("options", {})) if getattr(spec, name) != usual]
    said = [*common, *(name for name, value in spec.strategy_options.items() if value is not None)]
    if is_without_weights(spec):
        return {name: "budget=0" for name in said if name not in _OF_RANKING}
    found = {}
    if "alpha_init" in said and not strategy.learns_alphas:
        found["alpha_init"] = f"strategy={spec.strategy}"
    if "momentum" in said and options.optimizer == "adamw" and strategy.weight_optimizer is Strategy.weight_optimizer:
        found["momentum"] = "optimizer=adamw"
    return found


def refuse_unread(spec: SupernetSpec, said: Collection[str] | None = None) -> None:
    """Refuse keys whose values have no effect: of those that were said just now, or of all."""
    for key, why in unread(spec).items():
        if said is None or key in said:
            raise SpecError(f"supernet.{key} is of no use with supernet.{why}; leave it out")


def is_without_weights(spec: SupernetSpec) -> bool:
    """Whether a budget of 0 asks for a ranking without shared weights."""
    return getattr(strategy_options(spec), "budget", None) == 0


def _owners(key: str) -> list[str]:
    """The built-in strategies that have an option."""
    return [name for name in STRATEGIES.builtin if key in find_strategy(name).Options.model_fields]


def _misplaced(key: str, strategy: str, known: set[str]) -> str:
    if owners := _owners(key):
        return f"supernet.{key} belongs to strategy {' or '.join(owners)}, not to {strategy!r}; leave one out"
    return f"{unknown('key', key, known)} (in [supernet], strategy {strategy!r})"
