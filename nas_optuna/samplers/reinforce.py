"""How the controller's policy learns from finished trials."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas_optuna.samplers.base import Finished, History
from nas_optuna.samplers.comparison import rank, standardised, teaches
from nas_optuna.samplers.lstm_policy import Policy
from nas_optuna.samplers.snapshot import fingerprint
from nas_optuna.study.schema import TrialKey, attribute

WINDOW = 64
"""A reward is relative to the last so many trials."""

BASELINE_DECAY = 0.9
"""Of the rewards' moving average, a trial."""

MAX_IMPORTANCE = 2.0
"""Truncation of π_now(a) / π_then(a) for trials that an older policy proposed."""

MAX_GRADIENT_NORM = 1.0
ADAM_BETAS = (0.9, 0.999)


@dataclass(frozen=True)
class Settings:
    """The options of `ControllerSampler`, where they are described."""

    hidden: int
    learning_rate: float
    batch_size: int
    entropy: float
    reward: Literal["rank", "standardised"]
    failures: Literal["ignore", "worst"]


class ReinforceTrainer:
    """A policy and the state of its training: a function of the finished trials in their order, whatever the seed.

    Args:
        history: The trials to learn from; more may be added to it.
        settings: How to learn.
        direction: Of the objective.
    """

    def __init__(self, history: History, settings: Settings, direction: StudyDirection) -> None:
        self.history = history
        self.settings = settings
        self.policy = Policy(history.sizes, hidden=settings.hidden)
        self.learned = 0
        self._sign = 1.0 if direction == StudyDirection.MAXIMIZE else -1.0
        self._moments = np.zeros((2, len(self.policy.theta)), self.policy.theta.dtype)
        self._updates = 0
        self._baseline = np.zeros(2)  # decayed sum of rewards, decayed sum of weights
        self._recent: deque[FrozenTrial] = deque(maxlen=WINDOW)
        self._pending: deque[Finished] = deque()
        self._taken = 0
        self._already: frozenset[int] = frozenset()  # trial numbers that a snapshot has learned from
        choices = {name: list(d.choices) for name, d in history.space.items()}
        self._identity = fingerprint(list(choices.items()), asdict(settings), self._sign)

    def learn(self) -> None:
        """Update the policy with every full batch of trials that it has not learned from."""
        for finished in self.history.finished[self._taken :]:
            if finished.trial.number not in self._already and self._counts(finished.trial):
                self._pending.append(finished)
        self._taken = len(self.history.finished)
        while len(self._pending) >= self.settings.batch_size:
            self._update([self._pending.popleft() for _ in range(self.settings.batch_size)])

    def _counts(self, trial: FrozenTrial) -> bool:
        return teaches(trial) or (trial.state == TrialState.FAIL and self.settings.failures == "worst")

    def _update(self, batch: Sequence[Finished]) -> None:
        trials = [finished.trial for finished in batch]
        self._recent.extend(trials)
        measure = rank if self.settings.reward == "rank" else standardised
        rewards = np.array([measure(trial, self._recent, self._sign) for trial in trials])
        for reward in rewards:
            self._baseline = BASELINE_DECAY * self._baseline + (1 - BASELINE_DECAY) * np.array((reward, 1.0))
        tokens = np.array([finished.tokens for finished in batch])
        # A trial that the policy did not propose counts as drawn uniformly.
        uniform = -sum(math.log(size) for size in self.history.sizes)
        then = np.array([attribute(trial, TrialKey.LOG_PROB, uniform) for trial in trials])
        now = self.policy.evaluate(tokens).log_prob
        importance = np.exp(np.minimum(now - then, math.log(MAX_IMPORTANCE)))
        advantage = importance * (rewards - self._baseline[0] / self._baseline[1])
        self._ascend(self.policy.gradient(tokens, advantage.astype(now.dtype), self.settings.entropy)[0])
        self.learned += len(batch)

    def _ascend(self, gradient: NDArray[Any]) -> None:
        """One step of Adam (Kingma & Ba 2015) on the clipped gradient."""
        gradient *= min(1.0, MAX_GRADIENT_NORM / (float(np.linalg.norm(gradient)) + 1e-12))
        self._updates += 1
        corrected = []
        for moment, power, beta in zip(self._moments, (1, 2), ADAM_BETAS, strict=True):
            moment += (1 - beta) * (gradient**power - moment)
            corrected.append(moment / (1 - beta**self._updates))
        self.policy.theta += self.settings.learning_rate * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything that `restore` needs to go on as this learner would."""
        learned = {f.trial.number for f in self.history.finished if self._counts(f.trial)}
        learned -= {finished.trial.number for finished in self._pending}
        return {
            "identity": self._identity,
            "theta": self.policy.theta,
            "moments": self._moments,
            "baseline": self._baseline,
            "progress": np.array((self.learned, self._updates, max(learned))),
            "not_learned": np.array(sorted(set(range(max(learned))) - learned), np.int64),
        }

    def restore(self, state: dict[str, NDArray[Any]]) -> bool:
        """Continue from another learner's state; False if that learned otherwise or from other parameters."""
        if not np.array_equal(state.get("identity", ()), self._identity):
            return False
        self.policy.theta[:] = state["theta"]
        self._moments[:] = state["moments"]
        self._baseline = state["baseline"]
        self.learned, self._updates, last = (int(x) for x in state["progress"])
        self._already = frozenset(range(last + 1)) - frozenset(state["not_learned"].tolist())
        self._recent.extend(f.trial for f in self.history.finished if f.trial.number in self._already)
        return True
