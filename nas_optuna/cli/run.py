"""``nas-optuna run``: train and rank architectures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from nas_optuna.cli import options
from nas_optuna.cli.commands import CLOCK
from nas_optuna.cli.printing import say, say_next
from nas_optuna.cli.ranking import print_outcome
from nas_optuna.cli.run_options import RunOptions
from nas_optuna.errors import StudyError
from nas_optuna.quantities import plural

if TYPE_CHECKING:
    from optuna.study import Study

    from nas_optuna.execution.executors.contract import Executor
    from nas_optuna.execution.loop import Outcome, StopRequest
    from nas_optuna.experiment import Experiment, ExperimentHandle

DEFAULT_WARM_TRIALS = 5
BEGIN_WITH = 1
"""So many of the best architectures of an earlier study are tried first; more would cost more where it misleads."""


def run(context: typer.Context, plan: RunOptions, all_: options.All = False, json: options.Json = False) -> int:
    """Search: train and rank architectures, and go on where an earlier run of the study stopped.

    A study that does not exist is created: from --spec, else from the preset digits-quick, or own-images where --data
    is a folder or a NumPy file. With several objectives it begins with its cheapest architecture. Ctrl-C ends after
    the current step, a second one at once; finished epochs are kept. The file of --enqueue or --fixed holds a params
    dict or an architecture string, or a JSON list of them.
    """
    executor = plan.workers.create()
    executor.preload()  # before anything large is imported here
    from nas_optuna.cli.specs import create
    from nas_optuna.execution.loop import StopRequest
    from nas_optuna.report.facts import StudyFacts
    from nas_optuna.study.files import remember

    stop = StopRequest()
    experiment, study = _prepare(plan, stop)
    with executor.reached(_handle(plan, experiment, study)):
        study = create(experiment, plan, plan.spec) if study is None else study
        remember(study, plan.url, plan.workers.files)
        outcome = _search(plan, experiment, study, executor, stop)
    print_outcome(StudyFacts(study), everything=all_, json=json)
    return _say_how_it_ended(context, plan, outcome, study)


def _prepare(plan: RunOptions, stop: StopRequest) -> tuple[Experiment, Study | None]:
    """The experiment, and its study where that exists. Nothing is written before all that is wrong has been refused."""
    from nas_optuna.cli.specs import find_target
    from nas_optuna.devices import use_threads
    from nas_optuna.experiment import Experiment
    from nas_optuna.study import lease_table
    from nas_optuna.study.storage import is_kept
    from nas_optuna.study.studies import checkpoint_folder

    if plan.workers.threads is not None:
        use_threads(plan.workers.threads)
    lease_table.seconds()
    if plan.keep_weights is not None and not is_kept(plan.url):
        raise StudyError(
            "--keep-weights is of no use with a storage that forgets the study when the command ends;"
            " --storage sqlite:///nas-optuna.db keeps both"
        )
    study, spec = find_target(plan, plan.spec)
    settings: dict[str, Any] = {
        "data_directory": plan.data_dir,
        "device": plan.workers.asked.first_device,
        "checkpoints": checkpoint_folder(plan.files(study, plan.workers.files), plan.study),
        "interrupted": stop,
        "keep_weights": plan.keep_weights is not None,
    }
    if study is None:
        experiment = Experiment.from_spec(spec, **settings)
    else:
        experiment = Experiment.of_study(study, spec, **settings)
    _check(plan, experiment, study)
    return experiment, study


def _check(plan: RunOptions, experiment: Experiment, study: Study | None) -> None:
    """Refuse what cannot be honoured while nothing has been created or begun."""
    from optuna.study import StudyDirection

    from nas_optuna.execution.stopping import parse_until
    from nas_optuna.objectives import parse_criterion
    from nas_optuna.study.studies import command
    from nas_optuna.study.supernet_result import read_result
    from nas_optuna.study.trial_queue import read_architectures
    from nas_optuna.trackers import create_trackers

    for path in (plan.enqueue, plan.fixed):
        if path is not None:
            read_architectures(path, experiment.space)
    if plan.learn_from is not None:
        from nas_optuna.samplers.earlier import complete_trials

        direction = StudyDirection[parse_criterion(experiment.spec.objectives[0]).direction.upper()]
        complete_trials(_earlier(plan), direction, experiment.space.parameters)
    for text in plan.until or ():
        parse_until(text, experiment.spec.objectives)
    create_trackers(plan.track)
    if plan.within is not None:
        from nas_optuna.fitting.clock import refuse_undivided

        refuse_undivided(experiment.spec)
    if plan.warm_start or experiment.spec.sampler.name == "supernet":
        if study is None:
            begin = command(plan.url, "supernet", "train", "--study", plan.study)
            raise StudyError(f"study {plan.study!r} is not there yet and has no trained supernet; run: {begin}")
        read_result(study)  # says what to run where there are none


def _search(plan: RunOptions, experiment: Experiment, study: Study, executor: Executor, stop: StopRequest) -> Outcome:
    from nas_optuna.cli.progress import watch
    from nas_optuna.execution.events import Callback, OptunaCallback
    from nas_optuna.execution.loop import interruptible
    from nas_optuna.execution.stopping import StopWhen, parse_until
    from nas_optuna.execution.trial_files import KeepBest
    from nas_optuna.report.notes import NoteWriter
    from nas_optuna.trackers import create_trackers

    if plan.warm_start:
        experiment.begin_warm(study, plan.warm_trials or DEFAULT_WARM_TRIALS)
    _learn_from(plan, experiment, study)
    trials = _fill_queue(plan, experiment, study)
    say(f"{plan.study}: {experiment.describe(within=plan.within is not None)}")
    for line in (*experiment.notes(), *executor.prepare(experiment.objective)):
        say(line)
    names = experiment.spec.objectives
    ending = StopWhen(names, [parse_until(text, names, experiment.allowed) for text in plan.until or ()])
    checkpoints = experiment.objective.checkpoints
    keeping = [KeepBest(checkpoints)] if plan.keep_weights == "best" and checkpoints else []
    expected = trials if plan.total is None else min(trials or plan.total, _missing(plan.total, study))
    with watch(expected, plan.timeout) as display, interruptible(stop):
        callbacks: list[Callback | OptunaCallback] = [
            NoteWriter(experiment.space, _artifacts(plan, study)),
            display,
            *keeping,
            *([ending] if plan.until else []),
            *create_trackers(plan.track),
        ]
        if plan.within is not None:
            outcome = _within(plan.within, experiment, study, stop, callbacks)
        else:
            outcome = experiment.run(
                study,
                trials=trials,
                timeout=plan.timeout,
                total=plan.total,
                executor=executor,
                handle=_handle(plan, experiment, study),
                stop=stop,
                callbacks=callbacks,
            )
    if ending.reason:
        say(f"ended: {ending.reason}")
    return outcome


def _within(time: str, experiment: Experiment, study: Study, stop: StopRequest, callbacks: Sequence[Any]) -> Outcome:
    from nas_optuna.fitting.clock import TimeBudget, parse_duration
    from nas_optuna.fitting.within import run_within

    budget = TimeBudget(parse_duration(time), began=CLOCK.began)
    return run_within(experiment, study, budget, stop=stop, callbacks=callbacks, say=say)


def _artifacts(plan: RunOptions, study: Study) -> Path | None:
    """Where files for the dashboard are kept; nowhere, if the storage forgets its studies."""
    from nas_optuna.study.storage import is_kept

    return plan.files(study, plan.workers.files) / "artifacts" if is_kept(plan.url) else None


def _handle(plan: RunOptions, experiment: Experiment, study: Study | None) -> ExperimentHandle | None:
    """What workers open; None where nobody else can open the study."""
    from nas_optuna.experiment import ExperimentHandle
    from nas_optuna.study.files import are_named
    from nas_optuna.study.storage import absolute, is_kept

    checkpoints = experiment.objective.checkpoints
    if not is_kept(plan.url):
        return None
    return ExperimentHandle(
        absolute(plan.url),
        plan.study,
        data_directory=plan.data_dir.absolute() if plan.data_dir else None,
        checkpoints=checkpoints.absolute() if checkpoints else None,
        spec=experiment.spec,
        keep_weights=plan.keep_weights is not None,
        warm_trials=(plan.warm_trials or DEFAULT_WARM_TRIALS) if plan.warm_start else 0,
        files_are_shared=are_named({} if study is None else study.user_attrs, plan.workers.files),
    )


def _missing(total: int, study: Study) -> int:
    """How many trials must still end until a study has so many."""
    ended = sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))
    return max(0, total - ended)


def _learn_from(plan: RunOptions, experiment: Experiment, study: Study) -> None:
    """Copy an earlier study's trials into this one, and begin with the best of them."""
    if plan.learn_from is None:
        return
    from nas_optuna.samplers.earlier import best_of, remember
    from nas_optuna.study.trial_queue import enqueue_new

    other, space = _earlier(plan), experiment.space
    copied = remember(study, other, space.parameters)
    best = best_of(study, {key: p.choices for key, p in space.parameters.items()}, BEGIN_WITH)
    excess = experiment.objective.limits.total_excess
    begun = [params for params in best if excess(space.architecture(params)) <= 0]
    queued = sum(enqueue_new(study, space, params, origin="earlier study") for params in begun)
    say(f"learning from {plural(copied, 'trial')} of {other.study_name}; in the queue: {queued} of its best")


def _earlier(plan: RunOptions) -> Study:
    """The study that ``NAME`` or ``NAME@STORAGE`` of ``--learn-from`` names."""
    name, _, elsewhere = (plan.learn_from or "").partition("@")
    return options.StudyOptions(name, elsewhere or plan.storage).open()


def _fill_queue(plan: RunOptions, experiment: Experiment, study: Study) -> int | None:
    """Put what is to be tried first into the queue; return how many trials to run."""
    from nas_optuna.study.trial_queue import (
        enqueue,
        enqueue_cheapest,
        enqueue_once,
        enqueue_reference,
        read_architectures,
    )

    space, objective = experiment.space, experiment.objective
    if plan.fixed:
        only = read_architectures(plan.fixed, space)
        return max(enqueue_once(study, space, architecture.params, origin="fixed") for architecture in only)
    if (reference := enqueue_reference(study, space, objective.costs, objective.limits)) is not None:
        say(f"in the queue: the reference, {reference}")
    for architecture in read_architectures(plan.enqueue, space) if plan.enqueue else []:
        enqueue(study, space, architecture.params, origin="enqueued")
    most = [criterion.cost for criterion in objective.criteria if criterion.maximize]
    for name, architecture in enqueue_cheapest(study, space, objective.costs, objective.limits).items():
        say(f"in the queue: the architecture with the {'most' if name in most else 'least'} {name}, {architecture}")
    return plan.count


def _say_how_it_ended(context: typer.Context, plan: RunOptions, outcome: Outcome, study: Study) -> int:
    from nas_optuna.study.results import best_trial
    from nas_optuna.study.storage import is_kept
    from nas_optuna.study.studies import command

    if outcome.interrupted:
        left = None if plan.count is None or plan.fixed else plan.count - outcome.trials
        again = options.command_line(context, trials=left, enqueue=None)
        say("stopped after the last trial" if left == 0 else f"stopped; nothing is lost. Continue: {again}")
        return 130
    if is_kept(plan.url):
        named = () if plan.study == "nas" else ("--study", plan.study)
        winner = [
            (command(study, "best", *named), "the winner and its figures"),
            (command(study, "report", *named), "all of it as one page"),
        ]
        say_next(
            [
                *(winner if best_trial(study) is not None else []),
                (command(study, "run", "--trials", "20", *named), "go on searching"),
                (command(study, "dashboard"), "browse in optuna-dashboard"),
            ]
        )
    return 0
