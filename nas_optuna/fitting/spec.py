"""The study spec of a fit."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nas_optuna.data import ImageSet
from nas_optuna.data.catalog import open_source
from nas_optuna.fitting.clock import refuse_named
from nas_optuna.fitting.plan import ENOUGH_TO_SELECT
from nas_optuna.presets import OWN_IMAGES, PRETRAINED, find_spec
from nas_optuna.spec import StudySpec

SAMPLER = "neighbours"
"""The sampler that makes the most of few short trainings; another is taken where the user names one."""
FEW = 5000
"""Training images, below which a pretrained network is worth a hint: with 1,500 of CIFAR-10 it is 13 points ahead."""


def spec_for(
    name: str,
    *,
    space: str | None = None,
    sampler: str | None = None,
    limits: Mapping[str, Any] | None = None,
    seed: int = 0,
    overrides: Sequence[str] = (),
    data_directory: Path | None = None,
) -> StudySpec:
    """The preset for own images, for a data set, with what a person names instead; a limit of None is none."""
    refuse_named(overrides)
    given = [f"data.name={json.dumps(name)}"]
    given += [f"limits.{cost}={json.dumps(value)}" for cost, value in (limits or {}).items() if value is not None]
    preset = StudySpec.from_toml(find_spec(preset_for(space)))
    spec = preset.with_parts(space=space, sampler=sampler or SAMPLER, seed=seed).override([*given, *overrides])
    return with_few_to_select(spec, overrides, data_directory)


def preset_for(space: str | None) -> str:
    """The preset for own images whose recipe suits a space."""
    return PRETRAINED if space == "backbone" else OWN_IMAGES


def advice(spec: StudySpec, images: ImageSet) -> Iterator[str]:
    """What would help more than any search."""
    if spec.space.name == "residual" and images.channels == 3 and len(images) < FEW:
        yield "on few pictures a network that has seen millions of others is far ahead: see --space backbone"


def with_few_to_select(spec: StudySpec, overrides: Iterable[str], data_directory: Path | None) -> StudySpec:
    """The spec with a smaller share of images that select, where there are many and the overrides name no share."""
    if "data.validation_fraction" in {text.partition("=")[0].strip() for text in overrides}:
        return spec
    images = spec.data.train_limit or len(open_source(spec.data.name, data_directory).labels)
    share = min(spec.data.validation_fraction, max(ENOUGH_TO_SELECT / images, 0.02))
    return spec.override([f"data.validation_fraction={share:.4f}"])
