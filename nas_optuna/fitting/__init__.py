"""From pictures and minutes to a network: search, training and test in a given time."""

from nas_optuna.fitting.clock import TimeBudget
from nas_optuna.fitting.run import fit
from nas_optuna.fitting.winner import Fitted

__all__ = ["Fitted", "TimeBudget", "fit"]
