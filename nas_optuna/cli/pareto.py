"""``nas-optuna pareto``: the front of a study with several objectives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from nas_optuna.cli import options
from nas_optuna.cli.printing import Column, print_json, print_table, say
from nas_optuna.errors import SpecError, StudyError

if TYPE_CHECKING:
    from optuna.study import Study

    from nas_optuna.study.pareto import Front


def register(parent: typer.Typer) -> None:
    """Add the command."""
    parent.command(epilog="Example: nas-optuna pareto --study cost --reference latency_ms=2")(pareto)


def pareto(
    study: options.StudyName = "nas",
    storage: options.Storage = None,
    reference: Annotated[
        list[str] | None,
        typer.Option(
            "--reference",
            metavar="NAME=VALUE",
            help="The worst value of an objective, which the hypervolume is measured from; for a cost the largest of"
            " any trial without it. Repeatable.",
            show_default=False,
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Show the trials that no other trial beats in every objective, and the hypervolume that they dominate."""
    from nas_optuna.study.pareto import front_of
    from nas_optuna.study.storage import open_storage, storage_url
    from nas_optuna.study.studies import load_study, study_spec

    loaded = load_study(open_storage(storage_url(storage)), study)
    study_spec(loaded)  # refuses a study that is not ours
    front = front_of(loaded, _reference(reference or []))
    if not front.records:
        makes_some = options.hint("run", storage, study)
        raise StudyError(f"study {study!r} has no complete trial yet; {makes_some} makes some")
    if json:
        print_json(front.to_dict())
        return
    _print(study, front)


def print_front(study: Study) -> None:
    """Print the front of a study that has several objectives, and nothing of another."""
    from nas_optuna.study.pareto import front_of

    if len(study.directions) > 1:
        _print(study.study_name, front_of(study))


def say_feasible(study: Study) -> None:
    """Say how many proposals were inside the limits, where there are any."""
    from nas_optuna.study.pareto import feasible_share

    share = feasible_share(study.get_trials(deepcopy=False))
    if share is not None:
        say(
            f"inside the limits: {share.feasible} of {share.proposals} proposals ({share.share:.0%});"
            f" {share.recent:.0%} for the last ten trials"
        )


def _print(name: str, front: Front) -> None:
    from nas_optuna.objectives import describe
    from nas_optuna.study.records import cost_names
    from nas_optuna.study.records import count as counted

    costs = [describe(cost) for cost in cost_names(front.records, front.objectives)]
    rows = [
        (
            r.number,
            *(describe(o).brief(v) for o, v in zip(front.objectives, r.values, strict=True)),
            *(cost.brief(r.costs[cost.name]) if cost.name in r.costs else None for cost in costs),
            r.epochs,
            r.architecture,
        )
        for r in front.records
    ]
    columns = (
        Column("trial", right=True),
        *(Column(objective, right=True) for objective in front.objectives),
        *(Column(cost.heading, right=True, rank=place) for place, cost in enumerate(costs, start=2)),
        Column("epochs", right=True, rank=1),
        Column("architecture", shortest=28),
    )
    print_table(f"front of study {name}: {counted(len(rows), 'trial')}", columns, rows)
    corner = ", ".join(f"{o} {describe(o).brief(v)}" for o, v in zip(front.objectives, front.reference, strict=True))
    say(f"hypervolume {front.hypervolume:.4f} of the box from {corner}")


def _reference(given: list[str]) -> dict[str, float]:
    reference = {}
    for text in given:
        name, equals, value = text.rpartition("=")
        try:
            reference[name] = float(value)
        except ValueError:
            equals = ""
        if not equals:
            raise SpecError(f"--reference needs NAME=VALUE, got {text!r}; e.g. --reference latency_ms=2")
    return reference
