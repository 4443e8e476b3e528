"""Settings of the recipe that are searched together with the architecture."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import BaseTrial
from pydantic import ValidationError

from nas_optuna.errors import SpecError, shown, unknown
from nas_optuna.spaces.architecture import not_chosen
from nas_optuna.spec import Recipe, as_stored
from nas_optuna.spec_text import problem_of

PREFIX = "recipe."
"""The prefix of the Optuna parameter of a recipe's setting."""
_INCOMPARABLE = (
    "recipe.{} cannot be searched, because values with different ones could not be compared; set one for all trials"
)
_REPEATED = "recipe.{} repeats a choice, got {!r}"
_LEFT_OUT = ("epochs", "repeats", "seed", "input_size")
"""Settings that cannot be searched, because trials could not be compared."""
_LEFT_OUT_OF_NEW = ("epoch_size",)
"""Settings of the same kind that a stored study may search all the same, since an earlier release let it."""


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
    searchable = [field for field in Recipe.model_fields if field not in (*_LEFT_OUT, *_LEFT_OUT_OF_NEW)]
    if name in _LEFT_OUT:
        raise SpecError(_INCOMPARABLE.format(name))
    if name not in (*searchable, *_LEFT_OUT_OF_NEW):
        raise SpecError(unknown("setting of the recipe to search:", name, searchable))
    value = as_stored(name, _written(name, value) if isinstance(value, str) else value)
    found = _range(name, value) if isinstance(value, Mapping) else _choices(name, value)
    for choice in getattr(found, "choices", ()):
        _meant(name, choice)
    return found


def _meant(name: str, choice: Any) -> Any:
    """The setting's value by a choice, which may be written in another way, such as ``"True"`` or ``64.0``."""
    # Choices stay as they are written, because a stored study can only continue with unchanged ones.
    return getattr(applied(Recipe(), {f"{PREFIX}{name}": choice}), name)


def _written(name: str, text: str) -> Any:
    """The range or the choices that a text describes."""
    if ".." not in text:
        return [_literal(part.strip()) for part in text.split(",")]
    bounds, colon, scale = text.partition(":")
    if colon and scale.strip() != "log":
        raise SpecError(f"recipe.{name}: {text!r} ends in {scale!r}; write low..high or low..high:log")
    low, _, high = bounds.partition("..")
    return {"low": _literal(low.strip()), "high": _literal(high.strip()), "log": bool(colon)}


def suggest(trial: BaseTrial, searched: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    """Let a trial choose every setting, e.g. the parameter ``"recipe.learning_rate"``."""
    found: dict[str, Any] = {}
    for name, d in searched.items():
        try:
            if isinstance(d, CategoricalDistribution):
                found[name] = trial.suggest_categorical(name, d.choices)
            elif isinstance(d, IntDistribution):
                found[name] = trial.suggest_int(name, d.low, d.high, log=d.log)
            else:
                assert isinstance(d, FloatDistribution)
                found[name] = trial.suggest_float(name, d.low, d.high, log=d.log)
        except ValueError as error:
            known = getattr(d, "choices", d)
            raise SpecError(not_chosen(name, known, error)) from error
    return found


def extremes(searched: Mapping[str, BaseDistribution]) -> Iterator[tuple[str, Any]]:
    """Every choice of each setting, and both ends of each range.

    Examples:
        >>> list(extremes({"recipe.batch_size": IntDistribution(8, 64)}))
        [('recipe.batch_size', 8), ('recipe.batch_size', 64)]
    """
    for name, d in searched.items():
        for value in d.choices if isinstance(d, CategoricalDistribution) else (vars(d)["low"], vars(d)["high"]):
            yield name, value


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


def own_values(recipe: Recipe, search: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's own values of settings that are searched, as a trial's params; without those out of their range.

    Examples:
        >>> own_values(Recipe(batch_size=32, momentum=0.9), {"batch_size": "8..64", "momentum": "0..0.5"})
        {'recipe.batch_size': 32}
    """
    found: dict[str, Any] = {}
    for name, given in search.items():
        value, d = getattr(recipe, name), parse_range(name, given)
        if isinstance(d, CategoricalDistribution):
            own = [choice for choice in d.choices if _meant(name, choice) == value]
        else:
            own = [value] if isinstance(value, int | float) and d.low <= value <= d.high else []
        found |= {f"{PREFIX}{name}": choice for choice in own}
    return found


_UNREAD_BESIDE = {"momentum": ("optimizer", "adamw"), "decay_norms": ("weight_decay", 0), "shift_fill": ("shift", 0)}
"""Setting → another one, and its value that leaves the first without effect."""


def unread(recipe: Recipe, search: Mapping[str, Any]) -> dict[str, str]:
    """Settings that are changed or searched without effect → the other setting, and its value, that leaves them so.

    Examples:
        >>> unread(Recipe(optimizer="adamw", momentum=0.5), {})
        {'recipe.momentum': 'recipe.optimizer=adamw'}
    """
    return {
        f"{PREFIX}{name}": f"{PREFIX}{other}={value}"
        for name, (other, value) in _UNREAD_BESIDE.items()
        if getattr(recipe, other) == value
        and other not in search
        and (name in search or getattr(recipe, name) != Recipe.model_fields[name].default)
    }


def check_new(recipe: Recipe, search: Mapping[str, Any], said: Collection[str] = ()) -> None:
    """Refuse what only a stored study may search, and settings without effect among those that are said or searched."""
    for name, given in search.items():
        choices = getattr(parse_range(name, given), "choices", ())
        if name in _LEFT_OUT_OF_NEW:
            raise SpecError(_INCOMPARABLE.format(name))
        if len({repr(_meant(name, choice)) for choice in choices}) < len(choices):
            raise SpecError(_REPEATED.format(name, list(choices)))
    for name, why in unread(recipe, search).items():
        if name in said or name.removeprefix(PREFIX) in search:
            raise SpecError(f"{name} is of no use with {why}; leave it out")


def _range(name: str, value: Mapping[str, Any]) -> FloatDistribution | IntDistribution:
    kind = Recipe.model_fields[name].annotation
    if kind not in (int, float):
        raise SpecError(f"recipe.{name} need not be a number; give a list of choices")
    if not {"low", "high"} <= value.keys() <= {"low", "high", "log"} or not isinstance(value.get("log", False), bool):
        raise SpecError(f"recipe.{name} has a range of low, high and maybe log = true, or a list, got {shown(value)}")
    for end in ("low", "high"):
        applied(Recipe(), {f"{PREFIX}{name}": value[end]})
    if value["low"] > value["high"]:
        raise SpecError(f"recipe.{name}: {value['low']!r} is above {value['high']!r}; write the smaller one first")
    if value["low"] == value["high"]:
        raise SpecError(f"recipe.{name}: low and high are both {value['low']!r}; set it instead of searching it")
    try:
        return (IntDistribution if kind is int else FloatDistribution)(**value)
    except ValueError as error:
        raise SpecError(f"recipe.{name}: {error}") from None


def _choices(name: str, value: Any) -> CategoricalDistribution:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise SpecError(f"recipe.{name} is searched by a range or a list of choices, got {value!r}")
    if len(set(map(repr, value))) < len(value):
        raise SpecError(_REPEATED.format(name, list(value)))
    return CategoricalDistribution(value)


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
