"""From pictures and minutes to a network: the search, the training and the test, in the time that there is."""

from nas_optuna.fitting.fitted import Fitted
from nas_optuna.fitting.run import fit
from nas_optuna.fitting.time_budget import TimeBudget

__all__ = ["Fitted", "TimeBudget", "fit"]
