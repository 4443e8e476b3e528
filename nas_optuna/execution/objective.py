"""The objective: what one trial does, from suggested choices to a value."""

from __future__ import annotations

import copy
import logging
import math
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import optuna
import torch
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import BaseTrial, FrozenTrial, TrialState

from nas_optuna.costs.limits import Limits
from nas_optuna.costs.study_costs import StudyCosts
from nas_optuna.data import SearchData
from nas_optuna.devices import device_name, resolve_device
from nas_optuna.errors import ArchitectureError, Interrupted, NasOptunaError, SpecError, StudyError, TrainingError
from nas_optuna.execution.evaluator import Evaluator, Measurement, TrainingEvaluator, digest, space_identity
from nas_optuna.execution.events import Callback, Callbacks, OptunaCallback, Subject
from nas_optuna.execution.pruning import report, should_prune
from nas_optuna.hyperparameters import applied, parse_range, suggest
from nas_optuna.objectives import parse_criterion
from nas_optuna.spaces import SearchSpace
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spaces.function import SpaceFunction
from nas_optuna.spec import LatencySpec, Recipe
from nas_optuna.study import lease
from nas_optuna.study.schema import TrialKey, attribute, is_reserved
from nas_optuna.study.studies import study_uid
from nas_optuna.study.transactions import may_have_trial_with, set_trial_attributes
from nas_optuna.training import CheckpointFolder
from nas_optuna.training.failure import describe, is_out_of_memory
from nas_optuna.training.fit import never
from nas_optuna.training.kept_weights import KEPT_FOLDER, KeptWeights

logger = logging.getLogger(__name__)


class EvaluatorObjective:
    """Score the architecture that a trial chooses and return its objectives' values: a plain Optuna objective.

    Reports after each step, obeys the study's pruner, and records what it did as trial user attributes (`TrialKey`). A
    loss or a figure that is not finite ends the trial as pruned with its cause; any other failure of the evaluator ends
    it as failed, by a `TrainingError` with the cause (`nas_optuna.execution.loop.run` goes on with the next trial).

    An architecture above a limit is not trained. Its trial ends as pruned, with the constraint that it violates: no
    value has to be made up for it, and it is nobody's best, not even in tools that do not know of constraints.

    Works under a bare ``study.optimize(objective, n_trials=20)`` and on an ``optuna.trial.FixedTrial``. It can be
    pickled, without its callbacks.

    Args:
        evaluator: Scores architectures.
        objectives: What is returned, in order; see `nas_optuna.objectives`. The study's directions must be theirs.
        limits: The most that each cost may be, by name.
        latency: How the cost ``latency_ms`` is known.
        device: Where networks are trained and measured, as `nas_optuna.devices.resolve_device` takes it.
        reuse_duplicates: Take over the values of an architecture that the study has finished under the same conditions,
            rather than train it again; recorded as ``duplicate_of``.
        checkpoints: Folder for the state of running trials; without it an interrupted trial begins anew.
        interrupted: Asked between steps; `Interrupted` is raised when it says so.
        callbacks: Told of each step.
        keep_weights: Keep the weights of each complete trial of our own training in `checkpoints`, for
            ``nas-optuna export``.

    Raises:
        DeviceError: The device is not there.
        SpecError: An objective is unknown, or no architecture meets a limit.
        StudyError: The study's directions are not the objectives' (on a trial).
        TableError: The latency table is damaged, or was measured elsewhere.
        TrainingError: The trial failed (on a trial).

    Example:
        See `nas_optuna.execution.evaluator.Evaluator`, whose example runs one. With our own training `Objective` is
        shorter.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        *,
        objectives: Sequence[str] = ("accuracy",),
        limits: Mapping[str, float] | None = None,
        latency: LatencySpec | None = None,
        device: str = "auto",
        reuse_duplicates: bool = True,
        checkpoints: Path | None = None,
        interrupted: Callable[[], bool] = never,
        callbacks: Sequence[Callback | OptunaCallback] = (),
        keep_weights: bool = False,
    ) -> None:
        self.keep_weights = keep_weights
        self.evaluator = evaluator
        self.space = evaluator.space
        self.device = resolve_device(device)
        self.criteria = tuple(map(parse_criterion, objectives))
        if not any(criterion.metric for criterion in self.criteria):
            raise SpecError("costs alone need no search; add accuracy to the objectives")
        optimised = [criterion.cost for criterion in self.criteria if criterion.cost]
        self.costs = StudyCosts(self.space, self.device, optimised, list(limits or {}), latency)
        taken = [name for name in self.costs.names if is_reserved(name)]
        if taken:
            raise SpecError(f"a cost cannot be called {taken[0]!r}: trials remember something else by that name")
        self.limits = Limits(limits or {}, self.costs, self.space)
        self.limits.check()
        self.callbacks = Callbacks(callbacks)
        self._latency = (latency or LatencySpec()).model_dump(mode="json")
        self._reuse_duplicates = reuse_duplicates
        self.checkpoints = checkpoints
        self.interrupted = interrupted

    def __call__(self, trial: BaseTrial) -> float | tuple[float, ...]:
        """Evaluate one trial; where nobody has marked it as this process's own, mark it.

        Returns:
            The objectives' values, after the last step.

        Raises:
            nas_optuna.study.lease.LostError: Another process runs the trial, maybe because this one stood still.
        """
        if not isinstance(trial, optuna.Trial):
            return self._value(trial, None)
        with lease.hold_trial(trial) as held:
            try:
                return self._value(trial, held)
            except (Interrupted, UpdateFinishedTrialError):
                held.renew(at_once=True)  # which says so where the trial was taken away
                raise

    def _value(self, trial: BaseTrial, held: lease.Held | None) -> float | tuple[float, ...]:
        self._require_directions(trial)
        architecture = self._suggested(trial)
        earlier = self._finished_before(trial, architecture) if self._reuse_duplicates else None
        costs = self._costs_of(trial, earlier, architecture)
        self._record_choice(trial, architecture, costs)
        self._obey_limits(trial, costs)
        if earlier is not None:
            return _reused(trial, earlier)
        try:
            with self._checkpoint_folder(trial, architecture) as folder:
                metrics, costs = self._evaluate(trial, architecture, costs, folder, held)
        except TrainingError as error:
            trial.set_user_attr(TrialKey.CAUSE, error.cause)
            if not error.cause.startswith("non-finite"):
                raise
            logger.warning("trial %d: %s", trial.number, error)
            raise optuna.TrialPruned(str(error)) from error
        return _one_or_all([criterion.value(metrics, costs) for criterion in self.criteria])

    @cached_property
    def identity(self) -> str:
        """Differs whenever the values of an architecture would: the key of reuse and of checkpoints."""
        timed = self._latency if any(c.cost == "latency_ms" for c in self.criteria) else None
        names = [criterion.name for criterion in self.criteria]
        return digest(self.evaluator.identity, space_identity(self.space), names, timed)

    def with_evaluator(self, evaluator: Evaluator) -> Self:
        """Return a copy that scores the same space by another evaluator."""
        other = copy.copy(self)
        other.__dict__.pop("identity", None)
        other.evaluator = evaluator
        return other

    def describe_device(self) -> str:
        """One line: the device, and what the evaluator says of it."""
        said = f", {self.evaluator.describe()}" if isinstance(self.evaluator, TrainingEvaluator) else ""
        return f"{self._device_name} ({self.device}){said}"

    def _require_directions(self, trial: BaseTrial) -> None:
        if not isinstance(trial, optuna.Trial):
            return
        wanted = [criterion.direction for criterion in self.criteria]
        found = [direction.name.lower() for direction in trial.study.directions]
        if wanted != found:
            names = ", ".join(f"{criterion.name}: {criterion.direction}" for criterion in self.criteria)
            raise StudyError(
                f"study {trial.study.study_name!r} has the directions {found}, and the objectives need {wanted}"
                f" ({names}); create it with optuna.create_study(directions={wanted})"
            )

    def _suggested(self, trial: BaseTrial) -> Architecture:
        try:
            return self.space.suggest(trial)
        except ArchitectureError as error:  # params of the queue, written by whoever enqueued them
            trial.set_user_attr(TrialKey.CAUSE, str(error)[:200])
            raise TrainingError(str(error), str(error)[:200]) from error

    def _costs_of(self, trial: BaseTrial, earlier: FrozenTrial | None, architecture: Architecture) -> dict[str, float]:
        """The costs; a measured one is measured once, though the trial goes on after a crash or repeats another."""
        for attributes in (trial.user_attrs, earlier.user_attrs if earlier else {}):
            known: dict[str, Any] = {name: attributes.get(TrialKey.cost(name)) for name in self.costs.names}
            if None not in known.values():
                return known
        try:
            return self.costs(architecture)
        except NasOptunaError:
            raise
        except Exception as error:  # a network or a cost of the user's
            cause = describe(error)
            trial.set_user_attr(TrialKey.CAUSE, cause)
            raise TrainingError(f"the costs of {architecture} cannot be known: {cause}", cause) from error

    def _obey_limits(self, trial: BaseTrial, costs: Mapping[str, float]) -> None:
        excess = self.limits.excess(costs)
        if not excess:
            return
        for name, value in excess.items():
            if name not in trial.constraints:  # where the trial goes on after a crash it is
                trial.set_constraint(name, value)
        outside = [name for name, value in excess.items() if value > 0]
        trial.set_user_attr(TrialKey.FEASIBLE, not outside)
        if outside:
            cause = " and ".join(f"{self.limits.side(name)} the limit of {name}" for name in outside)
            trial.set_user_attr(TrialKey.CAUSE, cause)
            raise optuna.TrialPruned(trial.user_attrs[TrialKey.CAUSE])

    def _evaluate(
        self,
        trial: BaseTrial,
        architecture: Architecture,
        costs: dict[str, float],
        folder: Path | None,
        held: lease.Held | None,
    ) -> tuple[Mapping[str, float], dict[str, float]]:
        """Train to the end or to the pruning, which is by the first objective that training decides.

        Returns:
            The last metrics, and the costs, of which a measured one has become more exact.
        """
        decided = next(criterion for criterion in self.criteria if criterion.metric)
        subject = Subject(f"trial {trial.number}", trial, str(architecture), getattr(trial, "study", None))
        metrics: Mapping[str, float] = {}
        epochs, seconds = 0, 0.0
        attributes: dict[str, object] = {}
        try:
            for measured in self._measurements(architecture, folder, held):
                if held is not None:
                    held.renew()
                metrics, epochs, seconds = measured.metrics, epochs + measured.epochs, seconds + measured.seconds
                attributes |= {getattr(TrialKey, name): value for name, value in measured.details.items()}
                self.callbacks.step_finished(subject, measured)
                costs = self.costs.refine(architecture, costs)
                with warnings.catch_warnings():
                    # A trial that goes on after a crash may have reported its last step already.
                    warnings.filterwarnings("ignore", message=".*already reported.*")
                    report(trial, decided.value(metrics, costs), measured.step)
                if measured.step < self.evaluator.steps and self._is_hopeless(trial, costs, decided.direction):
                    raise optuna.TrialPruned
        finally:
            if metrics:  # JSON has no infinity
                attributes[TrialKey.METRICS] = {name: value for name, value in metrics.items() if math.isfinite(value)}
                if "accuracy" in metrics:
                    attributes[TrialKey.ACCURACY] = metrics["accuracy"]
            attributes |= {**_cost_keys(costs), TrialKey.EPOCHS: epochs, TrialKey.SECONDS: round(seconds, 3)}
            if held is None or not held.lost:
                set_trial_attributes(trial, attributes)
        return metrics, costs

    def _is_hopeless(self, trial: BaseTrial, costs: Mapping[str, float], direction: str) -> bool:
        """Ask the pruner, which compares a trial with those that are no worse in the objectives that are costs."""
        others = {c.cost: c.maximize for c in self.criteria if c.cost and not c.metric}
        known = {name: costs[name] for name in others}
        return should_prune(trial, known, direction, maximized=[name for name, more in others.items() if more])

    def _measurements(
        self, architecture: Architecture, folder: Path | None, held: lease.Held | None
    ) -> Iterator[Measurement]:
        """What the evaluator yields, see `checked_measurements`."""

        def interrupted() -> bool:
            return self.interrupted() or (held is not None and held.lost)

        needed = {criterion.metric for criterion in self.criteria if criterion.metric}
        return checked_measurements(
            self.evaluator, architecture, needed, resume=folder, stop=interrupted, device=self.device
        )

    @contextmanager
    def _checkpoint_folder(self, trial: BaseTrial, architecture: Architecture) -> Iterator[Path | None]:
        """A folder that no other trial, architecture or setting shares; kept only where the training is to go on."""
        if self.checkpoints is None:
            yield None
            return
        folder = self.checkpoints / f"trial-{trial.number}-{digest(str(architecture), self.identity)}"
        try:
            yield folder
        except (optuna.TrialPruned, TrainingError):
            shutil.rmtree(folder, ignore_errors=True)
            raise
        if self.keep_weights and isinstance(self.evaluator, TrainingEvaluator):
            training = CheckpointFolder(folder / f"seed-{self.evaluator.recipe.seed}")
            facts = {"architecture": str(architecture)}
            if isinstance(trial, optuna.Trial):
                facts["study_uid"] = study_uid(trial.study)
            KeptWeights(self.checkpoints / KEPT_FOLDER).keep(trial.number, training, facts)
        shutil.rmtree(folder, ignore_errors=True)

    def _record_choice(self, trial: BaseTrial, architecture: Architecture, costs: Mapping[str, float]) -> None:
        attributes: dict[str, object] = {
            **_cost_keys(costs),
            TrialKey.ARCHITECTURE: str(architecture),
            TrialKey.IDENTITY: self.identity,
            TrialKey.DEVICE: self._device_name,
        }
        recipe = getattr(self.evaluator, "recipe", None)
        if isinstance(recipe, Recipe):
            attributes |= {TrialKey.RECIPE: recipe.fingerprint, TrialKey.SEED: recipe.seed}
        if attribute(trial, TrialKey.ORIGIN) is None:
            study = getattr(trial, "study", None)  # a FixedTrial has none
            attributes[TrialKey.ORIGIN] = str(study.sampler) if study else "fixed"
        set_trial_attributes(trial, attributes)

    @cached_property
    def _device_name(self) -> str:
        return device_name(self.device)

    def _finished_before(self, trial: BaseTrial, architecture: Architecture) -> FrozenTrial | None:
        """The trial of this study that trained this architecture like this to the end or to its pruning."""
        if not isinstance(trial, optuna.Trial):
            return None
        return finished_with(trial.study, architecture, self.identity, trial.number)

    def __getstate__(self) -> dict[str, Any]:
        """Without callbacks, which belong to the process that shows things."""
        return vars(self) | {"callbacks": Callbacks()}


class Objective(EvaluatorObjective):
    """Train the architecture that a trial chooses on images, by a recipe: a plain Optuna objective.

    See `EvaluatorObjective` for what it records, how it prunes and what it raises.

    Args:
        space: The search space, whose channels and classes must be the data's; or a function that ``@nas.space`` has
            made one, which takes them from the data.
        data: Training images and those that select.
        recipe: How each network is trained. Its `input_size` may be left out; it must be the space's.
        objectives: As `EvaluatorObjective` takes them, and the other arguments too.
        limits: The most that each cost may be, by name.
        latency: How the cost ``latency_ms`` is known.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``.
        reuse_duplicates: Whether a repeated architecture takes over the values of its first training.
        checkpoints: Folder for the state of running trials.
        interrupted: Asked between steps.
        callbacks: Told of each epoch.
        search: Settings of the recipe that each trial chooses beside its architecture, as
            `nas_optuna.hyperparameters.parse_range` takes them, e.g. ``{"learning_rate": "1e-4..1e-1:log"}``.
        keep_weights: Keep the weights of each complete trial.

    Raises:
        SpecError: Space, data and recipe do not fit together, or the recipe asks for a precision that the device has
            not.

    Example:
        >>> import optuna
        >>> from nas_optuna import ConvSpace, Objective, Recipe, load_data
        >>> objective = Objective(ConvSpace(depth=1, input_size=8), load_data("digits"), Recipe(epochs=1))
        >>> study = optuna.create_study(direction="maximize")
        >>> study.optimize(objective, n_trials=1)
        >>> 0 <= study.best_value <= 1
        True
    """

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
    ) -> None:
        recipe = recipe or Recipe()
        if isinstance(space, SpaceFunction):
            size = recipe.input_size or data.train.side
            space = space(in_channels=data.train.channels, classes=len(data.train.classes), input_size=size)
        require_fit(space, data, recipe)
        self.data = data
        self.recipe = recipe
        self.searched = {name: parse_range(name, value) for name, value in (search or {}).items()}
        metrics = [c.metric for c in map(parse_criterion, objectives) if c.metric]
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
            keep_weights=keep_weights,
        )

    def _value(self, trial: BaseTrial, held: lease.Held | None) -> float | tuple[float, ...]:
        """Evaluate one trial, by the recipe that it chooses where the recipe is searched, too."""
        if not self.searched:
            return super()._value(trial, held)
        return self.with_recipe(applied(self.recipe, suggest(trial, self.searched)))._value(trial, held)

    def with_recipe(self, recipe: Recipe) -> Objective:
        """Return a copy that trains every network by one recipe, rather than let trials choose settings of it."""
        assert isinstance(self.evaluator, TrainingEvaluator)
        other = self.with_evaluator(self.evaluator.with_recipe(recipe))
        other.recipe, other.searched = recipe, {}
        return other


class KeepBest(Callback):
    """Forgets kept weights of finished trials that are not among the study's best.

    Args:
        checkpoints: The study's checkpoint folder.
    """

    def __init__(self, checkpoints: Path) -> None:
        self._kept = KeptWeights(checkpoints / KEPT_FOLDER)

    def trial_finished(self, subject: Subject, ended: FrozenTrial | None) -> None:
        """Look what is still among the best; weights of trials that other workers train stay."""
        study = subject.study
        if study is None:
            return
        trials = study.get_trials(deepcopy=False)
        best = {trial.number for trial in study.best_trials}
        finished = {trial.number for trial in trials if trial.state.is_finished()}
        self._kept.forget([number for number in self._kept.numbers() if number in finished - best])


def require_fit(space: SearchSpace, data: SearchData, recipe: Recipe) -> None:
    """Refuse a space, data and a recipe that do not fit together, before anything is trained.

    Raises:
        SpecError: Naming both figures.
    """
    classes = len(data.train.classes)
    if space.classes != classes:
        raise SpecError(f"the space has {space.classes} classes and the data {classes}; make it with classes={classes}")
    if space.in_channels != data.train.channels:
        raise SpecError(
            f"the space takes {space.in_channels} channels and the images have {data.train.channels};"
            f" make it with in_channels={data.train.channels}"
        )
    size = recipe.input_size
    wanted = (size, size) if isinstance(size, int) else size
    if wanted is not None and tuple(wanted) != tuple(space.image_size):
        raise SpecError(
            f"the recipe's input_size is {size} and the space's {space.input_size}; leave the recipe's out, or make"
            f" the space with input_size={size}"
        )


def finished_with(study: Study, architecture: Architecture, identity: str, other_than: int) -> FrozenTrial | None:
    """The finished trial of a study that scored an architecture under an identity, rather than reused another's."""
    if not may_have_trial_with(study, TrialKey.ARCHITECTURE, str(architecture)):
        return None
    wanted = {TrialKey.ARCHITECTURE: str(architecture), TrialKey.IDENTITY: identity}
    for other in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
        attributes = other.user_attrs
        if (
            other.number != other_than
            and attributes.get(TrialKey.DUPLICATE_OF) is None
            and all(attributes.get(key) == value for key, value in wanted.items())
        ):
            return other
    return None


def _reused(trial: BaseTrial, earlier: FrozenTrial) -> float | tuple[float, ...]:
    trial.set_user_attr(TrialKey.DUPLICATE_OF, earlier.number)
    for name in (TrialKey.CAUSE, TrialKey.ACCURACY, TrialKey.METRICS):
        if (value := attribute(earlier, name)) is not None:
            trial.set_user_attr(name, value)
    if earlier.state == TrialState.COMPLETE:
        return _one_or_all(earlier.values)
    if earlier.last_step is not None:  # its value, where Optuna looks for a pruned trial's
        trial.report(earlier.intermediate_values[earlier.last_step], earlier.last_step)
    raise optuna.TrialPruned(f"as trial {earlier.number}")


def checked_measurements(
    evaluator: Evaluator,
    architecture: Architecture,
    needed: set[str],
    *,
    resume: Path | None,
    stop: Callable[[], bool],
    device: torch.device,
) -> Iterator[Measurement]:
    """What an evaluator yields, checked, with whatever it raises as one kind of error.

    Args:
        evaluator: Trains the architecture.
        architecture: What to train.
        needed: Metrics that each step must have, as finite numbers.
        resume: As `Evaluator.evaluate` takes it.
        stop: As `Evaluator.evaluate` takes it.
        device: Named where its memory does not suffice.

    Raises:
        TrainingError: It raised, or yielded something that cannot be right.
        Interrupted: `stop` said so.
    """
    last = 0
    try:
        for measured in evaluator.evaluate(architecture, resume=resume, stop=stop):
            _require_sound(measured, last + 1, needed)
            last = measured.step
            yield measured
    except (NasOptunaError, Interrupted, optuna.TrialPruned):
        raise
    except Exception as error:
        if is_out_of_memory(error) or isinstance(error, MemoryError):
            raise TrainingError(f"{architecture} does not fit into the memory of {device}", "oom") from error
        cause = describe(error)
        raise TrainingError(f"{architecture}: {cause}", cause) from error
    if last == 0:
        raise TrainingError(f"{architecture}: the evaluator yielded no measurement", "no measurement")


def _require_sound(measured: object, step: int, needed: set[str]) -> None:
    """Refuse what an evaluator must not yield.

    Raises:
        TrainingError: With a cause of one line.
    """
    if not isinstance(measured, Measurement):
        cause = f"the evaluator yielded a {type(measured).__name__}, not a Measurement"
        raise TrainingError(cause, cause)
    if measured.step != step:
        cause = f"the evaluator yielded step {measured.step} where step {step} was due"
        raise TrainingError(cause, cause)
    for name in sorted(needed):
        value = measured.metrics.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            known = ", ".join(sorted(map(str, measured.metrics)))[:80]
            cause = f"the evaluator measured no {name!r} (it measured: {known or 'nothing'})"
            if name in measured.metrics:
                cause = f"the evaluator measured {name!r} as a {type(value).__name__}, not a number"
            raise TrainingError(cause, cause)
        if not math.isfinite(value):
            raise TrainingError(f"{name} is {value} in step {step}", f"non-finite {name}")


def _cost_keys(costs: Mapping[str, float]) -> dict[str, float]:
    return {TrialKey.cost(name): value for name, value in costs.items()}


def _one_or_all(values: Sequence[float]) -> float | tuple[float, ...]:
    """Return values in the form that Optuna takes: a number for one objective, several for more."""
    return values[0] if len(values) == 1 else tuple(values)
