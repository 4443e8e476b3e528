"""``nas-optuna best``: the winner of a study."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas_optuna.cli import options
from nas_optuna.cli.draw import trusted_study
from nas_optuna.cli.printing import print_json, print_table, say, say_next
from nas_optuna.cli.ranking import values_of
from nas_optuna.errors import SpecError, StudyError

if TYPE_CHECKING:
    from nas_optuna.report.selection import Winners
    from nas_optuna.study.records import TrialRecord

Within = Annotated[
    str | None,
    typer.Option(metavar="1se", help="1se shows the cheapest network within one standard error of the best."),
]


def register(parent: typer.Typer) -> None:
    """Add the command."""
    parent.command(epilog="Example: nas-optuna best --study nas --json")(best)


def best(
    study: options.StudyName = "nas",
    storage: options.Storage = None,
    within: Within = None,
    latency_table: options.LatencyTable = None,
    max_latency: options.MaxLatency = None,
    trust: options.Trust = False,
    json: options.Json = False,
) -> None:
    """Show the best complete trial of a study that is inside its limits: its architecture, figures and params.

    With a latency table the networks have the latencies of that table's device, and the best is the best of those that
    --max-latency lets in.
    """
    from nas_optuna.report.selection import gain_of, remembered_images, require_error, winners
    from nas_optuna.study.records import TrialRecord
    from nas_optuna.study.standard_errors import standard_error
    from nas_optuna.study.storage import open_storage, storage_url
    from nas_optuna.study.studies import load_study

    if within not in (None, "1se"):
        raise SpecError(f"--within {within!r} is not known; --within 1se means within one standard error of the best")
    loaded = load_study(open_storage(storage_url(storage)), study)
    images = remembered_images(loaded)
    if max_latency is not None and latency_table is None:
        raise SpecError("--max-latency chooses among trained networks by a table; name it: --latency-table FILE")
    latencies = _on_device(storage, study, trust, latency_table, max_latency) if latency_table else None
    found = winners(loaded, images, latencies)
    if found is None:
        makes_some = options.hint("run", storage, study)
        raise StudyError(f"study {study!r} has no complete trial yet; {makes_some} makes some")
    if within:
        require_error(loaded, found, "leave out --within")
    shown = found.cheapest if within else found.best
    record, gain = TrialRecord.of(shown), gain_of(loaded, shown if latencies else None)
    if latencies:
        record = replace(record, costs=record.costs | {"latency_ms": latencies[shown.number]})
    if json:
        facts = {"params": shown.params, "standard_error": standard_error(record, images)}
        ties = {"tied": [trial.number for trial in found.tied], "cheapest": found.cheapest.number}
        print_json(record.to_dict() | facts | ties | {"gain": gain.to_dict() if gain else None})
        return
    names = loaded.metric_names or ["value"]
    values = values_of(record, names, images)
    rows = _rows(record, names, values, gain.beside if gain else None, shown.params)
    print_table(f"{'cheapest within one standard error' if within else 'best'} of study {study}", ("", ""), rows)
    if len(names) > 1:
        rank = "as good as the best" if within else "the best"
        say(f"It is {rank} in {names[0]} alone; {options.hint('pareto', storage, study)} shows the front.")
    on = f" on {images:,} images" if images else ""
    error = "; ± is one standard error" if any("±" in str(value) for value in values) else ""
    chosen = ", which selected it" if names[0] == "accuracy" else ""
    say(f"These are validation figures{on}{chosen}{error}.")
    for remark in gain.remarks() if gain else ():
        say(remark)
    if not latencies:
        _say_ties(found)
    which = ("--trial", str(shown.number)) if latencies else ("--trial", "cheapest") if within else ()
    train, take = (options.hint(name, storage, study, *which) for name in ("retrain", "export"))
    say_next([(train, "train it in full, and test it"), (f"{take} --out model", "take it away")])


def _rows(
    record: TrialRecord,
    names: Sequence[str],
    values: Sequence[str | None],
    beside: str | None,
    params: Mapping[str, object],
) -> list[tuple[str, object]]:
    """What the table says of the winner."""
    from nas_optuna.objectives import describe
    from nas_optuna.study.records import cost_names

    costs = [
        (describe(cost).label or cost, describe(cost).text(record.costs[cost])) for cost in cost_names([record], names)
    ]
    return [
        ("trial", record.number),
        *zip(names, values, strict=True),
        *([("beside", beside)] if beside else []),
        *[("architecture", record.architecture), *costs, ("epochs", record.epochs), *params.items()],
    ]


def _on_device(storage: str | None, study: str, trust: bool, table: str, limit: str | None) -> dict[int, float]:
    """The latency of each trial's network by a table, of those inside a limit; refuses where there are none."""
    from nas_optuna.objectives import parse_amount
    from nas_optuna.report.selection import table_latencies

    latencies = table_latencies(trusted_study(storage, study, trust), Path(table))
    most = math.inf if limit is None else parse_amount(limit)
    inside = {number: ms for number, ms in latencies.items() if ms <= most}
    if latencies and not inside:
        least = min(latencies.values())
        raise StudyError(f"no network of study {study!r} needs at most {most:g} ms; the fastest {least:.3g}")
    return inside


def _say_ties(found: Winners) -> None:
    if len(found.tied) > 1 and found.cheapest.number == found.best.number:
        say(
            f"{len(found.tied)} networks have accuracies within one standard error ({found.error:.4f}) of the best; the"
            " best is also the cheapest of them"
        )
    elif len(found.tied) > 1:
        say(
            f"{len(found.tied)} networks have accuracies within one standard error ({found.error:.4f}) of the best; the"
            f" cheapest of them is trial {found.cheapest.number}; retrain and export take it as --trial cheapest"
        )
