"""A fit whose user has a network of their own."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import create_trial
from safetensors.torch import save_file

import nas_optuna as nas
from nas_optuna.errors import SpecError, StudyError
from nas_optuna.execution.events import Callback
from nas_optuna.execution.loop import StopRequest
from nas_optuna.experiment import Experiment
from nas_optuna.fitting import equal_seconds, run
from nas_optuna.fitting.clock import Plan, Rung
from nas_optuna.fitting.equal_seconds import last_trainings
from nas_optuna.fitting.rungs import RungSearch
from nas_optuna.fitting.spec import spec_for
from nas_optuna.fitting.winner import Winner, winner_of
from nas_optuna.study.schema import StudyKey, TrialKey
from nas_optuna.study.significance import Measured
from nas_optuna.training.checkpoint import KeptWeights

GOOD = """
from torch import nn

def good(task):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 10))
"""
WEIGHTS = 64 * 256 + 256 + 2 * 256 + 256 * 10 + 10
POOR = ("space.width=8", "space.stages=1", "data.train_limit=400", "recipe.learning_rate=1e-5")
"""With a rate at which nothing learns in seconds, so that the reference is ahead or alike."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(GOOD)
    return path


class Told(Callback):
    """What a tracker would be told."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.about: list[Any] = []

    def any_event(self, event: str, about: Any, *more: Any) -> None:
        self.events.append(event)
        self.about.append(about)


def fit(folder: Path, reference: str, said: list[str], *overrides: str, told: Callback | None = None) -> nas.Fitted:
    named, callbacks = (*overrides, f"reference={reference}"), [told] if told else []
    return nas.fit("digits", 14, folder, overrides=named, say=said.append, callbacks=callbacks)


def test_a_reference_that_nothing_beats_is_trained_tested_and_exported(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(equal_seconds, "FEWEST_STEPS", 1)  # of a busy machine
    said: list[str] = []
    told = Told()
    fitted = fit(tmp_path / "model", f"{file}:good", said, *POOR, told=told)
    assert told.events[:4] == ["run_started", "trial_started", "step_finished", "trial_finished"]
    assert told.about[1].name == "reference"
    assert any(f"going on with your reference {file}:good" in line for line in said)
    assert sum(weight.numel() for weight in fitted.network.parameters()) == WEIGHTS
    assert fitted.gain is not None
    assert fitted.gain.is_reference
    assert fitted.gain.best == fitted.gain.reference
    assert "class Network" in (tmp_path / "model" / "network" / "model.py").read_text()
    assert (tmp_path / "model" / "report.html").is_file()
    again = fit(tmp_path / "model", f"{file}:good", said, *POOR)
    assert again.report.accuracies == fitted.report.accuracies
    assert again.gain == fitted.gain
    images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    assert torch.equal(again.network.probabilities(images), fitted.network.probabilities(images))
    assert fitted.study.user_attrs[StudyKey.RETRAINED][-1]["trial"] is None


def test_a_reference_for_whose_last_training_no_time_is_left_is_what_the_search_has_trained(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(equal_seconds, "FEWEST_STEPS", 1)  # of a busy machine
    monkeypatch.setattr(Measured, "is_ahead", lambda *_: False)
    monkeypatch.setattr(run, "last_trainings", lambda *given: last_trainings(*given[:4], 1e6 * given[4]))
    said: list[str] = []
    fitted = fit(tmp_path / "model", f"{file}:good", said, *POOR[:-1])
    assert any("it is taken as the search has left it" in line for line in said)
    assert fitted.gain is not None
    assert fitted.gain.reference is not None
    assert abs(fitted.report.mean - fitted.gain.reference.accuracy) < 6 * fitted.gain.reference.error


SMALL = ["data.train_limit=100", "space.width=8", "space.stages=1"]


@pytest.mark.parametrize(
    ("is_ahead", "more", "own"),
    [
        (False, [], True),
        (True, [], False),
        (False, ["limits.params=15000"], False),
        (False, ['objectives=["macro_f1"]'], True),
        (False, ['objectives=["accuracy*(params/1k)^-0.07"]'], False),  # of its costs nothing is known
    ],
)
def test_a_reference_is_taken_where_nothing_is_ahead_of_it_inside_the_limits(
    file: Path, monkeypatch: pytest.MonkeyPatch, is_ahead: bool, more: list[str], own: bool
) -> None:
    spec = spec_for("digits", overrides=[*SMALL, f"reference={file}:good", *more])
    experiment = Experiment.from_spec(spec, device="cpu")
    study = experiment.create(optuna.storages.InMemoryStorage(), "fit")
    found = RungSearch(experiment, study, Plan((Rung(1, 0.1),), reserve=0.0), StopRequest()).run(lambda line: None)
    assert found is not None
    monkeypatch.setattr(Measured, "is_ahead", lambda *_: is_ahead)
    search = experiment.search
    assert Winner.of(study, found, search, "cpu").own is own
    elsewhere = replace(search, spec=search.spec.override(["latency.table=of-the-space.json"]))
    assert Winner.of(study, found, elsewhere, "cpu").own is own, "a table of the search's space is not asked"


@pytest.mark.parametrize(("name", "goes_on"), [("good", True), ("other", False)])
def test_a_reference_goes_on_in_a_longer_rung_from_its_own_weights(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, goes_on: bool
) -> None:
    monkeypatch.setattr(equal_seconds, "FEWEST_STEPS", 1)
    file.write_text(GOOD + GOOD.replace("good", "other"))
    kept, study = KeptWeights(tmp_path), None
    for rung, named in ((1, "good"), (2, name)):
        overrides = [*SMALL, f"reference={file}:{named}", "recipe.learning_rate=1e-9"]  # at which no weight moves
        spec = spec_for("digits", overrides=overrides)
        experiment = Experiment.from_spec(spec, device="cpu", checkpoints=tmp_path, keep_weights=True)
        study = study or experiment.create(optuna.storages.InMemoryStorage(), "fit")
        plan = Plan((Rung(1, 0.1),), reserve=0.0)
        RungSearch(experiment, study, plan, StopRequest(), from_rung=rung, kept=kept).run(lambda line: None)
        found = kept.load("reference")
        assert found is not None
        weights, facts = found
        if rung == 1:
            weights["1.bias"].fill_(0.5)  # no network is drawn with such
            file_of_it = kept.path / "trial-reference.safetensors"
            save_file(weights, file_of_it, metadata={"nas_optuna_kept": json.dumps(facts)})
    assert torch.allclose(weights["1.bias"], torch.tensor(0.5)) is goes_on


def test_a_limit_by_a_table_that_tells_nothing_of_the_reference_is_refused_at_once(tmp_path: Path, file: Path) -> None:
    with pytest.raises(SpecError, match="leave out --reference or --latency-table"):
        fit(tmp_path / "model", f"{file}:good", [], "latency.table=table.json", "limits.latency_ms=50")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("objective", "found", "known", "own"),
    [
        ("accuracy", 0.5, {"accuracy": 0.9}, True),  # as it was stored before it had a value
        ("accuracy", 0.5, {"accuracy": 0.9, "identity": "of a later rung"}, False),
        ("accuracy", 0.5, {"accuracy": 0.9, "name": "other.py:good"}, False),
        ("macro_f1", 0.5, {"accuracy": 0.9}, False),
        ("macro_f1", 0.5, {"accuracy": 0.1, "value": 0.9}, True),
        ("macro_f1", 0.9, {"accuracy": 0.9, "value": 0.5}, False),
        ("negative_log_likelihood", 2.0, {"accuracy": 0.1, "value": 1.0}, True),
        ("negative_log_likelihood", 1.0, {"accuracy": 0.9, "value": 2.0}, False),
    ],
)
def test_a_reference_is_compared_in_what_the_study_optimises(
    file: Path, objective: str, found: float, known: dict[str, Any], own: bool
) -> None:
    spec = spec_for("digits", overrides=[*SMALL, f"reference={file}:good", f'objectives=["{objective}"]'])
    experiment = Experiment.from_spec(spec, device="cpu")
    space, study = experiment.space, experiment.create(optuna.storages.InMemoryStorage(), "fit")
    study.set_user_attr(StudyKey.REFERENCE, {"name": f"{file}:good", "identity": "of this rung"} | known)
    assert space.reference is not None
    chosen = dict(space.reference.params), space.distributions()
    attributes = {TrialKey.IDENTITY: "of this rung"}
    trial = create_trial(value=found, params=chosen[0], distributions=chosen[1], user_attrs=attributes)
    assert Winner.of(study, trial, experiment.search, "cpu").own is own


def test_a_fit_whose_chosen_trial_was_removed_says_so() -> None:
    study = optuna.create_study()
    study.set_user_attr(StudyKey.FIT, {"final": {"trial": 0, "trials": 1}})
    with pytest.raises(StudyError, match="has lost trial 0, which it chose; fit into another folder"):
        winner_of(study, nas.ConvSpace(), None)


def test_a_fit_that_has_chosen_the_reference_does_not_go_on_without_it() -> None:
    study = optuna.create_study()
    study.optimize(lambda trial: 0.5, n_trials=1)
    study.set_user_attr(StudyKey.FIT, {"final": {"trial": 0, "trials": 1, "own": True}})
    study.set_user_attr(StudyKey.REFERENCE, {"name": "mine.py:good"})
    with pytest.raises(StudyError, match=r"repeat its command with --reference mine\.py:good, or fit into another"):
        winner_of(study, nas.ConvSpace(), None)
