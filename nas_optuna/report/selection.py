"""Selection of a trial of a study: the best, the cheapest that is as good, or one by its number."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial

from nas_optuna.errors import StudyError, shown
from nas_optuna.lazily import lazily
from nas_optuna.metrics import ACCURACIES
from nas_optuna.spaces import SearchSpace, create_space
from nas_optuna.study.optuna_internals import read_once
from nas_optuna.study.results import REFERENCE, TrialRecord, best_of, complete_trials, longest_trained
from nas_optuna.study.schema import StudyKey, TrialKey, attribute
from nas_optuna.study.significance import Gain, Measured, error_of, remembered_images
from nas_optuna.study.studies import command, has_spec, study_spec

with lazily():
    from nas_optuna.costs.latency_table import LatencyTable


def space_of(study: Study) -> SearchSpace:
    """The space of a study, made without its images."""
    spec = study_spec(study)
    identity = study.user_attrs.get(StudyKey.SPACE)
    if identity is None:
        raise StudyError(f"study {study.study_name!r} does not say which images its space is for")
    size = identity["input_size"]
    return create_space(
        spec.space.name,
        spec.space.options,
        in_channels=identity["in_channels"],
        classes=identity["classes"],
        input_size=tuple(size) if isinstance(size, list) else size,
    )


def gain_of(study: Study, chosen: FrozenTrial | None = None) -> Gain | None:
    """The gain of the best or `chosen` trial; None without one, or if the first objective is no accuracy."""
    images, trials = remembered_images(study), longest_trained(complete_trials(study))
    best = chosen or best_of(study, trials)
    if best is None or images is None or objective_names(study)[0] not in ACCURACIES:
        return None
    attributes = study.user_attrs
    tested = on_test(study, best.number)
    majority: float | None = attributes.get(StudyKey.DATA, {}).get("majority")
    own: dict[str, Any] = attributes.get(StudyKey.REFERENCE, {})
    if own.get("identity", "") == attribute(best, TrialKey.IDENTITY):
        return Gain(measured(best, images), Measured.on(images, own["accuracy"]), majority, tested=tested)
    reference = best_of(study, [t for t in trials if attribute(t, TrialKey.ORIGIN) == REFERENCE])
    same = reference is not None and reference.params == best.params
    beside = None if reference is None else measured(reference, images)
    return Gain(measured(best, images), beside, majority, is_reference=same, tested=tested)


def on_test(study: Study, trial: int | None) -> Measured | None:
    """The test accuracy of a trial's network, or of the user's own reference, at the first look; None if not tested."""
    reports: list[dict[str, Any]] = study.user_attrs.get(StudyKey.RETRAINED, [])
    # By trial: another one of the same architecture may have other settings of the recipe.
    found = [report for report in reports if "trial" in report and report["trial"] == trial]
    return Measured.on_test(found[0]) if found else None


def measured(trial: FrozenTrial, images: int | None) -> Measured:
    """The first value of a complete trial, and its standard error; 0 if that is unknown."""
    return Measured(trial.values[0], error_of(trial, images) or 0.0)


@dataclass(frozen=True)
class Winners:
    """The best trial of a study, and those that may be behind it only by chance."""

    best: FrozenTrial  # the best complete trial in the first objective
    error: float | None  # one standard error of its accuracy; None if that is unknown, or another objective is first
    # the complete trials whose accuracies are at most one standard error below the best, the best first; each network
    # once
    tied: tuple[FrozenTrial, ...]
    cheapest: FrozenTrial  # the one of `tied` with the fewest MACs (the one-standard-error rule, Breiman et al. 1984)


def winners(study: Study, images: int | None, among: Collection[int] | None = None) -> Winners | None:
    """The winners among all trials or those with the numbers `among`; None without a complete trial."""
    trials = [t for t in longest_trained(complete_trials(study)) if among is None or t.number in among]
    best = best_of(study, trials)
    if best is None:
        return None
    error = error_of(best, images) if objective_names(study)[0] in ACCURACIES else None
    if error is None:
        return Winners(best, None, (best,), best)
    least = best.values[0] - error
    tied = [
        trial
        for trial in trials
        if trial.values[0] >= least and (trial.number == best.number or attribute(trial, TrialKey.DUPLICATE_OF) is None)
    ]
    tied.sort(key=lambda trial: (-trial.values[0], trial.number))
    # MACs decide which is cheapest: every trial has them, and they are the same on every device.
    return Winners(best, error, tuple(tied), min(tied, key=lambda t: attribute(t, TrialKey.cost("macs"), math.inf)))


def table_latencies(study: Study, file: Path) -> tuple[dict[int, float], float | None]:
    """Trial number → milliseconds of each complete trial's network by a latency table, and the table's margin."""
    space = space_of(study)
    table = LatencyTable.open(file, space, force=study_spec(study).latency.force, anyway=None)
    written = {t.number: TrialRecord.of(t).architecture for t in complete_trials(study)}
    told = {number: table.architecture_ms(space, space.parse(text)) for number, text in written.items() if text}
    return told, table.margin(space)


def objective_names(study: Study) -> list[str]:
    """Names of a study's objectives, in order; a study that is not ours may not name them."""
    several = [f"value_{i}" for i in range(len(study.directions))] if len(study.directions) > 1 else ["value"]
    return study.metric_names or several


def require_error(study: Study, found: Winners, remedy: str) -> None:
    """Refuse, with a remedy, to select a network as good as the best if no standard error is known."""
    if found.error is None:
        first = objective_names(study)[0]
        raise StudyError(f"no standard error is known of {first} in study {study.study_name!r}; {remedy}")


def no_complete_trial(study: Study) -> StudyError:
    """The error of a command that needs a complete trial."""
    name = study.study_name
    remedy = f"; {command(study, 'run', '--study', name)} makes some" if has_spec(study) else ""
    return StudyError(f"study {name!r} has no complete trial yet{remedy}")


def choose(study: Study, which: str) -> FrozenTrial:
    """The trial named ``"best"`` or ``"cheapest"`` (at most one standard error below it), or by its number."""
    study = read_once(study)
    trials = study.get_trials(deepcopy=False)
    if which in ("best", "cheapest"):
        found = winners(study, remembered_images(study))
        if found is None:
            raise no_complete_trial(study)
        if which == "cheapest":
            require_error(study, found, "choose best")
        return found.best if which == "best" else found.cheapest
    if not which.isdecimal() or int(which) >= len(trials):
        numbers = f" or a number below {len(trials)}" if trials else ""
        raise StudyError(f"{shown(which)} is no trial of this study; choose best, cheapest{numbers}")
    trial = trials[int(which)]
    if not TrialRecord.of(trial).architecture:
        raise StudyError(f"trial {trial.number} has no architecture yet; choose another")
    return trial
