"""``nas-optuna best``: the winner of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from nas_optuna.cli import options
from nas_optuna.cli.options import StudyOptions, TrustedStudyOptions, option
from nas_optuna.cli.printing import print_facts, print_json, say, say_next
from nas_optuna.errors import SpecError, StudyError
from nas_optuna.metrics import ACCURACIES

if TYPE_CHECKING:
    from nas_optuna.report.selection import Winners
    from nas_optuna.study.records import TrialRecord


def best(
    stored: StudyOptions,
    within: Annotated[
        str | None, option("1se shows the cheapest network within one standard error of the best.", "1se")
    ] = None,
    latency_table: options.LatencyTable = None,
    max_latency: options.MaxLatency = None,
    trust: options.Trust = False,
    json: options.Json = False,
) -> None:
    """Show the best complete trial of a study that is inside its limits: its architecture, figures and params.

    With a latency table the networks have the latencies of that table's device, and the best is the best of those that
    --max-latency lets in.
    """
    from nas_optuna.report.facts import StudyFacts
    from nas_optuna.report.selection import gain_of, no_complete_trial, require_error, winners
    from nas_optuna.report.trial_facts import objectives_of
    from nas_optuna.study.hints import command
    from nas_optuna.study.records import TrialRecord
    from nas_optuna.study.standard_errors import standard_error

    if within not in (None, "1se"):
        raise SpecError(f"--within {within!r} is not known; --within 1se means within one standard error of the best")
    facts = StudyFacts(stored.open())
    study, images = facts.study, facts.images
    if max_latency is not None and latency_table is None:
        raise SpecError("--max-latency chooses among trained networks by a table; name it: --latency-table FILE")
    owner = TrustedStudyOptions(stored.study, stored.storage, trust=trust)
    latencies = _on_device(owner, latency_table, max_latency) if latency_table else None
    found = winners(study, images, latencies) if latencies else facts.winners
    if found is None:
        raise no_complete_trial(study)
    if within:
        require_error(study, found, "leave out --within")
    shown = found.cheapest if within else found.best
    record, gain = TrialRecord.of(shown), gain_of(study, shown)
    if latencies:
        record = replace(record, costs=record.costs | {"latency_ms": latencies[shown.number]})
    if json:
        more = {"params": shown.params, "standard_error": standard_error(record, images)}
        ties = {"tied": [trial.number for trial in found.tied], "cheapest": found.cheapest.number}
        print_json(record.to_dict() | more | ties | {"gain": gain.to_dict() if gain else None})
        return
    names, named = facts.names, ("--study", study.study_name)
    values = objectives_of(record, names, images)
    rows = _rows(record, names, values, gain.beside if gain else None, shown.params)
    print_facts(f"{'cheapest within one standard error' if within else 'best'} of study {study.study_name}", rows)
    if len(names) > 1:
        rank = "as good as the best" if within else "the best"
        say(f"It is {rank} in {names[0]} alone; {command(study, 'pareto', *named)} shows the front.")
    error = "; ± is one standard error" if any("±" in text for _, text in values) else ""
    _say_what_chose(names[0], images, error)
    for remark in gain.remarks() if gain else ():
        say(remark)
    if not latencies:
        _say_ties(found)
    which = ("--trial", str(shown.number)) if latencies else ("--trial", "cheapest") if within else ()
    take = command(study, "export", *named, *which, "--out", "model")
    say_next([(command(study, "retrain", *named, *which), "train it in full, and test it"), (take, "take it away")])


def _say_what_chose(objective: str, images: int | None, error: str) -> None:
    on = f" on {images:,} images" if images else ""
    chosen = ", which selected it" if objective in ACCURACIES else ""
    say(f"These are validation figures{on}{chosen}{error}.")


def _rows(
    record: TrialRecord,
    names: Sequence[str],
    values: Sequence[tuple[str, str]],
    beside: str | None,
    params: Mapping[str, object],
) -> list[tuple[str, object]]:
    """What the table says of the winner."""
    from nas_optuna.report.trial_facts import described_costs

    return [
        ("trial", record.number),
        *values,
        *([("beside", beside)] if beside else []),
        ("architecture", record.architecture),
        *((cost.label or cost.name, cost.text(value)) for cost, value in described_costs(record, names)),
        ("epochs", record.epochs),
        *params.items(),
    ]


def _on_device(stored: TrustedStudyOptions, table: str, limit: str | None) -> dict[int, float]:
    """The latency of each trial's network by a table, of those inside a limit; refuses where there are none."""
    from nas_optuna.objectives import parse_amount
    from nas_optuna.report.selection import table_latencies

    latencies, margin = table_latencies(stored.open_trusted(), Path(table))
    if limit is None:
        return latencies
    most, room = parse_amount(limit), 1 + (margin or 0.0)
    inside = {number: ms for number, ms in latencies.items() if ms * room <= most}
    if latencies and not inside:
        least = min(latencies.values()) * room
        raise StudyError(f"no network of study {stored.study!r} needs at most {most:g} ms; the fastest {least:.3g}")
    if margin is None:
        say(f"{table} holds no whole networks that would tell its error; what is near the limit may be outside")
    elif margin > 0:
        say(f"networks may take {margin:.1%} more than {table} tells, so inside are {most / room:.4g} ms by it")
    return inside


def _say_ties(found: Winners) -> None:
    if len(found.tied) < 2:
        return
    cheapest = (
        "best is also the cheapest of them"
        if found.cheapest.number == found.best.number
        else f"cheapest of them is trial {found.cheapest.number}; retrain and export take it as --trial cheapest"
    )
    say(
        f"{len(found.tied)} networks have accuracies within one standard error ({found.error:.4f}) of the best; the"
        f" {cheapest}"
    )
