"""From command-line options to a study spec, and to the study that it is for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

from nas_optuna.cli import options
from nas_optuna.cli.options import DETAILS, LIMITS, TrustedStudyOptions, option
from nas_optuna.cli.printing import say
from nas_optuna.errors import SpecError, StudyExists, shown

if TYPE_CHECKING:
    from optuna.study import Study

    from nas_optuna.experiment import Experiment
    from nas_optuna.spec import StudySpec


@dataclass(frozen=True)
class SpecOptions:
    """What a command line says about a study's spec; each field is an option, many with the one key that it sets."""

    data: Annotated[
        str | None,
        option("A folder of pictures, a .npz file, or a name: digits, mnist, cifar10, ...", "DATA", complete=("DATA",)),
        "data.name",
    ] = None
    space: Annotated[str | None, option("Search space: SPACES or file.py:function.", "NAME", complete=("SPACES",))] = (
        None
    )
    spec: options.Spec = None
    sampler: Annotated[str | None, option("What proposes architectures: SAMPLERS.", "NAME", complete=("SAMPLERS",))] = (
        None
    )
    pruner: Annotated[str | None, option("What stops unpromising trials: PRUNERS.", "NAME", complete=("PRUNERS",))] = (
        None
    )
    epochs: Annotated[int | None, option("Epochs of each training.", "N"), "recipe.epochs"] = None
    image_size: Annotated[int | None, option("Pixels a side that networks see.", "N"), "recipe.input_size"] = None
    batch_size: Annotated[int | None, option("Images of a step.", "N"), "recipe.batch_size"] = None
    lr: Annotated[float | None, option("The learning rate at its peak.", "RATE"), "recipe.learning_rate"] = None
    objective: Annotated[
        list[str] | None,
        option(
            "What to optimise: METRICS, COSTS or accuracy*(latency_ms/0.5)^-0.07; repeatable.",
            "NAME",
            complete=("METRICS", "COSTS"),
        ),
        "objectives",
    ] = None
    max_params: Annotated[str | None, option("The most weights, e.g. 50k.", "N"), "limits.params"] = None
    max_latency: options.MaxLatency = None
    reference: Annotated[
        str | None,
        option(
            "Your own network, function(task) -> nn.Module, to be trained as every trial is and compared with.",
            "FILE.py:FUNCTION",
        ),
        "reference",
    ] = None
    seed: Annotated[int | None, option("Seed of the sampler's proposals.", "N")] = None
    max_macs: Annotated[str | None, option("The most MACs, e.g. 2M.", "N", panel=LIMITS), "limits.macs"] = None
    max_memory: Annotated[
        str | None, option("The most bytes of weights and activations, e.g. 1M.", "N", panel=LIMITS), "limits.memory"
    ] = None
    max_flash: Annotated[
        str | None, option("The most bytes of weights in eight bits, e.g. 1M.", "N", panel=LIMITS), "limits.flash"
    ] = None
    max_arena: Annotated[
        str | None, option("The most bytes of activations in eight bits, e.g. 256k.", "N", panel=LIMITS), "limits.arena"
    ] = None
    latency_table: options.LatencyTable = None
    latency_runtime: Annotated[
        str | None, option("What runs the networks, e.g. onnxruntime.", "NAME", panel=LIMITS), "latency.runtime"
    ] = None
    set_: options.Set = None
    fix: Annotated[
        list[str] | None,
        option("Pin a parameter, e.g. conv1.stride=1; repeatable.", "NAME=VALUE", panel=DETAILS),
    ] = None
    search: Annotated[
        list[str] | None,
        option(
            "Search a setting of the recipe, too: recipe.learning_rate=1e-4..1e-1:log or recipe.batch_size=32,64.",
            "KEY=RANGE",
            panel=DETAILS,
        ),
    ] = None
    among: Annotated[
        Path | None, option("Propose only these architectures, one a line.", "FILE", panel=DETAILS), "among"
    ] = None
    keep_paused: Annotated[
        str | None,
        option("Bytes of stopped trainings to keep; 1GB.", "BYTES", panel=DETAILS),
        "keep_paused",
    ] = None

    @property
    def overrides(self) -> list[str]:
        """``--set``, then the options that stand for one key each, as overrides of a spec."""
        return [*(self.set_ or ()), *(text for _, text in named_overrides(self))]

    def read(self) -> StudySpec:
        """The spec of the preset or file that is named; without a name that of the preset which fits the data."""
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
        """The spec with the sampler, pruner and seed of the command line, then with the other overrides."""
        parts = spec.with_parts(space=self.space, sampler=self.sampler, pruner=self.pruner, seed=self.seed)
        values = parts.to_dict()
        values["fixed"] |= dict(map(partial(_pair, "--fix"), self.fix or ()))
        for name, what in map(partial(_pair, "--search"), self.search or ()):
            values["search"][name.removeprefix("recipe.")] = what
        result = type(spec).from_dict(values, "the command line").override(self.set_ or ())
        for flag, text in named_overrides(self):
            result = result.override([text], flag)
        return result


def named_overrides(given: object) -> list[tuple[str, str]]:
    """Each option that was given and stands for one key of a spec: its name, and the override that it is."""
    found = []
    for name, hint in get_type_hints(type(given), include_extras=True).items():
        key, value = hint.__metadata__[-1], getattr(given, name)
        if isinstance(key, str) and value not in (None, []):
            # JSON's strings and lists of strings are TOML's too.
            found.append((f"--{name.replace('_', '-')}", f"{key}={json.dumps(_of_spec(key, value))}"))
    return found


def _of_spec(key: str, value: Any) -> Any:
    if key == "data.name":
        from nas_optuna.data.catalog import data_name

        return data_name(value)
    return str(value.resolve()) if isinstance(value, Path) else value


_EXAMPLES = {"--fix": "conv1.stride=1", "--search": "recipe.learning_rate=1e-4..1e-1:log"}


def _pair(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise SpecError(f"{option} needs NAME=VALUE, got {shown(text)}; e.g. {option} {_EXAMPLES[option]}")
    return name.strip(), value.strip()


def find_target(
    stored: TrustedStudyOptions, given: SpecOptions, extra: Sequence[str] = ()
) -> tuple[Study | None, StudySpec]:
    """The study, where it exists, and the spec to run it by: its own with what the command line changes."""
    from nas_optuna.spec_parts import code_named
    from nas_optuna.study.storage import open_storage, sqlite_file
    from nas_optuna.study.studies import check_name, load_study, require_same_spec, study_names, study_spec
    from nas_optuna.study.trust import require_trust

    url, name, database = stored.url, stored.study, sqlite_file(stored.url)
    storage = None if database is not None and not database.exists() else open_storage(url)
    if storage is None or name not in study_names(storage):
        check_name(name)
        return None, given.read().override(extra)
    study = load_study(storage, name)
    remembered = study_spec(study)
    wanted = (given.read() if given.spec is not None else given.applied_to(remembered)).override(extra)
    require_same_spec(study, wanted)
    if given.spec is None:
        own = code_named(given.applied_to(type(remembered)()))  # what the command line itself names is meant
        require_trust(url, name, [code for code in code_named(wanted) if code not in own], yes=stored.trust)
    return study, wanted


def create(experiment: Experiment, stored: TrustedStudyOptions, given: SpecOptions) -> Study:
    """The new study of an experiment, or that which another process made of the same spec just now."""
    from nas_optuna.spec_parts import code_named
    from nas_optuna.study.storage import open_storage
    from nas_optuna.study.trust import remember

    storage = open_storage(stored.url, create=True)
    try:
        study = experiment.create(storage, stored.study)
    except StudyExists:
        return experiment.create(storage, stored.study, load_if_exists=True)
    remember(stored.url, stored.study, code_named(experiment.spec))  # whoever makes a study means its code
    say(f"created study {stored.study!r}" + (f" from the preset {given.preset()}" if given.spec is None else ""))
    return study
