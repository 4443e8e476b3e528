"""Samplers by name. A new one is a file here and a line in `BUILTIN`.

Each factory takes ``(space, seed, **options)``; its keyword options are what ``[sampler]`` in a study spec may hold.
Third parties register the entry point group ``nas_optuna.samplers`` or are named as ``package.module:factory``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nas_optuna import plugins
from nas_optuna.errors import NasOptunaError, SpecError

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from nas_optuna.spaces import SearchSpace

GROUP = "nas_optuna.samplers"
BUILTIN = {name: f"nas_optuna.samplers.optunas:{name}" for name in ("random", "tpe", "gp", "nsga2", "qmc", "grid")}
BUILTIN |= {name: f"nas_optuna.samplers.{name}:{name}" for name in ("evolution", "controller", "arch")}
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
    factory = plugins.find("sampler", name, BUILTIN, GROUP)
    plugins.check_options("sampler", name, factory, options, reserved=("space", "seed"))
    try:
        sampler: BaseSampler = factory(space, seed, **options)
    except NasOptunaError:
        raise
    except (TypeError, ValueError) as error:
        raise SpecError(f"sampler {name!r} refuses {dict(options)!r}: {error}") from error
    return sampler
