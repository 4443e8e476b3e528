"""From command-line options to a study spec."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from nas_optuna.errors import SpecError

if TYPE_CHECKING:
    import optuna

    from nas_optuna.spec import StudySpec


def read_spec(name: str | None, overrides: Sequence[str] = ()) -> StudySpec:
    """The spec of a preset or file (the default preset without a name) with ``--set`` applied.

    Raises:
        SpecError: There is no such spec, or it is refused.
    """
    from nas_optuna.presets import DEFAULT, find_spec
    from nas_optuna.spec import StudySpec

    return StudySpec.from_toml(find_spec(name or DEFAULT), overrides)


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


def with_options(
    spec: StudySpec,
    overrides: Sequence[str],
    *,
    sampler: str | None = None,
    pruner: str | None = None,
    seed: int | None = None,
) -> StudySpec:
    """The spec with the sampler, pruner and seed of the command line, then with its ``--set``.

    Another sampler or pruner than the spec's starts with its default options, because the spec's belong to its own;
    ``--set sampler.population_size=8`` then sets one of the new sampler's.

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
    return type(spec).from_dict(values, "the command line").override(overrides)


def existing_or_new(
    url: str,
    name: str,
    spec: str | None,
    overrides: Sequence[str],
    *,
    sampler: str | None = None,
    pruner: str | None = None,
    seed: int | None = None,
) -> tuple[optuna.Study | None, StudySpec]:
    """The study, where it exists, and the spec to run it by: its own, or that of the command line.

    Raises:
        SpecError: The spec is refused, or there is no study and nothing says what it is to be.
        StudyError: The storage cannot be opened, or the study was made by another spec.
    """
    from nas_optuna.study.storage import open_storage, sqlite_file
    from nas_optuna.study.studies import load_study, require_same_spec, study_names, study_spec

    choices = partial(with_options, overrides=overrides, sampler=sampler, pruner=pruner, seed=seed)
    database = sqlite_file(url)
    storage = None if database is not None and not database.exists() else open_storage(url)
    if storage is not None and name in study_names(storage):
        study = load_study(storage, name)
        wanted = choices(read_spec(spec) if spec is not None else study_spec(study))
        require_same_spec(study, wanted)
        return study, wanted
    if name != "nas" and spec is None and not overrides:
        if storage is not None:
            load_study(storage, name)  # says which name was meant
        raise SpecError(f"there is no study {name!r} yet; say what it is to be, e.g. --spec digits-quick")
    return None, choices(read_spec(spec))
