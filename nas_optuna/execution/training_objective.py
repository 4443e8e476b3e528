"""The objective of the built-in training: images and a recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nas_optuna.data import SearchData
from nas_optuna.devices import resolve_device
from nas_optuna.errors import checked
from nas_optuna.execution.evaluator import TrainingEvaluator
from nas_optuna.execution.events import Callback, OptunaCallback
from nas_optuna.execution.objective import EvaluatorObjective
from nas_optuna.execution.threads import choose_threads
from nas_optuna.execution.trial_files import DEFAULT_KEPT_BYTES
from nas_optuna.objectives import parse_criteria
from nas_optuna.spaces import SearchSpace
from nas_optuna.spaces.function import SpaceFunction
from nas_optuna.spec import LatencySpec, Recipe
from nas_optuna.training.fit import never


class Objective(EvaluatorObjective):
    """Train the architecture that a trial chooses on images, by a recipe: a plain Optuna objective.

    See `EvaluatorObjective` for what it records, how it prunes and what it raises.

    Args:
        space: The search space, whose channels and classes must be those of the data; or a function with
            ``@nas.space``, which takes them from the data.
        data: Training and validation images.
        recipe: How each network is trained. Its `input_size` must be that of the space, or None.
        objectives: What is returned, in order; this and the other arguments are those of `EvaluatorObjective`.
        limits: Largest allowed value of each cost, by name.
        latency: How the cost ``latency_ms`` is determined.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``.
        reuse_duplicates: Whether a repeated architecture takes over the values of its first training.
        checkpoints: Folder for the state of running trials, of one study only.
        interrupted: Called between steps; when it returns True, `Interrupted` is raised.
        callbacks: Told of each epoch.
        search: Settings of the recipe that each trial chooses beside its architecture, as
            `nas_optuna.hyperparameters.parse_range` takes them, e.g. ``{"learning_rate": "1e-4..1e-1:log"}``.
        keep_weights: Keep the weights of each complete trial.
        keep_paused: Bytes of stopped trainings to keep.

    The number of CPU threads is that of the program, and small networks are often faster with one: call
    `choose_threads` before ``study.optimize``.

    Raises:
        SpecError: Space, data and recipe do not fit together, or the device lacks the recipe's precision.

    Examples:
        >>> import optuna
        >>> from nas_optuna import ConvSpace, Objective, Recipe, load_data
        >>> objective = Objective(ConvSpace(depth=1, input_size=8), load_data("digits"), Recipe(epochs=1))
        >>> study = optuna.create_study(direction="maximize")
        >>> study.optimize(objective, n_trials=1)
        >>> 0 <= study.best_value <= 1
        True
    """

    @checked
    def __init__(
        self,
        space: SearchSpace | SpaceFunction,
        data: SearchData,
        recipe: Recipe | None = None,
        *,
        objectives: Sequence[str] = ("accuracy",),
        limits: Mapping[str, float] | None = None,
        latency: LatencySpec | None = None,
        device: str = "auto",
        reuse_duplicates: bool = True,
        checkpoints: Path | None = None,
        interrupted: Callable[[], bool] = never,
        callbacks: Sequence[Callback | OptunaCallback] = (),
        search: Mapping[str, Any] | None = None,
        keep_weights: bool = False,
        keep_paused: int = DEFAULT_KEPT_BYTES,
    ) -> None:
        recipe = recipe or Recipe()
        if isinstance(space, SpaceFunction):
            size = recipe.input_size or data.train.side
            space = space(in_channels=data.train.channels, classes=len(data.train.classes), input_size=size)
        metrics = [c.metric for c in parse_criteria(objectives) if c.metric]
        super().__init__(
            TrainingEvaluator(space, data, recipe, resolve_device(device), metrics),
            objectives=objectives,
            limits=limits,
            latency=latency,
            device=device,
            reuse_duplicates=reuse_duplicates,
            checkpoints=checkpoints,
            interrupted=interrupted,
            callbacks=callbacks,
            search=search,
            keep_weights=keep_weights,
            keep_paused=keep_paused,
        )

    def choose_threads(self) -> str:
        """Use the number of CPU threads with which a training step is fastest, as ``nas-optuna run`` does.

        An objective does not do so by itself, because the number holds for the whole process, including the program's
        other models and objectives.

        Returns:
            What was measured, as one line; empty if ``OMP_NUM_THREADS`` is set, the device is not the CPU, or trainings
            are too short to be worth a measurement.
        """
        return choose_threads(self.evaluator)
