"""Settings of the recipe that are searched together with the architecture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import BaseTrial
from pydantic import ValidationError

from nas_optuna.errors import SpecError, unknown
from nas_optuna.spec import Recipe
from nas_optuna.spec_text import problem_of

PREFIX = "recipe."
"""The prefix of the Optuna parameter of a recipe's setting."""
_LEFT_OUT = ("epochs", "repeats", "seed", "input_size")
"""Settings that cannot be searched, because trials could not be compared."""


def parse_range(name: str, value: Any) -> FloatDistribution | IntDistribution | CategoricalDistribution:
    """Parse the range of one setting of the recipe.

    Args:
        name: The setting, e.g. ``"learning_rate"``.
        value: ``"1e-4..1e-1:log"``, ``{"low": 1e-4, "high": 1e-1, "log": True}``, a list, ``"32,64"``, or a
            distribution of Optuna.

    Raises:
        SpecError: The recipe has no such setting, it cannot be searched, or a value is not valid.

    Examples:
        >>> parse_range("learning_rate", "1e-4..1e-1:log")
        FloatDistribution(high=0.1, log=True, low=0.0001, step=None)
        >>> parse_range("batch_size", "32,64")
        CategoricalDistribution(choices=(32, 64))
    """
    searchable = [field for field in Recipe.model_fields if field not in _LEFT_OUT]
    if name not in searchable:
        raise SpecError(unknown("setting of the recipe to search:", name, searchable))
    if isinstance(value, CategoricalDistribution):
        value = value.choices
    elif isinstance(value, FloatDistribution | IntDistribution):
        if value.step is not None and (value.step != 1 or Recipe.model_fields[name].annotation is float):
            raise SpecError(f"recipe.{name}: a range has no step here; give a list of choices")
        value = {"low": value.low, "high": value.high, "log": value.log}
    elif isinstance(value, str) and ".." in value:
        bounds, colon, scale = value.partition(":")
        if colon and scale.strip() != "log":
            raise SpecError(f"recipe.{name}: {value!r} ends in {scale!r}; write low..high or low..high:log")
        low, _, high = bounds.partition("..")
        value = {"low": _number(name, low), "high": _number(name, high), "log": bool(colon)}
    elif isinstance(value, str):
        value = [_literal(part.strip()) for part in value.split(",")]
    found = _range(name, value) if isinstance(value, Mapping) else _choices(name, value)
    for end in found.choices if isinstance(found, CategoricalDistribution) else (found.low, found.high):
        applied(Recipe(), {f"{PREFIX}{name}": end})
    return found


def suggest(trial: BaseTrial, searched: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    """Let a trial choose every setting, e.g. the parameter ``"recipe.learning_rate"``."""
    found: dict[str, Any] = {}
    for name, d in searched.items():
        if isinstance(d, CategoricalDistribution):
            found[name] = trial.suggest_categorical(name, d.choices)
        elif isinstance(d, IntDistribution):
            found[name] = trial.suggest_int(name, d.low, d.high, log=d.log)
        else:
            assert isinstance(d, FloatDistribution)
            found[name] = trial.suggest_float(name, d.low, d.high, log=d.log)
    return found


def of_architecture(params: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's params without those of the recipe.

    Examples:
        >>> of_architecture({"recipe.batch_size": 8, "conv1.kernel": 3})
        {'conv1.kernel': 3}
    """
    return {name: value for name, value in params.items() if not name.startswith(PREFIX)}


def applied(recipe: Recipe, params: Mapping[str, Any]) -> Recipe:
    """The recipe with a trial's choices; a `SpecError` if a value is not valid."""
    chosen = {name.removeprefix(PREFIX): value for name, value in params.items() if name.startswith(PREFIX)}
    try:
        return Recipe.model_validate({**recipe.model_dump(), **chosen})
    except ValidationError as error:
        raise SpecError(problem_of(error, "recipe")) from None


def _range(name: str, value: Mapping[str, Any]) -> FloatDistribution | IntDistribution:
    for key in value:
        if key not in ("low", "high", "log"):
            raise SpecError(unknown(f"key of recipe.{name}:", str(key), ("low", "high", "log")))
    low, high, log = value.get("low"), value.get("high"), value.get("log", False)
    numbers = [v for v in (low, high) if isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)]
    if len(numbers) != 2 or not isinstance(log, bool):
        raise SpecError(f"recipe.{name} needs low and high as numbers, and log as true or false, got {dict(value)!r}")
    if numbers[0] >= numbers[1]:
        raise SpecError(f"recipe.{name}: low = {low!r} must be below high = {high!r}")
    if log and numbers[0] <= 0:
        raise SpecError(f"recipe.{name}: a logarithmic range must begin above 0, got {low!r}")
    kind = Recipe.model_fields[name].annotation
    if kind not in (int, float):
        raise SpecError(f"recipe.{name} is no number; give a list of choices")
    if kind is int:
        if any(number % 1 for number in numbers):
            raise SpecError(f"recipe.{name}: low and high must be whole numbers, got {low!r} and {high!r}")
        return IntDistribution(int(numbers[0]), int(numbers[1]), log)
    return FloatDistribution(numbers[0], numbers[1], log)


def _choices(name: str, value: Any) -> CategoricalDistribution:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise SpecError(f"recipe.{name} is searched by a range or a list of choices, got {value!r}")
    if len(set(map(repr, value))) != len(value):
        raise SpecError(f"recipe.{name} repeats a choice, got {list(value)!r}")
    return CategoricalDistribution(value)


def _number(name: str, text: str) -> float:
    value = _literal(text.strip())
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SpecError(f"recipe.{name}: {text.strip()!r} is no number; write a range as 1e-4..1e-1 or 1e-4..1e-1:log")
    return value


def _literal(text: str) -> Any:
    # TOML reads neither .001 nor 064 as a number, but a stored study can only continue with unchanged values.
    if text in ("true", "false"):
        return text == "true"
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text
