"""The controller's policy: an LSTM that emits one token per parameter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Rollout:
    """Token sequences and what the policy thought at each token.

    Attributes:
        tokens: ``[batch, length]`` int64, an index into each parameter's choices.
        logits: For each parameter ``[batch, its choices]``, given the tokens before it.
    """

    tokens: Tensor
    logits: list[Tensor]

    @property
    def log_prob(self) -> Tensor:
        """``[batch]``, natural log of the probability of the whole sequence."""
        columns = zip(self.logits, self.tokens.T, strict=True)
        return -torch.stack([F.cross_entropy(logits, chosen, reduction="none") for logits, chosen in columns]).sum(0)

    @property
    def entropy(self) -> Tensor:
        """``[batch, length]`` nats, of each token's distribution."""
        logs = [logits.log_softmax(1) for logits in self.logits]
        return -torch.stack([(log.exp() * log).sum(1) for log in logs], 1)


class Policy(nn.Module):
    """An LSTM over the parameters in order; each has its own embedding and its own soft-max head.

    The input of a step is the embedding of the token chosen one step before (a learned vector at the first), as in
    Zoph & Le, "Neural Architecture Search with Reinforcement Learning" (2017), section 3.1.

    Args:
        sizes: The number of choices of each parameter, in order.
        hidden: Units of the LSTM, and dimensions of the embeddings.
        seed: Of the initial weights.
    """

    def __init__(self, sizes: Sequence[int], *, hidden: int = 32, seed: int = 0) -> None:
        super().__init__()
        with torch.device("meta"):  # torch's own initialisation would draw from the state that trainings draw from
            self.first = nn.Parameter(torch.empty(1, hidden))
            self.embeddings = nn.ModuleList(nn.Embedding(size, hidden) for size in sizes[:-1])
            self.cell = nn.LSTMCell(hidden, hidden)
            self.heads = nn.ModuleList(nn.Linear(hidden, size) for size in sizes)
        self.to_empty(device="cpu")
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, weights in self.named_parameters():
                weights.zero_() if "bias" in name else weights.uniform_(-0.1, 0.1, generator=generator)
            self.cell.bias_ih[hidden : 2 * hidden] = 1  # the forget gate starts open

    @torch.no_grad()
    def sample(self, batch: int, generator: torch.Generator, temperature: float = 1.0) -> Rollout:
        """Draw `batch` sequences; a higher temperature flattens every distribution."""
        return self._run(batch, lambda _, p: torch.multinomial(p, 1, generator=generator)[:, 0], temperature)

    def evaluate(self, tokens: Tensor) -> Rollout:
        """What the policy thinks of given sequences, ``[batch, length]``."""
        return self._run(len(tokens), lambda step, _: tokens[:, step])

    def _run(self, batch: int, choose: Callable[[int, Tensor], Tensor], temperature: float = 1.0) -> Rollout:
        """Forward through every token; `choose` gives each, of the step and its probabilities."""
        inputs, state = self.first.expand(batch, -1), None
        chosen: list[Tensor] = []
        logits: list[Tensor] = []
        for step, head in enumerate(self.heads):
            if step:
                inputs = self.embeddings[step - 1](chosen[-1])
            state = self.cell(inputs, state)
            logits.append(head(state[0]) / temperature)
            chosen.append(choose(step, logits[-1].softmax(1)))
        return Rollout(torch.stack(chosen, 1), logits)
