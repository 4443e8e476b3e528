"""The controller's policy, an LSTM that emits one token per parameter, and its training by REINFORCE."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from torch import Tensor, nn

from nas_optuna.samplers.history import History, Observation, is_informative, quantile_rank, z_score
from nas_optuna.study.schema import TrialKey, attribute

if TYPE_CHECKING:
    from nas_optuna.samplers.controller import ControllerConfig

WINDOW = 64
"""The number of latest trials to which a reward is relative."""

BASELINE_DECAY = 0.9
"""Decay of the reward baseline, an exponential moving average, per trial."""

MAX_IMPORTANCE = 2.0
"""Truncation of the importance ratio π_now(a) / π_then(a) for trials that an older policy proposed."""

MAX_GRADIENT_NORM = 1.0

LOGIT_DECAY = 0.0005
"""Weight of the penalty on squared logits, which keeps them small enough for the policy to change its mind."""


@dataclass(frozen=True)
class Rollout:
    """Token sequences and the policy's logits at each token."""

    tokens: Tensor  # ``[batch, length]`` int64, an index into each parameter's choices
    logits: Tensor  # ``[batch, length, widest]``, given the tokens before; -inf where a parameter has fewer choices

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
    """An LSTM over the parameters in order; each has its own embeddings and its own softmax head.

    The input of a step is the embedding of the token chosen one step before (a learned vector at the first), as in
    Zoph & Le, "Neural Architecture Search with Reinforcement Learning" (2017), section 3.1.
    """

    # `sizes` are the parameters' numbers of choices; `hidden` the LSTM's units and the embeddings' dimensions.
    def __init__(self, sizes: Sequence[int], *, hidden: int = 32, seed: int = 0) -> None:
        super().__init__()
        self._sizes = list(sizes)
        with torch.device("meta"):  # torch's own initialisation would draw from the generator that trainings use
            self.first = nn.Parameter(torch.empty(1, hidden))
            self.embeddings = nn.Embedding(sum(sizes[:-1]), hidden)  # of all parameters, one after another
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
        """The rollout of given sequences, ``[batch, length]``."""
        return self._run(len(tokens), lambda step, _: tokens[:, step])

    def _run(self, batch: int, choose: Callable[[int, Tensor], Tensor], temperature: float = 1.0) -> Rollout:
        """Run the policy over every token, which `choose` takes from the step and its probabilities."""
        # The cell's own forward has twice as many operations, whose overhead exceeds their arithmetic. There are few
        # different inputs, so their share of the gates is computed once for all of them.
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


class ReinforceTrainer:
    """A policy and the state of its training, which depend on the finished trials in their order, and on no seed."""

    def __init__(self, history: History, config: ControllerConfig, direction: StudyDirection) -> None:
        self.history = history
        self.config = config
        self.policy = Policy(history.sizes, hidden=config.hidden)
        self._optimizer = torch.optim.Adam(self.policy.parameters(), lr=config.learning_rate, fused=True)
        self._sign = 1.0 if direction == StudyDirection.MAXIMIZE else -1.0
        self._baseline = np.zeros(2)  # decayed sums of rewards and of weights
        self._recent: deque[FrozenTrial] = deque(maxlen=WINDOW)
        self._pending: deque[Observation] = deque()
        self._taken = 0

    def learn(self) -> None:
        """Update the policy with every full batch of trials that it has not learned from."""
        news = self.history.finished[self._taken :]
        failures = self.config.failures == "worst"
        self._pending += [o for o in news if is_informative(o.trial) or (failures and o.trial.state == TrialState.FAIL)]
        self._taken = len(self.history.finished)
        while len(self._pending) >= self.config.batch_size:
            self._update([self._pending.popleft() for _ in range(self.config.batch_size)])

    def _update(self, batch: Sequence[Observation]) -> None:
        """One step of REINFORCE with an entropy bonus (Williams 1992)."""
        trials = [finished.trial for finished in batch]
        self._recent.extend(trials)
        measure = quantile_rank if self.config.reward == "rank" else z_score
        rewards = np.array([measure(trial, self._recent, self._sign) for trial in trials])
        for reward in rewards:
            self._baseline = BASELINE_DECAY * self._baseline + (1 - BASELINE_DECAY) * np.array((reward, 1.0))
        rollout = self.policy.evaluate(torch.as_tensor([finished.tokens for finished in batch]))
        log_prob = rollout.log_prob
        # A trial that the policy did not propose is treated as drawn uniformly.
        uniform = -sum(math.log(size) for size in self.history.sizes)
        then = [attribute(trial, TrialKey.LOG_PROB, uniform) for trial in trials]
        importance = (log_prob.detach() - torch.as_tensor(then)).exp().clamp(max=MAX_IMPORTANCE)
        advantage = importance * torch.as_tensor(rewards - self._baseline[0] / self._baseline[1])
        squares = rollout.logits.nan_to_num(neginf=0.0).square().sum((1, 2))
        objective = advantage * log_prob + self.config.entropy * rollout.entropy.sum(1) - LOGIT_DECAY * squares
        self._optimizer.zero_grad()
        (-objective.mean()).backward()
        nn.utils.clip_grad_norm_(self.policy.parameters(), MAX_GRADIENT_NORM)
        self._optimizer.step()
