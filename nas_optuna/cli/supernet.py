"""``nas-optuna supernet``: train, export, check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas_optuna.cli import options
from nas_optuna.cli.printing import STDOUT, Column, print_json, print_table, say, say_next, seconds, write_out
from nas_optuna.errors import Interrupted, StudyExists, TrainingError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import optuna
    from optuna.study import Study

    from nas_optuna.cli.progress import SupernetBar
    from nas_optuna.cli.specs import SpecOptions, Target
    from nas_optuna.execution.loop import StopRequest
    from nas_optuna.execution.search import Search
    from nas_optuna.oneshot.check import RankCorrelation, Verdict
    from nas_optuna.oneshot.price import Price
    from nas_optuna.oneshot.training import SupernetTraining
    from nas_optuna.spaces.architecture import Architecture
    from nas_optuna.spaces.supernet import Supernet

app = typer.Typer(
    help="Train a supernet, export its best architecture, check whether its ranking can be believed.",
    no_args_is_help=True,
    epilog="Example: nas-optuna supernet train --study s --spec digits-supernet",
)


def register(parent: typer.Typer) -> None:
    """Add the command group."""
    parent.add_typer(app, name="supernet")


Epochs = Annotated[int | None, typer.Option("--epochs", metavar="N", help="supernet.epochs.", show_default=False)]
Budget = Annotated[
    float | None,
    typer.Option(
        "--budget",
        metavar="N",
        help="Train the shared weights for what N stand-alone trainings cost (measured); the rest is extra.",
        show_default=False,
    ),
]
Mode = Annotated[
    str | None,
    typer.Option("--mode", metavar="mixture|sampled", help="Strategy darts, mixture or sampled.", show_default=False),
]
LatencyWeight = Annotated[
    float | None, typer.Option("--latency-weight", metavar="W", help="supernet.latency_weight.", show_default=False)
]
TargetLatency = Annotated[
    float | None,
    typer.Option(
        "--target-latency",
        metavar="T",
        help="Penalise expected latency only above T ms (millions of MACs without a table).",
        show_default=False,
    ),
]
LatencyTableFile = Annotated[
    Path | None,
    typer.Option(
        "--latency-table", metavar="FILE", help="Rather than the spec's; MACs without any.", show_default=False
    ),
]
Restart = Annotated[bool, typer.Option("--restart", help="Begin anew rather than go on.")]


@app.command(epilog="Example: nas-optuna supernet train --study s --spec digits-supernet --latency-weight 0.1")
def train(
    study: options.StudyName = "nas",
    spec: options.Spec = None,
    set_: options.Set = None,
    epochs: Epochs = None,
    budget: Budget = None,
    mode: Mode = None,
    latency_weight: LatencyWeight = None,
    target_latency: TargetLatency = None,
    latency_table: LatencyTableFile = None,
    restart: Restart = False,
    device: options.Device = "auto",
    storage: options.Storage = None,
    data_dir: options.DataDir = None,
    trust: options.Trust = False,
    track: options.Track = None,
    json: options.Json = False,
) -> int:
    """Train a supernet on the study's images and store its alphas with the study.

    Strategy fair (the default) trains shared weights on uniformly drawn paths, then learns the alphas and looks for
    the best architecture with forward passes on validation images. Short trainings of some architectures on their own
    tell how much shared weights are worth, and which of the best comes first; --set supernet.short_trainings=0 leaves
    them out. --mode or --set supernet.strategy=darts choose the differentiable strategy. Ctrl-C keeps what is
    finished, and the same command goes on from it. A study that does not exist is created from --spec. Every key of
    the spec's [supernet] section can be set: --set supernet.seed=1.
    """
    from nas_optuna.cli.progress import SupernetBar
    from nas_optuna.cli.specs import SpecOptions, find_target
    from nas_optuna.execution.loop import StopRequest, interruptible
    from nas_optuna.report.supernet import save_alpha_figure
    from nas_optuna.study.storage import storage_url
    from nas_optuna.trackers import create_trackers

    penalty = {} if target_latency is None else {"latency_target": target_latency, "latency_loss": "target"}
    given = {"budget": budget, "epochs": epochs, "mode": mode, "latency_weight": latency_weight, **penalty}
    overrides = [f"supernet.{key}={value}" for key, value in given.items() if value is not None]
    url, said, stop = storage_url(storage), SpecOptions(spec=spec, set_=set_), StopRequest()
    target = find_target(url, study, said, extra=overrides, trust=trust)
    trackers = create_trackers(track)
    with SupernetBar.shown() as bar:
        step = partial(_stepped, bar, stop)
        loaded, training = _prepare(url, study, said, target, latency_table, data_dir, device, restart, step)
        stopped: TrainingError | None = None
        try:
            with interruptible(stop):
                summary = training.run([bar, *trackers])
        except Interrupted:
            where = "in the short trainings" if len(training.history) == training.length else ""
            say(f"stopped {where or f'after epoch {len(training.history)}'}; the same command goes on from there")
            return 130
        except TrainingError as error:
            stopped = error
    if training.history:
        save_alpha_figure(loaded, training.search.space, training.start, training.history)
    if stopped is not None:
        raise stopped
    _print_trained(loaded, training, summary, json)
    return 0


def _stepped(bar: SupernetBar, stop: StopRequest) -> bool:
    bar.step()
    return stop()


def _prepare(
    url: str,
    study: str,
    said: SpecOptions,
    target: Target,
    latency_table: Path | None,
    data_dir: Path | None,
    device: str,
    restart: bool,
    interrupted: Callable[[], bool],
) -> tuple[optuna.Study, SupernetTraining]:
    """The study, which is created where it does not exist, and its supernet's training; says what it will cost."""
    from nas_optuna.cli.specs import say_created
    from nas_optuna.devices import resolve_device
    from nas_optuna.experiment import Experiment, code_named
    from nas_optuna.oneshot.price import cost_table
    from nas_optuna.oneshot.training import SupernetTraining, require_supernet
    from nas_optuna.study.files import folders, usable
    from nas_optuna.study.files import remember as remember_files
    from nas_optuna.study.storage import open_storage
    from nas_optuna.study.studies import load_study, require_same_spec
    from nas_optuna.study.trust import remember

    loaded, wanted = target.study, target.spec
    experiment = Experiment.from_spec(wanted, data_directory=data_dir, device=device)
    search = experiment.search
    table = cost_table(search.space, latency_table or wanted.latency.table)
    files = usable(folders(url, None if loaded is None else loaded.user_attrs)[0])
    if loaded is None:
        require_supernet(search, wanted.supernet, table, resolve_device(device))
        try:
            loaded = experiment.create(open_storage(url, create=True), study)
            remember(url, study, code_named(wanted))  # whoever makes a study means its code
            say_created(study, said)
        except StudyExists:  # another process made it just now
            loaded = load_study(open_storage(url), study)
            require_same_spec(loaded, wanted)
    experiment.require_same(loaded)
    remember_files(loaded, url)
    training = SupernetTraining(
        loaded,
        search,
        wanted.supernet,
        table,
        resolve_device(device),
        files,
        restart=restart,
        interrupted=interrupted,
    )
    how = "fair" if wanted.supernet.strategy == "fair" else wanted.supernet.mode
    say(f"{study}: supernet of space {search.space.name}, {how}, costs from {table.source}")
    if training.price is not None:
        say(_price(training, training.price))
    return loaded, training


def _print_trained(study: Study, training: SupernetTraining, summary: Mapping[str, Any], json: bool) -> None:
    from nas_optuna.oneshot.score import scored_by
    from nas_optuna.study.hints import command

    if json:
        history = [asdict(epoch) for epoch in training.history]
        print_json({**summary, "start": training.start, "history": history})
        return
    _print_alphas(study.study_name, training.search, training)
    shared = "on validation images with shared weights"
    say(
        f"argmax of the alphas {summary['argmax']}: {summary['shared_accuracy']:.4f} {shared};"
        f" {seconds(summary['seconds'])}"
    )
    if "best" in summary:
        of = f", first of {summary['finalists']} in short trainings" if summary.get("finalists") else ""
        say(f"best by the score{of}, {summary['best']}: {summary['best_shared_accuracy']:.4f} {shared}")
        say(f"score, learned from {_teachers(summary)}: {scored_by(summary['score'])}")
    named = ("--study", study.study_name)
    searching = command(study, "run", *named, "--sampler", "tpe", "--warm-start", "supernet")
    say_next(
        [
            (command(study, "supernet", "export", *named), "the best, to be trained on its own"),
            (searching, "search from its prior"),
        ]
    )


def _teachers(summary: Mapping[str, Any]) -> str:
    from nas_optuna.study.records import count

    trials, short = summary["score_trials"], summary.get("score_short_trainings", 0)
    said = [count(trials, "trial")] * bool(trials) + [count(short, "short training")] * bool(short)
    return " and ".join(said) or "no trainings yet, the prior"


@app.command(epilog="Example: nas-optuna supernet export --study s --top 3 --out fixed.json")
def export(
    study: options.StudyName = "nas",
    top: Annotated[int, typer.Option("--top", metavar="K", help="The K best.", min=1)] = 1,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="STUDY-fixed.json by default; - for stdout.", show_default=False),
    ] = None,
    storage: options.Storage = None,
    data_dir: options.DataDir = None,
    trust: options.Trust = False,
    json: options.Json = False,
) -> None:
    """Write the best architecture as a fixed trial's params (with --top a list, best first) and put it into the queue.

    Strategy fair: the best by the score under the limits, of which short trainings have chosen the first; then the
    alphas' argmax, then others of the best by the score. Strategy darts: the most probable by the alphas.
    """
    import json as json_format

    from nas_optuna.cli.specs import stored_experiment
    from nas_optuna.oneshot.candidates import ORIGIN, candidates
    from nas_optuna.study.hints import command
    from nas_optuna.study.storage import storage_url
    from nas_optuna.study.studies import file_name
    from nas_optuna.study.trial_queue import enqueue_once

    experiment, loaded = stored_experiment(storage_url(storage), study, trust=trust, data_directory=data_dir)
    space = experiment.space
    found = candidates(loaded, space, top)
    params = [dict(candidate.architecture.params) for candidate in found]
    path = out or Path(f"{file_name(study)}-fixed.json")
    write_out(path, json_format.dumps(params if top > 1 else params[0], indent=2) + "\n")
    for choices in params:
        enqueue_once(loaded, space, choices, ORIGIN)
    if path == STDOUT:
        pass
    elif json:
        print_json(
            [
                {"architecture": str(c.architecture), "by": c.by, "probability": c.probability, "params": p}
                for c, p in zip(found, params, strict=True)
            ]
        )
    else:
        rows = [(i, c.by, f"{c.probability:.3g}", c.architecture) for i, c in enumerate(found, start=1)]
        columns = ("rank", "found by", "probability", "architecture")
        print_table(f"study {study}: the supernet's best", columns, rows, right=(0, 2))
    say(f"wrote {path}; next: {command(loaded, 'run', '--study', study, '--fixed', str(path))}")


@app.command(epilog="Example: nas-optuna supernet check --study s --architectures 20")
def check(
    study: options.StudyName = "nas",
    architectures: Annotated[int, typer.Option("--architectures", metavar="N", help="Random ones.", min=3)] = 20,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Seed of the random ones.", min=0)] = 0,
    device: options.Device = "auto",
    storage: options.Storage = None,
    data_dir: options.DataDir = None,
    trust: options.Trust = False,
    track: options.Track = None,
    json: options.Json = False,
) -> int:
    """Train N random architectures and the supernet's choice on their own, and compare with what it says of them.

    Prints, with 95 % bootstrap intervals, how shared accuracy, sizes alone, and both together rank the architectures
    (other trainings teach what counts), how far their first and best five are from the best, and whether random search
    in the same seconds did better. The trainings are trials of the study; Ctrl-C loses none, and a new call goes on.
    """
    import optuna

    from nas_optuna.cli.progress import watch
    from nas_optuna.cli.specs import stored_experiment
    from nas_optuna.devices import resolve_device
    from nas_optuna.execution.loop import StopRequest, interruptible
    from nas_optuna.oneshot import check as checking
    from nas_optuna.oneshot.training import checked_chooser, held_by, trained_supernet
    from nas_optuna.samplers.prior import read_alphas
    from nas_optuna.study.files import holding
    from nas_optuna.study.storage import open_storage, storage_url
    from nas_optuna.study.studies import checkpoint_folder, load_study
    from nas_optuna.trackers import create_trackers

    url, where, trackers = storage_url(storage), resolve_device(device), create_trackers(track)
    stop, files = StopRequest(), holding(url, load_study(open_storage(url), study), "supernet-*")
    experiment, loaded = stored_experiment(
        url,
        study,
        trust=trust,
        overrides=["reuse_duplicates=false"],
        data_directory=data_dir,
        device=device,
        checkpoints=checkpoint_folder(files, study),
        interrupted=stop,
    )
    supernet = trained_supernet(loaded, experiment.search, where, files)
    search = held_by(supernet, experiment.search)
    _, summary = read_alphas(loaded)
    chosen = _put_forward(search, supernet, summary)
    drawn = checking.random_architectures(search, architectures, seed, experiment.objective.limits.total_excess)
    loaded.pruner = optuna.pruners.NopPruner()
    waiting = checking.queue_untrained(loaded, experiment.search, [*chosen.values(), *drawn])
    with watch(waiting, None) as display, interruptible(stop):
        outcome = experiment.run(loaded, trials=waiting, stop=stop, callbacks=[display, *trackers], kind="check")
    if outcome.interrupted:
        say("stopped; nothing is lost, and the same command goes on")
        return 130
    chooser = checked_chooser(loaded, search, supernet, where, drawn)
    rows = chooser.rows([search.space.tokens(architecture) for architecture in drawn])
    verdict = checking.judge(loaded, search, drawn, chosen, chooser.score, rows, summary["seconds"])
    _print_verdict(study, verdict, json)
    return 0


def _put_forward(search: Search, supernet: Supernet, summary: Mapping[str, Any]) -> dict[str, Architecture]:
    """What a supernet would have chosen, by what; the first is what it is judged by."""
    from nas_optuna.oneshot.check import ALPHAS, SCORE

    by_alphas = {ALPHAS: search.space.architecture(supernet.derive())}
    return {SCORE: search.space.parse(summary["best"]), **by_alphas} if "best" in summary else by_alphas


def _price(training: SupernetTraining, price: Price) -> str:
    from nas_optuna.study.records import count

    search, short, alone = training.search, training.plan, price.training_seconds
    scored = min(search.spec.supernet.evaluations, search.space.size)
    of_short = short.epochs / (search.spec.recipe.epochs * search.spec.recipe.repeats)
    parts = [
        f"the shared weights ({count(training.length, 'epoch')} of {training.steps} steps) cost"
        f" {training.length * price.epoch_in_trainings:.1f} stand-alone trainings of {seconds(alone)} each (measured)",
        f"scoring {count(scored, 'architecture')} about {scored * price.scoring_seconds / alone:.1f}",
        *[f"{short.teachers + short.finalists} short trainings about {of_short:.1f}"] * bool(short.epochs),
    ]
    return f"{', '.join(parts)}; --budget N sets the first of these"


def _print_verdict(study: str, verdict: Verdict, json: bool) -> None:
    if json:
        print_json(asdict(verdict) | {"sentence": verdict.sentence})
        return
    from nas_optuna.study.records import count

    def interval(c: RankCorrelation) -> str:
        return f"{c.value:.2f} ({c.lower:.2f} … {c.upper:.2f})"

    rows = [
        (row.name, interval(row.kendall), interval(row.spearman), f"{row.regret_1:.4f}", f"{row.regret_5:.4f}")
        for row in verdict.rows
    ]
    columns = (
        Column("ranked by"),
        Column("Kendall τ"),
        Column("Spearman ρ", rank=2),
        Column("best − its first", right=True),
        Column("best − best of its 5", right=True, rank=1),
    )
    title = f"study {study}: {verdict.architectures} random architectures, own training against the supernet"
    print_table(title, columns, rows)
    short = f"{count(verdict.short, 'short training')} of others and " if verdict.short else ""
    say(f"all sizes, score: learned from {short}the trainings of the architectures that are not ranked just then")
    ceiling = "unknown, because the recipe trains each once" if verdict.ceiling is None else f"{verdict.ceiling:.2f}"
    say(f"noise ceiling of τ: {ceiling}")
    say(f"score minus the best without shared weights, τ: {interval(verdict.advantage)}")
    for chosen in verdict.chosen:
        rank = f"rank {chosen.rank} of {verdict.architectures + 1}"
        say(f"chosen by {chosen.by}: {chosen.architecture}, own accuracy {chosen.accuracy:.4f}, {rank}")
    if verdict.random_accuracy is not None:
        within = f"in the {seconds(verdict.budget_seconds)} of the supernet and its choice"
        say(f"best of {verdict.random_trained} random architectures {within}: {verdict.random_accuracy:.4f}")
    say(verdict.sentence)


def _print_alphas(study: str, search: Search, training: SupernetTraining) -> None:
    """Probabilities of every choice before and after."""
    from nas_optuna.samplers.prior import probabilities

    last = training.history[-1]
    rows = [
        (
            name,
            _shares(parameter.choices, probabilities(training.start[name])),
            _shares(parameter.choices, probabilities(last.alphas[name])),
            f"{last.entropy[name]:.2f}",
            last.derived[name],
        )
        for name, parameter in search.space.parameters.items()
    ]
    print_table(f"study {study}: alphas", ("parameter", "before", "after", "entropy", "argmax"), rows, right=(3,))


def _shares(choices: Sequence[object], shares: Sequence[float]) -> str:
    return "  ".join(f"{choice} {share:.2f}" for choice, share in zip(choices, shares, strict=True))
