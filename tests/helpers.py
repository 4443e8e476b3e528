"""What tests of several rooms share: the command line in this process, and settings that train in an instant."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nas_optuna import Recipe

RECIPE = Recipe(epochs=2, batch_size=64, input_size=8)
TINY = {"recipe.epochs": 1, "recipe.input_size": 8, "space.depth": 2, "data.train_limit": 200}


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Result]


def tiny(**more: object) -> list[str]:
    """Options that make every training take a tenth of a second; `more` with ``__`` for a dot."""
    settings = TINY | {key.replace("__", "."): value for key, value in more.items()}
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
