"""The objective: what one trial does, from suggested choices to a value."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import BaseTrial, FrozenTrial, Trial, TrialState

from nas_optuna.costs.study_costs import Limits, StudyCosts
from nas_optuna.devices import device_name, resolve_device
from nas_optuna.errors import (
    ArchitectureError,
    Interrupted,
    NasOptunaError,
    SpecError,
    StudyError,
    TrainingError,
    checked,
    require_kind,
)
from nas_optuna.execution.evaluator import (
    Evaluator,
    TrainingEvaluator,
    checked_measurements,
    digest,
    require_evaluator,
    space_identity,
)
from nas_optuna.execution.events import Callback, Callbacks, Subject
from nas_optuna.execution.pruning import report, should_prune
from nas_optuna.execution.taken_over import are_known, own_metrics, values_of_another
from nas_optuna.execution.trial_files import DEFAULT_KEPT_BYTES, TrainingFolder, forget, has_state, training_folder
from nas_optuna.hyperparameters import PREFIX, applied, extremes, parse_range, suggest
from nas_optuna.objectives import parse_criteria, parse_limits
from nas_optuna.quantities import LARGEST
from nas_optuna.samplers.curves import PLAN, is_paused
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spec import LatencySpec, Recipe
from nas_optuna.study import lease
from nas_optuna.study.optuna_internals import is_enqueued, known_of, read_trial, trial_id_of
from nas_optuna.study.schema import TrialKey, attribute, flaw_of_trial, is_reserved
from nas_optuna.study.studies import study_uid
from nas_optuna.study.transactions import set_trial_attributes
from nas_optuna.training import CheckpointFolder
from nas_optuna.training.checkpoint import KeptWeights
from nas_optuna.training.fit import never

logger = logging.getLogger(__name__)


class EvaluatorObjective:
    """Score the architecture that a trial chooses and return its objectives' values: a plain Optuna objective.

    It reports after each step, obeys the study's pruner, and records results as trial user attributes (`TrialKey`). A
    loss or a figure that is not finite ends the trial as pruned with its cause; any other failure of the evaluator ends
    it as failed, by a `TrainingError` with the cause (`nas_optuna.execution.loop.run` continues with the next trial).

    An architecture above a limit is not trained. Its trial ends as pruned, with the constraint that it violates, so it
    needs no made-up value and cannot become the best, even in tools that do not know constraints.

    Works under a bare ``study.optimize(objective, n_trials=20)`` and on an ``optuna.trial.FixedTrial``. It can be
    pickled, without its callbacks; of a ``file.py`` another process finds functions below ``@space``, but no classes.

    Args:
        evaluator: Scores architectures.
        objectives: What is returned, in order; see `nas_optuna.objectives`. The study's directions must be theirs.
        limits: Largest allowed value of each cost, by name, e.g. ``{"params": "50k"}``.
        latency: How the cost ``latency_ms`` is determined.
        device: Where networks are trained and measured, as `nas_optuna.devices.resolve_device` takes it.
        reuse_duplicates: Take over the values of an architecture that the study has finished under the same conditions,
            rather than train it again; recorded as ``duplicate_of``.
        checkpoints: Folder for the state of running trials, of one study only; without it an interrupted trial
            begins again. A ``FixedTrial`` leaves nothing there.
        interrupted: Called between steps; when it returns True, `Interrupted` is raised.
        callbacks: Told of each step.
        search: Settings of the recipe that each trial of our own training chooses beside its architecture, as
            `nas_optuna.hyperparameters.parse_range` takes them, e.g. ``{"learning_rate": "1e-4..1e-1:log"}``.
        keep_weights: Keep the weights of each complete trial of our own training in `checkpoints`, for
            ``nas-optuna export``.
        keep_paused: Bytes of the most promising stopped trainings to keep in `checkpoints`, so that a later trial of
            the same architecture can continue one. 0 keeps none.

    Raises:
        DeviceError: The device is not there.
        SpecError: An objective is unknown, or no architecture meets a limit.
        StudyError: The study's directions are not the objectives' (on a trial).
        TableError: The latency table is damaged, or was measured elsewhere.
        TrainingError: The trial failed (on a trial).

    Examples:
        See `nas_optuna.execution.evaluator.Evaluator`, whose example runs one. With our own training `Objective` is
        shorter.
    """

    @checked
    def __init__(
        self,
        evaluator: Evaluator,
        *,
        objectives: Sequence[str] = ("accuracy",),
        limits: Mapping[str, str | float] | None = None,
        latency: LatencySpec | None = None,
        device: str = "auto",
        reuse_duplicates: bool = True,
        checkpoints: Path | None = None,
        interrupted: Callable[[], bool] = never,
        callbacks: Sequence[Callback] = (),
        search: Mapping[str, Any] | None = None,
        keep_weights: bool = False,
        keep_paused: int = DEFAULT_KEPT_BYTES,
    ) -> None:
        require_evaluator(evaluator)
        self.keep_weights = keep_weights
        self.keep_paused = keep_paused
        self.evaluator = evaluator
        self.searched = {f"{PREFIX}{name}": parse_range(name, value) for name, value in (search or {}).items()}
        for given, part in {"search": self.searched, "keep_weights": keep_weights}.items():
            if part and not isinstance(evaluator, TrainingEvaluator):
                raise SpecError(f"{given} belongs to our own training, and the study has an evaluator of its own")
        if keep_weights and checkpoints is None:
            raise SpecError("keep_weights needs a folder for the weights; give checkpoints, too")
        if isinstance(evaluator, TrainingEvaluator):
            for name, value in extremes(self.searched):  # refused now rather than when a trial chooses it
                evaluator.with_recipe(applied(evaluator.recipe, {name: value}))
        self.space = evaluator.space
        if taken := [name for name in self.space.parameters if name.startswith(PREFIX)]:
            raise SpecError(
                f"parameter {taken[0]!r} of the space has a name of the recipe's settings; let it begin otherwise"
            )
        self.device = resolve_device(device)
        self.criteria = parse_criteria(objectives)
        if not any(criterion.metric for criterion in self.criteria):
            raise SpecError("costs alone need no search; add accuracy to the objectives")
        optimised = [criterion.cost for criterion in self.criteria if criterion.cost]
        limits = parse_limits(limits or {})
        self.costs = StudyCosts(self.space, self.device, optimised, list(limits), latency)
        taken = [name for name in self.costs.names if is_reserved(name)]
        if taken:
            raise SpecError(f"a cost cannot be called {taken[0]!r}: trials remember something else by that name")
        self.limits = Limits(limits, self.costs)
        self.limits.check()
        for each in callbacks:
            remedy = "an objective tells of steps only; give Optuna's to study.optimize or Experiment.run"
            require_kind(each, Callback, "a callback", remedy)
        self.callbacks = Callbacks(callbacks)
        self._latency = (latency or LatencySpec()).model_dump(mode="json")
        self._reuse_duplicates = reuse_duplicates
        self.checkpoints = checkpoints
        self.interrupted = interrupted

    def __call__(self, trial: BaseTrial) -> float | tuple[float, ...]:
        """Evaluate one trial, and take its lease if it has none.

        Returns:
            The objectives' values, after the last step.

        Raises:
            nas_optuna.study.lease.LostError: Another process runs the trial, maybe because this one was suspended, or
                has ended it.
        """
        if not isinstance(trial, optuna.Trial):
            return self._value(trial, self.interrupted)
        with lease.hold_trial(trial) as held:
            try:
                return self._value(trial, lambda: self.interrupted() or held.lost)
            except (Interrupted, UpdateFinishedTrialError):
                held.require(trial.study)
                raise

    def _value(self, trial: BaseTrial, stop: Callable[[], bool]) -> float | tuple[float, ...]:
        if self.searched and isinstance(self.evaluator, TrainingEvaluator):
            try:
                recipe = applied(self.evaluator.recipe, suggest(trial, self.searched))
            except SpecError as error:
                raise self._impossible(trial, error) from error
            chosen = self.with_evaluator(self.evaluator.with_recipe(recipe))
            chosen.searched = {}
            return chosen._value(trial, stop)
        self._require_directions(trial)
        try:
            architecture = self.space.suggest(trial)
        except ArchitectureError as error:
            raise self._impossible(trial, error) from error
        metrics = self._metrics_before_a_kill(trial, architecture)
        earlier = self._finished_before(trial, architecture) if self._reuse_duplicates and not metrics else None
        try:
            costs = self._costs_of(trial, earlier, architecture)
            if not metrics and (outside := self._record_choice(trial, architecture, costs)) is not None:
                raise optuna.TrialPruned(outside)
            if earlier is not None:
                forget(trial, self.checkpoints, self._key(architecture))
                return _one_or_all(values_of_another(trial, earlier, self.criteria, costs))
            if not metrics:
                with training_folder(trial, self.checkpoints, self._key(architecture), self.keep_paused) as folder:
                    metrics, costs = self._evaluate(trial, architecture, costs, folder, stop)
                    if isinstance(trial, optuna.Trial):
                        self.keep_training(trial.number, folder.path, trial.study, architecture=str(architecture))
        except TrainingError as error:
            named = {TrialKey.ARCHITECTURE: str(architecture), TrialKey.CAUSE: error.cause}  # also if it has no costs
            set_trial_attributes(trial, named)
            if not error.cause.startswith("non-finite"):
                raise
            logger.warning("trial %d: %s", trial.number, error)
            raise optuna.TrialPruned(str(error)) from error
        return _one_or_all([criterion.value(metrics, costs) for criterion in self.criteria])

    @cached_property
    def identity(self) -> str:
        """A digest of everything that decides the values of an architecture: the key for reuse and checkpoints."""
        timed = self._latency if any(c.cost == "latency_ms" for c in self.criteria) else None
        names = [criterion.name for criterion in self.criteria]
        return digest(self.evaluator.identity, space_identity(self.space), names, timed)

    def with_evaluator(self, evaluator: Evaluator) -> Self:
        """Return a copy that scores architectures by another evaluator of the same space."""
        other = copy.copy(self)
        other.__dict__.pop("identity", None)
        other.evaluator = evaluator
        return other

    def describe_device(self) -> str:
        """The device in one line; for our own training with the number format, and where the images are."""
        own = self.evaluator if isinstance(self.evaluator, TrainingEvaluator) else None
        said = f", {own.precision}, images {own.train_loader.kind}" if own else ""
        return f"{self._device_name} ({self.device}){said}"

    def _require_directions(self, trial: BaseTrial) -> None:
        wanted = [criterion.direction for criterion in self.criteria]
        if isinstance(trial, optuna.Trial) and [each.name.lower() for each in trial.study.directions] != wanted:
            names = ", ".join(f"{criterion.name}: {criterion.direction}" for criterion in self.criteria)
            raise StudyError(
                f"the directions of study {trial.study.study_name!r} are not those of the objectives ({names});"
                f" create it with optuna.create_study(directions={wanted})"
            )

    def _impossible(self, trial: BaseTrial, error: Exception) -> Exception:
        """The exception that ends a trial that was enqueued with impossible params, but not the study."""
        refused = error.__cause__ or error
        if isinstance(refused, ValueError) and isinstance(trial, Trial) and not is_enqueued(trial):
            # Nobody else has chosen: the sampler refuses the study, and every further trial would end alike.
            if isinstance(refused, NasOptunaError):
                return refused
            return SpecError(f"sampler {trial.study.sampler} proposes no architecture: {error}")
        cause = " ".join(str(error).split())[:200]
        trial.set_user_attr(TrialKey.CAUSE, cause)
        logger.warning("trial %d cannot be run: %s", trial.number, cause)
        return optuna.TrialPruned(cause)

    def _costs_of(self, trial: BaseTrial, earlier: FrozenTrial | None, architecture: Architecture) -> dict[str, float]:
        """The costs; each is measured once, even if the trial continues after a crash or repeats another."""
        for attributes in (trial.user_attrs, earlier.user_attrs if earlier else {}):
            known: dict[str, Any] = {name: attributes.get(TrialKey.cost(name)) for name in self.costs.names}
            if None not in known.values():
                return known
        return self.costs(architecture)

    def _evaluate(
        self,
        trial: BaseTrial,
        architecture: Architecture,
        costs: dict[str, float],
        folder: TrainingFolder,
        stop: Callable[[], bool],
    ) -> tuple[Mapping[str, float], dict[str, float]]:
        """Train until the end or until pruned by the first objective that depends on the training."""
        decided = next(criterion for criterion in self.criteria if criterion.metric)
        subject = Subject(f"trial {trial.number}", trial, str(architecture), getattr(trial, "study", None))
        metrics: Mapping[str, float] = {}
        epochs, seconds = 0, 0.0
        needed = {criterion.metric for criterion in self.criteria if criterion.metric}
        for measured in checked_measurements(self.evaluator, architecture, needed, resume=folder.path, stop=stop):
            costs = self.costs.refine(architecture, costs)
            is_replayed = measured.step <= folder.replayed and measured.restored is not False
            metrics = measured.metrics
            if not is_replayed:  # steps of an earlier trial are reported again, but not counted again
                epochs, seconds = epochs + measured.epochs, seconds + measured.seconds
            self.callbacks.step_finished(subject, measured)
            attributes = {getattr(TrialKey, name): value for name, value in measured.details.items()}
            attributes |= {**_cost_keys(costs), TrialKey.EPOCHS: epochs, TrialKey.SECONDS: round(seconds, 3)}
            # JSON has no infinity.
            attributes[TrialKey.METRICS] = {name: value for name, value in metrics.items() if abs(value) < LARGEST}
            if "accuracy" in metrics:
                attributes[TrialKey.ACCURACY] = metrics["accuracy"]
            if measured.step == self.evaluator.steps:
                attributes[TrialKey.TRAINED] = self.identity
            if (flaw := flaw_of_trial(attributes, {})) is not None:  # the trial could not be read any more
                raise TrainingError(f"{architecture}: the evaluator or a cost gives what cannot be kept, {flaw}")
            value = decided.value(metrics, costs)
            report(trial, value, measured.step, attributes)
            folder.steps, folder.gain = measured.step, value if decided.maximize else -value
            judged = measured.step < self.evaluator.steps and not is_replayed
            if judged and self._is_hopeless(trial, costs, decided.direction):
                raise optuna.TrialPruned
        return metrics, costs

    def _is_hopeless(self, trial: BaseTrial, costs: Mapping[str, float], direction: str) -> bool:
        """Ask the pruner, which compares the trial with those that are no worse in any cost that is an objective."""
        others = {c.cost: c.maximize for c in self.criteria if c.cost and not c.metric}
        known = {name: costs[name] for name in others}
        return should_prune(trial, known, direction, maximized=[name for name, more in others.items() if more])

    def _key(self, architecture: Architecture) -> str:
        """The key of a training's saved state, which is valid for one architecture and these settings only."""
        return digest(str(architecture), self.identity)

    def keep_training(self, name: int | str, folder: Path | None, study: Study, **facts: str) -> None:
        """Keep the weights of a training that has ended in a folder, if they are wanted."""
        if self.keep_weights and self.checkpoints and folder and isinstance(self.evaluator, TrainingEvaluator):
            training = CheckpointFolder(folder / f"seed-{self.evaluator.recipe.seed}")
            KeptWeights(self.checkpoints).keep(name, training, {**facts, "study_uid": study_uid(study)})

    def _record_choice(self, trial: BaseTrial, architecture: Architecture, costs: Mapping[str, float]) -> str | None:
        """Record what is known before the training; return the limit that is violated, if one is."""
        excess = self.limits.excess(costs)
        outside = [f"{self.limits.side(name)} the limit of {name}" for name, value in excess.items() if value > 0]
        cause = " and ".join(outside) or None
        attributes: dict[str, object] = {
            **_cost_keys(costs),
            TrialKey.ARCHITECTURE: str(architecture),
            TrialKey.IDENTITY: self.identity,
            TrialKey.DEVICE: self._device_name,
        }
        # A search with a clock may have been interrupted in this trial, which is now trained by the recipe.
        former = {TrialKey.RUNG, TrialKey.SHARE, TrialKey.STEPS, TrialKey.TRAINED}
        attributes |= dict.fromkeys(former & trial.user_attrs.keys())
        recipe = getattr(self.evaluator, "recipe", None)
        if isinstance(recipe, Recipe):
            attributes |= {TrialKey.RECIPE: recipe.fingerprint, TrialKey.SEED: recipe.seed}
        if isinstance(self.evaluator, TrainingEvaluator):  # another may have something else by that name
            attributes |= self.evaluator.attributes
        if attribute(trial, TrialKey.ORIGIN) is None:
            attributes[TrialKey.ORIGIN] = _proposed_by(trial)
        if excess:
            attributes[TrialKey.FEASIBLE] = cause is None
        if cause is not None:
            attributes[TrialKey.CAUSE] = cause
        known = known_of(trial) if isinstance(trial, optuna.Trial) else trial  # without a query
        for name, value in excess.items():
            if name not in known.constraints:  # it is there if the trial continues after a crash
                trial.set_constraint(name, value)
        set_trial_attributes(trial, attributes)
        return cause

    @cached_property
    def _device_name(self) -> str:
        return device_name(self.device)

    def _metrics_before_a_kill(self, trial: BaseTrial, architecture: Architecture) -> Mapping[str, float]:
        """What is recorded of this trial if its training has ended, and its state is gone; empty if it trains."""
        choice = {TrialKey.ARCHITECTURE: str(architecture), TrialKey.TRAINED: self.identity}
        found = own_metrics(trial, choice)
        if not are_known(self.criteria, found) or has_state(trial, self.checkpoints, self._key(architecture)):
            return {}
        if self.keep_weights and self.checkpoints and isinstance(self.evaluator, TrainingEvaluator):
            return found if trial.number in KeptWeights(self.checkpoints).numbers() else {}
        return found

    def _finished_before(self, trial: BaseTrial, architecture: Architecture) -> FrozenTrial | None:
        """The trial of this study whose outcome this one takes over; None if this one trains."""
        if not isinstance(trial, optuna.Trial):
            return None
        wanted = {TrialKey.ARCHITECTURE: str(architecture), TrialKey.IDENTITY: self.identity}
        ended = trial.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        trained = [t for t in ended if TrialKey.DUPLICATE_OF not in t.user_attrs and t.number != trial.number]
        same = [t for t in trained if wanted.items() <= t.user_attrs.items()]
        earlier = min(same, key=lambda other: other.state != TrialState.COMPLETE, default=None)
        if earlier is None or not is_paused(earlier):
            return earlier
        # It was stopped. This one trains if its training was kept, or a person or the sampler asks for it.
        if is_enqueued(trial) or has_state(trial, self.checkpoints, self._key(architecture)):
            return None
        return None if PLAN in read_trial(trial.study, trial_id_of(trial)).system_attrs else earlier

    def __getstate__(self) -> dict[str, Any]:
        """Without callbacks, which belong to the displaying process."""
        return vars(self) | {"callbacks": Callbacks()}


def _proposed_by(trial: BaseTrial) -> str:
    if not isinstance(trial, Trial):
        return "fixed"
    return "enqueued" if is_enqueued(trial) else str(trial.study.sampler)


def _cost_keys(costs: Mapping[str, float]) -> dict[str, float]:
    return {TrialKey.cost(name): value for name, value in costs.items()}


def _one_or_all(values: Sequence[float]) -> float | tuple[float, ...]:
    """Values in the form that Optuna takes: a number for one objective, a tuple for more."""
    return values[0] if len(values) == 1 else tuple(values)
