"""Test suites for your own parts: subclass one in a pytest file and define how to make the part.

The built-in parts pass the same suites. Running them needs pytest; importing them needs only torch and Optuna.
"""

from nas_optuna.testing.searches import EvaluatorSuite, SamplerSuite
from nas_optuna.testing.spaces import SpaceSuite, SupernetSuite

__all__ = ["EvaluatorSuite", "SamplerSuite", "SpaceSuite", "SupernetSuite"]
