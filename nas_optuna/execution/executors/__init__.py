"""Who runs a study's trials, by name. A new one is a file here and a line in `EXECUTORS`.

An executor is a class that takes `WorkerOptions` and its own options by keyword. Third parties register the entry point
group ``nas_optuna.executors`` or are named as ``package.module:Class`` or ``file.py:Class``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nas_optuna.registry import Registry

if TYPE_CHECKING:
    from nas_optuna.execution.executors.contract import Executor, WorkerOptions

EXECUTORS = Registry(
    "executor",
    "nas_optuna.executors",
    {
        "local": "nas_optuna.execution.executors.local:LocalExecutor",
        "ray": "nas_optuna.execution.executors.ray:RayExecutor",
    },
    ("options",),
)


def create_executor(name: str, options: WorkerOptions, own: Mapping[str, Any]) -> Executor:
    """The executor of that name."""
    from nas_optuna.execution.executors.contract import Executor as Wanted

    made: Executor = EXECUTORS.make(name, options, options=own, wanted=Wanted)
    return made
