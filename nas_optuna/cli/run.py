"""``nas-optuna run``: train and rank architectures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from nas_optuna.cli import options
from nas_optuna.cli.commands import CLOCK, Command, with_options
from nas_optuna.cli.printing import print_json, say, say_next
from nas_optuna.cli.run_options import Plan, RunOptions
from nas_optuna.cli.specs import SpecOptions
from nas_optuna.cli.workers import WorkerFlags
from nas_optuna.errors import SpecError, StudyError, StudyExists

if TYPE_CHECKING:
    import optuna

    from nas_optuna.execution.executors.contract import Executor
    from nas_optuna.execution.loop import Outcome, StopRequest
    from nas_optuna.experiment import Experiment, ExperimentHandle

DEFAULT_WARM_TRIALS = 5
BEGIN_WITH = 1
"""So many of the best architectures of an earlier study are tried first; more would cost more where it misleads."""


def register(parent: typer.Typer) -> None:
    """Add the command."""
    parent.command(cls=Command, epilog="Example: nas-optuna run --sampler random --trials 20")(run)


@with_options
def run(
    context: typer.Context,
    wanted: RunOptions,
    given: SpecOptions,
    flags: WorkerFlags,
    all_: options.All = False,
    json: options.Json = False,
) -> int:
    """Search: train and rank architectures, and go on where an earlier run of the study stopped.

    A study that does not exist is created: from --spec, else from the preset digits-quick, or own-images where --data
    is a folder or a NumPy file. With several objectives it begins with its cheapest architecture. Ctrl-C ends after
    the current step, a second one at once; finished epochs are kept. The file of --enqueue or --fixed holds a params
    dict or an architecture string, or a JSON list of them.
    """
    plan = Plan(**vars(wanted), workers=flags)
    loaded, outcome = _executed(plan, given)
    _print_outcome(loaded, json, everything=all_)
    return _say_how_it_ended(context, plan, outcome, loaded)


def _executed(plan: Plan, given: SpecOptions) -> tuple[optuna.Study, Outcome]:
    if plan.within is not None and given.epochs is not None:
        raise SpecError("--within decides how many epochs each network has; leave out --epochs")
    executor = plan.workers.create()
    executor.preload()  # before anything large is imported here
    from nas_optuna.execution.loop import StopRequest
    from nas_optuna.study.files import remember
    from nas_optuna.study.storage import storage_url

    stop = StopRequest()
    experiment, study = _prepare(plan, given, stop)
    with executor.reached(_handle(plan, experiment, study)):
        experiment, study = _created(plan, given, stop, experiment) if study is None else (experiment, study)
        remember(study, storage_url(plan.storage), plan.workers.files)
        return study, _search(plan, experiment, study, executor, stop)


def _say_how_it_ended(context: typer.Context, plan: Plan, outcome: Outcome, study: optuna.Study) -> int:
    from nas_optuna.study.best import best_trial
    from nas_optuna.study.storage import is_kept, storage_url

    if outcome.interrupted:
        left = None if plan.count is None or plan.fixed else plan.count - outcome.trials
        again = options.command_line(context, trials=left, enqueue=None)
        say("stopped after the last trial" if left == 0 else f"stopped; nothing is lost. Continue: {again}")
        return 130
    if is_kept(storage_url(plan.storage)):
        _say_what_next(plan.study, plan.storage, found=best_trial(study) is not None)
    return 0


def _prepare(plan: Plan, given: SpecOptions, stop: StopRequest) -> tuple[Experiment, optuna.Study | None]:
    """The experiment, and its study where that exists. Nothing is written before all that is wrong has been refused."""
    from nas_optuna.cli.specs import find_target
    from nas_optuna.devices import use_threads
    from nas_optuna.experiment import Experiment
    from nas_optuna.study import lease
    from nas_optuna.study.files import folders, usable
    from nas_optuna.study.storage import is_kept, storage_url
    from nas_optuna.study.studies import checkpoint_folder

    if plan.workers.threads is not None:
        use_threads(plan.workers.threads)
    lease.seconds()
    url = storage_url(plan.storage)
    if plan.keep_weights is not None and not is_kept(url):
        raise StudyError(
            "--keep-weights is of no use with a storage that forgets the study when the command ends;"
            " --storage sqlite:///nas-optuna.db keeps both"
        )
    target = find_target(url, plan.study, given, trust=plan.trust)
    known = None if target.study is None else target.study.user_attrs
    files = usable(folders(url, known, plan.workers.files)[0])
    settings: dict[str, Any] = {
        "data_directory": plan.data_dir,
        "device": plan.workers.asked.first_device,
        "checkpoints": checkpoint_folder(files, plan.study),
        "interrupted": stop,
        "keep_weights": plan.keep_weights is not None,
    }
    if target.study is None:
        experiment = Experiment.from_spec(target.spec, **settings)
    else:
        experiment = Experiment.of_study(target.study, target.spec, **settings)
    _check(plan, experiment, target.study)
    return experiment, target.study


def _created(
    plan: Plan, given: SpecOptions, stop: StopRequest, experiment: Experiment
) -> tuple[Experiment, optuna.Study]:
    """The experiment and its new study, or that which another process made just now."""
    from nas_optuna.cli.specs import say_created
    from nas_optuna.spec_parts import code_named
    from nas_optuna.study.storage import open_storage, storage_url
    from nas_optuna.study.trust import remember

    url = storage_url(plan.storage)
    try:
        study = experiment.create(open_storage(url, create=True), plan.study)
    except StudyExists:
        experiment, found = _prepare(plan, given, stop)
        return (experiment, found) if found is not None else _created(plan, given, stop, experiment)
    remember(url, plan.study, code_named(experiment.spec))
    say_created(plan.study, given)
    return experiment, study


def _check(plan: Plan, experiment: Experiment, study: optuna.Study | None) -> None:
    """Refuse what cannot be honoured while nothing has been created or begun."""
    from optuna.study import StudyDirection

    from nas_optuna.execution.stopping import parse_until
    from nas_optuna.objectives import parse_criterion
    from nas_optuna.study.supernet_result import read_result
    from nas_optuna.study.trial_queue import read_architectures
    from nas_optuna.trackers import create_trackers

    for path in (plan.enqueue, plan.fixed):
        if path is not None:
            read_architectures(path, experiment.space)
    if plan.learn_from is not None:
        from nas_optuna.samplers.earlier import complete_trials

        direction = StudyDirection[parse_criterion(experiment.spec.objectives[0]).direction.upper()]
        complete_trials(_earlier(plan.learn_from, plan.storage), direction, experiment.space.parameters)
    for text in plan.until or ():
        parse_until(text, experiment.spec.objectives)
    create_trackers(plan.track)
    if plan.warm_start or experiment.spec.sampler.name == "supernet":
        if study is None:
            begin = options.hint("supernet train", plan.storage, plan.study)
            raise StudyError(f"study {plan.study!r} is not there yet and has no trained supernet; run: {begin}")
        read_result(study)  # says what to run where there are none


def _search(plan: Plan, experiment: Experiment, study: optuna.Study, executor: Executor, stop: StopRequest) -> Outcome:
    from nas_optuna.cli.progress import watch
    from nas_optuna.execution.events import Callback, OptunaCallback
    from nas_optuna.execution.loop import interruptible
    from nas_optuna.execution.stopping import StopWhen, parse_until
    from nas_optuna.execution.trial_files import KeepBest
    from nas_optuna.report.figures import save_entropy
    from nas_optuna.report.notes import NoteWriter
    from nas_optuna.trackers import create_trackers

    if plan.warm_start:
        experiment.begin_warm(study, plan.warm_trials or DEFAULT_WARM_TRIALS)
    _learn_from(plan, experiment, study)
    trials = _fill_queue(plan, experiment, study)
    say(f"{plan.study}: {experiment.describe()}")
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
            save_entropy(study)
            return outcome
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
    save_entropy(study)
    return outcome


def _within(
    time: str, experiment: Experiment, study: optuna.Study, stop: StopRequest, callbacks: Sequence[Any]
) -> Outcome:
    from nas_optuna.fitting.time_budget import TimeBudget, parse_duration
    from nas_optuna.fitting.within import run_within

    budget = TimeBudget(parse_duration(time), began=CLOCK.began)
    return run_within(experiment, study, budget, stop=stop, callbacks=callbacks, say=say)


def _artifacts(plan: Plan, study: optuna.Study) -> Path | None:
    """Where files for the dashboard are kept; nowhere, if the storage forgets its studies."""
    from nas_optuna.study.files import folders
    from nas_optuna.study.storage import is_kept, storage_url

    url = storage_url(plan.storage)
    return folders(url, study.user_attrs, plan.workers.files)[0] / "artifacts" if is_kept(url) else None


def _handle(plan: Plan, experiment: Experiment, study: optuna.Study | None) -> ExperimentHandle | None:
    """What workers open; None where nobody else can open the study."""
    from nas_optuna.experiment import ExperimentHandle
    from nas_optuna.study.files import are_named
    from nas_optuna.study.storage import absolute, is_kept, storage_url

    url, checkpoints = storage_url(plan.storage), experiment.objective.checkpoints
    if not is_kept(url):
        return None
    return ExperimentHandle(
        absolute(url),
        plan.study,
        data_directory=plan.data_dir.absolute() if plan.data_dir else None,
        checkpoints=checkpoints.absolute() if checkpoints else None,
        spec=experiment.spec,
        keep_weights=plan.keep_weights is not None,
        warm_trials=(plan.warm_trials or DEFAULT_WARM_TRIALS) if plan.warm_start else 0,
        files_are_shared=are_named({} if study is None else study.user_attrs, plan.workers.files),
    )


def _missing(total: int, study: optuna.Study) -> int:
    """How many trials must still end until a study has so many."""
    ended = sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))
    return max(0, total - ended)


def _learn_from(plan: Plan, experiment: Experiment, study: optuna.Study) -> None:
    """Copy an earlier study's trials into this one, and begin with the best of them."""
    if plan.learn_from is None:
        return
    from nas_optuna.samplers.earlier import best_of, remember
    from nas_optuna.study.records import count
    from nas_optuna.study.trial_queue import enqueue_new

    other, space = _earlier(plan.learn_from, plan.storage), experiment.space
    copied = remember(study, other, space.parameters)
    best = best_of(study, {key: p.choices for key, p in space.parameters.items()}, BEGIN_WITH)
    excess = experiment.objective.limits.total_excess
    begun = [params for params in best if excess(space.architecture(params)) <= 0]
    queued = enqueue_new(study, space, begun, origin="earlier study")
    say(f"learning from {count(copied, 'trial')} of {other.study_name}; in the queue: {queued} of its best")


def _earlier(named: str, storage: str | None) -> optuna.Study:
    """The study that ``NAME`` or ``NAME@STORAGE`` names."""
    from nas_optuna.study.storage import open_storage, storage_url
    from nas_optuna.study.studies import load_study

    name, _, elsewhere = named.partition("@")
    return load_study(open_storage(storage_url(elsewhere or storage)), name)


def _fill_queue(plan: Plan, experiment: Experiment, study: optuna.Study) -> int | None:
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
    if (reference := enqueue_reference(study, space, objective.limits)) is not None:
        say(f"in the queue: the reference, {reference}")
    for architecture in read_architectures(plan.enqueue, space) if plan.enqueue else []:
        enqueue(study, space, architecture.params, origin="enqueued")
    most = [criterion.cost for criterion in objective.criteria if criterion.maximize]
    for name, architecture in enqueue_cheapest(study, space, objective.costs, objective.limits).items():
        say(f"in the queue: the architecture with the {'most' if name in most else 'least'} {name}, {architecture}")
    return plan.count


def _print_outcome(study: optuna.Study, json: bool, *, everything: bool) -> None:
    from nas_optuna.cli.pareto import print_front, say_feasible
    from nas_optuna.cli.ranking import print_ranking, print_winner
    from nas_optuna.study.optuna_internals import read_once
    from nas_optuna.study.records import ranked
    from nas_optuna.study.studies import maximizes

    study = read_once(study)
    if json:
        print_json([r.to_dict() for r in ranked(study.get_trials(deepcopy=False), maximizes(study))])
    else:
        print_ranking(study, everything=everything)
        print_front(study)
        print_winner(study)
    say_feasible(study)


def _say_what_next(study: str, storage: str | None, *, found: bool) -> None:
    named = None if study == "nas" else study
    winner = [
        (options.hint("best", storage, named), "the winner and its figures"),
        (options.hint("report", storage, named), "all of it as one page"),
    ]
    say_next(
        [
            *(winner if found else []),
            (options.hint("run --trials 20", storage, named), "go on searching"),
            (options.hint("dashboard", storage), "browse in optuna-dashboard"),
        ]
    )
