"""The expected cost of a network drawn from a supernet's alphas."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from nas_optuna.errors import SpecError
from nas_optuna.spaces.architecture import Choice
from nas_optuna.spaces.base import Shape
from nas_optuna.spaces.built import BuiltSpace
from nas_optuna.spaces.supernet import CostModel

Params = Mapping[str, Choice]


@dataclass
class _Part:
    """Costs of one part of the chain.

    Attributes:
        names: The parameters that are decided here and enumerated.
        base: ``[states, values]``.
        groups: Parameters of layers that belong together, and what their choices add: ``[states, values, labels]``.
        targets: The next state, ``[states * values]``.
        states: How many next states there are.
    """

    names: list[str]
    base: Tensor
    groups: list[tuple[list[str], Tensor]]
    targets: Tensor
    states: int


class ChainCost(CostModel):
    """The exact expectation, where a network is a chain of parts or one part.

    What a part costs follows from its own parameters and the state that comes in: the shape of its input, and the
    choices made before that later parts ask for again. So the probabilities of the states are carried from part to
    part. Within a part, layers add up: only those of which one is asked for within another are taken together.

    Args:
        space: The supernet's space.
        parts: The parameters that decide each part.
        layers: Which of them are layers.
        table: ``Operation.key`` → cost.
        like: A tensor of the device and type of the result.

    Raises:
        SpecError: The table lacks an operation.
    """

    def __init__(
        self,
        space: BuiltSpace,
        parts: Sequence[Sequence[str]],
        layers: Collection[str],
        table: Mapping[str, float],
        like: Tensor,
    ) -> None:
        self._space, self._table, self._like = space, table, like
        first = {name: parameter.choices[0] for name, parameter in space.parameters.items()}
        states: dict[tuple[object, ...], Params] = {(): first}
        known: set[str] = set()
        self._parts: list[_Part] = []
        for number, names in enumerate(parts):
            later = set(itertools.chain(*parts[number + 1 :]))
            added = [n for n in names if n in layers and n not in later and n not in known]
            new = [n for n in names if n not in added and n not in known]
            known = {n for n in known.union(new) if n in later}
            states = self._compile(number, new, space.independent(added), sorted(known), states)

    def _compile(
        self,
        number: int,
        new: list[str],
        groups: list[list[str]],
        known: list[str],
        states: Mapping[tuple[object, ...], Params],
    ) -> dict[tuple[object, ...], Params]:
        following: dict[tuple[object, ...], Params] = {}
        base, targets = [], []
        extra: list[list[float]] = [[] for _ in groups]
        for before in states.values():
            for values in self._products(new):
                params = {**before, **values}
                cost, shape = self._part(params, number)
                base.append(cost)
                key = (shape, *(params[name] for name in known))
                following.setdefault(key, params)
                targets.append(list(following).index(key))
                for group, costs in zip(groups, extra, strict=True):
                    costs += [self._part({**params, **labels}, number)[0] - cost for labels in self._products(group)]
        shape_of = (len(states), len(base) // len(states))
        made = [
            (group, self._like.new_tensor(costs).view(*shape_of, -1))
            for group, costs in zip(groups, extra, strict=True)
        ]
        places = torch.tensor(targets, device=self._like.device)
        self._parts.append(_Part(new, self._like.new_tensor(base).view(shape_of), made, places, len(following)))
        return following

    def _part(self, params: Params, number: int) -> tuple[float, Shape]:
        operations, shape = self._space.part(params, number)
        for operation in operations:
            if operation.key not in self._table:
                raise SpecError(f"the cost table lacks {operation.key!r}; measure one for this space")
        return sum(self._table[operation.key] for operation in operations), shape

    def _products(self, names: Sequence[str]) -> list[dict[str, Choice]]:
        choices = [self._space.parameters[name].choices for name in names]
        return [dict(zip(names, values, strict=True)) for values in itertools.product(*choices)]

    def __call__(self, probabilities: Mapping[str, Tensor]) -> Tensor:
        """See `CostModel`."""
        like = next(iter(probabilities.values()))

        def joint(names: Sequence[str]) -> Tensor:
            chosen = [probabilities[name] for name in names]
            return reduce(lambda a, b: torch.outer(a, b).flatten(), chosen, like.new_ones(1))

        state, total = like.new_ones(1), like.new_zeros(())
        for part in self._parts:
            weight = torch.outer(state, joint(part.names))
            total = total + (weight * part.base).sum()
            for names, extra in part.groups:
                total = total + (weight * (extra @ joint(names))).sum()
            state = state.new_zeros(part.states).index_add(0, part.targets, weight.flatten())
        return total
