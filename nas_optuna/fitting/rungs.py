"""A search with a clock: networks are trained for about the same time, and the best of them for longer."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from random import Random
from typing import Any

from optuna.pruners import NopPruner
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from torch import Tensor

from nas_optuna.errors import NasOptunaError, SpecError, StudyError
from nas_optuna.execution.evaluator import TrainingEvaluator
from nas_optuna.execution.events import Callback, Callbacks, OptunaCallback, Run
from nas_optuna.execution.finished_network import with_kept_weights
from nas_optuna.execution.loop import Outcome, StopRequest
from nas_optuna.execution.objective import EvaluatorObjective
from nas_optuna.execution.reference import measure, require_training, trained_reference
from nas_optuna.experiment import Experiment
from nas_optuna.fitting.clock import LEAST_SECONDS, Load, Plan, Progress, Rung, Speed, TimeBudget, refuse_undivided
from nas_optuna.fitting.equal_seconds import EqualSeconds, Timed, time_network
from nas_optuna.hyperparameters import of_architecture
from nas_optuna.quantities import plural
from nas_optuna.spaces import SearchSpace
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.study import lease
from nas_optuna.study.results import REFERENCE, best_trial, is_feasible
from nas_optuna.study.schema import StudyKey, TrialKey, attribute
from nas_optuna.study.significance import is_ahead, remembered_images
from nas_optuna.study.studies import maximizes
from nas_optuna.study.trial_queue import enqueue_once
from nas_optuna.training.checkpoint import KeptWeights

UNTIL_TIME_IS_UP = 1_000_000
"""Networks of the last rung of a search that has a deadline."""
PATIENCE = 1.2
"""If the machine has become slower, a rung ends after this multiple of its seconds."""
TRIED = 20
"""Networks of a space without a reference that are tried until a step of one can be timed."""
PROMOTED = "promoted"
"""The origin of networks of the second rung other than the reference."""


@dataclass(frozen=True)
class RungSearch:
    """The rungs of one study."""

    experiment: Experiment
    study: Study
    plan: Plan
    stop: StopRequest
    callbacks: Sequence[Callback | OptunaCallback] = ()
    from_rung: int = 1  # above 1 if the study has rungs of an earlier run
    deadline: float | None = None  # by `time.monotonic`; the last rung adds networks that will end before it
    kept: KeptWeights | None = None  # weights from which a longer rung continues; None starts from new weights
    left: Callable[[], float] | None = None  # remaining seconds, including the last training

    def run(self, say: Callable[[str], None]) -> FrozenTrial | None:
        """Complete every rung; return the best trial of the last one, None if somebody asked to stop."""
        pruner = self.study.pruner
        # A pruner would compare networks in the middle of their schedules with those that have ended.
        self.study.pruner = NopPruner()
        try:
            return self._run(say)
        finally:
            self.study.pruner = pruner

    def _run(self, say: Callable[[str], None]) -> FrozenTrial | None:
        lease.release_abandoned(self.study)
        space, reference = self.experiment.space, self.reference
        first = [] if reference is None else [(reference, REFERENCE)]
        earlier = best_trial(self.study) if self.from_rung > 1 else None
        queue = first
        if earlier is not None:
            known = space.architecture(of_architecture(earlier.params))
            queue = [*first, *([(known, PROMOTED)] if known in self.experiment.candidates else [])]
        best: FrozenTrial | None = None
        for number, rung in enumerate(self.plan.rungs, start=1):
            is_last = number == len(self.plan.rungs)
            if self.deadline is not None and is_last:
                rung = replace(rung, networks=UNTIL_TIME_IS_UP)
            else:
                say(f"{plural(rung.networks, 'network')}, {rung.seconds:.0f} s each")
            objective = self.objective(rung, self.from_rung + number - 1)
            if last_rung(self.study) < self.from_rung + number:  # otherwise a later one had begun before a kill
                self._train(rung, objective, queue, at_least=int(best is None))
            if self.stop.asked:
                return None
            ranking = ranked(self.study, finished(self.study, objective))
            if best is not None and all(_architecture(trial) == str(reference) for trial in ranking):
                return best  # there was no time left for the others of this rung
            if not ranking:
                raise StudyError(self._why_none(objective, self.from_rung + number - 1))
            order = [space.architecture(of_architecture(trial.params)) for trial in ranking]
            best = self._preferred(ranking, reference)
            if not is_last:
                others = [architecture for architecture in order if architecture != reference]
                room = None if self.deadline is not None else self.plan.rungs[number].networks - len(first)
                queue = first + [(architecture, PROMOTED) for architecture in others[:room]]
        return best and self._confirmed(best, say)

    def _why_none(self, objective: EvaluatorObjective, number: int) -> str:
        """Why a rung has no network that can be ranked."""
        trials = self.study.get_trials(deepcopy=False)
        known = {attribute(trial, TrialKey.IDENTITY) for trial in trials if attribute(trial, TrialKey.RUNG) == number}
        if known - {None, objective.identity} and not finished(self.study, objective):
            return (
                "networks of this search were trained on another device or in another precision, so that no others can"
                " be compared with them; go on there, or begin anew in another folder or study"
            )
        return "no network could be trained in its share of the time; give more: --within (within)"

    def _confirmed(self, best: FrozenTrial, say: Callable[[str], None]) -> FrozenTrial | None:
        """The best if it stays ahead of the reference in a longer training, else the reference; None as for `run`."""
        # A network that learns fast leads after a short training, and may end behind. The pair may take half of the
        # remaining time; the user's own reference would take a third share, and is compared as it is.
        space, reference, rung = self.experiment.space, self.reference, self.plan.confirming
        known = _architecture(best)
        if rung is None or reference is None or self.experiment.spec.reference or known in (None, str(reference)):
            return best
        if len(best.values) > 1 or (self.left is not None and self.left() < 4 * rung.seconds):
            return best
        say(f"one network is ahead of the reference: both for {rung.seconds:.0f} s each, to see whether it stays so")
        objective = self.objective(rung, self.from_rung + len(self.plan.rungs))
        pair = [(space.parse(str(known)), PROMOTED), (reference, REFERENCE)]
        self._train(rung, objective, pair, at_least=len(pair))
        if self.stop.asked:
            return None
        trained = {_architecture(trial): trial for trial in ranked(self.study, finished(self.study, objective))}
        ranking = [trained[str(architecture)] for architecture, _ in pair if str(architecture) in trained]
        return self._preferred(ranking, reference) if len(ranking) == len(pair) else best

    def _preferred(self, ranking: Sequence[FrozenTrial], reference: Architecture | None) -> FrozenTrial:
        """The best, or the reference if the best is not ahead by two standard errors of the difference."""
        # Most networks near a good one are slightly worse, and the best figure of many is partly luck.
        best, images = ranking[0], remembered_images(self.study)
        known = [trial for trial in ranking if _architecture(trial) == str(reference)]
        if not known or len(best.values) > 1:
            return best
        values = best.values[0], known[0].values[0]
        return best if is_ahead(*values, images, maximize=maximizes(self.study)) else known[0]

    def objective(self, rung: Rung, number: int) -> EvaluatorObjective:
        """The objective of a rung."""
        training = require_training(self.experiment.objective)
        shared = EqualSeconds(training, rung, number, self.plan.per_step, self.reference)
        if self.kept is not None:
            shared.begin_with = partial(trained_weights, self.study, self.experiment.space, self.kept)
        return self.experiment.objective.with_evaluator(shared)

    def _of_own(self, objective: EvaluatorObjective) -> EvaluatorObjective:
        """The objective of a rung for the user's own reference, whose earlier weights are not those of a trial."""
        kept, training = self.kept, copy.copy(require_training(objective))
        if kept is None:
            return objective

        def begin_with(architecture: Architecture) -> dict[str, Tensor] | None:
            network = self.experiment.reference_space.build(architecture)
            found = trained_reference(self.study, self.experiment.spec.reference, network, kept)
            return found and found[0]

        training.begin_with = begin_with
        return objective.with_evaluator(training)

    @cached_property
    def reference(self) -> Architecture | None:
        """The network that the search must beat."""
        return self.experiment.candidates.reference()

    def _train(
        self, rung: Rung, objective: EvaluatorObjective, queue: Sequence[tuple[Architecture, str]], *, at_least: int
    ) -> None:
        """Train the networks in the queue one by one, then the sampler's proposals until the rung is full."""
        # At least `at_least` are trained in any case, so that a search ends with a network even without time.
        mine = self.experiment.spec.reference
        if mine:  # it is not one of the rung's networks
            told = Callbacks(self.callbacks)
            with told.during(Run("search", self.study, 1, objective.evaluator.steps)):
                measure(self.study, mine, self._of_own(objective), told, lambda: self.experiment.reference_space)
        done = finished(self.study, objective)
        known = set(map(_architecture, done))
        missing = rung.networks - len(done)
        ends = time.monotonic() + PATIENCE * missing * rung.seconds
        if self.deadline is not None:
            ends = min(ends, self.deadline - rung.seconds)
        experiment = replace(self.experiment, objective=objective)
        # One at a time, because a network still waiting at the end of a rung would be trained in the next one.
        for architecture, origin in (each for each in queue if str(each[0]) not in known):
            late = time.monotonic() > ends and rung.networks - missing >= at_least
            if missing <= 0 or late or self.stop.asked:
                return
            enqueue_once(self.study, self.experiment.space, [architecture.params], origin)
            experiment.run(self.study, trials=1, stop=self.stop, callbacks=self.callbacks)
            missing -= 1
        if missing > 0 and not self.stop.asked:
            left = max(0.0 if rung.networks - missing >= at_least else LEAST_SECONDS, ends - time.monotonic())
            experiment.run(self.study, trials=missing, timeout=left, stop=self.stop, callbacks=self.callbacks)


def _architecture(trial: FrozenTrial) -> str | None:
    known: str | None = attribute(trial, TrialKey.ARCHITECTURE)
    return known


def plan_for(
    experiment: Experiment, seconds: float, load: Load | None = None, *, test_images: int = 0, retrain: bool = True
) -> Plan:
    """Divide the remaining seconds, minus the test and the export, by the reference's speed on this machine.

    Without `retrain` the rungs get all of them; without a load there is no export.
    """
    refuse_undivided(experiment.spec)
    training, space, candidates = require_training(experiment.objective), experiment.space, experiment.candidates
    if reference := candidates.reference():
        known: Sequence[Architecture] = [reference]
    else:
        middle = space.architecture({name: p.choices[len(p.choices) // 2] for name, p in space.parameters.items()})
        free = [middle, *space.sample_distinct(TRIED, Random(0))]
        known = candidates.listed or [candidates.pinned(each) for each in free]
    timed = _first_timed(training, known)
    speed = Speed(timed.step, timed.forward * len(training.validation_loader), len(training.train_loader))
    end = timed.test(test_images / training.recipe.batch_size) + (load.reserve(timed.layers) if load else 0.0)
    selecting = len(training.data.validation)
    return Plan.of(seconds, speed, min(end, seconds / 4), retrain=retrain, selecting=selecting)


def _first_timed(training: TrainingEvaluator, networks: Sequence[Architecture]) -> Timed:
    """The times of the first network that can be built; a user's space may have broken ones."""
    for network in networks[:-1]:
        with suppress(NasOptunaError):
            return time_network(training, network)
    return time_network(training, networks[-1])


def trained_weights(
    study: Study, space: SearchSpace, kept: KeptWeights, architecture: Architecture
) -> dict[str, Tensor] | None:
    """The kept weights of a network's latest training; None if there are none."""
    for trial in reversed(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))):
        if _architecture(trial) == str(architecture):
            with suppress(StudyError):
                return with_kept_weights(study, space, trial, kept)[0].state_dict()
    return None


def finished(study: Study, objective: EvaluatorObjective) -> list[FrozenTrial]:
    """The finished trials of an objective, in their order."""
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    trials = study.get_trials(deepcopy=False, states=states)
    return [trial for trial in trials if attribute(trial, TrialKey.IDENTITY) == objective.identity]


def last_rung(study: Study) -> int:
    """The highest rung number in a study; 0 if there is none."""
    return max((attribute(trial, TrialKey.RUNG) or 0 for trial in study.get_trials(deepcopy=False)), default=0)


def ranked(study: Study, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Complete trials, best first; of equals the one with the smaller validation loss."""
    sign = -1.0 if maximizes(study) else 1.0

    def key(trial: FrozenTrial) -> tuple[float, float]:
        metrics: dict[str, Any] = attribute(trial, TrialKey.METRICS, {})
        return sign * trial.values[0], metrics.get("negative_log_likelihood", 0.0)

    return sorted((t for t in trials if t.state == TrialState.COMPLETE and is_feasible(t)), key=key)


def run_within(
    experiment: Experiment,
    study: Study,
    budget: TimeBudget,
    *,
    stop: StopRequest,
    callbacks: Sequence[Callback | OptunaCallback] = (),
    say: Callable[[str], None],
) -> Outcome:
    """Train networks for about equal seconds, and the best of them for longer, until time is up."""
    # After a kill, a run continues with its decisions and its remaining time; after its end, a new one begins with the
    # best network so far.
    if experiment.data is None:
        raise SpecError(
            "a search with a clock divides the time of our own training, and the study has an evaluator of its own"
        )
    progress = Progress(study, StudyKey.WITHIN, budget, dict(study.user_attrs.get(StudyKey.WITHIN, {})))
    state = progress.state
    if state.get("done", True) or state["within"] != budget.total:
        plan = plan_for(experiment, budget.left, retrain=False)
        state |= {"plan": asdict(plan), "spent": 0.0, "from": last_rung(study) + 1, "done": False}
    budget.spent += state["spent"]
    progress.remember()
    before = _ended(study)
    plan = Plan.from_dict(state["plan"])
    say(f"{plan.describe()}; all within {budget.total:,.0f} s")
    deadline = time.monotonic() + budget.left
    told = [*callbacks, progress]
    RungSearch(experiment, study, plan, stop, told, from_rung=state["from"], deadline=deadline).run(say)
    progress.remember(done=not stop.asked)
    return Outcome(_ended(study) - before, stop.asked)


def _ended(study: Study) -> int:
    return sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))
