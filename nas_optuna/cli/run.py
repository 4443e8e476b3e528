"""``nas-optuna run``: train and rank architectures."""

from __future__ import annotations

import re
from contextlib import nullcontext
from functools import cached_property, partial
from typing import Any

import typer

from nas_optuna.cli import options
from nas_optuna.cli.options import StudyOptions
from nas_optuna.cli.printing import say, say_next
from nas_optuna.cli.results import print_outcome
from nas_optuna.cli.run_options import RunOptions, create, find_target
from nas_optuna.devices import use_threads
from nas_optuna.errors import Interrupted, StudyError
from nas_optuna.lazily import lazily
from nas_optuna.objectives import parse_criterion
from nas_optuna.quantities import plural
from nas_optuna.samplers import SAMPLERS
from nas_optuna.study.storage import absolute, is_kept

with lazily():
    from optuna import study as optuna_study
    from optuna.study import Study
    from optuna.trial import TrialState

    from nas_optuna.cli.progress import watch
    from nas_optuna.execution import loop, trial_files
    from nas_optuna.execution.events import Callback, OptunaCallback
    from nas_optuna.execution.executors.contract import Executor
    from nas_optuna.execution.stopping import StopWhen, parse_until
    from nas_optuna.experiment import Experiment, ExperimentHandle
    from nas_optuna.fitting import clock
    from nas_optuna.fitting.rungs import finished, run_within
    from nas_optuna.hyperparameters import own_values
    from nas_optuna.report.facts import StudyFacts
    from nas_optuna.report.notes import NoteWriter
    from nas_optuna.samplers import beforehand, prior
    from nas_optuna.spaces.architecture import Architecture
    from nas_optuna.study import files, lease, lease_table, studies, supernet_result
    from nas_optuna.study import trial_queue as queue
    from nas_optuna.study.results import best_trial, would_mix
    from nas_optuna.study.schema import TrialKey, attribute
    from nas_optuna.trackers import create_trackers

DEFAULT_WARM_TRIALS = 5
BEGIN_WITH = 1
"""How many of an earlier study's best architectures are tried first; more would cost more if it misleads."""


def run(context: typer.Context, plan: RunOptions, all_: options.All = False, json: options.Json = False) -> None:
    """Search: train and rank architectures, and go on where an earlier run of the study stopped.

    A study that does not exist is created: from --spec, else from the preset digits-quick, or own-images where --data
    is a folder or a NumPy file. With several objectives it begins with its cheapest architecture. Ctrl-C ends after
    the current step, a second one at once; finished epochs are kept. The file of --enqueue or --fixed holds a params
    dict or an architecture string, or a JSON list of them.
    """
    executor = plan.workers.create()
    executor.preload()  # before large imports in this process
    search = _Search(plan)
    with executor.reached(search.handle) or nullcontext():  # one of a user's may do nothing and give nothing
        study = create(search.experiment, plan, plan.spec) if search.stored is None else search.stored
        files.remember(study, plan.url, plan.workers.files)
        outcome = search.run(study, executor)
    facts = StudyFacts(study)
    print_outcome(facts, everything=all_, json=json)
    left = None if plan.count is None or plan.fixed else plan.count - outcome.trials
    if outcome.interrupted and left != 0:
        context.params |= {"trials": left, "enqueue": None}
        raise Interrupted
    if is_kept(plan.url):
        winner = [
            (facts.command("best"), "the winner and its figures"),
            (facts.command("report"), "all of it as one page"),
        ]
        how = ("--trials", "20") if plan.within is None else ("--within", plan.within)  # only one kind is comparable
        more = [
            (facts.command("run", *how), "go on searching"),
            (studies.command(study, "dashboard"), "browse in optuna-dashboard"),
        ]
        say_next([*(winner if best_trial(study) is not None else []), *more])


def _earlier(plan: RunOptions, experiment: Experiment) -> Study | None:
    """The study of ``--learn-from NAME`` or ``NAME@STORAGE``, which must have usable trials."""
    if plan.learn_from is None:
        return None
    found = re.fullmatch(r"(.+?)@([^@]*:.*)", plan.learn_from, re.DOTALL)  # a study's name may have an @, too
    name, elsewhere = found.groups() if found else (plan.learn_from, plan.storage)
    study = StudyOptions(name, elsewhere).open()
    direction = optuna_study.StudyDirection[parse_criterion(experiment.spec.objectives[0]).direction.upper()]
    beforehand.complete_trials(study, direction, experiment.space.parameters)
    return study


class _Search:
    """A run of a study, which may not exist yet; fully checked, before anything is written or started."""

    def __init__(self, plan: RunOptions) -> None:
        if plan.workers.threads is not None:
            use_threads(plan.workers.threads)
        lease_table.seconds()
        if plan.keep_weights is not None and not is_kept(plan.url):
            raise StudyError(
                "--keep-weights is of no use with a storage that forgets the study when the command ends;"
                " --storage sqlite:///nas-optuna.db keeps both"
            )
        self.plan, self.stop = plan, loop.StopRequest()
        self.stored, spec = find_target(plan, plan.spec)
        settings: dict[str, Any] = {
            "data_directory": plan.data_dir,
            "device": plan.workers.asked.first_device,
            "checkpoints": studies.checkpoint_folder(plan.files(self.stored, plan.workers.files), plan.study),
            "interrupted": self.stop,
            "keep_weights": plan.keep_weights is not None,
        }
        make = Experiment.from_spec if self.stored is None else partial(Experiment.of_study, self.stored)
        self.experiment = make(spec, **settings)
        self.experiment.candidates.check()
        listed, names = plan.enqueue or plan.fixed, self.experiment.spec.objectives
        self.listed = queue.read_architectures(listed, self.experiment.space) if listed else []
        self.earlier = _earlier(plan, self.experiment)
        self.ending = StopWhen(parse_until(text, names, self.experiment.candidates) for text in plan.until or ())
        self.trackers = create_trackers(plan.track)
        if plan.within is not None:
            clock.refuse_undivided(self.experiment.spec)
        if plan.warm_start or self.experiment.spec.sampler.name == "supernet":
            if self.stored is None:
                named = ("--study", plan.study)
                create = studies.command(plan.url, "study", "create", *named, *options.words_of(plan.spec))
                train = studies.command(plan.url, "supernet", "train", *named)  # it creates studies of fewer options
                raise StudyError(
                    f"study {plan.study!r} is not there yet and has no trained supernet; run: {create} && {train}"
                )
            supernet_result.read_result(self.stored)  # if there is none, the error says what to run

    @property
    def warm_trials(self) -> int:
        """How many trials the study's supernet proposes."""
        return (self.plan.warm_trials or DEFAULT_WARM_TRIALS) if self.plan.warm_start else 0

    @cached_property
    def handle(self) -> ExperimentHandle | None:
        """The handle for workers; None if other processes cannot open the study."""
        plan, checkpoints = self.plan, self.experiment.objective.checkpoints
        if not is_kept(plan.url):
            return None
        return ExperimentHandle(
            absolute(plan.url),
            plan.study,
            data_directory=plan.data_dir.absolute() if plan.data_dir else None,
            checkpoints=checkpoints.absolute() if checkpoints else None,
            spec=self.experiment.spec,
            keep_weights=plan.keep_weights is not None,
            warm_trials=self.warm_trials,
            files_are_shared=files.are_named({} if self.stored is None else self.stored.user_attrs, plan.workers.files),
        )

    def run(self, study: Study, executor: Executor) -> loop.Outcome:
        """Run its trials."""
        plan, experiment, stop = self.plan, self.experiment, self.stop
        if self.warm_trials:
            experiment.begin_warm(study, self.warm_trials)
            if (begun := prior.warm_trials(study)) >= self.warm_trials:
                more = f"--warm-trials {begun + DEFAULT_WARM_TRIALS} lets it propose {DEFAULT_WARM_TRIALS} more"
                say(f"the supernet has proposed its {plural(begun, 'trial')} already; {more}")
        trials = self._fill_queue(study)
        say(f"{plan.study}: {experiment.describe(within=plan.within is not None)}", *experiment.notes())
        if would_mix(study, by_clock=plan.within is not None):
            say(
                "trainings by the recipe rank above those by a clock, and this study gets both; --study NAME begins"
                " another"
            )
        say(*(executor.prepare(experiment.objective) or ()))
        artifacts = plan.files(study, plan.workers.files) / "artifacts" if is_kept(plan.url) else None
        told: list[Callback | OptunaCallback] = [NoteWriter(experiment.space, artifacts)]
        if plan.keep_weights == "best" and experiment.objective.checkpoints:
            told.append(trial_files.KeepBest(experiment.objective.checkpoints))
        told += [self.ending] if plan.until else []
        expected = trials
        if plan.total is not None:
            known = study.get_trials(deepcopy=False)
            ended = sum(trial.state.is_finished() for trial in known if trial.number < plan.total)
            expected = min(trials or plan.total, plan.total - ended)
            if beyond := sum(trial.state == TrialState.WAITING for trial in known if trial.number >= plan.total):
                say(f"--total {plan.total} leaves {plural(beyond, 'trial')} of the queue to a run with a larger one")
        with watch(expected, plan.timeout) as display, loop.interruptible(stop):
            told += [display, *self.trackers]
            if plan.within is not None:
                budget = clock.TimeBudget(clock.parse_duration(plan.within), began=options.began)
                outcome = run_within(experiment, study, budget, stop=stop, callbacks=told, say=say)
            else:
                limits: dict[str, Any] = {"trials": trials, "timeout": plan.timeout, "total": plan.total}
                outcome = experiment.run(
                    study, **limits, executor=executor, handle=self.handle, stop=stop, callbacks=told
                )
        if self.ending.reason:
            say(f"ended: {self.ending.reason}")
        return outcome

    def _fill_queue(self, study: Study) -> int | None:
        """Enqueue the architectures to try first; return the number of trials to run."""
        space, candidates = self.experiment.space, self.experiment.candidates
        if self.earlier is not None:
            self._learn_from(self.earlier, study)
        if self.plan.fixed:
            lease.release_abandoned(study, again=True)  # of a killed call; they wait again, and are counted
            left = self._untrained(study)
            return queue.enqueue_once(study, space, [each.params for each in left], "fixed")
        spec = self.experiment.spec
        reference = queue.enqueue_reference(study, candidates, own_values(spec.recipe, spec.search))
        if reference is not None:
            say(f"in the queue: the reference, {reference}")
        # They may wait already, if this command was ended; each may be listed several times with settings to search.
        queue.enqueue_all(study, space, [each.params for each in self.listed], "enqueued", queue.UNFINISHED)
        most = [criterion.cost for criterion in self.experiment.objective.criteria if criterion.maximize]
        for name, architecture in queue.enqueue_cheapest(study, candidates).items():
            say(f"in the queue: the architecture with the {'most' if name in most else 'least'} {name}, {architecture}")
        return self.plan.count

    def _untrained(self, study: Study) -> list[Architecture]:
        """The listed architectures without those that an earlier call has trained to the end."""
        if not self.experiment.spec.reuse_duplicates:  # then a repeated call is to train them again
            return self.listed
        ended = finished(study, self.experiment.objective)
        trained = {attribute(t, TrialKey.ARCHITECTURE) for t in ended if t.state == TrialState.COMPLETE}
        left = [each for each in self.listed if str(each) not in trained]
        if len(left) < len(self.listed):
            say(f"trained already: {len(self.listed) - len(left)} of {plural(len(self.listed), 'architecture')}")
        return left

    def _learn_from(self, earlier: Study, study: Study) -> None:
        """Copy an earlier study's trials into this one, and enqueue the best of them."""
        space = self.experiment.space
        copied = beforehand.remember(study, earlier, space.parameters)
        candidates = self.experiment.candidates
        best = beforehand.best_of(
            study, space.parameters, BEGIN_WITH, lambda params: space.architecture(params) in candidates
        )
        queued = queue.enqueue_all(study, space, best, "earlier study")
        said, name = f"{plural(copied, 'trial')} of {earlier.study_name}", self.experiment.spec.sampler.name
        if name in SAMPLERS.builtin and name not in beforehand.LEARNING:
            said = f"sampler {name} learns nothing from {said} ({', '.join(beforehand.LEARNING)} would)"
        else:
            said = f"learning from {said}"
        say(f"{said}; in the queue: {queued} of its best")
