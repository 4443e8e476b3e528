"""A time budget that continues where an earlier run stopped, and how a search divides its time."""

from __future__ import annotations

import math
import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from optuna.study import Study

from nas_optuna.errors import SpecError, shown
from nas_optuna.execution.evaluator import Measurement
from nas_optuna.execution.events import Callback, Subject
from nas_optuna.spec import StudySpec
from nas_optuna.spec_text import overridden

if TYPE_CHECKING:
    from nas_optuna.training import EpochResult

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.IGNORECASE)
LEAST_TIME = 10.0
"""The least seconds in which one network can be trained and tested."""
_RECENT = 3
"""The median of so many epochs predicts how long the next ones take."""
END, END_PER_LAYER = 1.5, 0.05
"""Processor seconds for the export and the report, in addition to the test, and those for each layer of the network."""
BUSIEST = 5.0
"""The largest slowdown by other processes that is planned for; beyond it the fit ends late."""
_DECIDED = {
    "recipe.epochs": "how many epochs each network has; leave out --epochs (recipe.epochs)",
    "recipe.epoch_size": "how many images an epoch has; leave out recipe.epoch_size",
    "pruner": "when a training ends, and prunes none; leave out --pruner (pruner)",
    "keep_paused": "when a training ends, and pauses none; leave out --keep-paused (keep_paused)",
}
"""Settings that are refused, and what the clock decides instead."""
_WITHOUT = "search without a clock: run --trials N (in Python experiment.run(study, trials=N))"


def parse_duration(text: str | float, option: str = "--within") -> float:
    """Seconds of a text such as ``90s``, ``10m`` or ``2h``; a bare number is seconds.

    Examples:
        >>> parse_duration("90s"), parse_duration("1.5h"), parse_duration(300)
        (90.0, 5400.0, 300.0)
    """
    match = _DURATION.fullmatch(str(text).strip())
    if match is None or match[2].lower() not in _UNITS:
        raise SpecError(f"{option} needs a time such as 90s, 10m or 2h, got {shown(text)}")
    seconds = float(match[1]) * _UNITS[match[2].lower()]
    if not LEAST_TIME <= seconds <= 365 * 86400:
        raise SpecError(f"{option} needs at least {LEAST_TIME:.0f}s and at most a year, got {shown(text)}")
    return seconds


@dataclass
class TimeBudget:
    """The seconds that a user gives, and how many of them are left.

    Attributes:
        total: Seconds in all.
        spent: Seconds of earlier runs of the same fit or search.
        began: When this run began, by `time.monotonic`.

    Examples:
        >>> budget = TimeBudget(60.0, spent=20.0)
        >>> 39 < budget.left <= 40
        True
    """

    total: float
    spent: float = 0.0
    began: float = field(default_factory=time.monotonic)

    @property
    def elapsed(self) -> float:
        """Seconds spent, over all runs."""
        return self.spent + time.monotonic() - self.began

    @property
    def left(self) -> float:
        """Seconds that are left; negative once time is up."""
        return self.total - self.elapsed


@dataclass(eq=False)
class Progress(Callback):
    """What a search with a clock has decided and spent, stored with its study after each epoch."""

    study: Study
    key: str
    budget: TimeBudget
    state: dict[str, Any]

    def remember(self, **decided: Any) -> None:
        """Store new decisions, and how much time is spent."""
        self.state |= decided | {"spent": round(self.budget.elapsed, 2), "within": self.budget.total}
        self.study.set_user_attr(self.key, self.state)

    def step_finished(self, subject: Subject, measurement: Measurement) -> None:
        """Store the time."""
        self.remember()


class Load:
    """The slowdown by other processes, from this thread's share of a processor since the object was made."""

    def __init__(self) -> None:
        self._began = time.monotonic(), time.thread_time()

    def __call__(self) -> float:
        """The factor: 1 on an idle machine, at most `BUSIEST`."""
        waited, computed = time.monotonic() - self._began[0], time.thread_time() - self._began[1]
        return min(BUSIEST, max(1.0, waited / max(computed, 1.0)))

    def reserve(self, layers: int) -> float:
        """Seconds for the export and the report of a network of so many layers."""
        return (END + END_PER_LAYER * layers) * self()


class Clock:
    """Decides after each epoch how many there will be, so that `reserve` seconds are left; a `training.fit.Pace`."""

    # If the machine becomes slower there are fewer epochs, if faster more. The rest of the schedule is spread over
    # them, so that the learning rate ends at zero in any case; there the training ends. A restored one may have had
    # more epochs than were planned for it at first.

    def __init__(self, budget: TimeBudget, reserve: float, epochs: int) -> None:
        self._budget = budget
        self._reserve = reserve
        self._first = epochs

    def __call__(self, results: Sequence[EpochResult]) -> int:
        """The total number of epochs."""
        if not results:
            return self._first
        each = statistics.median(result.seconds for result in results[-_RECENT:])
        return len(results) + max(1, int((self._budget.left - self._reserve) / each))


def refuse_named(overrides: Sequence[str], *, pruner: str | None = None) -> None:
    """Refuse settings of this call that a search with a clock would ignore."""
    for key in [*overridden(overrides), *(["pruner"] if pruner else [])]:
        decided = _DECIDED.get("pruner" if key.startswith("pruner.") else key)
        if decided is not None:
            raise SpecError(f"a search with a clock decides {decided}, or {_WITHOUT}")


def refuse_undivided(spec: StudySpec) -> None:
    """Refuse a spec that trains a network more than once or by several recipes."""
    if spec.search:
        raise SpecError(
            "a search with a clock trains every network by one recipe; leave out search, or use a timeout:"
            " run --timeout (timeout)"
        )
    if spec.recipe.repeats > 1:
        raise SpecError(
            f"a search with a clock trains every network once; leave out recipe.repeats={spec.recipe.repeats}, or"
            f" {_WITHOUT}"
        )
    if spec.recipe.epoch_size is not None:
        refuse_named([f"recipe.epoch_size={spec.recipe.epoch_size}"])


SHORTEST = 0.03
"""Share of the time for each network of the first rung."""
LEAST, MOST = 0.15, 0.4
"""Shares of the time for the search."""
FEW, MANY = 20, 160
"""Epochs of the reference that fit into all the time, at which the search gets its least and its largest share. With
few epochs, the last training misses each one that the search costs; with many, its last half gains almost nothing."""
ENOUGH_TO_SELECT = 1000
"""Validation images for which a search gets its whole share of the time: the standard error of an accuracy is then
below 0.016. With fewer, networks are harder to distinguish, so the share falls as that error grows."""
FIRST = 0.55
"""Share of the search for the first of two rungs."""
MOST_NETWORKS = 12
FEWEST_NETWORKS = 3
"""With fewer there is nothing to choose from, and the reference is taken."""
ALONE = 0.05
"""Share of the time for the reference if there is no search, so that its validation accuracy is known."""
FINALISTS = 3
"""Networks of the second rung, the reference among them."""
CONFIRMING = 0.12
"""Share of the time for each training of the pair that shows whether a network stays ahead of the reference. On 1,500
pictures a network without residual blocks, which learns fast, led by ten points after nine seconds and ended behind."""
LEAST_STEPS = 20
"""The fewest steps of the reference in the first rung: after fewer, every network is still at chance."""

LEAST_EPOCHS = 4
"""The fewest epochs of the reference in the first rung. After one epoch, cheap networks lead: on 12,000 pictures of
CIFAR-10, such a search of five minutes ended three points behind a known network with one seed of two."""

LEAST_SECONDS = 1.0
"""The least seconds for a network in the first rung, because proposing, drawing and storing it takes a part of one."""


@dataclass(frozen=True)
class Rung:
    """Networks that are trained for about the same time."""

    networks: int
    seconds: float  # for a network that costs as much as the reference
    growth: float = 0.0
    """Seconds are multiplied by the network's cost, relative to the reference, to this power: with 0 all networks have
    equal seconds, with 1 they see equally many images."""


@dataclass(frozen=True)
class Speed:
    """How fast the reference network is trained here."""

    per_step: float  # seconds
    per_validation: float  # seconds of one pass over the validation images
    steps: int  # of an epoch over all training images


@dataclass(frozen=True)
class Plan:
    """How a search divides its time."""

    rungs: tuple[Rung, ...]  # each has the best networks of the one before it, and the reference
    reserve: float  # seconds at the end for the test, the export and the report
    per_step: float = 1.0  # seconds of a training step of the reference network
    confirming: Rung | None = None  # for the reference and the leading network; None if the rungs are long enough

    @classmethod
    def of(
        cls, seconds: float, speed: Speed, reserve: float, *, retrain: bool = True, selecting: int = ENOUGH_TO_SELECT
    ) -> Plan:
        """Divide the remaining seconds, given the number of validation images; without a retraining the rungs get all.

        Examples:
            >>> slow, fast = Speed(0.05, 0.2, 172), Speed(0.05, 0.1, 18)
            >>> [[(rung.networks, round(rung.seconds)) for rung in Plan.of(300, s, 9).rungs] for s in (slow, fast)]
            [[(1, 15)], [(7, 9), (3, 17)]]
            >>> [(rung.networks, round(rung.seconds)) for rung in Plan.of(300, fast, 9, selecting=300).rungs]
            [(7, 9)]
            >>> len(Plan.of(300, slow, 0, retrain=False).rungs)  # the last rung has all that is left
            2
            >>> Plan.of(20, Speed(0.5, 4, 18), 5).rungs  # not even a few steps for each of three networks
            (Rung(networks=1, seconds=3.75, growth=0.0),)
        """
        usable = max(0.0, seconds - reserve)
        told = math.sqrt(min(1.0, selecting / ENOUGH_TO_SELECT))
        share = _share(usable / (speed.per_step * speed.steps)) * told if retrain else 1.0
        shortest = max(SHORTEST * (1.0 if retrain else 1 / MOST) * usable, LEAST_STEPS * speed.per_step, LEAST_SECONDS)
        # Without a later training, a rung need not predict anything: its networks are compared as they are.
        first = max(shortest, LEAST_EPOCHS * speed.per_step * speed.steps) if retrain else shortest
        rungs = _rungs(usable, share, first + speed.per_validation) or [
            Rung(1, max(ALONE * usable, min(shortest + speed.per_validation, usable / 4)))
        ]
        longest = usable - sum(rung.networks * rung.seconds for rung in rungs) if retrain else rungs[-1].seconds
        pair = Rung(2, CONFIRMING * usable)
        confirming = None
        if retrain and rungs[-1].networks > 1 and pair.seconds >= 1.5 * rungs[-1].seconds:
            confirming = _growing(pair, longest - 2 * pair.seconds)
        return cls(tuple(_growing(rung, longest) for rung in rungs), reserve, speed.per_step, confirming)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Plan:
        """Read a plan from `to_dict`."""
        pair = values.get("confirming")
        rungs = {"rungs": tuple(Rung(**rung) for rung in values["rungs"])}
        return cls(**values | rungs | {"confirming": Rung(**pair) if pair else None})

    def describe(self) -> str:
        """One line for a person.

        Examples:
            >>> Plan((Rung(10, 9.0), Rung(2, 30.0)), 9.0).describe()
            '10 networks for 9 s each, the best 2 for 30 s each'
        """
        if self.rungs[0].networks == 1:
            return "the time is too short for a search: one network alone"
        parts = [f"{self.rungs[0].networks} networks for {self.rungs[0].seconds:.0f} s each"]
        parts += [f"the best {rung.networks} for {rung.seconds:.0f} s each" for rung in self.rungs[1:]]
        return ", ".join(parts)


def _share(epochs: float) -> float:
    """The search's share of the time, given how many epochs of the reference fit into all of it."""
    place = math.log(max(epochs, FEW) / FEW) / math.log(MANY / FEW)
    return LEAST + (MOST - LEAST) * min(1.0, place)


def _rungs(usable: float, share: float, first: float) -> list[Rung]:
    """One rung; two if the second gives its networks clearly more time; none if time is short."""
    networks = min(MOST_NETWORKS, int(FIRST * share * usable / first))
    second = (1 - FIRST) * share * usable / FINALISTS
    if networks > FINALISTS and second > 1.5 * first:
        return [Rung(networks, first), Rung(FINALISTS, second)]
    networks = min(MOST_NETWORKS, int(share * usable / first))
    return [Rung(networks, first)] if networks >= FEWEST_NETWORKS else []


def _growing(rung: Rung, longest: float) -> Rung:
    """The rung with seconds that grow with a network's cost, the more the longer the last training is."""
    # The gain of a doubled time falls with about the square root of the time.
    growth = 1 - math.sqrt(min(1.0, rung.seconds / longest)) if rung.networks > 1 else 0.0
    return replace(rung, growth=round(growth, 3))
