"""Samplers by name. A new one is a file here and a line in `BUILTIN`.

Each factory takes ``(space, seed, **options)``; its keyword options are what ``[sampler]`` in a study spec may hold.
Third parties register the entry point group ``nas_optuna.samplers`` or are named as ``package.module:factory``.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nas_optuna import registry
from nas_optuna.errors import NasOptunaError, SpecError

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from nas_optuna.spaces import SearchSpace

GROUP = "nas_optuna.samplers"
BUILTIN = {
    name: f"nas_optuna.samplers.optuna_builtin:{name}" for name in ("random", "tpe", "gp", "nsga2", "qmc", "grid")
}
BUILTIN |= {name: f"nas_optuna.samplers.{name}:{name}" for name in ("evolution", "controller")}
BUILTIN["arch"] = "nas_optuna.samplers.gp:arch"
BUILTIN["supernet"] = "nas_optuna.samplers.prior:supernet"


def create_sampler(name: str, space: SearchSpace, seed: int, options: Mapping[str, Any]) -> BaseSampler:
    """Make the sampler of that name for a space.

    Args:
        name: Built-in name, entry point, or ``package.module:factory``.
        space: The space it will sample; its distributions and which of them are ordered.
        seed: The study's seed. Every sampler made here derives its draws from it and the trial's number.
        options: The sampler's own options.

    Raises:
        SpecError: The name or an option is unknown, or the sampler refuses the space or a value.
    """
    from optuna.samplers import BaseSampler as Sampler

    factory = registry.find("sampler", name, BUILTIN, GROUP)
    registry.check_options("sampler", name, factory, options, reserved=("space", "seed"))
    try:
        sampler: BaseSampler = factory(space, seed, **options)
    except NasOptunaError:
        raise
    except (TypeError, ValueError) as error:
        raise SpecError(f"sampler {name!r} refuses {dict(options)!r}: {error}") from error
    registry.require_type("sampler", name, sampler, Sampler)
    return sampler


@dataclass(frozen=True)
class SamplerDescription:
    """What a user needs to choose a sampler.

    Attributes:
        name: For ``--sampler`` and ``[sampler] name``.
        advice: When to use it, in one line: the first of its factory's docstring.
        options: What ``[sampler]`` may set, with the defaults; ``"required"`` where there is none.
    """

    name: str
    advice: str
    options: dict[str, Any]


def describe_samplers() -> list[SamplerDescription]:
    """Every sampler that has a name, built-in ones first. A plugin that cannot be imported says so as its advice."""
    found = []
    for name in registry.names(BUILTIN, GROUP):
        try:
            factory = registry.find("sampler", name, BUILTIN, GROUP)
        except SpecError as error:
            found.append(SamplerDescription(name, str(error), {}))
            continue
        advice = (inspect.getdoc(factory) or "").split("\n")[0]
        options = {
            parameter.name: "required" if parameter.default is parameter.empty else parameter.default
            for parameter in inspect.signature(factory).parameters.values()
            if parameter.kind is parameter.KEYWORD_ONLY
        }
        found.append(SamplerDescription(name, advice, options))
    return found
