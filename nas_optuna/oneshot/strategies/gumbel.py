"""Strategy ``"gumbel"``: as `darts`, but each step computes one drawn candidate of every parameter.

Gumbel-softmax, straight-through: Wu et al. 2019 (FBNet), Dong and Yang 2019 (GDAS).
"""

from __future__ import annotations

from typing import ClassVar

from nas_optuna.oneshot.strategies.darts import DartsStrategy
from nas_optuna.spaces.supernet import Mode


class GumbelStrategy(DartsStrategy):
    """A drawn path costs a single network's step, where a mixture costs all of them."""

    mode: ClassVar[Mode] = "sampled"
