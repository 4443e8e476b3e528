"""``nas-optuna pareto``: the front of a study with several objectives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from nas_optuna.cli.options import Json, StudyOptions, option
from nas_optuna.cli.printing import Column, print_json, print_table, say
from nas_optuna.cli.ranking import record_columns
from nas_optuna.errors import SpecError

if TYPE_CHECKING:
    from optuna.study import Study

    from nas_optuna.study.pareto import Front


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
    json: Json = False,
) -> None:
    """Show the trials that no other trial beats in every objective, and the hypervolume that they dominate."""
    from nas_optuna.report.selection import no_complete_trial
    from nas_optuna.study.pareto import front_of
    from nas_optuna.study.studies import study_spec

    study = stored.open()
    study_spec(study)  # refuses a study that is not ours
    front = front_of(study, _reference(reference or []))
    if not front.records:
        raise no_complete_trial(study)
    if json:
        print_json(front.to_dict())
        return
    _print(study.study_name, front)


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
    from nas_optuna.study.records import count

    columns = (
        Column("trial", lambda record: record.number, right=True),
        *record_columns(front.records, front.objectives, kept=len(front.objectives), time=False),
        Column("architecture", lambda record: record.architecture, shortest=28),
    )
    print_table(f"front of study {name}: {count(len(front.records), 'trial')}", columns, front.records)
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
