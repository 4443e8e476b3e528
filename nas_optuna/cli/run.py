"""``nas-optuna run``: train and rank architectures."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas_optuna.cli import options
from nas_optuna.cli.printing import print_json, say
from nas_optuna.errors import SpecError, unknown

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from nas_optuna.experiment import Search

DEFAULT_TRIALS = 20


def register(parent: typer.Typer) -> None:
    """Add the command."""
    parent.command(epilog="Example: nas-optuna run --sampler random --trials 20")(run)


def run(
    context: typer.Context,
    study: options.StudyName = "nas",
    trials: Annotated[
        int | None,
        typer.Option("--trials", metavar="N", help="Trials to run now; 20 without --timeout.", show_default=False),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", metavar="S", help="Begin no trial after S seconds.", show_default=False),
    ] = None,
    spec: options.Spec = None,
    set_: options.Set = None,
    objectives: options.Objectives = None,
    max_macs: options.MaxMacs = None,
    max_params: options.MaxParams = None,
    max_memory: options.MaxMemory = None,
    max_latency: options.MaxLatency = None,
    latency_table: options.LatencyTable = None,
    sampler: options.Sampler = None,
    pruner: options.Pruner = None,
    seed: options.Seed = None,
    device: options.Device = "auto",
    threads: Annotated[
        int | None,
        typer.Option("--threads", metavar="N", help="CPU threads; all cores by default.", show_default=False),
    ] = None,
    enqueue: Annotated[
        Path | None,
        typer.Option("--enqueue", metavar="FILE", help="Architectures to try first.", show_default=False),
    ] = None,
    fixed: Annotated[
        Path | None,
        typer.Option("--fixed", metavar="FILE", help="Train these architectures and no more.", show_default=False),
    ] = None,
    warm_start: Annotated[
        str | None,
        typer.Option("--warm-start", metavar="supernet", help="What proposes the first trials.", show_default=False),
    ] = None,
    warm_trials: Annotated[
        int | None,
        typer.Option("--warm-trials", metavar="N", help="How many it proposes; 5.", min=1, show_default=False),
    ] = None,
    storage: options.Storage = None,
    data_dir: options.DataDir = None,
    json: options.Json = False,
) -> int:
    """Search: train and rank architectures, and go on where an earlier run of the study stopped.

    A study that does not exist is created from --spec (without one, and without a name, from the preset
    digits-quick); with several objectives it begins with its cheapest architecture. Ctrl-C ends after the current
    step; nothing is lost. The file of --enqueue or --fixed holds a params dict or an architecture string, or a JSON
    list of them.
    """
    from nas_optuna.cli.pareto import print_front, say_feasible
    from nas_optuna.cli.progress import watch
    from nas_optuna.cli.ranking import print_ranking
    from nas_optuna.cli.specs import cost_overrides, existing_or_new
    from nas_optuna.devices import use_threads
    from nas_optuna.execution.loop import StopRequest, interruptible
    from nas_optuna.execution.loop import run as run_trials
    from nas_optuna.execution.objective import Objective
    from nas_optuna.experiment import prepare
    from nas_optuna.presets import DEFAULT
    from nas_optuna.report.controller import save_entropy
    from nas_optuna.report.notes import NoteWriter
    from nas_optuna.samplers.prior import read_alphas
    from nas_optuna.study.records import ranked
    from nas_optuna.study.storage import files_folder, open_storage, storage_url
    from nas_optuna.study.studies import (
        checkpoint_folder,
        create_study,
        maximizes,
        require_same_space,
    )
    from nas_optuna.study.trial_queue import enqueue as enqueue_architecture
    from nas_optuna.study.trial_queue import enqueue_cheapest, enqueue_once, read_architectures

    if trials is not None and trials < 1:
        raise SpecError(f"--trials must be at least 1, got {trials}")
    if timeout is not None and timeout <= 0:
        raise SpecError(f"--timeout must be positive, got {timeout:g}")
    if fixed and (trials or timeout or enqueue):
        raise SpecError("--fixed trains what its file holds and no more; leave out --trials, --timeout and --enqueue")
    if warm_start not in (None, "supernet"):
        raise SpecError(unknown("warm start", str(warm_start), ["supernet"]))
    if warm_trials is not None and warm_start is None:
        raise SpecError("--warm-trials needs --warm-start supernet")
    if trials is None and timeout is None:
        trials = DEFAULT_TRIALS
    if threads is not None:
        use_threads(threads)

    costs = cost_overrides(
        objectives,
        max_macs=max_macs,
        max_params=max_params,
        max_memory=max_memory,
        max_latency=max_latency,
        latency_table=latency_table,
    )
    url = storage_url(storage)
    overrides = [*(set_ or ()), *costs]
    existing, wanted = existing_or_new(url, study, spec, overrides, sampler=sampler, pruner=pruner, seed=seed)
    search = prepare(wanted, data_dir)
    if existing is not None:
        require_same_space(existing, search.space)
    queued = read_architectures(enqueue, search.space) if enqueue else []
    only = read_architectures(fixed, search.space) if fixed else []
    stop = StopRequest()
    files = files_folder(url)
    with watch(len(only) or trials, timeout) as display:
        objective = Objective(
            search.space,
            search.data,
            wanted.recipe,
            objectives=wanted.objectives,
            limits=wanted.limits,
            latency=wanted.latency,
            device=device,
            reuse_duplicates=wanted.reuse_duplicates,
            checkpoints=checkpoint_folder(files, study),
            interrupted=stop,
            on_epoch=display.epoch_ended,
        )
        if existing is None:
            existing = create_study(open_storage(url, create=True), study, wanted, search.space)
            say(f"created study {study!r}" + (f" from the preset {DEFAULT}" if spec is None else ""))
        existing.sampler, existing.pruner = search.sampler_within(objective.costs), search.pruner
        if warm_start:
            existing.sampler = _warm_started(search, existing.sampler, warm_trials)
        if warm_start or wanted.sampler.name == "supernet":
            read_alphas(existing)  # says what to run where there are none
        for architecture in queued:
            enqueue_architecture(existing, search.space, architecture.params, origin="enqueued")
        if only:
            trials = max(enqueue_once(existing, search.space, a.params, origin="fixed") for a in only)
        else:
            for name, architecture in enqueue_cheapest(existing, search.space, objective.costs).items():
                say(f"in the queue: the architecture with the least {name}, {architecture}")
        say(f"{study}: {search.describe()}")
        say(f"training on {objective.describe_device()}")
        watchers = (NoteWriter(), display.of(existing))
        with interruptible(stop):
            outcome = run_trials(existing, objective, trials=trials, timeout=timeout, stop=stop, watchers=watchers)
    save_entropy(existing)
    if json:
        print_json([r.to_dict() for r in ranked(existing.get_trials(deepcopy=False), maximizes(existing))])
    else:
        print_ranking(existing)
        print_front(existing)
    say_feasible(existing)
    if outcome.interrupted:
        left = None if trials is None else trials - outcome.trials
        say(f"stopped; nothing is lost. Continue: {options.command_line(context, trials=left, enqueue=None)}")
    else:
        _say_what_next(study, storage)
    return 130 if outcome.interrupted else 0


def _warm_started(search: Search, sampler: BaseSampler, trials: int | None) -> BaseSampler:
    from nas_optuna.samplers.prior import WarmStartSampler

    options = {} if trials is None else {"trials": trials}
    return WarmStartSampler(sampler, search.space.distributions(), search.spec.sampler.seed, **options)


def _say_what_next(study: str, storage: str | None) -> None:
    from nas_optuna.study.storage import masked

    where = [f"--storage {shlex.quote(masked(storage))}"] if storage else []
    which = [f"--study {shlex.quote(study)}"] if study != "nas" else []
    say(f"next: {' '.join(('nas-optuna best', *which, *where))}      the winner, its figures and how to use it")
    say(f"      {' '.join(('nas-optuna run --trials 20', *which, *where))}      go on searching")
    say(f"      {' '.join(('nas-optuna dashboard', *where))}      browse in optuna-dashboard")
