"""The controller's policy: an LSTM that emits one token per parameter, with its gradient, in NumPy.

A proposal is some tens of small matrix products: about a millisecond, without an import of torch, and the same
numbers in every process of one machine, which replaying a study relies on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
"""Floating-point values of the policy's dtype, unless said otherwise."""

LOGIT_DECAY = 0.0005
"""Weight of the logits' squares, taken from the objective: they stay small enough to change their mind."""


@dataclass(frozen=True)
class Rollout:
    """Token sequences and what the policy thought at each token.

    Attributes:
        tokens: ``[batch, length]`` int64, an index into each parameter's choices.
        log_prob: ``[batch]``, natural log of the probability of the whole sequence.
        entropy: ``[batch, length]`` nats, of each token's distribution given the tokens before it.
    """

    tokens: NDArray[np.int64]
    log_prob: Array
    entropy: Array


class Policy:
    """An LSTM over the parameters in order; each has its own embedding and its own soft-max head.

    The input of a step is the embedding of the token chosen one step before (a learned vector at the first), as in
    Zoph & Le, "Neural Architecture Search with Reinforcement Learning" (2017), section 3.1.

    Args:
        sizes: The number of choices of each parameter, in order.
        hidden: Units of the LSTM, and dimensions of the embeddings.
        seed: Of the initial weights.
        dtype: Of all weights.

    Attributes:
        theta: ``[n]``, every weight in one vector, so that an optimiser and a snapshot see one array. The named
            weights are views of it.
    """

    def __init__(self, sizes: Sequence[int], *, hidden: int = 32, seed: int = 0, dtype: Any = np.float32) -> None:
        self.sizes = tuple(sizes)
        self.hidden = hidden
        length, widest = len(self.sizes), max(self.sizes)
        # embedding[t] holds the inputs of step t: the tokens of parameter t - 1, and at first a single vector.
        self.shapes = {
            "embedding": (length, widest, hidden),
            "gates": (2 * hidden, 4 * hidden),
            "gate_bias": (4 * hidden,),
            "head": (length, hidden, widest),
            "head_bias": (length, widest),
        }
        rng = np.random.default_rng(seed)
        count = sum(int(np.prod(shape)) for shape in self.shapes.values())
        self.theta: Array = rng.uniform(-0.1, 0.1, count).astype(dtype)
        weights = self.views(self.theta)
        weights["head_bias"][:] = 0
        weights["gate_bias"][:] = 0
        weights["gate_bias"][hidden : 2 * hidden] = 1  # the forget gate starts open
        #: ``[length, widest]``: -inf where a parameter has no such choice.
        self._mask = np.where(np.arange(widest) < np.asarray(self.sizes)[:, None], 0, -np.inf).astype(dtype)
        self._present = np.isfinite(self._mask).astype(dtype)

    def views(self, vector: Array) -> dict[str, Array]:
        """The named weights (or their gradients) inside a vector like `theta`."""
        views, start = {}, 0
        for name, shape in self.shapes.items():
            size = int(np.prod(shape))
            views[name] = vector[start : start + size].reshape(shape)
            start += size
        return views

    def sample(self, batch: int, rng: np.random.Generator, temperature: float = 1.0) -> Rollout:
        """Draw `batch` sequences; a higher temperature flattens every distribution."""
        uniform = rng.random((len(self.sizes), batch))
        return self._run(batch, uniform=uniform, temperature=temperature)[0]

    def evaluate(self, tokens: NDArray[np.int64]) -> Rollout:
        """What the policy thinks of given sequences, ``[batch, length]``."""
        return self._run(len(tokens), tokens=tokens)[0]

    def probabilities(self, tokens: NDArray[np.int64]) -> Array:
        """``[batch, length, widest]``: each token's distribution given the tokens before it; 0 beyond its choices."""
        return np.stack([step.probabilities for step in self._run(len(tokens), tokens=tokens)[1]], axis=1)

    def gradient(self, tokens: NDArray[np.int64], advantage: Array, entropy_weight: float) -> tuple[Array, Rollout]:
        """The gradient, with respect to `theta`, of the mean over the batch of ``A · log π(a) + β · Σ_t H_t``."""
        # That is REINFORCE with an entropy bonus (Williams 1992), less `LOGIT_DECAY` times the sum of all squared
        # logits. `advantage` is taken as a constant, so an importance weight belongs in it.
        rollout, steps = self._run(len(tokens), tokens=tokens)
        weights, result = self.views(self.theta), np.zeros_like(self.theta)
        grads = self.views(result)
        hidden, batch, rows = self.hidden, len(tokens), np.arange(len(tokens))
        d_state = np.zeros((batch, hidden), self.theta.dtype)
        d_cell = np.zeros_like(d_state)
        for t in reversed(range(len(self.sizes))):
            step = steps[t]
            p = step.probabilities
            entropy = rollout.entropy[:, t, None]
            d_logits = -p * advantage[:, None]
            d_logits[rows, tokens[:, t]] += advantage
            d_logits -= entropy_weight * p * (step.log_probabilities + entropy)
            d_logits -= 2 * LOGIT_DECAY * step.raw * self._present[t]
            d_logits /= batch
            grads["head"][t] = step.state.T @ d_logits
            grads["head_bias"][t] = d_logits.sum(0)
            d_state = d_state + d_logits @ weights["head"][t].T
            i, f, o, g = step.gates
            tanh_cell = np.tanh(step.cell)
            d_cell = d_cell + d_state * o * (1 - tanh_cell**2)
            d_pre = np.concatenate(
                (
                    d_cell * g * i * (1 - i),
                    d_cell * step.cell_before * f * (1 - f),
                    d_state * tanh_cell * o * (1 - o),
                    d_cell * i * (1 - g**2),
                ),
                axis=1,
            )
            grads["gates"] += step.inputs.T @ d_pre
            grads["gate_bias"] += d_pre.sum(0)
            d_inputs = d_pre @ weights["gates"].T
            if t:
                np.add.at(grads["embedding"][t], tokens[:, t - 1], d_inputs[:, :hidden])
            else:
                grads["embedding"][0, 0] += d_inputs[:, :hidden].sum(0)
            d_state = d_inputs[:, hidden:]
            d_cell = d_cell * f
        return result, rollout

    def _run(
        self,
        batch: int,
        tokens: NDArray[np.int64] | None = None,
        uniform: Array | None = None,
        temperature: float = 1.0,
    ) -> tuple[Rollout, list[_Step]]:
        """Forward through every token: given ones, or drawn by inverting `uniform` ``[length, batch]``."""
        weights, hidden = self.views(self.theta), self.hidden
        dtype, rows = self.theta.dtype, np.arange(batch)
        chosen = np.empty((batch, len(self.sizes)), np.int64) if tokens is None else tokens
        log_prob = np.zeros(batch, dtype)
        entropy = np.empty((batch, len(self.sizes)), dtype)
        state, cell = np.zeros((batch, hidden), dtype), np.zeros((batch, hidden), dtype)
        steps = []
        for t in range(len(self.sizes)):
            before = chosen[:, t - 1] if t else np.zeros(batch, np.int64)
            inputs = np.concatenate((weights["embedding"][t][before], state), axis=1)
            pre = inputs @ weights["gates"] + weights["gate_bias"]
            with np.errstate(over="ignore"):  # a gate far below zero is shut: 1 / inf
                sigmoid = 1 / (1 + np.exp(-pre[:, : 3 * hidden]))
            i, f, o = sigmoid[:, :hidden], sigmoid[:, hidden : 2 * hidden], sigmoid[:, 2 * hidden :]
            g = np.tanh(pre[:, 3 * hidden :])
            cell_before, cell = cell, f * cell + i * g
            state = o * np.tanh(cell)
            raw = state @ weights["head"][t] + weights["head_bias"][t]
            logits = raw / dtype.type(temperature) + self._mask[t]
            logits -= logits.max(1, keepdims=True)
            exp = np.exp(logits)
            total = exp.sum(1, keepdims=True)
            p = exp / total
            # Where there is no choice, the log is -inf and p is 0; a finite log keeps p · log p at 0.
            log_p = np.maximum(logits - np.log(total), np.finfo(dtype).min)
            if uniform is not None:
                below = np.cumsum(p, axis=1) <= uniform[t][:, None]
                chosen[:, t] = np.minimum(below.sum(1), self.sizes[t] - 1)
            log_prob += log_p[rows, chosen[:, t]]
            entropy[:, t] = -(p * np.where(p > 0, log_p, 0)).sum(1)
            steps.append(_Step(inputs, (i, f, o, g), cell_before, cell, state, raw, p, np.where(p > 0, log_p, 0)))
        return Rollout(chosen, log_prob, entropy), steps


@dataclass(frozen=True)
class _Step:
    inputs: Array
    gates: tuple[Array, Array, Array, Array]
    cell_before: Array
    cell: Array
    state: Array
    raw: Array
    probabilities: Array
    log_probabilities: Array
