"""From command-line options to a study spec, and to the study that it is for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from nas_optuna.cli import options
from nas_optuna.cli.printing import say
from nas_optuna.errors import SpecError, shown

if TYPE_CHECKING:
    import optuna

    from nas_optuna.experiment import Experiment
    from nas_optuna.spec import StudySpec

_KEYS = {
    "reference": "reference",
    "keep_paused": "keep_paused",
    "epochs": "recipe.epochs",
    "image_size": "recipe.input_size",
    "batch_size": "recipe.batch_size",
    "lr": "recipe.learning_rate",
    "max_macs": "limits.macs",
    "max_params": "limits.params",
    "max_memory": "limits.memory",
    "max_latency": "limits.latency_ms",
    "max_flash": "limits.flash",
    "max_arena": "limits.arena",
    "latency_table": "latency.table",
    "latency_runtime": "latency.runtime",
}


@dataclass(frozen=True)
class SpecOptions:
    """What a command line says about a study's spec; each field is an option."""

    data: options.Data = None
    space: options.Space = None
    spec: options.Spec = None
    sampler: options.Sampler = None
    pruner: options.Pruner = None
    epochs: options.Epochs = None
    image_size: options.ImageSize = None
    batch_size: options.BatchSize = None
    lr: options.Rate = None
    objectives: options.Objectives = None
    max_params: options.MaxParams = None
    max_latency: options.MaxLatency = None
    reference: options.Reference = None
    seed: options.Seed = None
    max_macs: options.MaxMacs = None
    max_memory: options.MaxMemory = None
    max_flash: options.MaxFlash = None
    max_arena: options.MaxArena = None
    latency_table: options.LatencyTable = None
    latency_runtime: options.LatencyRuntime = None
    set_: options.Set = None
    fix: options.Fix = None
    search: options.Search = None
    among: options.Among = None
    keep_paused: options.KeepPaused = None

    @property
    def overrides(self) -> list[str]:
        """``--set``, then the options that stand for one key each, as overrides of a spec."""
        return [*(self.set_ or ()), *(text for _, text in self._named())]

    def _named(self) -> list[tuple[str, str]]:
        """Options that stand for one key each, with the override of a spec."""
        values: dict[str, tuple[str, Any]] = {"--objective": ("objectives", list(self.objectives or ()) or None)}
        values["--data"] = ("data.name", self._data_name)
        values["--among"] = ("among", None if self.among is None else str(self.among.resolve()))
        values |= {f"--{name.replace('_', '-')}": (key, getattr(self, name)) for name, key in _KEYS.items()}
        # JSON's strings and lists of strings are TOML's too.
        return [(option, f"{key}={json.dumps(v)}") for option, (key, v) in values.items() if v is not None]

    @property
    def _data_name(self) -> str | None:
        if self.data is None:
            return None
        from nas_optuna.data.names import data_name

        return data_name(self.data)

    def read(self) -> StudySpec:
        """The spec of the preset or file that is named; without a name that of the preset which fits the data.

        Raises:
            SpecError: There is no such spec, or it is refused.
        """
        from nas_optuna.presets import find_spec
        from nas_optuna.spec import StudySpec

        return self.applied_to(StudySpec.from_toml(find_spec(self.preset() if self.spec is None else self.spec)))

    def preset(self) -> str:
        """The preset that is taken where none is named: one made for own images where such are given."""
        from nas_optuna.presets import DEFAULT, OWN_IMAGES
        from nas_optuna.spec_text import with_overrides

        data = with_overrides({}, [text for text in self.overrides if text.lstrip().startswith("data")]).get("data", "")
        name = data.get("name", "") if isinstance(data, dict) else data
        return OWN_IMAGES if str(name).startswith(("folder:", "npz:")) else DEFAULT

    def applied_to(self, spec: StudySpec) -> StudySpec:
        """The spec with the sampler, pruner and seed of the command line, then with the other overrides.

        Another sampler or pruner than the spec's starts with its default options, because the spec's belong to its own;
        ``--set sampler.population_size=8`` then sets one of the new sampler's.

        Raises:
            SpecError: A value is refused.
        """
        values = spec.to_dict()
        for section, name in (("space", self.space), ("sampler", self.sampler), ("pruner", self.pruner)):
            if name is not None and name != values[section]["name"]:
                values[section] = {"name": name}
                if section == "sampler":
                    values[section]["seed"] = spec.sampler.seed
        if self.seed is not None:
            values["sampler"]["seed"] = self.seed
        values["fixed"] |= dict(map(partial(_pair, "--fix"), self.fix or ()))
        for name, what in map(partial(_pair, "--search"), self.search or ()):
            values["search"][name.removeprefix("recipe.")] = what
        result = type(spec).from_dict(values, "the command line").override(self.set_ or ())
        for option, text in self._named():
            result = result.override([text], option)
        return result


_EXAMPLES = {"--fix": "conv1.stride=1", "--search": "recipe.learning_rate=1e-4..1e-1:log"}


def _pair(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise SpecError(f"{option} needs NAME=VALUE, got {shown(text)}; e.g. {option} {_EXAMPLES[option]}")
    return name.strip(), value.strip()


@dataclass(frozen=True)
class Target:
    """What a command works on.

    Attributes:
        study: The study, where it exists.
        spec: The spec to run it by: its own with what the command line changes, or that of the command line.
    """

    study: optuna.Study | None
    spec: StudySpec


def find_target(url: str, name: str, given: SpecOptions, *, extra: Sequence[str] = (), trust: bool = False) -> Target:
    """The study, where it exists, and the spec to run it by.

    Args:
        url: The storage's URL.
        name: The study's name.
        given: What the command line says.
        extra: More overrides.
        trust: Whether the code that a stored spec names may be imported.

    Raises:
        SpecError: The spec is refused.
        StudyError: The storage cannot be opened, the study was made by another spec, or it names code that nobody has
            agreed to.
    """
    from nas_optuna.spec_parts import code_named
    from nas_optuna.study.storage import open_storage, sqlite_file
    from nas_optuna.study.studies import check_name, load_study, require_same_spec, study_names, study_spec
    from nas_optuna.study.trust import require_trust

    database = sqlite_file(url)
    storage = None if database is not None and not database.exists() else open_storage(url)
    if storage is None or name not in study_names(storage):
        check_name(name)
        return Target(None, given.read().override(extra))
    study = load_study(storage, name)
    stored = study_spec(study)
    wanted = (given.read() if given.spec is not None else given.applied_to(stored)).override(extra)
    require_same_spec(study, wanted)
    if given.spec is None:
        own = code_named(given.applied_to(type(stored)()))  # what the command line itself names is meant
        require_trust(url, name, [code for code in code_named(wanted) if code not in own], yes=trust)
    return Target(study, wanted)


def moved_to(data: str | None) -> list[str]:
    """The override of a spec whose images lie elsewhere now."""
    if data is None:
        return []
    from nas_optuna.data.names import data_name

    return [f"data.name={json.dumps(data_name(data))}"]


def stored_experiment(
    url: str, name: str, *, trust: bool, overrides: Sequence[str] = (), **given: Any
) -> tuple[Experiment, optuna.Study]:
    """A stored study and what it takes to go on with it.

    Args:
        url: The storage's URL.
        name: The study's name.
        trust: Whether the code that its spec names may be imported.
        overrides: What is different this time, e.g. ``recipe.epochs=30``.
        given: As `Experiment.from_spec` takes them.

    Raises:
        StudyError: There is no such study, it names code that nobody has agreed to, or its images have changed.
    """
    from nas_optuna.experiment import Experiment
    from nas_optuna.spec_parts import code_named
    from nas_optuna.study.storage import open_storage
    from nas_optuna.study.studies import load_study, study_spec
    from nas_optuna.study.trust import require_trust

    study = load_study(open_storage(url), name)
    spec = study_spec(study)
    require_trust(url, name, code_named(spec), yes=trust)
    return Experiment.of_study(study, spec.override(overrides), **given), study


def say_created(name: str, given: SpecOptions) -> None:
    """Say that a study was created, and from which preset where none was named."""
    say(f"created study {name!r}" + (f" from the preset {given.preset()}" if given.spec is None else ""))
