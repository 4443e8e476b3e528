"""Strategy ``"gumbel"``: as `darts`, but each step computes one drawn candidate of every parameter.

Gumbel-softmax, straight-through: Wu et al. 2019 (FBNet), Dong and Yang 2019 (GDAS).
"""

from __future__ import annotations

from typing import ClassVar

from nas_optuna.oneshot.strategies.darts import DartsStrategy
from nas_optuna.spaces.supernet import Mode


class GumbelStrategy(DartsStrategy):
    """As darts, by one drawn candidate at a time (FBNet, GDAS): a step costs a single network's."""

    mode: ClassVar[Mode] = "sampled"
