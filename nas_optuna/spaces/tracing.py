"""Finding the questions of a network-building function by running it."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence

from nas_optuna.errors import ArchitectureError, SpecError, shown
from nas_optuna.spaces.architecture import Choice
from nas_optuna.spaces.base import Parameter

Decide = Callable[[str, Parameter], Choice]
Answers = dict[str, Choice]
_Case = tuple[tuple[str, Choice], ...]

_PATIENCE = 32
"""The search for parameters ends after this many random runs in a row without a new one."""
_MAX_COUNTED = 20_000
"""The most cases for counting the architectures; beyond that their number is estimated."""
_ESTIMATED_FROM = 512
"""How many random runs the number of architectures is estimated from."""
_RANDOM = (
    "the network's function asks other questions when it is run again with the same answers; let it depend on its"
    " choices alone"
)
_MAX_PARAMETERS = 10_000


class _TooManyError(Exception):
    """Counting needs too many cases."""


class Tracer:
    """Runs a function with chosen answers, and learns which answers decide whether a question is asked."""

    # Most architectures then need no run: a question is asked if it was asked in an earlier run with the same answers
    # to its deciders. A function that contradicts this is run for every architecture instead.

    def __init__(self, run: Callable[[Decide], None], pinned: Mapping[str, Choice]) -> None:
        self._run = run
        self._pinned = pinned
        self._asked: dict[str, Parameter] = {}
        self._closed = False
        self._order: list[str] = []  # the function's order; `parameters` has the order of discovery
        self._deciders: dict[str, list[str]] = {}
        self._known: dict[str, dict[_Case, bool]] = {}
        self._irregular = False
        self._cases = 0
        self.parameters: dict[str, Parameter] = {}

    @property
    def conditional(self) -> bool:
        """Whether some architectures do not use every parameter."""
        return self._irregular or any(self._deciders.values())

    def trace(self, wanted: Mapping[str, Choice], rng: random.Random | None = None) -> Answers:
        """Every question that the function asks, in order, with its answer."""

        def answer(name: str) -> Choice:
            if name in wanted:
                return wanted[name]
            choices = self.parameters[name].choices
            return rng.choice(choices) if rng else choices[0]

        if self._irregular or not self._closed:
            return self._execute(answer)
        answers: Answers = {}
        for name in self._order:
            asked = self._known[name].get(self._case(name, answers))
            if asked is None:
                break
            if asked:
                answers[name] = answer(name)
        else:
            return answers
        known = {**wanted, **answers}
        answers = self._execute(lambda name: known[name] if name in known else answer(name))
        self.confirm(answers)
        return answers

    def _execute(self, answer: Callable[[str], Choice]) -> Answers:
        answers: Answers = {}

        def decide(name: str, asked: Parameter) -> Choice:
            self.parameter(name, asked)
            if name not in answers:
                answers[name] = answer(name)
            return answers[name]

        self._run(decide)
        return answers

    def _case(self, name: str, answers: Mapping[str, Choice]) -> _Case:
        """The answers to the questions that decide whether another question is asked."""
        return tuple((d, answers[d]) for d in self._deciders[name] if d in answers)

    def confirm(self, answers: Answers) -> None:
        """Learn from a run; after one that contradicts the rules they are no longer used."""
        if self._irregular:
            return
        regular = [name for name in self._order if name in answers] == list(answers)
        for name in self.parameters:
            asked = self._known[name].setdefault(self._case(name, answers), name in answers)
            regular = regular and asked == (name in answers)
        if not regular:
            again = self._execute(lambda name: answers[name] if name in answers else self.parameters[name].choices[0])
            if list(again) != list(answers):
                raise SpecError(_RANDOM)
            self._irregular = True

    def parameter(self, name: str, asked: Parameter) -> Parameter:
        """The space's parameter of that name."""
        if name not in self.parameters:
            if len(self.parameters) >= _MAX_PARAMETERS:
                raise SpecError(f"the network's function asks for more than {_MAX_PARAMETERS:,} names; {_RANDOM}")
            if self._closed:
                raise ArchitectureError(
                    f"the network asks for {name!r}, which no earlier run of its function had asked for; ask for it"
                    " before the condition that hides it"
                )
            kept = (Parameter(asked.choices).typed(name, self._pinned[name]),) if name in self._pinned else None
            self._asked[name] = asked
            self.parameters[name] = Parameter(kept or asked.choices, asked.ordered)
        before = self._asked[name].choices
        if before != asked.choices:
            both = f"{shown(list(before))} and with {shown(list(asked.choices))}"
            raise SpecError(
                f"parameter {name!r} is asked for with the choices {both}; give the second one another name"
            )
        return self.parameters[name]

    def discover(self) -> None:
        """Find the parameters: try every single change of each run with a new one, then random answers."""
        runs = [self.trace({})]
        if list(self.trace({})) != list(runs[0]):
            raise SpecError(_RANDOM)
        self._vary(runs[0], list(self.parameters), runs)
        rng, misses = random.Random(0), 0
        while misses < _PATIENCE:
            count = len(self.parameters)
            drawn = self.trace({}, rng)
            runs.append(drawn)
            misses += 1
            if len(self.parameters) > count:
                misses = 0
                self._vary(drawn, list(drawn), runs)
        self._closed = True
        for answers in runs:
            self._merge(list(answers))
        place = {name: i for i, name in enumerate(self._order)}
        for name in self.parameters:
            self._known[name] = {}
            self._deciders[name] = sorted(self._deciders.get(name, ()), key=place.__getitem__)
        for answers in runs:
            self.confirm(answers)

    def _vary(self, start: Answers, names: list[str], runs: list[Answers]) -> None:
        runs.append(start)
        waiting = [(start, names)]
        while waiting:
            answers, names = waiting.pop(0)
            for name in names:
                for value in self.parameters[name].choices:
                    if value == answers[name]:
                        continue
                    count = len(self.parameters)
                    found = self.trace({**answers, name: value})
                    runs.append(found)
                    for changed in found.keys() ^ answers.keys():
                        deciders = self._deciders.setdefault(changed, [])
                        if name not in deciders:
                            deciders.append(name)
                    if len(self.parameters) > count:
                        waiting.append((found, [n for n in list(self.parameters)[count:] if n in found]))

    def _merge(self, names: Sequence[str]) -> None:
        """Insert new names after those that the function asks before them."""
        place = 0
        for name in names:
            if name not in self._order:
                self._order.insert(place, name)
            place = self._order.index(name) + 1

    def paths(self, names: Callable[[str], bool] = lambda name: True) -> Iterator[Answers]:
        """Every run with different answers to questions that `names` accepts; others have their first choices."""
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
        """How many architectures there are: exact if few answers decide, else Knuth's estimate (1975)."""
        self._cases = 0
        try:
            counted = None if self._irregular else self._count(self._order, {})
        except _TooManyError:
            counted = None
        if counted is None or self._irregular:
            rng = random.Random(0)
            drawn = [self.trace({}, rng) for _ in range(_ESTIMATED_FROM)]
            return sum(math.prod(len(self.parameters[n].choices) for n in answers) for answers in drawn) // len(drawn)
        return counted

    def _count(self, names: Sequence[str], answers: Answers) -> int:
        """The number of architectures that differ in some questions, given the answers to earlier ones."""
        self._cases += 1
        if self._cases > _MAX_COUNTED:
            raise _TooManyError
        total = 1
        for group in self.independent(names):
            first, *rest = group
            asked = self._known[first].get(self._case(first, answers))
            if asked is None:
                asked = first in self.trace(answers)
            choices = self.parameters[first].choices
            if not asked:
                total *= self._count(rest, answers)
            elif rest:
                total *= sum(self._count(rest, {**answers, first: value}) for value in choices)
            else:
                total *= len(choices)
        return total

    def independent(self, names: Sequence[str]) -> list[list[str]]:
        """Independent groups of questions, each in the order of asking."""
        groups: list[list[str]] = []
        for name in names:
            joined = [g for g in groups if any(d in g for d in self._deciders[name])]
            groups = [g for g in groups if g not in joined] + [[*(n for g in joined for n in g), name]]
        place = {name: i for i, name in enumerate(names)}
        return [sorted(group, key=place.__getitem__) for group in groups]
