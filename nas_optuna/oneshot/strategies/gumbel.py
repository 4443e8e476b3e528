"""Strategy ``"gumbel"``: like `darts`, but each step computes one drawn candidate of every parameter.

Gumbel-softmax, straight-through: Wu et al. 2019 (FBNet), Dong and Yang 2019 (GDAS).
"""

from __future__ import annotations

from typing import ClassVar

from nas_optuna.oneshot.strategies.darts import DartsStrategy
from nas_optuna.spaces.supernet import Mode


class GumbelStrategy(DartsStrategy):
    """Like darts with one drawn candidate at a time (FBNet, GDAS): a step costs what a single network's costs."""

    mode: ClassVar[Mode] = "sampled"
