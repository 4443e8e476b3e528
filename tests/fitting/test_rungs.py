"""The search of a fit: equal seconds, and the best of a rung in the next one."""

import json
from pathlib import Path

import optuna
import pytest
import torch
from optuna.trial import TrialState, create_trial
from safetensors.torch import save_file

from nas_optuna import Experiment
from nas_optuna.errors import SpecError, StudyError
from nas_optuna.execution.loop import StopRequest
from nas_optuna.fitting import equal_seconds, rungs
from nas_optuna.fitting.clock import Plan, Rung
from nas_optuna.fitting.equal_seconds import EqualSeconds
from nas_optuna.fitting.rungs import PROMOTED, RungSearch, last_rung, plan_for, trained_weights
from nas_optuna.fitting.spec import spec_for
from nas_optuna.oneshot.trained import trained_trials
from nas_optuna.report.facts import StudyFacts
from nas_optuna.spec import StudySpec
from nas_optuna.study.results import REFERENCE, TrialRecord, best_trial, longest_trained, ranked
from nas_optuna.study.schema import TrialKey
from nas_optuna.study.significance import Measured
from nas_optuna.training import TrainStep
from nas_optuna.training.checkpoint import KeptWeights

PLAN = Plan((Rung(4, 0.5), Rung(2, 1.0)), reserve=0.0)
SPEC = spec_for("digits", overrides=["space.width=8", "space.stages=1", "data.train_limit=400"])


def test_a_reference_that_is_too_slow_for_its_share_is_trained_even_so() -> None:
    experiment = Experiment.from_spec(SPEC, device="cpu")
    study = experiment.create(optuna.storages.InMemoryStorage(), "fit")
    found = RungSearch(experiment, study, Plan((Rung(1, 0.001),), reserve=0.0), StopRequest()).run(lambda line: None)
    assert found is not None
    assert found.user_attrs[TrialKey.STEPS] == 1


def test_a_search_that_began_elsewhere_says_that_it_cannot_go_on_here() -> None:
    experiment = Experiment.from_spec(SPEC, device="cpu")
    study = experiment.create(optuna.storages.InMemoryStorage(), "fit")
    for rung in (1, 2):
        facts = {TrialKey.RUNG: rung, TrialKey.IDENTITY: "on a GPU"}
        study.add_trial(create_trial(value=0.5, user_attrs=facts))
    with pytest.raises(StudyError, match=r"trained on another device or in another precision.*; go on there, or begin"):
        RungSearch(experiment, study, PLAN, StopRequest()).run(lambda line: None)


def test_a_rung_begins_with_a_reference_that_may_be_proposed(tmp_path: Path) -> None:
    plan, listed = Plan((Rung(1, 0.001),), reserve=0.0), tmp_path / "listed"
    space = Experiment.from_spec(SPEC, device="cpu").space
    assert space.reference is not None
    listed.write_text(json.dumps([str(space.from_tokens([0] * len(space.parameters)))]))
    first: dict[str, list[str]] = {}
    for name, override in (("pinned", 'fixed={"activation" = "silu"}'), ("listed", f"among={json.dumps(str(listed))}")):
        experiment = Experiment.from_spec(SPEC.override([override]), device="cpu")
        plan_for(experiment, 10.0)
        study = experiment.create(optuna.storages.InMemoryStorage(), "fit")
        RungSearch(experiment, study, plan, StopRequest()).run(lambda line: None)
        first[name] = [trial.user_attrs[TrialKey.ARCHITECTURE] for trial in study.trials]
    assert first == {
        "pinned": [str(space.architecture({**space.reference.params, "activation": "silu"}))],
        "listed": json.loads(listed.read_text()),
    }


def searched(study: optuna.Study | None = None) -> optuna.Study:
    experiment = Experiment.from_spec(SPEC, device="cpu")
    study = experiment.create(optuna.storages.InMemoryStorage(), "fit") if study is None else study
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rungs, "PATIENCE", 100.0)  # of a busy machine
        patch.setattr(equal_seconds, "FEWEST_STEPS", 1)
        RungSearch(experiment, study, PLAN, StopRequest()).run(lambda line: None)
    return study


def test_a_longer_training_goes_on_from_a_shorter_one(tmp_path: Path) -> None:
    experiment = Experiment.from_spec(SPEC, device="cpu", checkpoints=tmp_path, keep_weights=True)
    study = experiment.create(optuna.storages.InMemoryStorage(), "fit")
    kept = KeptWeights(tmp_path)
    search = RungSearch(experiment, study, Plan((Rung(1, 1.0),), reserve=0.0), StopRequest(), kept=kept)
    found, reference = search.run(lambda line: None), experiment.space.reference
    assert found is not None
    assert reference is not None
    left = kept.load(found.number)
    assert left is not None
    file = kept.path / f"trial-{found.number}.safetensors"
    whole, (weights, facts) = file.read_bytes(), left
    for altered, said in (
        ({"another": torch.zeros(1)}, facts),
        ({name: value.to(torch.float64) for name, value in weights.items()}, facts),
        (weights, facts | {"study_uid": "of an earlier study"}),
    ):
        save_file(altered, file, metadata={"nas_optuna_kept": json.dumps(said)})
        assert trained_weights(study, experiment.space, kept, reference) is None
    file.write_bytes(whole)
    still = experiment.objective.evaluator.with_recipe(experiment.spec.recipe.model_copy(update={"learning_rate": 0.0}))
    longer = EqualSeconds(still, Rung(1, 1.0), 2, per_step=0.01)
    longer.begin_with = search.objective(Rung(1, 1.0), 2).evaluator.begin_with
    assert all(torch.equal(value, left[0][name]) for name, value in longer.begin_with(reference).items())
    begun, anew = (
        next(evaluator.evaluate(reference, resume=None, stop=lambda: False)).metrics["accuracy"]
        for evaluator in (longer, EqualSeconds(still, Rung(1, 1.0), 2, per_step=0.01))
    )
    assert begun > anew + 0.2  # nothing was learned in either, as the rate was zero


@pytest.fixture(scope="module")
def study() -> optuna.Study:
    return searched()


def of_rung(study: optuna.Study, rung: int) -> list[TrialRecord]:
    trials = study.get_trials(states=(TrialState.COMPLETE,))
    return [TrialRecord.of(trial) for trial in trials if trial.user_attrs[TrialKey.RUNG] == rung]


def test_cheap_networks_take_more_steps_in_the_same_seconds(study: optuna.Study) -> None:
    trials = study.get_trials(states=(TrialState.COMPLETE,))
    assert len({trial.user_attrs[TrialKey.STEPS] for trial in trials}) > 1


@pytest.mark.parametrize(
    ("cost", "growth", "times"), [(4, 0.0, 1), (4, 0.5, 2), (4, 1.0, 4), (1 / 4, 0.5, 1 / 2), (1, 0.5, 1)]
)
def test_seconds_grow_with_cost(monkeypatch: pytest.MonkeyPatch, cost: float, growth: float, times: float) -> None:
    timed = equal_seconds.Timed(0.001 * cost, 0.0004 * cost, layers=9)
    monkeypatch.setattr(equal_seconds, "time_network", lambda *arguments: timed)
    experiment = Experiment.from_spec(SPEC, device="cpu")
    training = EqualSeconds(experiment.objective.evaluator, Rung(2, 1.0, growth), 1, per_step=0.001)
    steps = training._fixed_steps(experiment.space.reference, None, 1)
    looks = len(training.validation_loader) * 0.4
    assert steps == pytest.approx(1000 * times / cost - looks, abs=1)


@pytest.mark.parametrize("images", [20, 40])
def test_few_images_come_again_until_a_usual_step_is_timed(images: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first steps of a training are slower than the others, and its batches are full."""
    sizes: list[int] = []

    class Noting(TrainStep):
        def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
            sizes.append(len(images))
            super().__call__(images, labels)

    monkeypatch.setattr(equal_seconds, "TrainStep", Noting)
    few = SPEC.override([f"data.train_limit={images * 5 // 4}", "recipe.batch_size=30"])
    experiment = Experiment.from_spec(few, device="cpu")
    assert len(experiment.objective.evaluator.train_loader) < 3
    equal_seconds.time_network(experiment.objective.evaluator, experiment.space.reference)
    assert sizes == [min(30, experiment.objective.evaluator.train_loader.size)] * 3


@pytest.mark.parametrize("left", ["", "nan", "[]", '{"steps"'])
def test_a_kill_while_the_steps_are_written_does_not_fail_the_trial(tmp_path: Path, left: str) -> None:
    experiment = Experiment.from_spec(SPEC, device="cpu")
    training = EqualSeconds(experiment.objective.evaluator, Rung(2, 1.0), 1, per_step=0.001)
    (tmp_path / "steps.json").write_text(left)
    steps = training._fixed_steps(experiment.space.reference, tmp_path, 1)
    assert training._fixed_steps(experiment.space.reference, tmp_path, 1) == steps


def test_a_full_disk_puts_the_trial_back_rather_than_failing_it(tmp_path: Path) -> None:
    """The cause is of the machine, so it must not be taken for one of the network, which would be a `TrainingError`."""
    experiment = Experiment.from_spec(SPEC, device="cpu")
    training = EqualSeconds(experiment.objective.evaluator, Rung(2, 1.0), 1, per_step=0.001)
    (tmp_path / "file").touch()
    with pytest.raises(StudyError, match=r"cannot keep .*steps\.json"):
        next(training.evaluate(experiment.space.reference, resume=tmp_path / "file", stop=lambda: False))


def test_the_reference_is_first_and_stays_a_candidate(study: optuna.Study) -> None:
    reference = Experiment.from_spec(SPEC, device="cpu").space.reference
    for rung in (1, 2):
        first = of_rung(study, rung)[0]
        assert (first.origin, first.architecture) == (REFERENCE, str(reference))


def test_the_best_of_a_rung_are_trained_for_longer(study: optuna.Study) -> None:
    promoted = [record for record in of_rung(study, 2) if record.origin != REFERENCE]
    others = [record for record in of_rung(study, 1) if record.origin != REFERENCE]
    best = max(record.values[0] for record in others)
    assert len(promoted) == 1
    assert promoted[0].architecture in {record.architecture for record in others if record.values[0] == best}


def test_networks_are_compared_with_those_of_their_rung(study: optuna.Study) -> None:
    last = of_rung(study, 2)
    best, gain = best_trial(study), StudyFacts(study).gain
    assert best is not None
    assert best.values == [max(record.values[0] for record in last)]
    assert [record.number for record in ranked(study.trials)[:2]] == [
        record.number for record in sorted(last, key=lambda r: -r.values[0])
    ]
    assert gain is not None
    assert gain.reference is not None
    assert gain.reference.accuracy == last[0].values[0]


def test_what_is_said_is_said_of_the_network_that_was_taken(study: optuna.Study) -> None:
    reference = of_rung(study, 2)[0]
    gain = StudyFacts(study).gain_of(study.trials[reference.number])
    assert gain is not None
    assert gain.is_reference
    assert gain.best.accuracy == reference.values[0]


def test_a_search_that_goes_on_trains_only_what_is_missing(study: optuna.Study) -> None:
    numbers = [trial.number for trial in study.trials]
    searched(study)
    assert [trial.number for trial in study.trials] == numbers


def test_short_trainings_do_not_pass_for_trainings_by_the_recipe(study: optuna.Study) -> None:
    experiment = Experiment.from_spec(SPEC, device="cpu")
    assert trained_trials(study, experiment.search) == {}
    assert {trial.user_attrs[TrialKey.SHARE] for trial in study.trials} == {0.5, 1.0}
    assert SPEC.recipe.fingerprint not in {trial.user_attrs[TrialKey.RECIPE] for trial in study.trials}


def test_a_trial_interrupted_with_a_clock_may_be_the_best_once_the_recipe_has_trained_it(tmp_path: Path) -> None:
    values = {"data": {"name": "digits", "train_limit": 100}, "recipe": {"epochs": 1, "input_size": 8}}
    experiment = Experiment.from_spec(StudySpec.from_dict({"space": {"name": "conv", "depth": 1}, **values}))
    study = experiment.create(f"sqlite:///{tmp_path}/s.db", "s")
    clock = {TrialKey.RUNG: 1, TrialKey.SHARE: 0.5, TrialKey.STEPS: 9}
    study.enqueue_trial(dict(experiment.space.parse("f16k3s1").params), user_attrs=clock)
    experiment.run(study, trials=2)
    assert [trial.number for trial in longest_trained(study.trials)] == [0, 1]
    assert last_rung(study) == 0
    assert "f16k3s1" in trained_trials(study, experiment.search)


@pytest.mark.parametrize("stays", [True, False])
def test_what_leads_after_a_short_training_has_to_stay_ahead_in_a_longer_one(
    monkeypatch: pytest.MonkeyPatch, stays: bool
) -> None:
    experiment = Experiment.from_spec(SPEC, device="cpu")
    study = experiment.create(optuna.storages.InMemoryStorage(), "fit")
    claims = iter([True, stays])
    monkeypatch.setattr(rungs, "PATIENCE", 100.0)  # of a busy machine
    monkeypatch.setattr(equal_seconds, "FEWEST_STEPS", 1)
    monkeypatch.setattr(Measured, "is_ahead", lambda *_: next(claims))
    monkeypatch.setattr(rungs, "ranked", lambda _, trials: sorted(trials, key=lambda trial: -trial.number))
    said: list[str] = []
    plan = Plan((Rung(3, 0.3),), reserve=0.0, confirming=Rung(2, 0.6))
    found = RungSearch(experiment, study, plan, StopRequest()).run(said.append)
    first, second = of_rung(study, 1), of_rung(study, 2)
    assert [record.origin for record in second] == [PROMOTED, REFERENCE]
    assert second[0].architecture == first[-1].architecture
    assert found is not None
    assert found.number == second[0 if stays else 1].number
    assert "to see whether it stays so" in said[-1]


TRADE_OFF = "accuracy*(macs/1e6)^-0.07"  # above 1 for small networks, and then without a standard error


@pytest.mark.parametrize(
    ("name", "best", "known", "worse"),
    [("negative_log_likelihood", 0.1, 0.5, 0.6), ("accuracy", 0.9, 0.5, 0.4), (TRADE_OFF, 1.2, 1.1, 1.05)],
)
def test_a_network_far_ahead_of_the_reference_is_taken_whatever_is_optimised(
    name: str, best: float, known: float, worse: float
) -> None:
    experiment = Experiment.from_spec(SPEC.override([f'objectives=["{name}"]']), device="cpu")
    study = experiment.create(optuna.storages.InMemoryStorage(), "fit")
    reference = experiment.space.reference
    attributes = [{TrialKey.ARCHITECTURE: text, TrialKey.ACCURACY: 0.9} for text in ("another", str(reference))]
    trials = [create_trial(value=v, user_attrs=a) for v, a in zip((best, known), attributes, strict=True)]
    search = RungSearch(experiment, study, PLAN, StopRequest())
    assert search._preferred(trials, reference) is trials[0]
    behind = create_trial(value=worse, user_attrs=attributes[0])
    assert search._preferred([behind, trials[1]], reference) is trials[1]  # after a longer training of both


@pytest.mark.parametrize("left", [2.0, 3.0])
def test_nothing_is_confirmed_where_the_time_is_too_short(monkeypatch: pytest.MonkeyPatch, left: float) -> None:
    experiment = Experiment.from_spec(SPEC, device="cpu")
    study = experiment.create(optuna.storages.InMemoryStorage(), "fit")
    monkeypatch.setattr(rungs, "PATIENCE", 100.0)  # of a busy machine
    monkeypatch.setattr(equal_seconds, "FEWEST_STEPS", 1)
    monkeypatch.setattr(Measured, "is_ahead", lambda *_: True)
    monkeypatch.setattr(rungs, "ranked", lambda _, trials: sorted(trials, key=lambda trial: -trial.number))
    plan = Plan((Rung(2, 0.3),), reserve=0.0, confirming=Rung(2, 0.6))
    found = RungSearch(experiment, study, plan, StopRequest(), left=lambda: left).run(lambda line: None)
    assert found is not None
    assert (found.number, len(study.trials)) == ((2, 4) if left > 4 * 0.6 else (1, 2))


def test_a_rung_for_which_no_time_is_left_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = Experiment.from_spec(SPEC, device="cpu")
    study = experiment.create(optuna.storages.InMemoryStorage(), "fit")
    monkeypatch.setattr(rungs, "PATIENCE", 1e-9)  # of a machine that has become slow: only what has to be is trained
    search = RungSearch(experiment, study, Plan((Rung(1, 0.3), Rung(2, 0.3)), reserve=0.0), StopRequest())
    found = search.run(lambda line: None)
    assert found is not None
    assert found.number == 0


class Merciless(optuna.pruners.BasePruner):
    """Stops whatever it is asked about."""

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        return True


def test_no_pruner_compares_a_training_with_those_of_another_rung(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = Experiment.from_spec(SPEC, device="cpu")
    study = experiment.create(optuna.storages.InMemoryStorage(), "fit")
    study.pruner = pruner = Merciless()
    monkeypatch.setattr(equal_seconds, "LONGEST_EPOCH", 0.2)
    RungSearch(experiment, study, Plan((Rung(1, 0.5),), reserve=0.0), StopRequest()).run(lambda line: None)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE]
    assert len(study.trials[0].intermediate_values) > 1
    assert study.pruner is pruner


def test_settings_that_are_searched_are_refused_before_anything_is_trained() -> None:
    searched = SPEC.override(["search.learning_rate=1e-3..1e-1:log"])
    with pytest.raises(SpecError, match="leave out search, or use a timeout: run --timeout"):
        plan_for(Experiment.from_spec(searched, device="cpu"), 60.0)


def test_a_search_whose_time_is_up_before_it_begins_trains_the_reference() -> None:
    experiment = Experiment.from_spec(SPEC, device="cpu")
    study = experiment.create(optuna.storages.InMemoryStorage(), "fit")
    found = RungSearch(experiment, study, Plan((Rung(1, 0.0),), 0.0), StopRequest()).run(lambda line: None)
    assert found is not None
    assert [trial.user_attrs[TrialKey.ORIGIN] for trial in study.trials] == [REFERENCE]


def test_a_space_of_which_some_networks_cannot_be_built_is_searched(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        "from torch import nn\nimport nas_optuna as nas\n\n@nas.space\ndef own(c, task):\n"
        "    units = c.choice('units', [8, 9, 10])\n    if units == 9:\n        raise ValueError('no nine')\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, units), nn.Linear(units, task.classes))\n"
    )
    experiment = Experiment.from_spec(spec_for("digits", space=f"{file}:own"), device="cpu")
    assert plan_for(experiment, 30.0).per_step > 0


def test_an_evaluation_is_timed() -> None:
    """It is most of a step of a frozen network, whose test would end too late if it were taken for a third."""
    experiment = Experiment.from_spec(spec_for("digits", space="backbone", overrides=["data.train_limit=100"]))
    space = experiment.space

    def share(trainable: int) -> float:
        params = {**space.reference.params, "trainable": trainable}
        if trainable == 0:
            del params["rate"]
        timed = equal_seconds.time_network(experiment.objective.evaluator, space.architecture(params))
        assert timed.layers > 100
        return timed.forward / timed.step

    blocks = space.reference.params["blocks"]
    assert any(share(0) > 1.3 * share(blocks) for _ in range(3)), "on a busy machine, too"
