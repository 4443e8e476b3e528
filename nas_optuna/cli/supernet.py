"""``nas-optuna supernet``: train, export, check."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from nas_optuna.cli import options
from nas_optuna.cli.options import MovedStudyOptions, named_overrides, option
from nas_optuna.cli.printing import STDOUT, Column, print_json, print_table, say, say_next
from nas_optuna.cli.run_options import SpecOptions, create, find_target, supernet_keys
from nas_optuna.devices import resolve_device
from nas_optuna.errors import Interrupted
from nas_optuna.lazily import lazily
from nas_optuna.quantities import duration, plural
from nas_optuna.spaces import SearchSpace
from nas_optuna.spaces.architecture import text_of
from nas_optuna.study.storage import is_kept

with lazily():
    from optuna.pruners import NopPruner
    from optuna.study import Study

    from nas_optuna.cli.progress import SupernetDisplay, bars, watch
    from nas_optuna.execution.loop import StopRequest, interruptible
    from nas_optuna.experiment import Experiment
    from nas_optuna.oneshot import check as checking
    from nas_optuna.oneshot import price, strategies
    from nas_optuna.oneshot.ranking import sample_distinct
    from nas_optuna.oneshot.trained import calibrated_ranker, part_of, trained_supernet, trained_trials
    from nas_optuna.oneshot.training import SupernetTraining, make_strategy
    from nas_optuna.study import files as study_files
    from nas_optuna.study import studies, supernet_result, trial_queue
    from nas_optuna.study.supernet_result import SupernetResult
    from nas_optuna.trackers import create_trackers


def _strategies() -> list[str]:
    return strategies.STRATEGIES.names()


@dataclass(frozen=True)
class SupernetOptions:
    """Options for a supernet's training, most with the key of the spec that they set."""

    spec: options.Spec = None
    set_: options.Set = None
    epochs: Annotated[int | None, option("Passes over the images (supernet.epochs).", "N"), "supernet.epochs"] = None
    budget: Annotated[
        float | None,
        option(
            "Train the shared weights for what N stand-alone trainings cost (measured); the rest is extra. 0: none.",
            "N",
        ),
        "supernet.budget",
    ] = None
    strategy: Annotated[
        str | None,
        option("fair, darts, gumbel, or your own.", "NAME", autocompletion=_strategies),
        "supernet.strategy",
    ] = None
    # Of release 0.2: mixture is strategy darts, sampled is gumbel.
    mode: Annotated[str | None, option("", hidden=True), "supernet.mode"] = None
    latency_weight: Annotated[
        float | None,
        option("Weight of the expected latency in the loss (supernet.latency_weight).", "W"),
        "supernet.latency_weight",
    ] = None
    target_latency: Annotated[
        float | None,
        option("Penalise expected latency only above T ms (millions of MACs without a table).", "T"),
        "supernet.latency_target",
    ] = None
    latency_table: Annotated[
        Path | None, option("Latency table, if not the spec's; without any, MACs count.", "FILE")
    ] = None
    restart: Annotated[bool, option("Begin anew rather than go on.", None, "--restart")] = False
    device: options.Device = "auto"

    def __post_init__(self) -> None:
        options.refuse_twice(self, {"latency_table": "latency.table"})

    @property
    def overrides(self) -> list[str]:
        """The options for one key each, as overrides of a spec."""
        target = ["supernet.latency_loss=target"] if self.target_latency is not None else []
        return [*(text for _, text in named_overrides(self)), *target]


def train(
    context: typer.Context,
    stored: MovedStudyOptions,
    wanted: SupernetOptions,
    track: options.Track = None,
    json: options.Json = False,
) -> None:
    """Train a supernet on the study's images and store its alphas with the study.

    Strategy fair (the default) trains shared weights on uniformly drawn paths, then learns the alphas and looks for
    the best architecture with forward passes on validation images. Short trainings of some architectures on their own
    tell how much shared weights are worth, and which of the best comes first; --set supernet.short_trainings=0 leaves
    them out. --budget 0 trains no shared weights: sizes and short trainings alone rank architectures. --strategy darts
    or gumbel train alphas with the weights. Ctrl-C keeps what is finished, and the same command goes on from it. A
    study that does not exist is created from --spec. Every key of the spec's [supernet] section can be set:
    --set supernet.seed=1.
    """
    stop = StopRequest()
    trackers = create_trackers(track)
    with bars(time_left=True) as shown:
        display = SupernetDisplay(shown, stop)
        study, training = _prepare(stored, wanted, display.step)
        context.params["restart"] = False  # it has begun anew, and what continues it must not do so once more
        with interruptible(stop):
            result = training.train([display, *trackers])
    _print_trained(study, training, result, json)
    if is_kept(stored.url) and not json:
        named = ("--study", study.study_name)
        searching = studies.command(study, "run", *named, "--sampler", "tpe", "--warm-start", "supernet")
        best = studies.command(study, "supernet", "export", *named)
        say_next([(best, "the best, to be trained on its own"), (searching, "search from its prior")])


def _prepare(
    stored: MovedStudyOptions, wanted: SupernetOptions, interrupted: Callable[[], bool]
) -> tuple[Study, SupernetTraining]:
    """The study, which is created if it does not exist, and its supernet's training; also prints the cost."""
    device, given = resolve_device(wanted.device), SpecOptions(spec=wanted.spec, set_=wanted.set_, data=stored.data)
    given.refuse_twice()
    study, spec = find_target(stored, given, wanted.overrides)
    keys = supernet_keys([*given.overrides, *wanted.overrides])
    section = strategies.without_displaced(spec.supernet, keys)
    strategies.refuse_unread(section, keys)  # of others, a stored supernet may have some
    spec = spec.model_copy(update={"supernet": section})
    where: dict[str, Any] = {"data_directory": stored.data_dir, "device": wanted.device}
    experiment = Experiment.from_spec(spec, **where) if study is None else Experiment.of_study(study, spec, **where)
    search = experiment.search
    whole = strategies.is_without_weights(spec.supernet)
    file = wanted.latency_table or spec.latency.table
    optional = wanted.latency_table is None and not spec.supernet.latency_weight
    part = part_of(search.space, search.candidates.fixed)
    table = price.cost_table(part, file, whole=whole, force=spec.latency.force, optional=optional)
    files = stored.files(study)
    if study is None:
        make_strategy(search, table, device)  # refuses invalid settings before the study is created
        study = create(experiment, stored, given)
    experiment.require_same(study)
    study_files.remember(study, stored.url)
    training = SupernetTraining(study, search, table, device, files, restart=wanted.restart, interrupted=interrupted)
    how = f"strategy {spec.supernet.strategy}" if training.strategy else "without shared weights"
    say(f"{stored.study}: supernet of space {search.space.name}, {how}, costs from {table.source}")
    done = "this supernet is trained already, so nothing is left to do; --restart trains it anew"
    say(done if training.finished() else _price(training))
    return study, training


def _print_trained(study: Study, training: SupernetTraining, result: SupernetResult, json: bool) -> None:
    if json:
        history = [asdict(epoch) for epoch in training.history]
        print_json({**result.summary(), "alphas": result.alphas, "history": history})
        return
    _print_alphas(study.study_name, training.whole, result)
    say(f"argmax of the alphas {result.argmax}{_shared(result.shared_accuracy)}; {duration(result.seconds)}")
    if result.best is not None:
        of = f", first of {result.finalists} in short trainings" if result.finalists else ""
        say(f"best by the score{of}, {result.best}{_shared(result.best_shared_accuracy)}")
        weights = ", ".join(f"{name} {value:+.2f}" for name, value in result.score.items())
        trials, short = result.score_trials, result.score_short_trainings
        said = [plural(trials, "trial")] * bool(trials) + [plural(short, "short training")] * bool(short)
        say(f"score, learned from {' and '.join(said) or 'no trainings yet, the prior'}: {weights}")


def _shared(accuracy: float | None) -> str:
    return "" if accuracy is None else f": {accuracy:.4f} on validation images with shared weights"


def export(
    stored: MovedStudyOptions,
    top: Annotated[int, option("The K best (default: 1).", "K", min=1)] = 1,
    out: Annotated[Path | None, option("JSON file; - for stdout (default: STUDY-fixed.json).", "FILE")] = None,
    json: options.Json = False,
) -> None:
    """Write the best architecture as a fixed trial's params (--top K: a list, best first), and queue what is untrained.

    Where there is a score: the best by it, of which short trainings have chosen the first; then the alphas' argmax,
    then others of the best by the score. Strategies darts, gumbel: the most probable by the alphas. All are inside the
    study's limits, have its pinned values, and are listed if it has a list.
    """
    experiment, study = stored.experiment()
    space = experiment.space
    found = checking.proposals(study, supernet_result.read_result(study), experiment.candidates, top)
    params = [dict(candidate.architecture.params) for candidate in found]
    path = out or Path(f"{studies.file_name(stored.study)}-fixed.json")
    print_json(params if top > 1 else params[0], path)
    trained = trained_trials(study, experiment.search)
    untrained = dict.fromkeys(c.architecture for c in found if str(c.architecture) not in trained)
    choices = [each.params for each in untrained]
    trial_queue.enqueue_all(study, space, choices, checking.EXPORT_ORIGIN, trial_queue.UNFINISHED)
    if path == STDOUT:
        return
    rows = [
        {"architecture": str(c.architecture), "by": c.by, "probability": c.probability, "params": p}
        for c, p in zip(found, params, strict=True)
    ]
    columns = (
        Column("rank", lambda row: rows.index(row) + 1, right=True),
        Column("found by", lambda row: row["by"], wrap=True),
        Column("probability", lambda row: f"{row['probability']:.3g}", right=True),
        Column("architecture", lambda row: row["architecture"], wrap=True),
    )
    print_table(f"study {stored.study}: the supernet's best", columns, rows, json=json)
    run = studies.command(study, "run", "--study", stored.study, "--fixed", str(path))
    say_next([(run, "train these on their own")])


def _price(training: SupernetTraining) -> str:
    prices, plan, strategy = training.prices, training.plan, training.strategy
    parts = []
    if strategy is not None and training.price is not None:
        alone, scored = training.price.training_seconds, training.scored
        parts.append(
            f"the shared weights ({plural(training.length, 'epoch')} of {len(strategy.images)} steps) cost"
            f" {prices['weights']:.1f} stand-alone trainings of {duration(alone)} each (measured)"
        )
        parts += [f"scoring {plural(scored, 'architecture')} about {prices['scoring']:.1f}"] * bool(scored)
    if plan.epochs:
        unit = "" if parts else " stand-alone trainings"
        parts.append(f"{plan.calibrating + plan.finalists} short trainings about {prices['short']:.1f}{unit}")
    remedy = "; --budget N sets the first of these" if strategy is not None and training.scored else ""
    return f"{', '.join(parts) or 'no training at all'}{remedy}"


def _print_alphas(study: str, space: SearchSpace, result: SupernetResult) -> None:
    """Print the probabilities of every choice."""
    shares = result.probabilities()
    rows = [
        (
            name,
            "  ".join(f"{text_of(c)} {share:.2f}" for c, share in zip(parameter.choices, shares[name], strict=True)),
            f"{supernet_result.entropy(result.alphas[name]):.2f}",
            text_of(parameter.choices[result.derived[name]]),
        )
        for name, parameter in space.parameters.items()
    ]
    columns = ("parameter", "probabilities", Column("entropy", right=True), "argmax")
    print_table(f"study {study}: alphas", columns, rows)


def check(
    stored: MovedStudyOptions,
    architectures: Annotated[int, option("Random architectures (default: 20).", "N", min=3)] = 20,
    seed: Annotated[int, option("Seed of the random ones (default: 0).", "N", min=0)] = 0,
    device: options.Device = "auto",
    track: options.Track = None,
    json: options.Json = False,
) -> None:
    """Train N random architectures and the supernet's choice on their own, and compare with what it says of them.

    Prints, with 95 % bootstrap intervals, how shared accuracy, sizes alone, and both together rank the architectures
    (fitted to other trainings), how far their first and best five are from the best, and whether random search
    in the same seconds did better. The trainings are trials of the study; Ctrl-C loses none, and a new call goes on.
    """
    where, trackers = resolve_device(device), create_trackers(track)
    stop, files = StopRequest(), study_files.holding(stored.url, stored.open(), "supernet-*")
    experiment, study = stored.experiment(
        ["reuse_duplicates=false"],
        device=device,
        checkpoints=studies.checkpoint_folder(files, stored.study),
        interrupted=stop,
    )
    checking.require_own_recipe(study, experiment.spec)
    result = supernet_result.read_result(study)
    supernet = trained_supernet(study, result, experiment.search, where, files)
    space = supernet.space if supernet else part_of(experiment.space, result.fixed)
    search, among = replace(experiment.search, space=space), experiment.candidates
    named = {checking.SCORE: result.best, checking.ALPHAS: result.argmax}  # the supernet is judged by the first
    chosen = {by: space.parse(text) for by, text in named.items() if text is not None}
    chosen = {by: architecture for by, architecture in chosen.items() if architecture in among}
    if not chosen:
        (first,) = checking.proposals(study, result, among, 1)
        chosen = {first.by: space.parse(str(first.architecture))}
    drawn = sample_distinct(
        space, among.listed_in(space), architectures, random.Random(seed), lambda drawn: drawn in among
    )
    study.pruner = NopPruner()
    waiting = checking.queue_untrained(study, experiment.search, [*chosen.values(), *drawn])
    with watch(waiting, None) as display, interruptible(stop):
        outcome = experiment.run(study, trials=waiting, stop=stop, callbacks=[display, *trackers], kind="check")
    if outcome.interrupted:
        raise Interrupted
    ranker = calibrated_ranker(result, search, supernet, where, drawn)
    rows = ranker.rows([search.space.tokens(architecture) for architecture in drawn])
    verdict = checking.judge(study, search, drawn, chosen, ranker.score, rows, result.seconds)
    _print_verdict(stored.study, verdict, json)


def _print_verdict(study: str, verdict: checking.Verdict, json: bool) -> None:
    if json:
        print_json(asdict(verdict) | {"sentence": verdict.sentence})
        return

    def interval(c: checking.RankCorrelation) -> str:
        return f"{c.value:.2f} ({c.lower:.2f} … {c.upper:.2f})"

    columns = (
        Column("ranked by", lambda row: row.name),
        Column("Kendall τ", lambda row: interval(row.kendall)),
        Column("best − its first", lambda row: f"{row.regret_1:.4f}", right=True),
        Column("best − best of its 5", lambda row: f"{row.regret_5:.4f}", right=True, rank=1),
    )
    title = f"study {study}: {verdict.architectures} random architectures, own training against the supernet"
    print_table(title, columns, verdict.rows)
    short = f"{plural(verdict.short, 'short training')} of others and " if verdict.short else ""
    say(f"all sizes, score: fitted to {short}the trainings of the architectures that are not ranked just then")
    say(f"score minus the best without shared weights, τ: {interval(verdict.advantage)}")
    for chosen in verdict.chosen:
        rank = f"rank {chosen.rank} of {verdict.architectures + 1}"
        say(f"chosen by {chosen.by}: {chosen.architecture}, own accuracy {chosen.accuracy:.4f}, {rank}")
    if verdict.random_accuracy is not None:
        within = f"in the {duration(verdict.budget_seconds)} of the supernet and its choice"
        say(f"best of {verdict.random_trained} random architectures {within}: {verdict.random_accuracy:.4f}")
    say(verdict.sentence)
