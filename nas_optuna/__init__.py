"""Neural architecture search as a plugin for Optuna."""
