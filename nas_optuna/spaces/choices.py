"""The argument of a network-building function, which asks it named questions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Any, cast

from torch import nn

from nas_optuna.errors import SpecError, shown
from nas_optuna.spaces.architecture import Choice, require_choices
from nas_optuna.spaces.base import Parameter

_MOST_INTEGERS = 1_000


class Choices:
    """Answers the questions of a function that builds a network: for one architecture, a trial, or a supernet.

    Args:
        decide: From a parameter's name and the `Parameter` to its choice.

    Attributes:
        answers: The answers so far, in the order of the questions.
        layers: Name of each `layer` → the modules that were built for it, one for each time it was asked for.

    Examples:
        >>> c = Choices(lambda name, parameter: parameter.choices[-1])
        >>> c.choice("width", [16, 32], ordered=True), c.scope("stage1").integer("depth", 1, 3)
        (32, 3)
    """

    def __init__(self, decide: Callable[[str, Parameter], Choice]) -> None:
        self._decide = decide
        self._prefix = ""
        self.answers: dict[str, Choice] = {}
        self.layers: dict[str, list[nn.Module]] = {}

    def choice(self, name: str, options: Sequence[Any], *, ordered: bool = False) -> Any:
        """One of several values.

        Args:
            name: The parameter's name; asked for again, with the same options, it gives the same answer.
            options: Text, numbers, true, false or None.
            ordered: Whether neighbouring options are alike, such as 16 and 32 channels.

        Raises:
            SpecError: There are no options, or they repeat each other or cannot be stored.
        """
        full = self._named(name)
        return self._answer(full, Parameter(require_choices(full, options, "parameter"), ordered))

    def integer(self, name: str, low: int, high: int, *, step: int = 1) -> int:
        """A whole number from `low` to `high`, both included.

        Args:
            name: The parameter's name.
            low: The smallest.
            high: The largest.
            step: The distance between two of them.

        Raises:
            SpecError: The bounds are no whole numbers, or enclose none or more than 1,000 of them.
        """
        full = self._named(name)
        whole = all(isinstance(v, int) and not isinstance(v, bool) for v in (low, high, step)) and step > 0
        values = range(low, high + 1, step) if whole else ()
        if not 0 < len(values) <= _MOST_INTEGERS:
            raise SpecError(
                f"integer {full!r} has {len(values):,} values; it needs whole numbers low <= high and step >= 1, and at"
                f" most {_MOST_INTEGERS:,} values"
            )
        return cast(int, self.choice(name, values, ordered=True))

    def elastic(self, name: str, options: Sequence[int]) -> int:
        """A width, kernel or stride that a supernet leaves open, for layers of `nas_optuna.layers`.

        Outside a supernet it is `choice` with ``ordered=True``. In a supernet, smaller widths are the first channels of
        the largest; multiplied or divided by whole numbers, a number stays elastic.

        Args:
            name: The parameter's name.
            options: Whole numbers of at least 1.

        Raises:
            SpecError: There are no options, or they repeat each other or are no such numbers.

        Examples:
            >>> from nas_optuna.layers import ElasticConv2d
            >>> c = Choices(lambda name, parameter: parameter.choices[-1])
            >>> ElasticConv2d(3, c.elastic("width", [16, 32]), 3)
            Conv2d(3, 32, kernel_size=(3, 3), stride=(1, 1))
        """
        full = self._named(name)
        choices = require_choices(full, options, "parameter")
        if any(isinstance(v, bool) or not isinstance(v, int) or v < 1 for v in choices):
            raise SpecError(f"elastic {full!r} needs whole numbers of at least 1, got {list(choices)!r}")
        return self._make_elastic(full, Parameter(choices, ordered=True))

    def _make_elastic(self, name: str, parameter: Parameter) -> int:
        return cast(int, self._answer(name, parameter))

    def layer(self, name: str, candidates: Mapping[str, Callable[[], nn.Module]]) -> nn.Module:
        """One of several layers; a supernet holds them all.

        Args:
            name: The parameter's name. Asked for again, it gives another layer of the same choice with its own weights,
                as in repeated cells.
            candidates: Label → a function without arguments that makes the module. Only the chosen one is called.

        Raises:
            SpecError: A candidate is no function, two of them are the same, or the chosen one does not make a module.
        """
        full = self._named(name)
        _check_candidates(full, candidates)
        made = self._make_layer(full, Parameter(tuple(candidates)), candidates)
        self.layers.setdefault(full, []).append(made)
        return made

    def scope(self, name: str) -> Choices:
        """Choices whose parameters are named ``NAME.parameter``, for a function that builds a part.

        Args:
            name: The prefix of the names, without the dot.
        """
        inner = type(self).__new__(type(self))
        vars(inner).update(vars(self))  # the records are shared
        inner._prefix = f"{self._named(name)}."
        return inner

    def _make_layer(
        self, name: str, parameter: Parameter, candidates: Mapping[str, Callable[[], nn.Module]]
    ) -> nn.Module:
        label = str(self._answer(name, parameter))
        return made_module(name, label, candidates[label])

    def _answer(self, name: str, parameter: Parameter) -> Choice:
        self.answers[name] = self._decide(name, parameter)
        return self.answers[name]

    def _named(self, name: str) -> str:
        if not isinstance(name, str) or not name.strip():
            raise SpecError(f"a parameter needs a name, got {name!r}")
        return f"{self._prefix}{name}"


def made_module(name: str, label: str, make: Callable[[], nn.Module]) -> nn.Module:
    """The module of one candidate."""
    made = make()
    if not isinstance(made, nn.Module):
        raise SpecError(f"layer {name!r}: candidate {label!r} gives a {type(made).__name__}, not a module")
    return made


def _check_candidates(name: str, candidates: Any) -> None:
    if not isinstance(candidates, Mapping) or not candidates or not all(isinstance(label, str) for label in candidates):
        raise SpecError(f"layer {name!r} needs a dict of text: function, got {shown(candidates)}")
    for label, make in candidates.items():
        if isinstance(make, nn.Module) or not callable(make):
            raise SpecError(
                f"layer {name!r}: candidate {label!r} is a {type(make).__name__}, not a function that makes a module;"
                f' write "{label}": lambda: …'
            )
    labels: dict[tuple[Any, ...], str] = {}
    for label, make in candidates.items():
        if not isinstance(make, FunctionType):
            continue
        # Functions that a loop defines differ in closure or defaults, or are one function.
        defaults = (*(make.__defaults__ or ()), *(make.__kwdefaults__ or {}).values())
        source = make.__code__, *map(id, make.__closure__ or ()), *map(id, defaults)
        first = labels.setdefault(source, label)
        if make is not candidates[first]:
            raise SpecError(
                f"layer {name!r}: candidates {first!r} and {label!r} are one function: a lambda in a loop sees the"
                " loop's last value, and so does an object that the loop changes; bind it: lambda k=k: …"
            )
