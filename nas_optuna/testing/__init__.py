"""Suites for parts of your own: subclass one in a pytest file and say how to make the part.

Ours run through the same suites. They need pytest to be run, and nothing beyond torch and Optuna to be imported.
"""

from nas_optuna.testing.searches import EvaluatorSuite, SamplerSuite
from nas_optuna.testing.spaces import SpaceSuite, SupernetSuite

__all__ = ["EvaluatorSuite", "SamplerSuite", "SpaceSuite", "SupernetSuite"]
