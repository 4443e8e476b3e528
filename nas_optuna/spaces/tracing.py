"""Which questions a network-building function asks, found by running it."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from nas_optuna.errors import ArchitectureError, SpecError
from nas_optuna.spaces.architecture import Choice
from nas_optuna.spaces.base import Parameter

Decide = Callable[[str, Parameter], Choice]
Answers = dict[str, Choice]

_PATIENCE = 32
"""Random runs in a row that bring no new parameter before the search for parameters ends."""
_MOST_RUNS = 512
"""Runs of the function that counting its architectures may cost."""


@dataclass
class _Node:
    """One question, and what comes after each answer that has been tried; without a name, the end of a run."""

    name: str | None
    after: dict[tuple[type, Choice], _Node] = field(default_factory=dict)


class Tracer:
    """Runs a function with chosen answers, and remembers which questions it asks after which answers.

    Args:
        run: Runs the function once, with what decides. A function that breaks ends its run early.
        pinned: Parameter name → its only choice.

    Attributes:
        parameters: Every parameter that some run has asked for, in the order in which they were met.
    """

    def __init__(self, run: Callable[[Decide], None], pinned: Mapping[str, Choice]) -> None:
        self._run = run
        self._pinned = pinned
        self._root: _Node | None = None
        self._asked: dict[str, Parameter] = {}
        self._closed = False
        self._deciding: set[str] = set()
        self._regular = True
        self.parameters: dict[str, Parameter] = {}

    def trace(self, wanted: Mapping[str, Choice], rng: random.Random | None = None) -> Answers:
        """Every question that the function asks, in order, and the answer that it got.

        Args:
            wanted: Answers. A question without one gets a drawn answer, or its first choice.
            rng: What draws.

        Raises:
            ArchitectureError: After `discover`, the function asks for something that it had never asked for.
            SpecError: It asks for a name with other choices than before, or at random.
        """
        answers: Answers = {}

        def answer(name: str, parameter: Parameter) -> Choice:
            if name not in answers:
                default = rng.choice(parameter.choices) if rng else parameter.choices[0]
                answers[name] = wanted.get(name, default)
            return answers[name]

        node = self._root
        while node is not None:
            if node.name is None:
                return answers
            node = node.after.get(_key(answer(node.name, self.parameters[node.name])))
        wanted = {**wanted, **answers}
        answers = {}
        self._run(lambda name, asked: answer(name, self.parameter(name, asked)))
        self._remember(answers)
        return answers

    def parameter(self, name: str, asked: Parameter) -> Parameter:
        """The parameter of a name, as the space has it.

        Args:
            name: Its name.
            asked: As the function asks for it now.

        Raises:
            ArchitectureError: It was not found before the search began.
            SpecError: It was asked for with other choices.
        """
        if name not in self.parameters:
            if self._closed:
                raise ArchitectureError(
                    f"the network asks for {name!r}, which no earlier run of its function had asked for; ask for it"
                    " before the condition that hides it"
                )
            kept = (Parameter(asked.choices).typed(name, self._pinned[name]),) if name in self._pinned else None
            self._asked[name] = asked
            self.parameters[name] = Parameter(kept or asked.choices, asked.ordered)
        before = self._asked[name].choices
        if list(map(_key, before)) != list(map(_key, asked.choices)):
            raise SpecError(
                f"parameter {name!r} is asked for with the choices {_short(before)} and with {_short(asked.choices)};"
                " give the second one another name"
            )
        return self.parameters[name]

    def discover(self) -> None:
        """Find the parameters: run every single change of every run that brought a new one, then random ones.

        Raises:
            SpecError: A name is used with other choices.
        """
        self._vary(self.trace({}), list(self.parameters))
        rng, misses, drawn = random.Random(0), 0, []
        while misses < _PATIENCE:
            count = len(self.parameters)
            drawn.append(self.trace({}, rng))
            misses += 1
            if len(self.parameters) > count:
                misses = 0
                self._vary(drawn[-1], list(drawn[-1]))
        self._closed = True
        names: dict[frozenset[tuple[str, Choice]], set[str]] = {}
        for answers in drawn:
            key = frozenset((n, v) for n, v in answers.items() if n in self._deciding)
            self._regular &= names.setdefault(key, set(answers)) == set(answers)

    def _vary(self, start: Answers, names: list[str]) -> None:
        waiting = [(start, names)]
        while waiting:
            answers, names = waiting.pop(0)
            for name in names:
                for value in self.parameters[name].choices:
                    count = len(self.parameters)
                    found = self.trace({**answers, name: value})
                    if found.keys() != answers.keys():
                        self._deciding.add(name)
                    if len(self.parameters) > count:
                        waiting.append((found, list(self.parameters)[count:]))

    def paths(self, names: Callable[[str], bool] = lambda name: True) -> Iterator[Answers]:
        """Every run that differs from the others in a parameter that `names` accepts; the others keep first choices."""
        waiting: list[Answers] = [{}]
        while waiting:
            prefix = waiting.pop()
            found = self.trace(prefix)
            yield found
            order = list(found)
            for i in range(len(order) - 1, len(prefix) - 1, -1):
                if names(order[i]):
                    before = {name: found[name] for name in order[:i]}
                    waiting += [{**before, order[i]: v} for v in reversed(self.parameters[order[i]].choices[1:])]

    def size(self) -> int:
        """How many runs differ: exact where few parameters decide which others exist, else Knuth's estimate (1975)."""
        total = 0
        for count, found in enumerate(self.paths(self._deciding.__contains__)):
            if count == _MOST_RUNS or not self._regular:
                rng = random.Random(0)
                return sum(self._product(self.trace({}, rng)) for _ in range(_MOST_RUNS)) // _MOST_RUNS
            total += self._product(name for name in found if name not in self._deciding)
        return total

    def _product(self, names: Iterator[str] | Answers) -> int:
        return math.prod(len(self.parameters[name].choices) for name in names)

    def _remember(self, answers: Answers) -> None:
        if self._root is None:
            self._root = _Node(next(iter(answers), None))
        node, names = self._root, [*answers, None]
        for name, following in zip(names, [*names[1:], None], strict=True):
            if node.name != name:
                raise SpecError(
                    "the network's function asks other questions when it is run again with the same answers;"
                    " it must depend on them alone"
                )
            if name is not None:
                node = node.after.setdefault(_key(answers[name]), _Node(following))


def _key(choice: Choice) -> tuple[type, Choice]:
    """True and 1 are equal in Python, and different choices."""
    return type(choice), choice


def _short(choices: tuple[Choice, ...]) -> str:
    text = repr(list(choices))
    return text if len(text) <= 60 else f"{text[:59]}…"
