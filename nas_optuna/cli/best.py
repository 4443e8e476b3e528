"""``nas-optuna best``: the winner of a study."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import typer

from nas_optuna.cli import options
from nas_optuna.cli.printing import print_json, print_table, say, say_next
from nas_optuna.cli.ranking import value_of
from nas_optuna.errors import StudyError

if TYPE_CHECKING:
    import optuna


def register(parent: typer.Typer) -> None:
    """Add the command."""
    parent.command(epilog="Example: nas-optuna best --study nas --json")(best)


def best(study: options.StudyName = "nas", storage: options.Storage = None, json: options.Json = False) -> None:
    """Show the best complete trial of a study that is inside its limits: its architecture, figures and params."""
    from nas_optuna.report.selection import remembered_images
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
    images = remembered_images(loaded)
    rows = [
        ("trial", record.number),
        *((name, value_of(record, i, images if name == "accuracy" else None)) for i, name in enumerate(names)),
        ("architecture", record.architecture),
        ("MACs", None if record.macs is None else f"{record.macs:,}"),
        ("weights", None if record.params is None else f"{record.params:,}"),
        ("epochs", record.epochs),
        *params.items(),
    ]
    print_table(f"best of study {study}", ("", ""), rows)
    if len(names) > 1:
        say(f"It is the best in {names[0]} alone; {options.hint('pareto', storage, study)} shows the front.")
    on = f" on {images:,} images" if images else ""
    say(f"These are validation figures{on}, which selected it; ± is one standard error.")
    _say_near_equals(loaded, trials)
    say_next(
        [
            (options.hint("retrain", storage, study), "train it on all images, and test it"),
            (options.hint("export", storage, study, "--out", "model"), "take it away"),
        ]
    )


def _say_near_equals(study: optuna.Study, trials: list[optuna.trial.FrozenTrial]) -> None:
    """How many networks chance alone may have put behind the best one, and the cheapest of them."""
    from nas_optuna.report.selection import remembered_images
    from nas_optuna.report.ties import ties
    from nas_optuna.study.schema import TrialKey, attribute

    images = remembered_images(study)
    if images is None or study.metric_names != ["accuracy"]:
        return
    found = ties(trials, images, lambda trial: attribute(trial, TrialKey.cost("macs"), math.nan))
    if len(found.trials) > 1:
        near, cheapest = len(found.trials), found.cheapest
        say(
            f"{near} networks are within one standard error ({found.error:.4f}) of the best; the cheapest of them is"
            f" trial {cheapest.number}; retrain and export take it as --trial cheapest"
        )
