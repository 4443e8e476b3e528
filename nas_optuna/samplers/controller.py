"""The RNN controller: an LSTM that proposes architectures and learns from their values by REINFORCE."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from optuna.study import Study
from optuna.trial import FrozenTrial

from nas_optuna.digests import seed_for
from nas_optuna.lazily import lazily
from nas_optuna.samplers.base import ArchitectureSampler, configured
from nas_optuna.samplers.history import History, Tokens
from nas_optuna.spaces import SearchSpace
from nas_optuna.study.optuna_internals import set_trial_attribute
from nas_optuna.study.schema import TrialKey

with lazily():
    import torch

    from nas_optuna.samplers.policy import Policy, ReinforceTrainer

CANDIDATES = 64
"""Sequences drawn for a proposal; the first unseen one is taken."""

TEMPERATURES = (1.0, 2.0, 4.0, 1e9)
"""The policy is flattened step by step, in the end to uniform, until a candidate is new."""


@dataclass(frozen=True)
class ControllerConfig:
    """Options of the controller.

    Attributes:
        hidden: Units of the LSTM.
        learning_rate: Of Adam.
        batch_size: Finished trials per update.
        entropy: Weight of the entropy in nats; rewards have a standard deviation of about 0.3.
        reward: ``"rank"`` is the share of recent trials that a trial beats, which outliers do not distort;
            ``"standardised"`` is the value's distance from their mean in standard deviations, clipped to ±3. A pruned
            trial is compared at the last epoch that it reached.
        failures: How failed trials are rewarded: not at all, or as the worst.
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


class ControllerSampler(ArchitectureSampler):
    """An LSTM policy trained by REINFORCE.

    Zoph & Le, "Neural Architecture Search with Reinforcement Learning" (2017), with details of ENAS
    (Pham et al. 2018).

    Each categorical parameter is one token, in the natural order of the parameters' names, with its own embedding
    and softmax head. After every `batch_size` finished trials the policy takes one Adam step along the gradient of
    reward minus a bias-corrected moving average, plus an entropy bonus. A trial that an older policy proposed, as
    happens with asynchronous workers, is weighted by the truncated ratio of its current probability to its former one.
    An architecture is not proposed twice while the policy, flattened if necessary, offers another.

    The policy is a function of the finished trials in their order of completion, so any process can rebuild it.

    It is for one objective. Parameters that are not categorical are sampled uniformly.
    """

    Config = ControllerConfig
    one_objective = True
    _config: ControllerConfig

    def propose(self, history: History, study: Study, trial: FrozenTrial) -> Tokens:
        """Learn from newly finished trials, then draw."""
        policy = self._learn(history, study)
        generator = torch.Generator().manual_seed(seed_for(self._seed, trial.number, type(self).__name__))
        exhausted = len(history.seen) >= math.prod(history.sizes)
        for temperature in TEMPERATURES:
            rollout = policy.sample(CANDIDATES, generator, temperature)
            candidates = [tuple(tokens) for tokens in rollout.tokens.tolist()]
            if temperature == TEMPERATURES[0]:
                entropy = rollout.entropy.mean()
            unseen = [i for i, tokens in enumerate(candidates) if history.is_new(tokens)]
            allowed = next((i for i in unseen if self._allows(history, candidates[i])), None)
            if allowed is not None or exhausted:
                break
        chosen = next((i for i in (allowed, *unseen) if i is not None), 0)
        proposal, log_prob = candidates[chosen], rollout.log_prob[chosen]
        if not unseen and not exhausted and history.is_new(left := self._random(history, self._rng(trial))):
            proposal, log_prob = left, policy.evaluate(torch.tensor([left])).log_prob[0]
        for name, value in ((TrialKey.LOG_PROB, log_prob), (TrialKey.ENTROPY, entropy)):
            set_trial_attribute(study, trial, name, float(value))
        return proposal

    def _learn(self, history: History, study: Study) -> Policy:
        if "trainer" not in history.derived:
            history.derived["trainer"] = ReinforceTrainer(history, self._config, study.direction)
        trainer: ReinforceTrainer = history.derived["trainer"]
        trainer.learn()
        return trainer.policy


@configured(ControllerConfig)
def controller(space: SearchSpace, seed: int, config: ControllerConfig) -> ControllerSampler:
    """An LSTM trained by reinforcement: for 100 trials and more of one objective."""
    return ControllerSampler(config, seed=seed).for_space(space)
