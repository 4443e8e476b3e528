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
        logits: ``[batch, length, widest]``, given the tokens before; -inf where a parameter has fewer choices.
    """

    tokens: Tensor
    logits: Tensor

    @property
    def log_prob(self) -> Tensor:
        """``[batch]``, natural log of the probability of the whole sequence."""
        return self.logits.log_softmax(2).gather(2, self.tokens[:, :, None]).sum((1, 2))

    @property
    def entropy(self) -> Tensor:
        """``[batch, length]`` nats, of each token's distribution."""
        logs = self.logits.log_softmax(2)
        return -(logs.exp() * logs.nan_to_num(neginf=0.0)).sum(2)


class Policy(nn.Module):
    """An LSTM over the parameters in order; each has its own embeddings and its own soft-max head.

    The input of a step is the embedding of the token chosen one step before (a learned vector at the first), as in
    Zoph & Le, "Neural Architecture Search with Reinforcement Learning" (2017), section 3.1.

    Args:
        sizes: The number of choices of each parameter, in order.
        hidden: Units of the LSTM, and dimensions of the embeddings.
        seed: Of the initial weights.
    """

    def __init__(self, sizes: Sequence[int], *, hidden: int = 32, seed: int = 0) -> None:
        super().__init__()
        self._sizes = list(sizes)
        with torch.device("meta"):  # torch's own initialisation would draw from the state that trainings draw from
            self.first = nn.Parameter(torch.empty(1, hidden))
            self.embeddings = nn.Embedding(sum(sizes[:-1]), hidden)  # of all parameters, one after the other
            self.cell = nn.LSTMCell(hidden, hidden)
            self.heads = nn.Linear(hidden, sum(sizes))
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
        # The cell's own forward has twice as many operations, each of which costs more than its arithmetic. There are
        # few different inputs, so that their share of the gates is computed once for all.
        inputs = torch.cat([self.first, self.embeddings.weight])
        shares = F.linear(inputs, self.cell.weight_ih, self.cell.bias_ih + self.cell.bias_hh)
        rows = shares.split([1, *self._sizes[:-1]])
        heads = zip(self.heads.weight.split(self._sizes), self.heads.bias.split(self._sizes), strict=True)
        hidden, recurrent = self.cell.hidden_size, self.cell.weight_hh.T
        state = memory = torch.zeros(batch, hidden)
        chosen = [torch.zeros(batch, dtype=torch.int64)]
        logits: list[Tensor] = []
        for step, (weight, bias) in enumerate(heads):
            gates = torch.addmm(rows[step].index_select(0, chosen[-1]), state, recurrent)
            keep, forget, _, out = gates.sigmoid().chunk(4, 1)
            memory = torch.addcmul(keep * gates.narrow(1, 2 * hidden, hidden).tanh(), forget, memory)
            state = out * memory.tanh()
            logits.append(F.linear(state, weight, bias) / temperature)
            chosen.append(choose(step, logits[-1].softmax(1)))
        widest = max(self._sizes)
        padded = [F.pad(values, (0, widest - values.shape[1]), value=-torch.inf) for values in logits]
        return Rollout(torch.stack(chosen[1:], 1), torch.stack(padded, 1))
