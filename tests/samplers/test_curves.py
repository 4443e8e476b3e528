import pickle
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from replay import Task, regret, search
from tables import open_table

from nas_optuna.execution.pruning import report, should_prune
from nas_optuna.pruners import create_pruner
from nas_optuna.samplers.beforehand import images_of
from nas_optuna.samplers.curve_model import (
    MAX_POINTS,
    Curve,
    CurveModel,
    Forecast,
    Target,
    rate,
    rate_with_a_look,
    rungs,
)
from nas_optuna.samplers.curve_pruner import CurvePruner
from nas_optuna.samplers.curves import PLAN, CurveSampler, read_curves
from nas_optuna.samplers.gaussian_process import expected_improvement
from nas_optuna.study.optuna_internals import all_trials

EPOCHS = 10


def train(trial: optuna.Trial, epochs: int = EPOCHS) -> float:
    """The wider and the deeper the better, which every epoch shows."""
    width = trial.suggest_categorical("width", list(range(12)))
    depth = trial.suggest_categorical("depth", list(range(12)))
    final = 0.5 + 0.02 * width + 0.02 * depth
    for epoch in range(1, epochs + 1):
        trial.report(final * epoch / epochs, epoch)
        if epoch < epochs and trial.should_prune():
            raise optuna.TrialPruned
    return final


def made(seed: int = 0) -> optuna.Study:
    return optuna.create_study(direction="maximize", sampler=CurveSampler(seed=seed), pruner=CurvePruner(EPOCHS))


def test_rungs_are_shares_of_the_epochs_each_once() -> None:
    assert (rungs(90), rungs(5), rungs(1)) == ([9, 27, 54, 90], [1, 2, 3, 5], [1])


def test_hyperband_may_stop_networks_instead() -> None:
    """It hides most of the study from a sampler."""
    study = made()
    study.pruner = optuna.pruners.HyperbandPruner(1, EPOCHS)
    study.set_metric_names(["accuracy"])
    study.sampler.images = images_of  # type: ignore[attr-defined]
    study.optimize(train, n_trials=30)
    assert len(study.trials) == 30


@pytest.mark.parametrize("gone", [None, 3])
def test_a_stopped_network_comes_back_and_ends(gone: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    study = made()
    study.optimize(train, n_trials=10)
    study.sampler = CurveSampler(seed=0)
    for module in ("history", "curves"):  # somebody has removed the rows of a trial
        name = f"nas_optuna.samplers.{module}.all_trials"
        monkeypatch.setattr(name, lambda study: [t for t in all_trials(study) if t.number != gone])
    study.optimize(train, n_trials=50)
    by_point: dict[tuple[int, int], list[optuna.trial.FrozenTrial]] = {}
    for trial in all_trials(study):
        if trial.number == gone:
            continue
        by_point.setdefault((trial.params["width"], trial.params["depth"]), []).append(trial)
    again = [trials for trials in by_point.values() if len(trials) > 1]
    assert again
    for trials in again:
        assert all(t.state == TrialState.PRUNED for t in trials[:-1])
        steps = [t.last_step or 0 for t in trials]
        assert steps == sorted(set(steps))
    assert study.best_value >= 0.9


def test_enough_trials_are_complete_to_compare() -> None:
    study = made()
    study.optimize(train, n_trials=60)
    epochs = sum(t.last_step or 0 for t in study.trials)
    complete = [t for t in study.trials if t.state == TrialState.COMPLETE]
    assert len(complete) >= 5
    assert EPOCHS * len(complete) >= epochs / 4


@pytest.mark.parametrize("several", [False, True])
def test_a_pruner_that_stops_nothing_leaves_bayesian_optimisation_of_whole_trainings(several: bool) -> None:
    """Nobody obeys a plan to stop early, so no look ever ends, and the sampler must not wait for five of them."""
    directions = ["maximize", "minimize"] if several else ["maximize"]
    study = optuna.create_study(directions=directions, sampler=CurveSampler(seed=0), pruner=optuna.pruners.NopPruner())
    study.optimize(fronts if several else train, n_trials=20)
    assert {trial.system_attrs.get(PLAN, 0) for trial in study.trials} == {0}
    assert several or study.best_value >= 0.93, "the model has found the best network"


def test_a_pruner_that_wraps_ours_is_none_that_obeys_plans() -> None:
    study = made()
    study.pruner = optuna.pruners.PatientPruner(CurvePruner(EPOCHS), patience=0)
    study.optimize(train, n_trials=10)
    assert not any(trial.system_attrs.get(PLAN, 0) for trial in study.trials)


def test_the_same_study_is_proposed_whatever_process_asks() -> None:
    whole, parts = made(), made()
    whole.optimize(train, n_trials=24)
    for _ in range(3):
        parts.sampler = pickle.loads(pickle.dumps(CurveSampler(seed=0)))
        parts.optimize(train, n_trials=8)
    assert [t.params for t in whole.trials] == [t.params for t in parts.trials]


def test_workers_do_not_crowd_on_a_stopped_network() -> None:
    study = made()
    study.optimize(train, n_trials=20)
    asked = [study.ask() for _ in range(8)]
    points = [(t.suggest_categorical("width", range(12)), t.suggest_categorical("depth", range(12))) for t in asked]
    assert len(set(points)) == len(points)


def test_a_network_that_comes_no_further_is_left_alone() -> None:
    """Another pruner stops it again at once: to propose it for ever would spend nothing and find nothing."""
    study = optuna.create_study(direction="maximize", sampler=CurveSampler(seed=0))

    def stopped(trial: optuna.Trial) -> float:
        value = trial.suggest_categorical("width", list(range(12))) / 12
        if trial.number < 4:
            for epoch in range(1, EPOCHS + 1):
                trial.report(value * epoch, epoch)
            return value * EPOCHS
        trial.report(value, 1)
        raise optuna.TrialPruned

    study.optimize(stopped, n_trials=24)
    seen = [t.params["width"] for t in study.trials]
    assert max(seen.count(width) for width in seen) <= 3


def test_a_number_is_taken_over_as_it_was() -> None:
    """A learning rate of the same level would be another training, with which nobody can go on."""
    study = made()

    def tuned(trial: optuna.Trial) -> float:
        rate = trial.suggest_float("rate", 1e-4, 1e-1, log=True)
        return train(trial) - 0.01 * abs(np.log10(rate) + 2)

    study.optimize(tuned, n_trials=60)
    again = 0
    for trial in study.trials:
        level = {k: v for k, v in trial.params.items() if k != "rate"}
        for other in study.trials[trial.number + 1 :]:
            same = level == {k: v for k, v in other.params.items() if k != "rate"}
            again += same and other.params["rate"] == trial.params["rate"]
    assert again


def test_a_diverged_network_is_not_gone_on_with() -> None:
    study = made()

    def diverging(trial: optuna.Trial) -> float:
        value = train(trial, EPOCHS)
        if trial.params["width"] == 11:
            trial.set_user_attr("nas_optuna:cause", "non-finite loss")
            raise optuna.TrialPruned
        return value

    study.optimize(diverging, n_trials=40)
    widest = [(t.params["width"], t.params["depth"]) for t in study.trials if t.user_attrs]
    assert len(widest) == len(set(widest))


def test_a_used_up_space_in_which_all_failed_is_proposed_again() -> None:
    distribution = optuna.distributions.CategoricalDistribution([0, 1])
    study = optuna.create_study(
        direction="maximize", sampler=CurveSampler(seed=0, distributions={"width": distribution})
    )
    for _ in range(6):
        trial = study.ask({"width": distribution})
        assert trial.params["width"] in (0, 1)
        study.tell(trial, state=TrialState.FAIL)


def test_a_stopped_network_whose_weights_are_gone_is_priced_as_new() -> None:
    """Another trial says that it has removed them, since an ended trial cannot."""
    study, sampler = made(), CurveSampler(seed=0)

    def pausing(trial: optuna.Trial) -> float:
        try:
            value = train(trial)
        except optuna.TrialPruned:
            trial.set_user_attr("nas_optuna:paused", trial.study.trials[-1].last_step)
            trial.set_user_attr("nas_optuna:removed", [t.number for t in trial.study.trials[:-1]])
            raise
        return value

    study.optimize(pausing, n_trials=30)
    stopped = [t for t in study.trials if t.state == TrialState.PRUNED]
    assert len(stopped) > 2
    sampler.infer_relative_search_space(study, stopped[0])
    history = sampler._read(study, sampler._common(study))
    kept = {curve.number: curve.kept for curve in read_curves(history, study).values() if curve.resumable}
    assert kept[stopped[-1].number] == stopped[-1].last_step
    assert {kept.get(trial.number, 0) for trial in stopped[:-1]} == {0}


def test_a_stopped_network_may_go_on_though_another_trial_took_over_that_it_was_stopped() -> None:
    """That one trained nothing, so it did not come no further."""
    study, sampler = made(), CurveSampler(seed=0)
    study.optimize(train, n_trials=20)
    stopped = next(t for t in reversed(study.trials) if t.state == TrialState.PRUNED)
    copied = {name: getattr(stopped, name) for name in ("state", "params", "distributions", "intermediate_values")}
    study.add_trial(optuna.trial.create_trial(**copied, user_attrs={"nas_optuna:duplicate_of": stopped.number}))
    history = sampler._read(study, sampler._common(study))
    curves = read_curves(history, study)
    assert {curve.number for curve in curves.values() if curve.resumable} >= {stopped.number}


def test_a_trial_without_a_plan_is_judged_as_the_guarded_pruner_does() -> None:
    study = optuna.create_study(direction="maximize", pruner=create_pruner("curves", EPOCHS, {}))
    study.optimize(train, n_trials=20)
    complete = sum(t.state == TrialState.COMPLETE for t in study.trials)
    assert 3 <= complete < 20
    assert all(PLAN not in t.system_attrs for t in study.trials)


def test_a_proposal_takes_fifty_milliseconds_after_a_thousand_trials() -> None:
    study = made()
    space = {f"p{i}": optuna.distributions.CategoricalDistribution(list(range(5))) for i in range(10)}
    draw = np.random.default_rng(0)
    for _ in range(1000):
        params = {name: int(draw.integers(5)) for name in space}
        final = sum(params.values()) / 40
        last = 50 if draw.random() < 0.3 else int(draw.choice([5, 15]))
        curve = {epoch: final * epoch / 50 + 0.01 * draw.normal() for epoch in range(1, last + 1)}
        state = TrialState.COMPLETE if last == 50 else TrialState.PRUNED
        study.add_trial(
            optuna.trial.create_trial(
                state=state,
                params=params,
                distributions=space,
                intermediate_values=curve,
                value=curve[last] if last == 50 else None,
            )
        )
    times = []
    for _ in range(4):
        started = time.process_time()
        trial = study.ask(space)
        times.append(time.process_time() - started)
        study.tell(trial, 0.5)
    assert min(times[1:]) <= 0.05 * 3  # this machine may be busy; benchmarks/equal_epochs.py measures


SPACE = [6, 6, 6], [True] * 3, [0, 1, 2]


def no_numbers(tokens: Sequence[tuple[int, ...]]) -> np.ndarray:
    return np.zeros((len(tokens), 0))


def points(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 6, (count, 3))


@pytest.mark.parametrize("informative", [True, False])
def test_how_much_early_epochs_tell_is_learned(informative: bool) -> None:
    rng = np.random.default_rng(0)
    tokens = list(dict.fromkeys(map(tuple, points(60).tolist())))
    final = rng.normal(size=len(tokens))
    early = final + 0.1 * rng.normal(size=len(tokens)) if informative else rng.normal(size=len(tokens))
    curves = {
        t: Curve({1: float(e), 10: float(f)}, final=float(f), number=i)
        for i, (t, e, f) in enumerate(zip(tokens, early, final, strict=True))
    }
    model = CurveModel(curves, 10, SPACE, no_numbers)
    low, high = (model.forecast([(0, 0, 0)], 1, np.array([value])).mean[0] for value in (-1.0, 1.0))
    assert (high - low > 1.5) if informative else (abs(high - low) < 0.8)


@pytest.mark.parametrize("dead", [0, 1, 3])
@pytest.mark.parametrize("count", [16, 40])
def test_networks_that_never_learn_do_not_make_early_epochs_tell(count: int, dead: int) -> None:
    """They are lowest from the first epoch to the last, while all others cross."""
    rng = np.random.default_rng(0)
    tokens = list(dict.fromkeys(map(tuple, points(80).tolist())))[:count]
    final = 0.8 + 0.05 * rng.normal(size=count)
    early = 0.6 - 0.5 * (final - 0.8) + 0.01 * rng.normal(size=count)
    final[:dead] = early[:dead] = 0.1
    curves = {
        t: Curve({1: float(e), 10: float(f)}, final=float(f), number=i)
        for i, (t, e, f) in enumerate(zip(tokens, early, final, strict=True))
    }
    model = CurveModel(curves, 10, SPACE, no_numbers)
    low, high = (model.forecast([(0, 0, 0)], 1, np.array([value])).mean[0] for value in (0.55, 0.65))
    assert high - low <= 0.01


@pytest.mark.parametrize("looks", [25, 35])
def test_further_looks_wait_until_enough_trainings_have_ended(looks: int) -> None:
    tokens = list(dict.fromkeys(map(tuple, points(60).tolist())))
    ended = {t: Curve({1: 0.1, 10: 0.2 + 0.1 * sum(t)}, final=0.2 + 0.1 * sum(t)) for t in tokens[:2]}
    curves = ended | {t: Curve({1: 0.1 + 0.1 * sum(t)}) for t in tokens[2 : 2 + looks]}
    model = CurveModel(curves, 10, SPACE, no_numbers)
    assert model.may_look == (looks <= 30)


@pytest.mark.parametrize(("images", "least"), [(None, 0.0), (100, 0.04), (10_000, 0.004)])
def test_values_are_as_noisy_as_the_number_of_images_makes_them(images: int | None, least: float) -> None:
    tokens = list(dict.fromkeys(map(tuple, points(60).tolist())))
    curves = {t: Curve({1: 0.5 + 0.05 * sum(t) / 3}, final=0.5 + 0.05 * sum(t) / 3) for t in tokens}
    model = CurveModel(curves, 1, SPACE, no_numbers, images)
    (level,) = model._levels
    assert level.scale * level.process.noise >= 0.9 * least


def test_a_study_says_on_how_many_images_it_selects() -> None:
    study = optuna.create_study(direction="maximize")
    assert images_of(study) is None
    study.set_user_attr("nas_optuna:data", {"validation": 719})
    study.set_metric_names(["accuracy"])
    assert images_of(study) == 719
    study.set_metric_names(["f1"])
    assert images_of(study) is None


def test_a_look_that_tells_nothing_is_worth_no_more_than_a_whole_training() -> None:
    forecast = Forecast(np.array([0.1, 0.5]), np.array([0.2, 0.1]), [], partial(expected_improvement, best=0.4))
    whole = rate(forecast, 10)
    assert np.allclose(rate_with_a_look(forecast, forecast.deviation, 1, 9), whole)
    assert (rate_with_a_look(forecast, 0.1 * forecast.deviation, 1, 9) > whole).all()


@pytest.mark.parametrize("name", ["digits", "misleading"])
def test_it_beats_random_search_at_equal_epochs(name: str) -> None:
    table, task = open_table(name), Task(name, trainings=20)
    regrets = {m: sum(regret(table, search(task, m, seed)) for seed in range(3)) for m in ("random", "curves")}
    assert regrets["curves"] < 0.7 * regrets["random"]


def fronts(trial: optuna.Trial) -> tuple[float, int]:
    """Wide networks are good and dear, deep ones good only."""
    width = trial.suggest_categorical("width", list(range(1, 9)))
    depth = trial.suggest_categorical("depth", list(range(8)))
    final = 0.5 + 0.05 * width**0.5 + 0.02 * depth
    trial.set_user_attr("nas_optuna:macs", width)
    for epoch in range(1, EPOCHS + 1):
        report(trial, final * epoch / EPOCHS, epoch, {})
        if epoch < EPOCHS and should_prune(trial, {"macs": width}):
            raise optuna.TrialPruned
    return final, width


@pytest.mark.parametrize("first", ["accuracy", "macs"])
def test_of_several_objectives_the_front_is_found_by_stopping_and_going_on(first: str) -> None:
    directions = ["maximize", "minimize"] if first == "accuracy" else ["minimize", "maximize"]
    study = optuna.create_study(directions=directions, sampler=CurveSampler(seed=0), pruner=CurvePruner(EPOCHS))
    study.optimize(lambda trial: fronts(trial) if first == "accuracy" else fronts(trial)[::-1], n_trials=60)
    states = [trial.state for trial in study.trials]
    assert states.count(TrialState.PRUNED) >= 10
    points = [t.params for t in study.trials]
    again = [p for i, p in enumerate(points) if p in points[:i]]
    assert again
    # The deepest of each width is the front.
    assert sum(trial.params["depth"] == 7 for trial in study.best_trials) >= 6


def test_costs_are_learned_from_as_many_trainings_as_values_are_from_cheap_to_dear() -> None:
    tokens = [(i, j, k) for i in range(6) for j in range(6) for k in range(6)]
    costs = [1.0 + i * i for i, _, _ in tokens]
    target = Target(tokens, [0.5] * len(tokens), [(cost,) for cost in costs], SPACE, no_numbers(tokens))
    (learned,) = target._costs
    assert len(learned._points) == MAX_POINTS < len(tokens)
    found = learned.predict(np.array(tokens), None)
    assert found == pytest.approx(costs, rel=0.05)


@pytest.mark.parametrize("shared", [(), (3.0,), (0.0,)], ids=["one cost", "and one all share", "which is 0"])
def test_an_improvement_of_the_front_counts_the_bounds_that_a_network_meets(shared: tuple[float, ...]) -> None:
    tokens = [(i, j, 0) for i in range(6) for j in range(6)]
    finals = [0.5 + 0.01 * i for i, _, _ in tokens]
    target = Target(tokens, finals, [(*shared, 1.0 + i) for i, _, _ in tokens], SPACE, no_numbers(tokens))
    asked = [(0, 0, 0), (5, 0, 0)]
    worth = target.improvement(asked, np.zeros((2, 0)))
    alike = worth(np.array([0.9, 0.9]), np.array([1e-6, 1e-6]))
    assert alike[0] > alike[1] > 0  # the cheap one improves on the dear ones, too
    assert worth(np.array([0.5, 0.55]), np.array([1e-6, 1e-6])) == pytest.approx([0, 0], abs=1e-6)
