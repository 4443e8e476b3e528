"""The objective: what one trial does, from suggested choices to a value."""

from __future__ import annotations

import hashlib
import logging
import shutil
import statistics
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import optuna
from optuna.trial import BaseTrial, FrozenTrial, TrialState

from nas_optuna.costs.cost_model import Costs
from nas_optuna.data import Augmentation, BatchLoader, SearchData, make_loader
from nas_optuna.devices import device_name, resolve_device
from nas_optuna.errors import TrainingError
from nas_optuna.execution.pruning import report, should_prune
from nas_optuna.objectives import parse_objective
from nas_optuna.spaces import SearchSpace
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spec import LatencySpec, Recipe
from nas_optuna.study.optuna_internals import may_have_trial_with, set_trial_attributes
from nas_optuna.study.schema import TrialKey, attribute, attribute_of
from nas_optuna.training import CheckpointFolder, EpochResult, fit, make_network
from nas_optuna.training.failure import is_out_of_memory
from nas_optuna.training.precision import resolve_precision

logger = logging.getLogger(__name__)

Listener = Callable[[BaseTrial, EpochResult], None]
"""Told each epoch's result as it comes; with several repeats, the first seed's with the mean accuracy."""


class Objective:
    """Train the architecture that a trial chooses and return its objectives' values: a plain Optuna objective.

    Reports after each epoch (step = epochs finished, from 1), obeys the study's pruner, and records what it did as
    trial user attributes (`Attribute`). A loss that is not finite ends the trial as pruned with its cause.

    An architecture above a limit is not trained. Its trial ends as pruned, with the constraint that it violates: no
    value has to be made up for it, and it is nobody's best, not even in tools that do not know of constraints.

    Works under a bare ``study.optimize(objective, n_trials=20)`` and on an ``optuna.trial.FixedTrial``.

    Args:
        space: The search space; its input size must be the recipe's.
        data: Training and validation images.
        recipe: How each network is trained.
        objectives: What is returned, in order; see `nas_optuna.objectives`. The study's directions must be theirs.
        limits: The most that each cost may be, by name.
        latency: How the cost ``latency_ms`` is known.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``.
        reuse_duplicates: Take over the values of an architecture that the study has finished under the same recipe,
            rather than train it again; recorded as ``duplicate_of``.
        checkpoints: Folder for the state of running trials; without it an interrupted trial begins anew.
        interrupted: Asked between steps; `fit` raises `Interrupted` when it says so.
        on_epoch: Told of each epoch.

    Raises:
        DeviceError: The device is not there.
        SpecError: An objective is unknown, no architecture meets a limit, or the recipe asks for a precision that the
            device has not.
        TableError: The latency table is damaged, or was measured elsewhere.
        TrainingError: Memory ran out twice (on a trial).
    """

    def __init__(
        self,
        space: SearchSpace,
        data: SearchData,
        recipe: Recipe | None = None,
        *,
        objectives: Sequence[str] = ("accuracy",),
        limits: Mapping[str, float] | None = None,
        latency: LatencySpec | None = None,
        device: str = "auto",
        reuse_duplicates: bool = True,
        checkpoints: Path | None = None,
        interrupted: Callable[[], bool] = lambda: False,
        on_epoch: Listener | None = None,
    ) -> None:
        self.space = space
        self.data = data
        self.recipe = recipe or Recipe()
        self.device = resolve_device(device)
        self._precision = str(resolve_precision(self.recipe.precision, self.device)).removeprefix("torch.")
        self.objectives = tuple(map(parse_objective, objectives))
        self.costs = Costs(space, self.device, objectives, limits, latency)
        self.costs.check_limits()
        self._reuse_duplicates = reuse_duplicates
        self._checkpoints = checkpoints
        self._interrupted = interrupted
        self._on_epoch = on_epoch

    def __call__(self, trial: BaseTrial) -> float | tuple[float, ...]:
        """Evaluate one trial.

        Returns:
            The objectives' values; accuracy is that of the validation images after the last epoch, 0 … 1, the mean
            over the recipe's repeats.
        """
        architecture = self.space.suggest(trial)
        earlier = self._finished_before(trial, architecture) if self._reuse_duplicates else None
        costs = self._costs_of(trial, earlier, architecture)
        self._record_choice(trial, architecture, costs)
        self._obey_limits(trial, costs)
        if earlier is not None:
            return self._reused(trial, earlier)
        try:
            accuracy, costs = self._trained(trial, architecture, costs)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            trial.set_user_attr(TrialKey.CAUSE, "oom")
            raise TrainingError(f"{architecture} does not fit into the memory of {self.device}", "oom") from error
        except TrainingError as error:
            trial.set_user_attr(TrialKey.CAUSE, error.cause)
            if error.cause != "non-finite loss":
                raise
            logger.warning("trial %d: %s", trial.number, error)
            raise optuna.TrialPruned(str(error)) from error
        return _one_or_all([objective.value(accuracy, costs) for objective in self.objectives])

    @cached_property
    def train_loader(self) -> BatchLoader:
        """Training batches, made once and shared by all trials of this process."""
        recipe = self.recipe
        augmentation = Augmentation(recipe.shift, recipe.flip, recipe.cutout)
        return make_loader(
            self.data.train,
            recipe.batch_size,
            self.space.input_size,
            self.device,
            None if augmentation == Augmentation() else augmentation,
        )

    @cached_property
    def validation_loader(self) -> BatchLoader:
        """Validation batches, likewise."""
        return make_loader(self.data.validation, self.recipe.batch_size, self.space.input_size, self.device)

    def describe_device(self) -> str:
        """One line: the device, its number format, and where the images live."""
        return f"{self._device_name} ({self.device}), {self._precision}, images {self.train_loader.kind}"

    def _costs_of(self, trial: BaseTrial, earlier: FrozenTrial | None, architecture: Architecture) -> dict[str, float]:
        """The costs; a measured one is measured once, though the trial goes on after a crash or repeats another."""
        for attributes in (trial.user_attrs, earlier.user_attrs if earlier else {}):
            known = {name: attribute_of(attributes, TrialKey.cost(name)) for name in self.costs.names}
            if None not in known.values():
                return known
        return self.costs(architecture)

    def _obey_limits(self, trial: BaseTrial, costs: Mapping[str, float]) -> None:
        excess = self.costs.excess(costs)
        if not excess:
            return
        for name, value in excess.items():
            if name not in trial.constraints:  # where the trial goes on after a crash it is
                trial.set_constraint(name, value)
        above = [name for name, value in excess.items() if value > 0]
        trial.set_user_attr(TrialKey.FEASIBLE, not above)
        if above:
            trial.set_user_attr(TrialKey.CAUSE, f"above the limit of {' and '.join(above)}")
            raise optuna.TrialPruned(trial.user_attrs[TrialKey.CAUSE])

    def _trained(
        self, trial: BaseTrial, architecture: Architecture, costs: dict[str, float]
    ) -> tuple[float, dict[str, float]]:
        with self._checkpoint_folder(trial, architecture) as folder:
            seeds = range(self.recipe.seed, self.recipe.seed + self.recipe.repeats)
            trainings = [self._training(architecture, seed, folder and folder / f"seed-{seed}") for seed in seeds]
            return self._result(trial, architecture, costs, trainings)

    def _result(
        self,
        trial: BaseTrial,
        architecture: Architecture,
        costs: dict[str, float],
        trainings: Sequence[Iterator[EpochResult]],
    ) -> tuple[float, dict[str, float]]:
        """Train all repeats side by side, an epoch at a time, so that their mean accuracy can be pruned.

        Pruned is by the first objective that training decides. Returned are the accuracy and the costs, of which a
        measured one has become more exact.
        """
        decided = next(objective for objective in self.objectives if objective.needs_accuracy)
        epochs, seconds, accuracy = 0, 0.0, 0.0
        attributes: dict[str, object] = {}
        try:
            for results in zip(*trainings, strict=True):
                accuracies = [result.accuracy for result in results]
                accuracy = statistics.fmean(accuracies)
                epochs += len(results)
                seconds += sum(result.seconds for result in results)
                if self._on_epoch:
                    self._on_epoch(trial, results[0])
                costs = self.costs.measured_again(architecture, costs)
                others = {o.name: costs[o.name] for o in self.objectives if not o.needs_accuracy}
                with warnings.catch_warnings():
                    # A trial that goes on after a crash may have reported its last epoch already.
                    warnings.filterwarnings("ignore", message=".*already reported.*")
                    report(trial, decided.value(accuracy, costs), results[0].epoch)
                if results[0].epoch < self.recipe.epochs and should_prune(trial, others):
                    raise optuna.TrialPruned
            if len(accuracies) > 1:
                attributes[TrialKey.SPREAD] = statistics.stdev(accuracies)
            if results[0].micro_batches > 1:
                attributes[TrialKey.MICRO_BATCHES] = results[0].micro_batches
        finally:
            if epochs:
                attributes[TrialKey.ACCURACY] = accuracy
            attributes |= {**_cost_keys(costs), TrialKey.EPOCHS: epochs, TrialKey.SECONDS: round(seconds, 3)}
            set_trial_attributes(trial, attributes)
        return accuracy, costs

    def _training(self, architecture: Architecture, seed: int, folder: Path | None) -> Iterator[EpochResult]:
        return fit(
            make_network(self.space, architecture, self.recipe, self.device, seed),
            self.train_loader,
            self.validation_loader,
            self.recipe,
            self.device,
            seed=seed,
            checkpoints=CheckpointFolder(folder) if folder else None,
            interrupted=self._interrupted,
        )

    @contextmanager
    def _checkpoint_folder(self, trial: BaseTrial, architecture: Architecture) -> Iterator[Path | None]:
        """A folder that no other trial, architecture or recipe shares; kept only where the training is to go on."""
        if self._checkpoints is None:
            yield None
            return
        identity = hashlib.sha256(f"{architecture}/{self.recipe.fingerprint}".encode()).hexdigest()[:12]
        folder = self._checkpoints / f"trial-{trial.number}-{identity}"
        try:
            yield folder
        except (optuna.TrialPruned, TrainingError):
            shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)

    def _record_choice(self, trial: BaseTrial, architecture: Architecture, costs: Mapping[str, float]) -> None:
        attributes: dict[str, object] = {
            **_cost_keys(costs),
            TrialKey.ARCHITECTURE: str(architecture),
            TrialKey.RECIPE: self.recipe.fingerprint,
            TrialKey.SEED: self.recipe.seed,
            TrialKey.DEVICE: self._device_name,
        }
        if attribute(trial, TrialKey.ORIGIN) is None:
            study = getattr(trial, "study", None)  # a FixedTrial has none
            attributes[TrialKey.ORIGIN] = str(study.sampler) if study else "fixed"
        set_trial_attributes(trial, attributes)

    @cached_property
    def _device_name(self) -> str:
        return device_name(self.device)

    def _finished_before(self, trial: BaseTrial, architecture: Architecture) -> FrozenTrial | None:
        """The trial of this study that trained this architecture by this recipe to the end or to its pruning."""
        if not isinstance(trial, optuna.Trial):
            return None
        if not may_have_trial_with(trial.study, TrialKey.ARCHITECTURE, str(architecture)):
            return None
        wanted = {TrialKey.ARCHITECTURE: str(architecture), TrialKey.RECIPE: self.recipe.fingerprint}
        for other in trial.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
            attributes = other.user_attrs
            if (
                other.number != trial.number
                and attribute_of(attributes, TrialKey.DUPLICATE_OF) is None
                and all(attribute_of(attributes, key) == value for key, value in wanted.items())
            ):
                return other
        return None

    def _reused(self, trial: BaseTrial, earlier: FrozenTrial) -> float | tuple[float, ...]:
        trial.set_user_attr(TrialKey.DUPLICATE_OF, earlier.number)
        for name in (TrialKey.CAUSE, TrialKey.ACCURACY):
            if (value := attribute(earlier, name)) is not None:
                trial.set_user_attr(name, value)
        if earlier.state == TrialState.COMPLETE:
            return _one_or_all(earlier.values)
        if earlier.last_step is not None:  # its value, where Optuna looks for a pruned trial's
            trial.report(earlier.intermediate_values[earlier.last_step], earlier.last_step)
        raise optuna.TrialPruned(f"as trial {earlier.number}")


def _cost_keys(costs: Mapping[str, float]) -> dict[str, float]:
    return {TrialKey.cost(name): value for name, value in costs.items()}


def _one_or_all(values: Sequence[float]) -> float | tuple[float, ...]:
    """As Optuna takes them: a number, or several."""
    return values[0] if len(values) == 1 else tuple(values)
