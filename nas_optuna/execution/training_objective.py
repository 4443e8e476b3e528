"""The objective of the built-in training: images and a recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack

from nas_optuna.data import SearchData
from nas_optuna.devices import resolve_device
from nas_optuna.errors import SpecError, checked, unknown
from nas_optuna.execution.evaluator import TrainingEvaluator
from nas_optuna.execution.events import Callback
from nas_optuna.execution.objective import EvaluatorObjective
from nas_optuna.execution.threads import choose_threads
from nas_optuna.objectives import parse_criteria
from nas_optuna.spaces import SearchSpace
from nas_optuna.spaces.function import SpaceFunction
from nas_optuna.spec import LatencySpec, Recipe


class Options(TypedDict, total=False):
    """The further arguments of `EvaluatorObjective`, which editors complete and type checkers check."""

    limits: Mapping[str, float] | None
    latency: LatencySpec | None
    reuse_duplicates: bool
    checkpoints: Path | None
    interrupted: Callable[[], bool]
    callbacks: Sequence[Callback]
    search: Mapping[str, Any] | None
    keep_weights: bool
    keep_paused: int


class Objective(EvaluatorObjective):
    """Train the architecture that a trial chooses on images, by a recipe: a plain Optuna objective.

    See `EvaluatorObjective` for what it records, how it prunes and what it raises.

    Args:
        space: The search space, whose channels and classes must be those of the data; or a function with
            ``@nas.space``, which takes them from the data.
        data: Training and validation images.
        recipe: How each network is trained. Its `input_size` must be that of the space, or None.
        objectives: What is returned, in order; see `nas_optuna.objectives`.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``.
        options: The other arguments of `EvaluatorObjective`, e.g. ``limits={"macs": 1e6}``.

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
        device: str = "auto",
        **options: Unpack[Options],
    ) -> None:
        if wrong := options.keys() - Options.__annotations__.keys():
            raise SpecError(unknown("argument of Objective:", min(wrong), Options.__annotations__))
        recipe = recipe or Recipe()
        if isinstance(space, SpaceFunction):
            size = recipe.input_size or data.train.side
            space = space(in_channels=data.train.channels, classes=len(data.train.classes), input_size=size)
        metrics = [c.metric for c in parse_criteria(objectives) if c.metric]
        evaluator = TrainingEvaluator(space, data, recipe, resolve_device(device), metrics)
        super().__init__(evaluator, objectives=objectives, device=device, **options)

    def choose_threads(self) -> str:
        """Use the number of CPU threads with which a training step is fastest, as ``nas-optuna run`` does.

        An objective does not do so by itself, because the number holds for the whole process, including the program's
        other models and objectives.

        Returns:
            What was measured, as one line; empty if ``OMP_NUM_THREADS`` is set, the device is not the CPU, or trainings
            are too short to be worth a measurement.
        """
        return choose_threads(self.evaluator)
