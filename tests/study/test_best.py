"""Which trial is best, where some were trained for seconds and others to the end."""

from pathlib import Path

import optuna
import pytest
from optuna.trial import FrozenTrial, create_trial

from nas_optuna.execution.events import Subject
from nas_optuna.execution.trial_files import KeepBest
from nas_optuna.study.best import best_trial
from nas_optuna.study.records import ranked
from nas_optuna.study.schema import StudyKey, TrialKey
from nas_optuna.study.studies import summaries
from nas_optuna.training.kept_weights import KEPT_FOLDER, KeptWeights

Trained = tuple[float, float | None]
"""Accuracy, and the seconds that a clock gave; None by the recipe."""


def of(accuracy: float, seconds: float | None, rung: int) -> FrozenTrial:
    clock = {} if seconds is None else {TrialKey.RUNG: rung, TrialKey.SHARE: seconds}
    return create_trial(value=accuracy, user_attrs=clock)


@pytest.mark.parametrize("clock", [StudyKey.FIT, StudyKey.WITHIN])
@pytest.mark.parametrize(
    ("trained", "best"),
    [
        ([(0.95, None), (0.31, 2.0)], 0),  # full trainings, and one look with a clock
        ([(0.99, 2.0), (0.95, None)], 1),
        ([(0.9, 60.0), (0.3, 2.0), (0.4, 2.0)], 0),  # a long run, then a short one of a later rung
        ([(0.9, 2.0), (0.8, 6.0), (0.7, 6.0)], 1),  # rungs of one run
        ([(0.9, 6.0), (0.8, 6.1)], 0),  # two runs of the same time
    ],
)
def test_one_rule_names_the_best_everywhere(trained: list[Trained], best: int, clock: str, tmp_path: Path) -> None:
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path}/s.db")
    study = optuna.create_study(storage=storage, direction="maximize")
    study.set_user_attr(clock, {})
    study.add_trials([of(accuracy, seconds, rung) for rung, (accuracy, seconds) in enumerate(trained, start=1)])
    kept = tmp_path / KEPT_FOLDER
    kept.mkdir()
    for number in range(len(trained)):
        (kept / f"trial-{number}.safetensors").touch()
    found = best_trial(study)
    assert found is not None
    assert found.number == best == ranked(study.trials)[0].number
    assert summaries(storage)[0].best == trained[best][0]
    KeepBest(tmp_path).trial_finished(Subject("", None, "", study), None)
    assert KeptWeights(kept).numbers() == [best]
