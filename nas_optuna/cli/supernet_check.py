"""``nas-optuna supernet check``."""

from __future__ import annotations

import random
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated

from nas_optuna.cli import options
from nas_optuna.cli.options import TrustedStudyOptions, option
from nas_optuna.cli.printing import Column, print_json, print_table, say
from nas_optuna.quantities import duration

if TYPE_CHECKING:
    from nas_optuna.execution.search import Search
    from nas_optuna.oneshot.check import RankCorrelation, Verdict
    from nas_optuna.spaces.architecture import Architecture
    from nas_optuna.study.supernet_result import SupernetResult


def check(
    stored: TrustedStudyOptions,
    architectures: Annotated[int, option("Random ones; 20.", "N", min=3)] = 20,
    seed: Annotated[int, option("Seed of the random ones; 0.", "N", min=0)] = 0,
    device: options.Device = "auto",
    data: options.MovedData = None,
    track: options.Track = None,
    json: options.Json = False,
) -> int:
    """Train N random architectures and the supernet's choice on their own, and compare with what it says of them.

    Prints, with 95 % bootstrap intervals, how shared accuracy, sizes alone, and both together rank the architectures
    (fitted to other trainings), how far their first and best five are from the best, and whether random search
    in the same seconds did better. The trainings are trials of the study; Ctrl-C loses none, and a new call goes on.
    """
    import optuna

    from nas_optuna.cli.progress import watch
    from nas_optuna.devices import resolve_device
    from nas_optuna.execution.loop import StopRequest, interruptible
    from nas_optuna.oneshot import check as checking
    from nas_optuna.oneshot.trained import calibrated_ranker, trained_supernet
    from nas_optuna.study.files import holding
    from nas_optuna.study.studies import checkpoint_folder
    from nas_optuna.study.supernet_result import read_result
    from nas_optuna.trackers import create_trackers

    where, trackers = resolve_device(device), create_trackers(track)
    stop, files = StopRequest(), holding(stored.url, stored.open(), "supernet-*")
    experiment, study = stored.experiment(
        data,
        overrides=["reuse_duplicates=false"],
        device=device,
        checkpoints=checkpoint_folder(files, stored.study),
        interrupted=stop,
    )
    result = read_result(study)
    supernet = trained_supernet(study, result, experiment.search, where, files)
    search = replace(experiment.search, space=supernet.space) if supernet else experiment.search
    chosen = _put_forward(search, result)
    excess = experiment.objective.limits.total_excess
    drawn = search.space.sample_distinct(architectures, random.Random(seed), lambda drawn: excess(drawn) <= 0)
    study.pruner = optuna.pruners.NopPruner()
    waiting = checking.queue_untrained(study, experiment.search, [*chosen.values(), *drawn])
    with watch(waiting, None) as display, interruptible(stop):
        outcome = experiment.run(study, trials=waiting, stop=stop, callbacks=[display, *trackers], kind="check")
    if outcome.interrupted:
        say("stopped; nothing is lost, and the same command goes on")
        return 130
    ranker = calibrated_ranker(result, search, supernet, where, drawn)
    rows = ranker.rows([search.space.tokens(architecture) for architecture in drawn])
    verdict = checking.judge(study, search, drawn, chosen, ranker.score, rows, result.seconds)
    _print_verdict(stored.study, verdict, json)
    return 0


def _put_forward(search: Search, result: SupernetResult) -> dict[str, Architecture]:
    """What a supernet would have chosen, by what; the first is what it is judged by."""
    from nas_optuna.oneshot.check import ALPHAS, SCORE

    by_alphas = {ALPHAS: search.space.parse(result.argmax)}
    return {SCORE: search.space.parse(result.best), **by_alphas} if result.best is not None else by_alphas


def _print_verdict(study: str, verdict: Verdict, json: bool) -> None:
    if json:
        print_json(asdict(verdict) | {"sentence": verdict.sentence})
        return
    from nas_optuna.study.records import count

    def interval(c: RankCorrelation) -> str:
        return f"{c.value:.2f} ({c.lower:.2f} … {c.upper:.2f})"

    columns = (
        Column("ranked by", lambda row: row.name),
        Column("Kendall τ", lambda row: interval(row.kendall)),
        Column("Spearman ρ", lambda row: interval(row.spearman), rank=2),
        Column("best − its first", lambda row: f"{row.regret_1:.4f}", right=True),
        Column("best − best of its 5", lambda row: f"{row.regret_5:.4f}", right=True, rank=1),
    )
    title = f"study {study}: {verdict.architectures} random architectures, own training against the supernet"
    print_table(title, columns, verdict.rows)
    short = f"{count(verdict.short, 'short training')} of others and " if verdict.short else ""
    say(f"all sizes, score: fitted to {short}the trainings of the architectures that are not ranked just then")
    ceiling = "unknown, because the recipe trains each once" if verdict.ceiling is None else f"{verdict.ceiling:.2f}"
    say(f"noise ceiling of τ: {ceiling}")
    say(f"score minus the best without shared weights, τ: {interval(verdict.advantage)}")
    for chosen in verdict.chosen:
        rank = f"rank {chosen.rank} of {verdict.architectures + 1}"
        say(f"chosen by {chosen.by}: {chosen.architecture}, own accuracy {chosen.accuracy:.4f}, {rank}")
    if verdict.random_accuracy is not None:
        within = f"in the {duration(verdict.budget_seconds)} of the supernet and its choice"
        say(f"best of {verdict.random_trained} random architectures {within}: {verdict.random_accuracy:.4f}")
    say(verdict.sentence)
