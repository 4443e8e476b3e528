"""A fit that tests of several files look at: each one takes its seconds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import nas_optuna as nas
from nas_optuna.fitting.clock import Load

SECONDS = 16
LIMITED: dict[str, Any] = {
    "max_params": "30k",
    "overrides": ("data.train_limit=600", 'objectives=["accuracy_int8"]'),
}
"""Networks that are so small that a few steps fit into a second, on a busy machine, too."""


@dataclass(frozen=True)
class Limited:
    """A fit of the digits for a device: a limit on its weights, ranked in eight bits."""

    fitted: nas.Fitted
    said: list[str]
    load: float
    """How many times longer than on an idle machine things took meanwhile."""


def fit_limited(folder: Path, **more: Any) -> nas.Fitted:
    """Begin it, or go on with it."""
    return nas.fit("digits", SECONDS, folder, **{"say": lambda line: None, **LIMITED, **more})


@pytest.fixture(scope="session")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Limited:
    said: list[str] = []
    load = Load()
    fitted = fit_limited(tmp_path_factory.mktemp("fit") / "model", say=said.append)
    return Limited(fitted, said, load())
