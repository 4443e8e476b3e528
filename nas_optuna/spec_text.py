"""From text to the values of a spec: TOML files, ``key=value`` assignments, and messages about wrong keys or values."""

from __future__ import annotations

import copy
import json
import re
import tomllib
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from nas_optuna.errors import SpecError, named, nearest, plainer, reason_of, shown, unknown
from nas_optuna.files import read_text
from nas_optuna.objectives import COSTS, ELSEWHERE

_LARGEST = 2**63 - 1
_ESCAPES = "in TOML a backslash inside double quotes begins an escape, so write a path in single quotes"
_NUMBERS = re.compile(r"[-+\d._eE\s]+(,[-+\d._eE\s]+)+,?")


def read_toml(path: Path) -> dict[str, Any]:
    """The values of a TOML file, checked by `check_values`."""
    name = named(path)
    try:
        values = tomllib.loads(read_text(path))
        check_values(values, name)
    except OSError as error:
        raise SpecError(f"cannot read study spec {name}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # a whole number of 5,000 digits, a thousand brackets
        remedy = f"; {_ESCAPES}" if re.search(r"hex value|Unescaped|Escaped", str(error)) else ""
        raise SpecError(f"{name} is not TOML: {reason_of(error)}{remedy}") from None
    return values


def to_toml(values: Mapping[str, Any]) -> str:
    """Values of a spec as TOML, which `read_toml` reads; None is left out.

    Examples:
        >>> print(to_toml({"objectives": ["accuracy"], "data": {"name": "digits", "train_limit": None}}))
        objectives = ["accuracy"]
        <BLANKLINE>
        [data]
        name = "digits"
    """
    plain = {key: value for key, value in values.items() if not isinstance(value, Mapping)}
    sections = [
        f"[{_key(key)}]\n{_lines(value)}" for key, value in values.items() if isinstance(value, Mapping) and value
    ]
    return "\n\n".join([*([_lines(plain)] if plain else []), *sections])


def _lines(values: Mapping[str, Any]) -> str:
    return "\n".join(f"{_key(key)} = {toml_value(value)}" for key, value in values.items() if value is not None)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)


def toml_value(value: object) -> str:
    """A value as TOML writes it, and as ``--set`` reads it."""
    if isinstance(value, Mapping):
        return (
            "{"
            + ", ".join(f"{_key(key)} = {toml_value(item)}" for key, item in value.items() if item is not None)
            + "}"
        )
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    return json.dumps(value, ensure_ascii=False, default=str)  # for strings, numbers and booleans this is also TOML


def with_overrides(values: Mapping[str, Any], overrides: Sequence[str], source: str = "an override") -> dict[str, Any]:
    r"""A deep copy of `values` with dotted assignments applied.

    Args:
        values: Nested dicts.
        overrides: E.g. ``"recipe.epochs=3"``, ``"sampler=random"``, ``"space.filters=[8, 16]"``. The right side is
            TOML. Numbers separated by commas are a list; True and False are true and false; anything
            else that does not look like TOML is text; a backslash that does not begin an escape, as in
            ``"C:\Users"``, is literal.
        source: Their source, for messages.

    Raises:
        SpecError: An override has no ``=``, its key is inside something that is not a section, or its value begins
            like TOML but is not valid.

    Examples:
        >>> with_overrides({"recipe": {"epochs": 5}}, ["recipe.epochs=3", "sampler=random"])
        {'recipe': {'epochs': 3}, 'sampler': 'random'}
    """
    result = copy.deepcopy(dict(values))
    for override in overrides:
        path, equals, text = override.partition("=")
        sections = [part.strip() for part in path.split(".")]
        if not equals or not all(sections):
            raise SpecError(f"{source} needs section.key=value, got {shown(override)}; e.g. recipe.epochs=3")
        place = result
        for section in sections[:-1]:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise SpecError(f"{source}: {named(override)}: {shown(section)} is not a section")
        place[sections[-1]] = _value(path.strip(), text.strip(), source)
    check_values(result, source)
    return result


def overridden(overrides: Sequence[str], source: str = "an override") -> list[str]:
    """The dotted key of each value that overrides set, also of those in a section.

    Examples:
        >>> overridden(["recipe={epochs=4, flip=true}", "sampler=random"])
        ['recipe.epochs', 'recipe.flip', 'sampler']
    """
    return list(_keys(with_overrides({}, overrides, source)))


def _keys(values: Mapping[str, Any], inside: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _keys(value, f"{inside}{key}.")
        else:
            yield f"{inside}{key}"


def check_values(value: object, source: str, place: str = "") -> None:
    """Refuse values, or keys, that a database, a file name or a terminal cannot handle."""
    if problem := _problem(value):
        raise SpecError(f"{source}: {named(place)} {problem}")
    inside = (
        value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
    )
    for key, item in inside:
        check_values(key, source, place)
        check_values(item, source, f"{place}.{key}" if place else str(key))


def _problem(value: object) -> str | None:
    if isinstance(value, str):
        if any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
            return f"= {shown(value)} holds a control character; {_ESCAPES}"
    elif isinstance(value, int) and abs(value) > _LARGEST:
        return "is a whole number of more than 64 bits"
    elif isinstance(value, float) and not isfinite(value):
        return f"= {value} is not a finite number"
    elif value is not None and not isinstance(value, int | float | Mapping | list | tuple):
        return f"is a {type(value).__name__}; write it in quotes if a text is meant"
    return None


def _value(path: str, text: str, source: str) -> Any:
    """Parse the right side of an assignment; anything that does not look like TOML is text."""
    literal = _literal(text)
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError) as error:
        if literal is not None:
            return literal
        if text in ("True", "False"):  # as Python writes them
            return text == "True"
        if _NUMBERS.fullmatch(text):
            return _value(path, f"[{text}]", source)
        if text[:1] in ('"', "'", "[", "{"):
            raise SpecError(f"{source}: {named(path)}: {shown(text)} is not a TOML value: {reason_of(error)}") from None
        return text
    if parsed.keys() != {"value"}:  # after a line break there is another key
        return text
    value = parsed["value"]
    if literal is not None and isinstance(value, str) and any(unicodedata.category(c) == "Cc" for c in value):
        return literal  # "C:\temp\new" contains no tab
    return value


def _literal(text: str) -> str | None:
    """The text between double quotes if it has a backslash that may be literal, else None."""
    inside = text[1:-1]
    quoted = len(text) > 1 and text[0] == text[-1] == '"' and '"' not in inside
    return inside if quoted and "\\" in inside else None


class Settings(BaseModel):
    """Settings that a user may also write in Python, where a wrong one is refused in one line as well."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    if not TYPE_CHECKING:  # type checkers are to see the fields

        def __init__(self, /, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise SpecError(f"{type(self).__name__}: {first_problem(error, type(self))}") from None

        __init__.__pydantic_base_init__ = True  # so that settings inside of others tell pydantic what is wrong

        def __setattr__(self, name: str, value: Any) -> None:
            try:
                super().__setattr__(name, value)
            except ValidationError:
                kind = type(self).__name__
                raise SpecError(f"the {name} of a {kind} cannot be changed; make another {kind}") from None


def first_problem(error: ValidationError, spec: type[BaseModel]) -> str:
    """Describe in one line what is wrong with a spec, and suggest a key for an unknown one."""
    problem = error.errors()[0]
    location = [str(part) for part in problem["loc"]]
    if problem["type"] == "extra_forbidden":
        section: Any = spec
        for part in location[:-1]:
            section = section.model_fields[part].annotation
        said = unknown("key", location[-1], section.model_fields, _MEANT)
        if location[:-1]:
            return f"{said} (in [{'.'.join(location[:-1])}])"
        if not any(hasattr(field.annotation, "model_fields") for field in spec.model_fields.values()):
            return said
        return f"{_unknown_at_the_top(location[0], spec)} (at the top)"
    return problem_of(error)


_MEANT = {"lr": "learning_rate", "bs": "batch_size", "imagesize": "input_size", "limit": "train_limit"}
"""Keys of other tools -> the name here."""


def _unknown_at_the_top(key: str, spec: type[BaseModel]) -> str:
    """The sentence for an unknown key at the top level, where most often the section is missing."""
    sections = {name: field.annotation for name, field in spec.model_fields.items()}
    places: dict[str, list[str]] = {}
    for name, section in sections.items():
        for inner in getattr(section, "model_fields", {}):
            places.setdefault(inner, []).append(f"{name}.{inner}")
    for cost in COSTS.builtin:
        places.setdefault(cost, []).append(f"limits.{cost}")
    near = nearest(key, sections) or nearest(key, places, {**_MEANT, **ELSEWHERE})
    meant = places.get(key) or (places.get(near, [near]) if near else [])
    if meant:
        return f"unknown key {shown(key)}; did you mean {' or '.join(map(shown, meant))}?"
    return f"{unknown('key', key, sections)}; other keys follow their section, as in recipe.epochs or space.depth"


_UNION_MEMBER = re.compile(r"(?:constrained-|function-|literal\[|tuple\[|list\[|dict\[|bool$|int$|float$|str$).*")
"""What pydantic adds to the place of a value that may be of several kinds: the kind that the problem is of."""


def problem_of(error: ValidationError, *section: str) -> str:
    """Describe in one line which value is refused, and why."""
    problems = error.errors()
    first = problems[0]
    place = first["loc"][:-1] if _is_union_member(first["loc"][-1:]) else first["loc"]
    inside = [p for p in problems if p["loc"][: len(place)] == place and len(p["loc"]) > len(place) + 1]
    if isinstance(first["input"], list | tuple) and inside:  # it may be a list, and an item of it is refused
        first, place = inside[0], inside[0]["loc"]
    kinds = [first] if place == first["loc"] else [p for p in problems if p["loc"][:-1] == place]
    said = ", or ".join(dict.fromkeys(plainer(p["msg"].removeprefix("Value error, ")) for p in kinds))
    parts = [*section, *(str(part) for part in place if not _is_union_member((part,)))]
    of_section = first["type"] == "value_error" and isinstance(first["input"], dict)  # the message names its keys
    got = "" if of_section else f", got {shown(first['input'])}"
    where = f"{named('.'.join(parts))}: " if parts else ""
    return f"{where}{said.replace(', or it must be ', ', or ')}{got}"


def _is_union_member(last: tuple[int | str, ...]) -> bool:
    return any(_UNION_MEMBER.fullmatch(str(part)) for part in last)


_CHOSE_DARTS = frozenset(
    {
        "update",
        "order",
        "warmup_epochs",
        "momentum",
        "alpha_learning_rate",
        "alpha_weight_decay",
        "temperature",
        "temperature_decay",
    }
)
"""In release 0.2 each of these keys implied strategy ``"darts"``, which was not stored."""
_STRATEGY_OF_MODE = {"mixture": "darts", "sampled": "gumbel"}


def supernet_section(values: Mapping[str, Any]) -> dict[str, Any]:
    """Translate a ``[supernet]`` section of release 0.2, where strategy ``"darts"`` had two modes.

    Examples:
        >>> supernet_section({"strategy": "darts", "mode": "sampled", "order": 2})
        {'strategy': 'gumbel', 'order': 2}
    """
    rest = {key: value for key, value in values.items() if key != "mode"}
    mode = values.get("mode")
    if mode is not None:
        if mode not in _STRATEGY_OF_MODE:
            raise ValueError(f"mode is mixture (strategy darts) or sampled (strategy gumbel), not {mode!r}")
        if rest.get("strategy", "darts") not in ("darts", _STRATEGY_OF_MODE[mode]):
            raise ValueError(f"strategy {rest['strategy']!r} has no mode; leave one of the two out")
        return rest | {"strategy": _STRATEGY_OF_MODE[mode]}
    if "strategy" not in rest and any(rest.get(key) is not None for key in _CHOSE_DARTS):
        return rest | {"strategy": "darts"}
    return rest
