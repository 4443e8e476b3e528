"""How the controller's policy learns from finished trials."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from torch import nn

from nas_optuna.samplers.history import History, Observation, is_informative, quantile_rank, z_score
from nas_optuna.samplers.lstm_policy import Policy
from nas_optuna.study.schema import TrialKey, attribute

if TYPE_CHECKING:
    from nas_optuna.samplers.controller import ControllerConfig

WINDOW = 64
"""A reward is relative to the last so many trials."""

BASELINE_DECAY = 0.9
"""EMA decay of the reward baseline, per trial."""

MAX_IMPORTANCE = 2.0
"""Truncation of π_now(a) / π_then(a) for trials that an older policy proposed."""

MAX_GRADIENT_NORM = 1.0

LOGIT_DECAY = 0.0005
"""Weight of the logits' squares, taken from the objective: they stay small enough to change their mind."""


class ReinforceTrainer:
    """A policy and the state of its training: a function of the finished trials in their order, whatever the seed."""

    def __init__(self, history: History, config: ControllerConfig, direction: StudyDirection) -> None:
        self.history = history
        self.config = config
        self.policy = Policy(history.sizes, hidden=config.hidden)
        self._optimizer = torch.optim.Adam(self.policy.parameters(), lr=config.learning_rate, fused=True)
        self._sign = 1.0 if direction == StudyDirection.MAXIMIZE else -1.0
        self._baseline = np.zeros(2)  # decayed sum of rewards, decayed sum of weights
        self._recent: deque[FrozenTrial] = deque(maxlen=WINDOW)
        self._pending: deque[Observation] = deque()
        self._taken = 0

    def learn(self) -> None:
        """Update the policy with every full batch of trials that it has not learned from."""
        self._pending += filter(self._counts, self.history.finished[self._taken :])
        self._taken = len(self.history.finished)
        while len(self._pending) >= self.config.batch_size:
            self._update([self._pending.popleft() for _ in range(self.config.batch_size)])

    def _counts(self, finished: Observation) -> bool:
        trial = finished.trial
        return is_informative(trial) or (trial.state == TrialState.FAIL and self.config.failures == "worst")

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
        # A trial that the policy did not propose counts as drawn uniformly.
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
