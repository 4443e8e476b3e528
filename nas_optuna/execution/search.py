"""What a search with our own training is about: its spec, its images and its space."""

from __future__ import annotations

from dataclasses import dataclass

from nas_optuna.data import SearchData
from nas_optuna.spaces import SearchSpace
from nas_optuna.spec import StudySpec


@dataclass(frozen=True)
class Search:
    """What a search with our own training is about."""

    spec: StudySpec
    data: SearchData
    space: SearchSpace
