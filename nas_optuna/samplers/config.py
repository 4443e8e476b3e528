"""One frozen class holds a sampler's options: their names, defaults, checks and descriptions."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from optuna.samplers import BaseSampler

from nas_optuna.spaces import SearchSpace

Config = TypeVar("Config")


def configured(
    config: Callable[..., Config],
) -> Callable[[Callable[[SearchSpace, int, Config], BaseSampler]], Callable[..., BaseSampler]]:
    """Turn a function of (space, seed, config) into a factory that takes the fields of the config as keywords.

    Examples:
        >>> import dataclasses, optuna
        >>> @dataclasses.dataclass(frozen=True)
        ... class RandomConfig:
        ...     pass
        >>> @configured(RandomConfig)
        ... def random(space, seed, config):
        ...     return optuna.samplers.RandomSampler(seed)
    """

    def decorate(make: Callable[[SearchSpace, int, Config], BaseSampler]) -> Callable[..., BaseSampler]:
        @functools.wraps(make)
        def factory(space: SearchSpace, seed: int, **options: Any) -> BaseSampler:
            return make(space, seed, config(**options))

        first = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("space", "seed")]
        fields = inspect.signature(config).parameters.values()
        options = [field.replace(kind=inspect.Parameter.KEYWORD_ONLY) for field in fields]
        factory.__signature__ = inspect.Signature([*first, *options])  # type: ignore[attr-defined]
        return factory

    return decorate
