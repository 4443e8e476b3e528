"""From command-line options to a study spec."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nas_optuna.spec import StudySpec


def read_spec(name: str | None, overrides: Sequence[str] | None) -> StudySpec:
    """The spec of a preset or file (the default preset without a name) with ``--set`` applied.

    Raises:
        SpecError: There is no such spec, or it is refused.
    """
    from nas_optuna.presets import DEFAULT, find_spec
    from nas_optuna.spec import StudySpec

    return StudySpec.from_toml(find_spec(name or DEFAULT), overrides or ())


def cost_overrides(
    objectives: Sequence[str] | None,
    *,
    max_macs: str | None,
    max_params: str | None,
    max_memory: str | None,
    max_latency: str | None,
    latency_table: str | None,
) -> list[str]:
    """The options on objectives and limits, as overrides of a spec."""
    values = {
        "objectives": list(objectives) if objectives else None,
        "limits.macs": max_macs,
        "limits.params": max_params,
        "limits.memory": max_memory,
        "limits.latency_ms": max_latency,
        "latency.table": latency_table,
    }
    # JSON's strings and lists of strings are TOML's too.
    return [f"{key}={json.dumps(value)}" for key, value in values.items() if value is not None]


def with_options(spec: StudySpec, *, sampler: str | None, pruner: str | None, seed: int | None) -> StudySpec:
    """The spec with the sampler, pruner and seed of the command line.

    Another sampler or pruner than the spec's starts with its default options, because the spec's belong to its own.

    Raises:
        SpecError: A value is refused.
    """
    values = spec.to_dict()
    for section, name in (("sampler", sampler), ("pruner", pruner)):
        if name is not None and name != values[section]["name"]:
            values[section] = {"name": name}
            if section == "sampler":
                values[section]["seed"] = spec.sampler.seed
    if seed is not None:
        values["sampler"]["seed"] = seed
    return type(spec).from_dict(values, "the command line")
