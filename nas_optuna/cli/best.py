"""``nas-optuna best``: the winner of a study."""

from __future__ import annotations

import typer

from nas_optuna.cli import options
from nas_optuna.cli.printing import print_json, print_table, say
from nas_optuna.errors import StudyError


def register(parent: typer.Typer) -> None:
    """Add the command."""
    parent.command(epilog="Example: nas-optuna best --study nas --json")(best)


def best(study: options.StudyName = "nas", storage: options.Storage = None, json: options.Json = False) -> None:
    """Show the best complete trial of a study that is inside its limits: its architecture, figures and params."""
    from nas_optuna.study.pareto import is_feasible
    from nas_optuna.study.records import ranked
    from nas_optuna.study.storage import open_storage, storage_url
    from nas_optuna.study.studies import load_study, maximizes

    loaded = load_study(open_storage(storage_url(storage)), study)
    trials = loaded.get_trials(deepcopy=False)
    records = ranked(filter(is_feasible, trials), maximizes(loaded))
    if not records or records[0].state != "complete":
        makes_some = options.hint("run", storage, study)
        raise StudyError(f"study {study!r} has no complete trial yet; {makes_some} makes some")
    record = records[0]
    params = trials[record.number].params
    if json:
        print_json(record.to_dict() | {"params": params})
        return
    names = loaded.metric_names or ["value"]
    rows = [
        ("trial", record.number),
        *((name, f"{value:.4f}") for name, value in zip(names, record.values, strict=True)),
        ("architecture", record.architecture),
        ("MACs", None if record.macs is None else f"{record.macs:,}"),
        ("parameters", None if record.params is None else f"{record.params:,}"),
        ("epochs", record.epochs),
        *params.items(),
    ]
    print_table(f"best of study {study}", ("", ""), rows)
    if len(names) > 1:
        say(f"It is the best in {names[0]} alone; {options.hint('pareto', storage, study)} shows the front.")
    say("These are validation figures, which selected it.")
