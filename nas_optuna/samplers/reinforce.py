"""How the controller's policy learns from finished trials."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas_optuna.samplers.base import History, Observation
from nas_optuna.samplers.comparison import is_informative, quantile_rank, z_score
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
class ControllerConfig:
    """Options of the controller.

    Attributes:
        hidden: Units of the LSTM.
        learning_rate: Learning rate of Adam.
        batch_size: Finished trials per update.
        entropy: Weight of one nat of entropy against the reward, whose standard deviation is about 0.3.
        reward: ``"rank"`` is the share of recent trials that a trial beats, which no outlier distorts.
            ``"standardised"`` is the value's distance from their mean in standard deviations, clipped to ±3.
            A pruned trial is compared with the others at the last epoch that it reached.
        failures: ``"ignore"`` failed trials, or reward them as ``"worst"``.

    Raises:
        ValueError: A value is out of its range.
    """

    hidden: int = 32
    learning_rate: float = 0.05
    batch_size: int = 4
    entropy: float = 0.01
    reward: Literal["rank", "standardised"] = "rank"
    failures: Literal["ignore", "worst"] = "ignore"

    def __post_init__(self) -> None:
        if self.hidden < 1 or self.batch_size < 1:
            raise ValueError(f"hidden and batch_size must be at least 1, got {self.hidden} and {self.batch_size}")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if self.entropy < 0:
            raise ValueError(f"entropy must not be negative, got {self.entropy}")
        if self.reward not in ("rank", "standardised"):
            raise ValueError(f"reward must be 'rank' or 'standardised', got {self.reward!r}")
        if self.failures not in ("ignore", "worst"):
            raise ValueError(f"failures must be 'ignore' or 'worst', got {self.failures!r}")


class ReinforceTrainer:
    """A policy and the state of its training: a function of the finished trials in their order, whatever the seed.

    Args:
        history: The trials to learn from; more may be added to it.
        config: How to learn.
        direction: Of the objective.
    """

    def __init__(self, history: History, config: ControllerConfig, direction: StudyDirection) -> None:
        self.history = history
        self.config = config
        self.policy = Policy(history.sizes, hidden=config.hidden)
        self.learned = 0
        self._sign = 1.0 if direction == StudyDirection.MAXIMIZE else -1.0
        self._moments = np.zeros((2, len(self.policy.theta)), self.policy.theta.dtype)
        self._updates = 0
        self._baseline = np.zeros(2)  # decayed sum of rewards, decayed sum of weights
        self._recent: deque[FrozenTrial] = deque(maxlen=WINDOW)
        self._pending: deque[Observation] = deque()
        self._taken = 0
        self._already: frozenset[int] = frozenset()  # trial numbers that a snapshot has learned from
        categorical = {n: d for n, d in history.space.items() if isinstance(d, CategoricalDistribution)}
        choices = {name: list(d.choices) for name, d in categorical.items()}
        self._identity = fingerprint(list(choices.items()), asdict(config), self._sign)

    def learn(self) -> None:
        """Update the policy with every full batch of trials that it has not learned from."""
        for finished in self.history.finished[self._taken :]:
            if finished.trial.number not in self._already and self._counts(finished.trial):
                self._pending.append(finished)
        self._taken = len(self.history.finished)
        while len(self._pending) >= self.config.batch_size:
            self._update([self._pending.popleft() for _ in range(self.config.batch_size)])

    def _counts(self, trial: FrozenTrial) -> bool:
        return is_informative(trial) or (trial.state == TrialState.FAIL and self.config.failures == "worst")

    def _update(self, batch: Sequence[Observation]) -> None:
        trials = [finished.trial for finished in batch]
        self._recent.extend(trials)
        measure = quantile_rank if self.config.reward == "rank" else z_score
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
        self._ascend(self.policy.gradient(tokens, advantage.astype(now.dtype), self.config.entropy)[0])
        self.learned += len(batch)

    def _ascend(self, gradient: NDArray[Any]) -> None:
        """One step of Adam (Kingma & Ba 2015) on the clipped gradient."""
        gradient *= min(1.0, MAX_GRADIENT_NORM / (float(np.linalg.norm(gradient)) + 1e-12))
        self._updates += 1
        corrected = []
        for moment, power, beta in zip(self._moments, (1, 2), ADAM_BETAS, strict=True):
            moment += (1 - beta) * (gradient**power - moment)
            corrected.append(moment / (1 - beta**self._updates))
        self.policy.theta += self.config.learning_rate * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)

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
