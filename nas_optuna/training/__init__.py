"""Training by a recipe, with one result per epoch. Nothing here knows Optuna."""

from __future__ import annotations

from nas_optuna.training.checkpoint import Checkpoint, CheckpointFolder
from nas_optuna.training.evaluate import Evaluation, evaluate
from nas_optuna.training.fit import EpochResult, epoch_seed, fit
from nas_optuna.training.network import make_network
from nas_optuna.training.serialization import ImageClassifier, load_network, make_header, save_network
from nas_optuna.training.step import TrainStep

__all__ = [
    "Checkpoint",
    "CheckpointFolder",
    "EpochResult",
    "Evaluation",
    "ImageClassifier",
    "TrainStep",
    "epoch_seed",
    "evaluate",
    "fit",
    "load_network",
    "make_header",
    "make_network",
    "save_network",
]
