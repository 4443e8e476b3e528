"""One point of a search space, one of its parameters, and checks of a space's options."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from nas_optuna.errors import ArchitectureError, SpecError, reason_of, require_kind

Choice = str | int | float | bool | None
"""The types of a categorical parameter's choices, which every Optuna storage can keep."""

InputSize = int | tuple[int, int]
"""Side length of a square input in pixels, or ``(height, width)``."""


@dataclass(frozen=True)
class Architecture:
    """An immutable, hashable choice for every parameter of a search space.

    It is made by a space (`SearchSpace.suggest`, `.architecture`, `.parse`), which guarantees that the choices
    are complete and in the space's order, so equal architectures compare and hash equal.

    Attributes:
        items: ``(parameter name, choice)`` pairs in the space's order.
        text: The canonical string, e.g. ``"f16k3s1-f48k5s2"``; ``space.parse(text)`` gives it back.

    Examples:
        >>> from nas_optuna import ConvSpace
        >>> ConvSpace(depth=1).parse("f16k3s1").params
        {'conv1.filters': 16, 'conv1.kernel': 3, 'conv1.stride': 1}
    """

    given_as: ClassVar[str] = "what the space's parse or architecture returns"

    items: tuple[tuple[str, Choice], ...]
    text: str = field(compare=False)

    @property
    def params(self) -> Mapping[str, Choice]:
        """Optuna's params dict, valid for ``optuna.trial.FixedTrial`` and ``study.enqueue_trial``."""
        return dict(self.items)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Parameter:
    """One categorical decision."""

    choices: tuple[Choice, ...]  # in order
    ordered: bool = False  # whether neighbouring choices are alike (16 → 24 filters); operations are not ordered

    @property
    def rising(self) -> tuple[Choice, ...]:
        """The choices from the smallest on, also where numbers are written downwards; others as they are written."""
        numbers = [c for c in self.choices if isinstance(c, int | float) and not isinstance(c, bool)]
        return tuple(sorted(numbers)) if self.ordered and len(numbers) == len(self.choices) else self.choices

    def match(self, name: str, value: Any) -> Choice:
        """The choice that equals a value, or an `ArchitectureError`; unlike in Python, ``True`` is not 1."""
        for choice in self.choices:
            if choice == value and isinstance(choice, bool) == isinstance(value, bool):
                return choice
        raise ArchitectureError(f"{name} = {value!r} is outside its choices; choose one of {self.choices}")

    def typed(self, name: str, value: Any) -> Choice:
        """Like `match`, but text is also read as the choice that we or Python write like it; raises a `SpecError`."""
        try:
            return self.match(name, value)
        except ArchitectureError as error:
            written = {text: choice for choice in self.choices for text in (str(choice), text_of(choice))}
            if isinstance(value, str) and value in written:
                return written[value]
            raise SpecError(str(error)) from None


def not_chosen(name: str, choices: object, error: ValueError) -> str:
    """Why a trial could not choose a parameter, from what Optuna or a sampler has raised."""
    told = str(error)
    value, outside, _ = told.partition(" not in ")
    if outside:
        return f"{name}: {value} is outside its choices; choose one of {choices}"
    if "is not found" in told:  # in a FixedTrial
        return f"parameter {name!r} has no value; choose one of {choices}"
    if "dynamic value space" in told or "different distribution kind" in told:
        return (
            f"the study or its sampler knows {name!r} with other choices than {choices}; create another study, with a"
            " sampler of its own, or give the space its earlier choices"
        )
    return f"{name}: {reason_of(error)}"


def text_of(choice: Choice) -> str:
    """The text of a choice: a string as it is, everything else as in JSON."""
    return choice if isinstance(choice, str) else json.dumps(choice)


def require_architecture(given: object) -> None:
    """Refuse what is no `Architecture`."""
    require_kind(given, Architecture, "the architecture", "give one that parse, architecture or sample has returned")


def checked_input_size(input_size: InputSize | Sequence[int]) -> InputSize:
    """A side length, or ``(height, width)``; a pair of equal sides becomes one side length."""
    if isinstance(input_size, int):
        require_positive(input_size=input_size)
        return input_size
    sides = tuple(input_size) if isinstance(input_size, Sequence) and not isinstance(input_size, str) else ()
    if len(sides) != 2:
        raise SpecError(f"input_size is a side length or [height, width] in pixels, got {input_size!r}")
    for side in sides:
        require_positive(input_size=side)
    height, width = sides
    return height if height == width else (height, width)


def require_choices(name: str, values: Any, kind: str = "space option") -> tuple[Choice, ...]:
    """Check a user's list of choices: not empty, no repetition, storable values."""
    if isinstance(values, str) or not isinstance(values, Sequence) or not values:
        raise SpecError(f"{kind} {name!r} needs a list of at least one choice, got {values!r}")
    for value in values:
        finite = not isinstance(value, float) or math.isfinite(value)
        if not isinstance(value, str | int | float | bool | None) or not finite:
            raise SpecError(
                f"{name!r}: no storage can keep the choice {value!r}, a {type(value).__name__};"
                " use text, finite numbers, true, false or none, and look the object up by it"
            )
    if len(set(values)) != len(values):
        raise SpecError(
            f"{kind} {name!r} repeats a choice (a storage cannot tell 1, 1.0 and true apart), got {values!r}"
        )
    return tuple(values)


MOST_LAYERS = 1000
"""More is a mistake, or an attempt to overload a machine."""


def require_positive(most: float = math.inf, /, **options: int) -> None:
    """Check that a user's integer options are at least 1, and at most `most`."""
    for option, value in options.items():
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            limit = f" and at most {most:,}" if most < math.inf else ""
            raise SpecError(f"space option {option!r} must be a whole number of at least 1{limit}, got {value!r}")


def positive_choices(option: str, values: Sequence[int], *, odd: bool = False) -> tuple[int, ...]:
    """Check a user's list of whole numbers of at least 1."""
    require_choices(option, values)
    for value in values:
        require_positive(**{option: value})
        if odd and value % 2 == 0:
            raise SpecError(f"space option {option!r} needs odd numbers, so that a layer keeps the size, got {value}")
    return tuple(values)


def require_depth(**options: int) -> None:
    """Check that a user's numbers of layers are from 1 to `MOST_LAYERS`."""
    require_positive(MOST_LAYERS, **options)
