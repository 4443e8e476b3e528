"""From pictures and minutes to a network: the search, the training and the test, in the time that there is."""

from nas_optuna.fitting.clock import TimeBudget
from nas_optuna.fitting.run import fit
from nas_optuna.fitting.winner import Fitted

__all__ = ["Fitted", "TimeBudget", "fit"]
