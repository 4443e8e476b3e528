"""The study spec of a fit, and the size of its space, by limits or by the time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from optuna.trial import FrozenTrial

from nas_optuna.costs.candidates import Candidates
from nas_optuna.costs.study_costs import Limits
from nas_optuna.data import ImageSet, SearchData, load_data
from nas_optuna.data.catalog import opened
from nas_optuna.devices import resolve_device
from nas_optuna.errors import ArchitectureError, SpecError, StudyError, TrainingError
from nas_optuna.execution.reference import require_training
from nas_optuna.experiment import Experiment
from nas_optuna.fitting.clock import ENOUGH_TO_SELECT, TimeBudget, refuse_named
from nas_optuna.fitting.equal_seconds import time_reference
from nas_optuna.fitting.pretrained import SMALLEST, pretrained_experiment
from nas_optuna.presets import OWN_IMAGES, PRETRAINED, find_spec
from nas_optuna.spaces import SearchSpace
from nas_optuna.spaces.backbone import PACKAGES, at_hand
from nas_optuna.spaces.residual import DIVISOR
from nas_optuna.spec import StudySpec
from nas_optuna.spec_parts import make_space
from nas_optuna.spec_text import overridden, toml_value
from nas_optuna.study.schema import TrialKey, attribute
from nas_optuna.study.trial_queue import read_architectures

SAMPLER = "neighbours"
"""The sampler that makes the most of few short trainings, unless the user names another."""
PROGRESSIVE = 'recipe.progressive="auto"'
"""What the last training of a fit from random weights does, unless somebody names another share."""
FEW = 5000
"""With fewer training images a pretrained network is suggested: with 1,500 of CIFAR-10 it is 13 points ahead."""


def spec_for(
    name: str,
    *,
    space: str | None = None,
    sampler: str | None = None,
    limits: Mapping[str, Any] | None = None,
    seed: int = 0,
    overrides: Sequence[str] = (),
) -> StudySpec:
    """The preset for own images with a data set and with the user's settings; a limit of None is none."""
    refuse_named(overrides)
    given = [f"limits.{cost}={toml_value(value)}" for cost, value in (limits or {}).items() if value is not None]
    given += [*usual_settings(space), *overrides, f"data.name={toml_value(name)}"]  # last, after a whole section data
    preset = StudySpec.from_toml(find_spec(preset_for(space)))
    spec = preset.with_parts(space=space, sampler=sampler or SAMPLER, seed=seed).override(given)
    return with_few_to_select(spec, overrides, None)


def preset_for(space: str | None) -> str:
    """The preset for own images with a recipe that suits the space."""
    return PRETRAINED if space == "backbone" else OWN_IMAGES


def usual_settings(space: str | None) -> list[str]:
    """What a fit sets in addition to its preset, unless the user names another value."""
    return [PROGRESSIVE] if preset_for(space) == OWN_IMAGES else []


def advice(pretrained: StudySpec | None, images: ImageSet, side: int) -> Iterator[str]:
    """Hints that would help more than a search; networks see `side` pixels."""
    considered = pretrained is not None and side >= SMALLEST
    if considered and images.channels == 3 and len(images) < FEW and at_hand() is None:
        yield (
            "on few pictures a network that has seen millions of others is far ahead; to have one considered:"
            f" pip install {PACKAGES}, and fit into another folder (--out FOLDER)"
        )


def with_few_to_select(spec: StudySpec, overrides: Sequence[str], data_directory: Path | None) -> StudySpec:
    """The spec with a smaller validation share if there are many images and the overrides name no share."""
    if "data.validation_fraction" in overridden(overrides):
        return spec
    with opened(spec.data, data_directory) as source:
        images = spec.data.train_limit or len(source.labels)
    share = min(spec.data.validation_fraction, max(ENOUGH_TO_SELECT / images, 0.02))
    return spec.override([f"data.validation_fraction={share:.4f}"])


WIDTH, STAGES = 16, 3
"""The residual space's defaults, from which it is made smaller."""
WIDE, PASSES = 24, 150
"""The width if all the time would show the reference of this width each training image at least so often. On 1,500
pictures time alone brings no more from 100 passes on, and a wider network does."""
SOON_LEARNT = 0.95
"""The validation accuracy of a short training from which a larger teacher pays: it has soon learnt the images, too."""
NEAR = 3.0
"""The largest excess of the reference over a limit, as a share of it, from which a walk may find networks inside: a
quarter of the cost means half the widths."""


def new_experiment(
    spec: StudySpec,
    pretrained: StudySpec | None,
    budget: TimeBudget,
    say: Callable[[str], None],
    **settings: Any,
) -> Experiment:
    """The experiment of a new fit, whose space suits the data, and is as large as limits and time allow."""
    began = budget.elapsed
    data = load_data(spec.data, settings["data_directory"], input_size=spec.recipe.input_size)
    reading = budget.elapsed - began
    if smaller := smaller_space(spec, data, resolve_device(settings["device"])):
        say(f"a smaller space for the limits: {', '.join(smaller)}")
        spec = spec.override(smaller)
    experiment = Experiment.from_spec(spec, **settings, images=lambda: data)
    if pretrained and (ahead := pretrained_experiment(experiment, pretrained, reading, budget.left, say, **settings)):
        return ahead
    if wider := wider_space(experiment, budget.left):
        say(f"a wider space for the time: {', '.join(wider)}")
        experiment = Experiment.from_spec(spec.override(wider), **settings, images=lambda: data)
    return experiment


def smaller_space(spec: StudySpec, data: SearchData, device: torch.device) -> list[str]:
    """Overrides of the spec that make the space's reference as large as the limits allow, or as small as it can be."""
    # A search looks for good networks around its first one. So limits make the residual space narrower until the
    # reference is inside, and then shorter until some network near the reference is.
    if not spec.limits or spec.space.name != "residual" or spec.latency.table is not None:
        return []  # a latency table belongs to the space as it is
    excess = _excess(spec, data, device, walks=False)
    overrides: list[str] = []
    sizes = _sizes(spec, excess) if excess > 0 else ()
    for overrides in (size for size in sizes if _holds(spec.override(size), data)):
        if _excess(spec.override(overrides), data, device, walks="space.stages" in " ".join(overrides)) <= 0:
            break
    return overrides


def larger_space(
    spec: StudySpec, data: SearchData, trial: FrozenTrial, final: Mapping[str, Any] | None
) -> SearchSpace | None:
    """The usual space, if its reference is to teach the trial's network, which is smaller because of a limit."""
    if final is not None:  # as an earlier run of the fit has decided
        taught = "larger" in final.get("teacher", {})
    else:
        options, accuracy = spec.space.options, attribute(trial, TrialKey.METRICS, {}).get("accuracy", 0.0)
        smaller = int(options.get("width", WIDTH)) < WIDTH or int(options.get("stages", STAGES)) < STAGES
        taught = bool(spec.limits) and spec.space.name == "residual" and smaller and accuracy >= SOON_LEARNT
    if taught:
        with suppress(SpecError):  # what is pinned in a space whose width somebody named may not be in this one
            return make_space(spec.override([f"space.width={WIDTH}", f"space.stages={STAGES}"]), data)
    return None


def wider_space(experiment: Experiment, seconds: float) -> list[str]:
    """Overrides of the spec that make the residual space wider if there is time for it."""
    spec, data = experiment.spec, experiment.search.data
    if spec.space.name != "residual" or spec.limits or spec.latency.table or "width" in spec.space.options:
        return []
    wider = [f"space.width={WIDE}"]
    if not _holds(spec.override(wider), data):
        return []
    training = require_training(experiment.objective)
    with suppress(TrainingError):  # it does not fit into the memory
        per_pass = time_reference(training, make_space(spec.override(wider), data)).step * len(training.train_loader)
        if seconds >= PASSES * per_pass:
            return wider
    return []


def decided_before(spec: StudySpec, stored: StudySpec, pretrained: StudySpec | None = None) -> StudySpec:
    """The spec with what an earlier run of the same fit decided: its space, and a setting that came later."""
    if pretrained is not None and stored.space.name == pretrained.space.name:
        known = [name for name in ("model", "sizes") if name in stored.space.options]
        return pretrained.override([f"space.{name}={toml_value(stored.space.options[name])}" for name in known])
    if (spec.space.name, stored.space.name) == ("residual", "backbone"):
        raise StudyError(
            "the fit in this folder has begun with pretrained weights, since nothing named a space or a"
            " reference; repeat its command, or begin anew in another folder (--out FOLDER)"
        )
    decided = []
    if spec.recipe.progressive == "auto":
        decided.append(f"recipe.progressive={toml_value(stored.recipe.progressive)}")
    if spec.space.name == "residual":
        names = ["width", "stages"] if spec.limits else {"width"} - spec.space.options.keys()
        decided += [f"space.{name}={stored.space.options[name]}" for name in names if name in stored.space.options]
    return spec.override(decided)


def _sizes(spec: StudySpec, excess: float) -> Iterator[list[str]]:
    """Overrides for narrower spaces, then for shorter ones; costs grow at most with the square of the width."""
    options = spec.space.options
    width, stages = int(options.get("width", WIDTH)), int(options.get("stages", STAGES))
    widest = min(width - 2, 2 * math.ceil(width / math.sqrt(1 + excess) / 2))
    yield from ([f"space.width={narrower}"] for narrower in range(widest, DIVISOR - 1, -2))
    yield from ([f"space.width={min(width, DIVISOR)}", f"space.stages={fewer}"] for fewer in range(stages, 0, -1))


def _holds(spec: StudySpec, data: SearchData) -> bool:
    """Whether the space, which has another size than the user's, still has the pinned values and what is listed."""
    if not (spec.fixed or spec.among or "fix" in spec.space.options):
        return True
    try:
        space = make_space(spec, data)
        space.pinned(spec.fixed)
        return spec.among is None or bool(read_architectures(Path(spec.among), space))
    except (SpecError, ArchitectureError):
        return False


def _excess(spec: StudySpec, data: SearchData, device: torch.device, *, walks: bool) -> float:
    """How far the reference exceeds the limits; 0 if a short walk leads to a network inside."""
    space = make_space(spec, data)
    candidates, known = Candidates(Limits.of(spec, space, device), space.pinned(spec.fixed)), space.reference
    if known is None:
        return math.inf
    excess = candidates.limits.largest_excess(candidates.pinned(known))
    near = walks and (excess <= NEAR or spec.space.options["stages"] == 1)
    return 0.0 if near and candidates.reference() is not None else excess
