"""Samplers by name. A new one is a file here and a line in `SAMPLERS`.

Once a trial of the study has ended, none of these proposes a network twice while others are left. Before that, those
that infer the parameters from trials draw each parameter by itself. Each factory takes ``(space, seed, **options)``; a
study spec sets the options in ``[sampler]``. Third parties register an entry point in the group
``nas_optuna.samplers``, or are named as ``package.module:factory``.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from nas_optuna.errors import SpecError, checked
from nas_optuna.lazily import lazily
from nas_optuna.registry import Registry

with lazily():
    import optuna
    from optuna.samplers import BaseSampler

    from nas_optuna.spaces import SearchSpace

SAMPLERS = Registry(
    "sampler",
    "nas_optuna.samplers",
    {
        **{name: f"nas_optuna.samplers.optuna_builtin:{name}" for name in ("random", "tpe", "gp", "nsga2", "qmc")},
        "grid": "nas_optuna.samplers.grid:GridSampler",
        "neighbours": "nas_optuna.samplers.neighbours:neighbours",
        "evolution": "nas_optuna.samplers.evolution:evolution",
        "controller": "nas_optuna.samplers.controller:controller",
        "curves": "nas_optuna.samplers.beforehand:curves",
        "arch": "nas_optuna.samplers.beforehand:arch",
        "supernet": "nas_optuna.samplers.prior:supernet",
    },
    ("space", "seed"),
)


@checked
def create_sampler(
    name: str, space: SearchSpace, seed: int | None = None, options: Mapping[str, Any] | None = None
) -> BaseSampler:
    """Make the sampler of that name for a space.

    Args:
        name: Built-in name, entry point, or ``package.module:factory``.
        space: The space that it samples.
        seed: The study's seed; every draw is seeded by it and the trial's number. None draws one.
        options: The sampler's own options.

    Raises:
        SpecError: The name or an option is unknown, or the sampler refuses the space or a value.

    Examples:
        >>> from nas_optuna import ConvSpace
        >>> sampler = create_sampler("evolution", ConvSpace(), seed=0, options={"population_size": 30})
    """
    if not hasattr(space, "parameters"):  # a table of trained networks has them, too
        raise SpecError(f"space cannot be of type {type(space).__name__}; give a SearchSpace")
    seed = secrets.randbelow(2**31) if seed is None else seed
    sampler: BaseSampler = SAMPLERS.make(name, space, seed, options=options or {}, wanted=optuna.samplers.BaseSampler)
    return sampler
