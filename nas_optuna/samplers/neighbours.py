"""Local search that changes one kind of choice at a time, such as all widths, from the best network so far."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from optuna.study import Study
from optuna.trial import FrozenTrial

from nas_optuna.samplers.base import ArchitectureSampler
from nas_optuna.samplers.history import History, Tokens, first_nondominated
from nas_optuna.spaces import SearchSpace

FIRST = ("width", "depth", "filters")
"""Kinds that decide a network's size are tried first, as they matter most."""


@dataclass(frozen=True)
class Move:
    """A change of one kind of choice, in all places where it occurs."""

    kind: str  # the last part of the parameters' names, e.g. ``"width"`` of ``stage1.width``
    step: int = 0  # for an ordered parameter, how many choices further
    choice: int = 0  # for another parameter, the new choice


class NeighboursSampler(ArchitectureSampler):
    """Local search for few trials: begins with a network that is known to be good, and changes all its stages alike.

    A few short trainings cannot show the effect of a single parameter, but they can tell a wider network from a
    narrower one. So each proposal takes the best network so far and changes one kind of choice everywhere at once:
    every width a step up, then down, then every depth, every block type, … After each of these moves was made once,
    single parameters are changed. This is coordinate descent (e.g. Wright 2015, section 1) over groups of parameters.

    It is meant for one process: several workers may occasionally try the same network.

    The first trial should be enqueued: the network to begin with, such as the space's reference.

    Examples:
        >>> import optuna
        >>> study = optuna.create_study(sampler=NeighboursSampler(seed=0))
    """

    numbers = True

    def propose(self, history: History, study: Study, trial: FrozenTrial) -> Tokens:
        """The best network so far, with the next move that gives a new one."""
        rng = self._rng(trial)
        if not history.informative:
            return self._random(history, rng)
        first = first_nondominated([seen.trial for seen in history.informative], study.directions)
        best = history.informative[first].tokens
        moves = self._moves(history)
        made = len(history.finished) + len(history.running) - 1
        # When another worker has just made the same move, each continues from another place.
        turn = (made + self.attempt * (1 + trial.number)) % max(1, len(moves))
        candidates = (self._moved(history, best, move) for move in (*moves[turn:], *moves[:turn]))
        wider = candidates if made < len(moves) else iter(())
        others = (*wider, *self._single(history, best, rng))
        good = (tokens for tokens in others if history.is_new(tokens) and self._allows(history, tokens))
        found = next(good, None)
        return self._random(history, rng) if found is None else found

    def _moves(self, history: History) -> list[Move]:
        """All moves in order: those of size first, the others in an order drawn from the seed."""
        sizes: dict[str, int] = {}
        steps: set[str] = set()
        for (name, axis), ordered in zip(history.axes.items(), self._order(history), strict=True):
            kind = _kind(name)
            sizes[kind] = max(sizes.get(kind, 0), axis.size)
            if ordered:
                steps.add(kind)
        first = [kind for kind in FIRST if kind in sizes]
        rest = [kind for kind in sizes if kind not in first]
        order = np.random.default_rng(self._seed).permutation(len(rest))
        found: list[Move] = []
        for kind in (*first, *(rest[i] for i in order)):
            if kind in steps:
                found += [Move(kind, step=1), Move(kind, step=-1)]
            else:
                found += [Move(kind, choice=choice) for choice in range(sizes[kind])]
        return found

    def _moved(self, history: History, start: Tokens, move: Move) -> Tokens:
        tokens = list(start)
        for i, (name, axis) in enumerate(history.axes.items()):
            if _kind(name) == move.kind:
                token = tokens[i] + move.step if move.step else move.choice
                tokens[i] = min(max(token, 0), axis.size - 1)
        return history.proposed(tuple(tokens))

    def _single(self, history: History, start: Tokens, rng: np.random.Generator) -> Iterator[Tokens]:
        """Networks that differ in one parameter, in random order."""
        places = [(i, token) for i, size in enumerate(history.sizes) for token in range(size) if token != start[i]]
        for place in rng.permutation(len(places)):
            i, token = places[place]
            yield history.proposed((*start[:i], token, *start[i + 1 :]))


def _kind(name: str) -> str:
    return name.rpartition(".")[2]


def neighbours(space: SearchSpace, seed: int) -> NeighboursSampler:
    """Local search around a good network: for few trials, and what fit takes."""
    return NeighboursSampler(seed=seed).for_space(space)
