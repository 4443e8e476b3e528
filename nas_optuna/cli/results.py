"""Commands that show results: the winner and the front, drawings, the report, comparisons and the dashboard."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from nas_optuna.cli import options
from nas_optuna.cli.options import StudyDataOptions, StudyOptions, Trial, TrustedStudyOptions, option, study_names
from nas_optuna.cli.printing import (
    STDOUT,
    Column,
    print_facts,
    print_json,
    print_table,
    say,
    say_next,
    write,
    write_out,
)
from nas_optuna.errors import SpecError, StudyError, reason_of
from nas_optuna.lazily import lazily
from nas_optuna.objectives import describe, parse_amount
from nas_optuna.quantities import duration, plural
from nas_optuna.registry import importing_only
from nas_optuna.spaces.architecture import text_of
from nas_optuna.study.storage import only_reads, open_storage, storage_url

with lazily():
    from optuna_dashboard import wsgi

    from nas_optuna.hyperparameters import of_architecture
    from nas_optuna.report import comparison, drawing
    from nas_optuna.report import dashboard as server
    from nas_optuna.report.facts import StudyFacts, Winners, accuracy_error, remarks_of
    from nas_optuna.study import files, results
    from nas_optuna.study import studies as stored_studies
    from nas_optuna.study.results import TrialRecord
    from nas_optuna.study.significance import Gain

SHOWN = 10
"""Trials that are listed without ``--all``."""


def best(
    stored: TrustedStudyOptions,
    within: Annotated[
        Literal["1se"] | None,
        option("1se shows the cheapest network at most one standard error below the best.", "1se"),
    ] = None,
    latency_table: options.LatencyTable = None,
    max_latency: options.MaxLatency = None,
    json: options.Json = False,
) -> None:
    """Show the best complete trial of a study that is inside its limits: its architecture, figures and params.

    With a latency table the networks have the latencies of that table's device, and the best is the best of those that
    --max-latency lets in.
    """
    facts = StudyFacts(stored.open())
    study, images = facts.study, facts.images
    if max_latency is not None and latency_table is None:
        raise SpecError("--max-latency chooses among trained networks by a table; name it: --latency-table FILE")
    latencies = _on_device(stored, latency_table, max_latency) if latency_table else None
    found = facts.winners_among(latencies or None)
    if found is None:
        raise facts.no_complete_trial()
    if within:
        facts.require_error(found, "leave out --within")
    shown = found.cheapest if within else found.best
    record, gain = TrialRecord.of(shown), facts.gain_of(shown)
    if latencies:
        record = replace(record, costs=record.costs | {"latency_ms": latencies[shown.number]})
    if json:
        of_accuracy = accuracy_error(record, "accuracy", record.accuracy, facts.names, images)
        more = {"params": shown.params, "standard_error": of_accuracy}
        ties = {"tied": [trial.number for trial in found.tied], "cheapest": found.cheapest.number}
        print_json(record.to_dict() | more | ties | {"gain": gain.to_dict() if gain else None})
        return
    names, figures = facts.names, _figures(facts, record, gain)
    choices = of_architecture(shown.params).items()
    title = f"{'cheapest that is as good as the best' if within else 'best'} of study {study.study_name}"
    print_facts(title, [*figures, *((name, text_of(choice)) for name, choice in choices)])
    if len(names) > 1:
        rank = "as good as the best" if within else "the best"
        front = facts.command("pareto") if stored_studies.has_spec(study) else "study.best_trials in Python"
        say(f"It is {rank} in {names[0]} alone; {front} shows the front.")
    error = "; ± is one standard error" if any("±" in str(text) for _, text in figures) else ""
    on = f" on {images:,} images" if images else ""
    chosen = "" if facts.selected_by_cost else ", which selected it"
    say(f"These are {facts.ranked_by} figures{on}{chosen}{error}.")
    say(*(gain.remarks() if gain else ()))
    if not latencies and len(found.tied) > 1:
        _say_ties(found)
    if not facts.can_retrain:
        return
    which = ("--trial", str(shown.number)) if latencies else ("--trial", "cheapest") if within else ()
    take = facts.command("export", *which, "--out", "exported")
    train = [] if only_reads(stored.url) else [(facts.command("retrain", *which), "train it in full, and test it")]
    say_next([*train, (take, "take it away")])


def _on_device(stored: TrustedStudyOptions, table: str, limit: str | None) -> dict[int, float]:
    """The latency by a table of each trial's network inside a limit; a `StudyError` if there is none."""
    loaded = stored.load()
    with importing_only(loaded.agreed):
        latencies, margin = StudyFacts(loaded.study).latencies_by(Path(table))
    if limit is None:
        return latencies
    most, room = parse_amount(limit), 1 + (margin or 0.0)
    inside = {number: ms for number, ms in latencies.items() if ms * room <= most}
    if latencies and not inside:
        more = f", and may take {margin:.1%} longer" if margin else ""
        raise StudyError(
            f"no network of study {stored.study!r} needs at most {most:g} ms; the fastest takes"
            f" {min(latencies.values()):.4g} ms by {table}{more}; raise --max-latency"
        )
    if margin is None:
        say(f"{table} holds no whole networks, so its error is not known; what is near the limit may be outside")
    elif margin > 0:
        say(
            f"networks may take {margin:.1%} longer than {table} predicts, so the limit allows predictions up to"
            f" {most / room:.4g} ms"
        )
    return inside


def _say_ties(found: Winners) -> None:
    cheapest = "none of them has fewer MACs"
    if found.cheapest.number != found.best.number:
        cheapest = (
            f"the cheapest of them is trial {found.cheapest.number}; retrain and export take it as --trial cheapest"
        )
    others = plural(len(found.tied) - 1, "other network")
    say(f"as good as the best: {others}, at most one standard error ({found.error:.4f}) below it; {cheapest}")


def pareto(
    stored: StudyOptions,
    reference: Annotated[
        list[str] | None,
        option(
            "The worst value of an objective, which the hypervolume is measured from; for a cost the largest of any"
            " trial without it. Repeatable.",
            "NAME=VALUE",
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Show the trials that no other trial beats in every objective, and the hypervolume that they dominate."""
    facts = StudyFacts(stored.open())
    stored_studies.study_spec(facts.study)  # refuses a study that is not ours
    front = results.front_of(facts.study, options.pairs("--reference", reference, "latency_ms=2", float))
    if not front.records:
        raise facts.no_complete_trial()
    print_json(asdict(front)) if json else _print_front(facts, front)


def print_outcome(facts: StudyFacts, *, everything: bool, json: bool) -> None:
    """Print a search's trials, its front or its winner, and how many proposals were inside the limits."""
    if json:
        print_json([record.to_dict() for record in facts.records])
    else:
        print_ranking(facts, everything=everything)
        _print_winner(facts) if len(facts.names) == 1 else _print_front(facts, results.front_of(facts.study))
    share = results.feasible_share(facts.trials)
    if share is not None:
        inside, proposals = share
        say(f"inside the limits: {inside} of {proposals} proposals ({inside / proposals:.0%})")


def _print_front(facts: StudyFacts, front: results.Front) -> None:
    # Without ± and with few other columns, architectures of five layers fit into 80 columns and can be copied.
    *figures, architecture = facts.columns(front.records, kept=len(front.objectives), brief=True, errors=False)
    columns = [*figures, replace(architecture, shortest=44)]
    title = f"front of study {facts.study.study_name}: {plural(len(front.records), 'trial')}"
    print_table(title, columns, front.records)
    corner = ", ".join(f"{o} {describe(o).brief(v)}" for o, v in zip(front.objectives, front.reference, strict=True))
    say(f"hypervolume {front.hypervolume:.4f} of the box from {corner}")


def print_ranking(facts: StudyFacts, *, everything: bool = False) -> None:
    """Print the best trials of a study, or all, best first, and how many there are in each state."""
    records, found = facts.records, facts.winners
    listed = records if everything else records[:SHOWN]
    tied = {trial.number for trial in found.tied} if found and len(found.tied) > 1 else set()
    places = {record.number: place for place, record in enumerate(listed, start=1)}

    def note(record: TrialRecord) -> str:
        return ", ".join([*["tied"] * (record.number in tied), *remarks_of(record)])

    unfinished = any(record.state != "complete" for record in listed)
    number, *figures, architecture = facts.columns(listed, brief=True)
    columns = [
        Column("rank", lambda record: places[record.number], right=True, rank=5),
        number,
        Column("state", lambda record: record.state if unfinished else None, rank=4),
        *figures,
        Column("time", lambda record: duration(record.seconds) if record.seconds else None, right=True, rank=99),
        architecture,
        Column("note", note, shortest=16, rank=6),
    ]
    print_table(f"study {facts.study.study_name}", columns, listed)
    more = "" if len(listed) == len(records) else f"; the best {len(listed)} are listed, --all lists all"
    write(f"{facts.counts}{more}\n")
    if tied:
        write(f"tied{' in accuracy' if len(facts.names) > 1 else ''}: {len(tied)} trials as good as the best\n")
    write("\n")


def _print_winner(facts: StudyFacts) -> None:
    """Print the best trial below the table, as ``nas-optuna best`` does, without its params."""
    if facts.winners is not None:
        record = TrialRecord.of(facts.winners.best)
        print_facts(f"best of study {facts.study.study_name}", _figures(facts, record, facts.gain))
        say(*(facts.gain.remarks() if facts.gain else ()))


def _figures(facts: StudyFacts, record: TrialRecord, gain: Gain | None) -> list[tuple[str, object]]:
    """Names and values of a trial, with what its accuracy is to be compared with directly below that."""
    figures = facts.described(record)
    if gain and gain.beside:
        place = [name for name, _ in figures].index(facts.names[0]) + 1
        figures.insert(place, ("to compare with", gain.beside))
    return figures


HOST = "127.0.0.1"


def report(
    stored: StudyDataOptions,
    out: Annotated[
        Path, option("HTML file, which needs no internet connection; - for stdout (default: report.html).", "FILE")
    ] = Path("report.html"),
) -> None:
    """Write a study's report: the winner, drawn; its figures with error bars; how the search went."""
    write_out(out, replace(stored.load(), data_directory=stored.data_dir).report().html, ".html")


def draw(
    context: typer.Context,
    stored: TrustedStudyOptions,
    trial: Trial = "best",
    architecture: Annotated[str | None, option("Draw this point of the study's space instead.", "ARCHITECTURE")] = None,
    out: Annotated[Path | None, option("SVG file; - for stdout (default: STUDY-trial-N.svg).", "FILE")] = None,
) -> None:
    """Draw a trial's network as SVG: its layers, their shapes, and their shares of the compute.

    The picture follows the reader's light or dark setting. Every browser opens it.
    """
    given = context.get_parameter_source("trial")
    if architecture is not None and given is not None and given.name == "COMMANDLINE":
        raise SpecError("--trial and --architecture name two networks; give one of them")
    study = stored.load()
    if architecture is not None:
        picture, what = drawing.draw(study.space, study.space.parse(architecture)), "architecture"
    else:
        picture, what = study.draw(trial), f"trial-{study.trial(trial).number}"
    write_out(out or Path(f"{stored_studies.file_name(stored.study)}-{what}.svg"), picture.svg, ".svg")


def compare(
    studies: Annotated[
        list[str],
        typer.Argument(metavar="NAME...", help="Names of the studies.", show_default=False, autocompletion=study_names),
    ],
    out: Annotated[Path | None, option("Write an HTML page with curves; - for stdout.", "FILE")] = None,
    storage: options.Storage = None,
    json: options.Json = False,
) -> None:
    """Compare what several studies of one storage found, and with how much training."""
    if json and out == STDOUT:
        raise SpecError("--json and --out - would both write to the terminal; leave one of them out")
    opened = open_storage(storage_url(storage))
    loaded = [stored_studies.load_study(opened, name) for name in dict.fromkeys(studies)]
    objective = comparison.require_comparable(loaded)
    summaries = [comparison.summary_of(study) for study in loaded]
    if others := comparison.differences(loaded):
        said = "they differ in more than their samplers and pruners, so that the values do not compare these alone:"
        say(said, *(f"    {line}" for line in others))
    if out != STDOUT:
        print_table("comparison", comparison.columns_for(objective, brief=True), summaries, json=json)
    if out is not None:
        write_out(out, comparison.comparison_page(loaded, summaries), ".html")


def dashboard(
    storage: options.Storage = None,
    port: Annotated[int, option("Port on 127.0.0.1 (default: 8080).", "N", min=1)] = 8080,
) -> None:
    """Serve optuna-dashboard for the storage, with its artifacts, on 127.0.0.1 until Ctrl-C.

    It answers to 127.0.0.1 and localhost only, and to no page of another origin: no web page that you visit can read or
    delete studies.
    """
    url = storage_url(storage)
    opened = open_storage(url)
    artifacts = files.folders(url)[0] / "artifacts"
    with suppress(OSError):  # somebody may only look at a study, as with best and report
        artifacts.mkdir(parents=True, exist_ok=True)

    def others() -> Iterator[Path]:
        for study in opened.get_all_studies():
            yield from (folder / "artifacts" for folder in files.folders(url, study.user_attrs))

    pages = wsgi(opened, artifact_store=server.ArtifactFolders(artifacts, others))
    application = server.OwnPagesOnly(server.with_readable_attributes(pages), port)
    try:
        listening = server.create_server(HOST, port, application)
    except (OSError, OverflowError) as error:
        raise StudyError(f"cannot serve on {HOST}:{port} ({reason_of(error)}); choose another --port") from error
    say(f"optuna-dashboard: http://{HOST}:{port}/dashboard  (Ctrl-C ends it)")
    with listening, suppress(KeyboardInterrupt):
        listening.serve_forever()
