"""``nas-optuna supernet``: train, export, check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas_optuna.cli import options, supernet_check
from nas_optuna.cli.printing import STDOUT, print_json, print_table, say, say_next, seconds, write_out
from nas_optuna.errors import Interrupted, StudyExists, TrainingError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import optuna
    from optuna.study import Study

    from nas_optuna.cli.progress import SupernetBar
    from nas_optuna.cli.specs import SpecOptions, Target
    from nas_optuna.execution.loop import StopRequest
    from nas_optuna.oneshot.training import SupernetTraining
    from nas_optuna.spaces import SearchSpace
    from nas_optuna.study.supernet_result import SupernetResult

app = typer.Typer(
    help="Train a supernet, export its best architecture, check whether its ranking can be believed.",
    no_args_is_help=True,
    epilog="Example: nas-optuna supernet train --study s --spec digits-supernet",
)


def register(parent: typer.Typer) -> None:
    """Add the command group."""
    supernet_check.register(app)
    parent.add_typer(app, name="supernet")


Epochs = Annotated[int | None, typer.Option("--epochs", metavar="N", help="supernet.epochs.", show_default=False)]
Budget = Annotated[
    float | None,
    typer.Option(
        "--budget",
        metavar="N",
        help="Train the shared weights for what N stand-alone trainings cost (measured); the rest is extra. 0: none.",
        show_default=False,
    ),
]
Strategy = Annotated[
    str | None,
    typer.Option("--strategy", metavar="NAME", help="fair, darts, gumbel or your own.", show_default=False),
]
Mode = Annotated[str | None, typer.Option("--mode", hidden=True)]
"""Of release 0.2: ``mixture`` is strategy darts, ``sampled`` is gumbel."""
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
    strategy: Strategy = None,
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
    them out. --budget 0 trains no shared weights: sizes and short trainings alone rank architectures. --strategy darts
    or gumbel train alphas with the weights. Ctrl-C keeps what is finished, and the same command goes on from it. A
    study that does not exist is created from --spec. Every key of the spec's [supernet] section can be set:
    --set supernet.seed=1.
    """
    from nas_optuna.cli.progress import SupernetBar
    from nas_optuna.cli.specs import SpecOptions, find_target
    from nas_optuna.execution.loop import StopRequest, interruptible
    from nas_optuna.report.figures import save_alpha_figure
    from nas_optuna.study.storage import storage_url
    from nas_optuna.study.supernet_result import find_result
    from nas_optuna.trackers import create_trackers

    overrides = _overrides(strategy=strategy, mode=mode, budget=budget, epochs=epochs, latency_weight=latency_weight)
    overrides += _overrides(latency_target=target_latency, latency_loss=target_latency and "target")
    url, said, stop = storage_url(storage), SpecOptions(spec=spec, set_=set_), StopRequest()
    target = find_target(url, study, said, extra=overrides, trust=trust)
    trackers = create_trackers(track)
    with SupernetBar.shown() as bar:
        step = partial(_stepped, bar, stop)
        loaded, training = _prepare(url, study, said, target, latency_table, data_dir, device, restart, step)
        stopped: TrainingError | None = None
        try:
            with interruptible(stop):
                result = training.train([bar, *trackers])
        except Interrupted:
            where = "in the short trainings" if len(training.history) == training.length else ""
            say(f"stopped {where or f'after epoch {len(training.history)}'}; the same command goes on from there")
            return 130
        except TrainingError as error:
            stopped = error
    if (found := find_result(loaded)) is not None:
        save_alpha_figure(loaded, training.whole, found, training.history)
    if stopped is not None:
        raise stopped
    return _print_trained(loaded, training, result, json)


def _overrides(**given: object) -> list[str]:
    """Options that were given, as overrides of the spec's section."""
    return [f"supernet.{key}={value!r}" for key, value in given.items() if value is not None]


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
    from nas_optuna.experiment import Experiment
    from nas_optuna.oneshot.price import cost_table
    from nas_optuna.oneshot.strategies import is_without_weights
    from nas_optuna.oneshot.training import SupernetTraining, make_strategy
    from nas_optuna.spec_parts import code_named
    from nas_optuna.study.files import folders, usable
    from nas_optuna.study.files import remember as remember_files
    from nas_optuna.study.storage import open_storage
    from nas_optuna.study.studies import load_study, require_same_spec
    from nas_optuna.study.trust import remember

    loaded, wanted = target.study, target.spec
    experiment = Experiment.from_spec(wanted, data_directory=data_dir, device=device)
    search = experiment.search
    whole = is_without_weights(wanted.supernet)
    table = cost_table(search.space, latency_table or wanted.latency.table, whole=whole)
    files = usable(folders(url, None if loaded is None else loaded.user_attrs)[0])
    if loaded is None:
        make_strategy(search, table, resolve_device(device))  # refuses what it cannot honour
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
        table,
        resolve_device(device),
        files,
        restart=restart,
        interrupted=interrupted,
    )
    how = f"strategy {wanted.supernet.strategy}" if training.strategy else "without shared weights"
    say(f"{study}: supernet of space {search.space.name}, {how}, costs from {table.source}")
    say(_price(training))
    return loaded, training


def _print_trained(study: Study, training: SupernetTraining, result: SupernetResult, json: bool) -> int:
    from nas_optuna.oneshot.score import scored_by
    from nas_optuna.study.hints import command

    if json:
        history = [asdict(epoch) for epoch in training.history]
        print_json({**result.summary(), "alphas": result.alphas, "history": history})
        return 0
    _print_alphas(study.study_name, training.whole, result)
    say(f"argmax of the alphas {result.argmax}{_shared(result.shared_accuracy)}; {seconds(result.seconds)}")
    if result.best is not None:
        of = f", first of {result.finalists} in short trainings" if result.finalists else ""
        say(f"best by the score{of}, {result.best}{_shared(result.best_shared_accuracy)}")
        say(f"score, learned from {_trainings(result)}: {scored_by(result.score)}")
    named = ("--study", study.study_name)
    searching = command(study, "run", *named, "--sampler", "tpe", "--warm-start", "supernet")
    say_next(
        [
            (command(study, "supernet", "export", *named), "the best, to be trained on its own"),
            (searching, "search from its prior"),
        ]
    )
    return 0


def _shared(accuracy: float | None) -> str:
    return "" if accuracy is None else f": {accuracy:.4f} on validation images with shared weights"


def _trainings(result: SupernetResult) -> str:
    from nas_optuna.study.records import count

    trials, short = result.score_trials, result.score_short_trainings
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

    Where there is a score: the best by it under the limits, of which short trainings have chosen the first; then the
    alphas' argmax, then others of the best by the score. Strategies darts, gumbel: the most probable by the alphas.
    """
    import json as json_format

    from nas_optuna.cli.specs import stored_experiment
    from nas_optuna.oneshot.candidates import ORIGIN, candidates
    from nas_optuna.study.hints import command
    from nas_optuna.study.storage import storage_url
    from nas_optuna.study.studies import file_name
    from nas_optuna.study.supernet_result import read_result
    from nas_optuna.study.trial_queue import enqueue_once

    experiment, loaded = stored_experiment(storage_url(storage), study, trust=trust, data_directory=data_dir)
    space = experiment.space
    found = candidates(read_result(loaded), space, top)
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


def _price(training: SupernetTraining) -> str:
    from nas_optuna.study.records import count

    prices, plan, strategy = training.prices, training.plan, training.strategy
    parts = []
    if strategy is not None and training.price is not None:
        alone, scored = training.price.training_seconds, training.scored
        parts.append(
            f"the shared weights ({count(training.length, 'epoch')} of {len(strategy.images)} steps) cost"
            f" {prices['weights']:.1f} stand-alone trainings of {seconds(alone)} each (measured)"
        )
        parts += [f"scoring {count(scored, 'architecture')} about {prices['scoring']:.1f}"] * bool(scored)
    if plan.epochs:
        unit = "" if parts else " stand-alone trainings"
        parts.append(f"{plan.calibrating + plan.finalists} short trainings about {prices['short']:.1f}{unit}")
    remedy = "; --budget N sets the first of these" if strategy is not None and training.scored else ""
    return f"{', '.join(parts) or 'no training at all'}{remedy}"


def _print_alphas(study: str, space: SearchSpace, result: SupernetResult) -> None:
    """Probabilities of every choice."""
    from nas_optuna.study.supernet_result import entropy

    rows = [
        (
            name,
            _shares(parameter.choices, result.probabilities()[name]),
            f"{entropy(result.alphas[name]):.2f}",
            parameter.choices[result.derived[name]],
        )
        for name, parameter in space.parameters.items()
    ]
    print_table(f"study {study}: alphas", ("parameter", "probabilities", "entropy", "argmax"), rows, right=(2,))


def _shares(choices: Sequence[object], shares: Sequence[float]) -> str:
    return "  ".join(f"{choice} {share:.2f}" for choice, share in zip(choices, shares, strict=True))
