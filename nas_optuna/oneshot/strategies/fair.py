"""Strategy ``"fair"``: shared weights trained on uniformly drawn paths, so that every architecture gets its share.

Guo et al. 2020 ("Single path one-shot"): while weights are trained, nothing is preferred, and so no choice is judged
by weights that an early preference has trained more. Alphas follow on the frozen weights (`oneshot.ranking`).

Many steps on few images rank better than few steps on many: each step trains one path, and what counts is how many
paths were trained. AdamW's second moment has a short memory, because each step moves other weights than the one before.
"""

from __future__ import annotations

import math
import random
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from nas_optuna.data.loaders import Batch
from nas_optuna.oneshot.strategies.base import RankedOptions, Strategy
from nas_optuna.spaces.supernet import ChoiceWeights

STEPS_PER_PARAMETER = 200
"""The default length: that many steps for each parameter of the space, in whole epochs."""
WARM_UP = 0.1
"""The share of all steps in which the learning rate rises to its peak."""


class FairOptions(RankedOptions):
    """Options of strategy ``"fair"``."""

    batch_size: int = Field(default=16, ge=1)  # small, because many steps count more than many images
    optimizer: Literal["sgd", "adamw"] = "adamw"
    learning_rate: float = Field(default=1e-3, gt=0)


class FairStrategy(Strategy):
    """Shared weights on uniformly drawn paths, then a ranking (single path one-shot): the default."""

    Options = FairOptions
    adamw: ClassVar[dict[str, Any]] = {"betas": (0.9, 0.95), "fused": True}  # a short memory

    def default_epochs(self) -> int:
        """The number of whole epochs that `STEPS_PER_PARAMETER` comes to, at least one."""
        return max(1, round(STEPS_PER_PARAMETER * len(self.supernet.alphas) / len(self.images)))

    def begin_epoch(self, seed: int) -> None:
        """Draw each epoch's paths from its own seed, so that a stopped training goes on with the same ones."""
        self._rng = random.Random(seed)

    def step(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, int]:
        """Draw a path and train it."""
        path = {
            name: ChoiceWeights(self._rng.randrange(len(alpha)), None) for name, alpha in self.supernet.alphas.items()
        }
        return self.train_weights(*self.cross_entropy(batch, path), batch)

    def learning_rate(self, step: int, steps: int) -> float:
        """A linear rise, under a cosine to zero."""
        progress = (self.finished * steps + step + 0.5) / (self.length * steps)
        factor = min(1.0, progress / WARM_UP)
        if self.options.schedule == "cosine":
            factor *= 0.5 * (1 + math.cos(math.pi * progress))
        return float(self.options.learning_rate * factor)
