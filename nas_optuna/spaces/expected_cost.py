"""The expected cost of a network drawn from a supernet's alphas."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

import torch
from torch import Tensor

from nas_optuna.errors import SpecError
from nas_optuna.spaces.base import Operation
from nas_optuna.spaces.built import BuiltSpace


class ExpectedCost:
    """The exact expectation over a Markov chain: given the state, choices decide a step's cost and the next state."""

    # So the probabilities of the states are carried from step to step, and nothing is drawn.

    def __init__(self, space: BuiltSpace, table: Mapping[str, float], like: Tensor) -> None:
        absent: dict[str, None] = {}

        def price(operation: Operation) -> float:
            key = operation.key
            if key not in table:
                absent[key] = None
            return table.get(key, 0.0)

        self._steps = [
            (
                step.names,
                like.new_tensor(step.costs),
                torch.tensor(step.targets, device=like.device),
                max(step.targets) + 1,
                step.uses and (step.uses[0], like.new_tensor(step.uses[1])),
            )
            for step in space.cost_steps(price)
        ]
        if absent:
            raise SpecError(
                f"the cost table lacks {len(absent)} operations of this space, e.g. {next(iter(absent))!r};"
                " measure one for this space, its options and its input size"
            )

    def __call__(self, probabilities: Mapping[str, Tensor]) -> Tensor:
        """See `nas_optuna.spaces.supernet.CostModel`."""
        like = next(iter(probabilities.values()))
        state, total = like.new_ones(1), like.new_zeros(())
        for names, costs, targets, states, uses in self._steps:
            chosen = [probabilities[name] for name in names]
            joint = reduce(lambda a, b: torch.outer(a, b).flatten(), chosen, like.new_ones(1))
            weight = torch.outer(state, joint)
            share = 1.0 if uses is None else probabilities[uses[0]] @ uses[1]
            total = total + share * (weight * costs).sum()
            state = state.new_zeros(states).index_add(0, targets, weight.flatten())
        return total
