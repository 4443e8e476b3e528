"""What the samplers of architectures share, tried on each of them."""

import contextlib
import functools
import itertools
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas_optuna.samplers import SAMPLERS, create_sampler
from nas_optuna.samplers.base import ArchitectureSampler
from nas_optuna.samplers.history import PROPOSAL, History
from nas_optuna.spaces.conv import ConvSpace
from tests.faults.harness import at_once

NAMES = ("controller", "evolution", "arch", "neighbours")
SPACE = ConvSpace(depth=3)


def make(name: str, seed: int = 0) -> optuna.samplers.BaseSampler:
    return create_sampler(name, SPACE, seed, {})


def objective(trial: optuna.Trial) -> float:
    return float(sum((t - 1) ** 2 for t in SPACE.tokens(SPACE.suggest(trial))))


@pytest.mark.parametrize("name", ["random", *NAMES])
def test_without_a_seed_one_is_drawn_as_in_optuna(name: str) -> None:
    def first(sampler: optuna.samplers.BaseSampler) -> dict[str, Any]:
        study = optuna.create_study(sampler=sampler)
        study.optimize(objective, n_trials=1)
        return study.trials[0].params

    assert any(first(create_sampler(name, SPACE)) != first(create_sampler(name, SPACE, None)) for _ in range(3))


@pytest.mark.parametrize("name", sorted(set(SAMPLERS.names()) - {"supernet"}))
@pytest.mark.parametrize("kept", [False, True])
def test_a_new_study_of_an_old_name_is_another_study(name: str, kept: bool, tmp_path: Path) -> None:
    space = ConvSpace(depth=1, filters=(4, 8), kernels=(3, 5))
    sampler = create_sampler(name, space, 0)
    storage = f"sqlite:///{tmp_path}/x.db" if kept else None
    for again in (False, True):
        if kept and again:
            optuna.delete_study(study_name="s", storage=storage)
        study = optuna.create_study(study_name="s", sampler=sampler, storage=storage)
        study.optimize(lambda trial: sum(space.tokens(space.suggest(trial))), n_trials=8)
        assert len({tuple(trial.params.values()) for trial in study.trials}) == 8


@pytest.mark.parametrize("name", sorted(set(SAMPLERS.names()) - {"supernet"}))
def test_whoever_asks_and_tells_gets_every_network_and_no_error(name: str) -> None:
    space = ConvSpace(depth=1, filters=(4, 8), kernels=(3,))
    study = optuna.create_study(sampler=create_sampler(name, space, 0))
    for _ in range(5):  # and one that is not new
        trial = study.ask()
        study.tell(trial, sum(space.tokens(space.suggest(trial))))
    assert len({tuple(trial.params.values()) for trial in study.trials}) == 4


def pruned_objective(trial: optuna.Trial) -> float:
    value = objective(trial)
    for epoch in range(1, 10):
        trial.report(value + 1 / epoch, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned
    return value


def database(folder: Path) -> optuna.storages.BaseStorage:
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / "journal")))


@pytest.mark.parametrize("name", NAMES)
def test_resuming_in_another_process_changes_nothing(name: str, tmp_path: Path) -> None:
    whole = optuna.create_study(sampler=make(name))
    whole.optimize(objective, n_trials=30)
    for _ in range(2):
        part = optuna.create_study(storage=database(tmp_path), study_name="s", sampler=make(name), load_if_exists=True)
        part.optimize(objective, n_trials=15)
    assert [t.params for t in part.trials] == [t.params for t in whole.trials]
    assert len({tuple(t.params.values()) for t in part.trials}) == 30


@pytest.mark.parametrize("name", NAMES)
def test_a_pickled_sampler_goes_on_the_same(name: str) -> None:
    studies = [optuna.create_study(sampler=make(name)) for _ in range(2)]
    for study in studies:
        study.optimize(objective, n_trials=20)
    studies[1].sampler = pickle.loads(pickle.dumps(studies[1].sampler))
    assert len(pickle.dumps(studies[1].sampler)) < 2000
    for study in studies:
        study.optimize(objective, n_trials=10)
    assert [t.params for t in studies[0].trials] == [t.params for t in studies[1].trials]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pruner", [optuna.pruners.HyperbandPruner(1, 9), optuna.pruners.MedianPruner(3)])
def test_pruned_studies(name: str, pruner: optuna.pruners.BasePruner) -> None:
    study = optuna.create_study(study_name="s", sampler=make(name), pruner=pruner)  # Hyperband draws by the name
    study.optimize(pruned_objective, n_trials=60)
    states = [t.state for t in study.trials]
    assert states.count(TrialState.PRUNED) > 5
    assert len({tuple(t.params.values()) for t in study.trials}) >= 59
    late = [t.intermediate_values[1] for t in study.trials[30:]]
    early = [t.intermediate_values[1] for t in study.trials[:10]]
    assert sum(late) / len(late) < sum(early) / len(early)


def work(name: str, folder: Path, start: Any) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.load_study(study_name="s", storage=database(folder), sampler=make(name))
    start.wait()

    def slow(trial: optuna.Trial) -> float:
        value = objective(trial)
        time.sleep(0.05 * (1 + trial.number % 4))  # storing nine choices takes a few hundredths already
        return value

    study.optimize(slow, n_trials=12)


# Workers of `neighbours`, which `fit` runs in one process, may now and then make the same move.
@pytest.mark.process
@pytest.mark.parametrize("name", [name for name in NAMES if name != "neighbours"])
def test_four_processes_on_one_study(name: str, tmp_path: Path) -> None:
    optuna.create_study(storage=database(tmp_path), study_name="s")
    assert at_once(work, 4, name, tmp_path) == [0] * 4
    trials = optuna.load_study(study_name="s", storage=database(tmp_path)).trials
    assert [t.number for t in trials] == list(range(48))
    assert all(t.state == TrialState.COMPLETE for t in trials)
    assert len({tuple(t.params.values()) for t in trials}) == 48


class SlowStorage(optuna.storages.InMemoryStorage):
    """Two workers write what they propose before either of them reads on."""

    def __init__(self) -> None:
        super().__init__()
        self.barrier: threading.Barrier | None = None

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        super().set_trial_system_attr(trial_id, key, value)
        if self.barrier is not None and key == PROPOSAL:
            with contextlib.suppress(threading.BrokenBarrierError):  # a later proposal meets nobody
                self.barrier.wait(0.2)


def propose(study: optuna.Study, sampler: optuna.samplers.BaseSampler, number: int) -> tuple[Any, ...]:
    trial = study._storage.get_all_trials(study._study_id)[number]
    space = sampler.infer_relative_search_space(study, trial)
    return tuple(sampler.sample_relative(study, trial, space).values())


class SameAnswer(ArchitectureSampler):
    """Proposes the first unseen point, so that workers who know the same propose the same."""

    def propose(self, history: History, study: optuna.Study, trial: FrozenTrial) -> tuple[int, ...]:
        ahead = sum(number < trial.number for number in history.pending)
        points = itertools.product(*map(range, history.sizes))
        return next(itertools.islice((p for p in points if p not in history.seen), ahead, None))


def same_answer() -> optuna.samplers.BaseSampler:
    return SameAnswer(seed=0)


@pytest.mark.parametrize("make_one", [same_answer, *(functools.partial(make, name) for name in NAMES)])
def test_workers_that_publish_at_once_choose_different_architectures(make_one: Any) -> None:
    storage = SlowStorage()
    study = optuna.create_study(storage=storage, sampler=make_one())
    study.optimize(objective, n_trials=12)
    numbers = [study.ask().number for _ in range(2)]
    study.ask()  # a worker that died while it proposed
    storage.barrier = threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        chosen = list(pool.map(lambda number: propose(study, make_one(), number), numbers))
    assert len(set(chosen)) == 2
    assert not set(chosen) & {tuple(t.params.values()) for t in study.trials[:12]}


@pytest.mark.parametrize("make_one", [same_answer, *(functools.partial(make, name) for name in NAMES)])
def test_a_proposal_counts_before_its_choices_are_stored(make_one: Any) -> None:
    study = optuna.create_study(sampler=make_one())
    study.optimize(objective, n_trials=20)
    late = study.ask()
    first, second = (study.ask().number for _ in range(2))
    chosen = [propose(study, make_one(), first)]
    SPACE.suggest(late)
    study.tell(late, -100.0)  # so that the second knows more than the first did
    chosen += [propose(study, make_one(), number) for number in (second, study.ask().number)]
    assert len(set(chosen)) == 3


@pytest.mark.parametrize("name", NAMES)
def test_layer_ten_comes_after_layer_nine(name: str) -> None:
    deep = ConvSpace(depth=12)
    study = optuna.create_study(sampler=create_sampler(name, deep, 0, {}))
    study.optimize(lambda t: float(sum(deep.tokens(deep.suggest(t)))), n_trials=2)
    space = study.sampler.infer_relative_search_space(study, study.trials[-1])
    assert list(space) == list(deep.parameters)


@pytest.mark.parametrize("name", NAMES)
def test_other_parameters_are_sampled_beside_the_categorical_ones(name: str) -> None:
    study = optuna.create_study(sampler=make(name))
    study.optimize(lambda t: objective(t) + t.suggest_float("rate", 1e-4, 1e-1, log=True), n_trials=25)
    assert len({t.params["rate"] for t in study.trials}) == 25
    assert objective(study.best_trial) <= objective(study.trials[0])  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_an_instance_may_move_to_another_study(name: str) -> None:
    sampler = make(name)
    for study_name in ("first", "second"):
        study = optuna.create_study(sampler=sampler, study_name=study_name)
        study.optimize(objective, n_trials=20)
    alone = optuna.create_study(sampler=make(name))
    alone.optimize(objective, n_trials=20)
    assert [t.params for t in study.trials] == [t.params for t in alone.trials]


def full_study(sampler: optuna.samplers.BaseSampler, trials: int) -> optuna.Study:
    distributions: dict[str, BaseDistribution] = dict(SPACE.distributions())
    study = optuna.create_study(sampler=sampler)
    random = optuna.samplers.RandomSampler(seed=0)
    blank = create_trial(value=0.0)
    for _ in range(trials):
        params = {n: random.sample_independent(study, blank, n, d) for n, d in distributions.items()}
        value = float(sum((t - 1) ** 2 for t in SPACE.tokens(SPACE.architecture(params))))
        study.add_trial(create_trial(params=params, distributions=distributions, value=value))
    return study


@pytest.mark.slow  # a time, which a busy machine stretches
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("trials", "milliseconds"), [(1000, 20), (10_000, 50)])
def test_a_proposal_stays_cheap(name: str, trials: int, milliseconds: int) -> None:
    study = full_study(make(name), trials)
    study.optimize(objective, n_trials=1)  # reads the whole history once
    times = []
    for _ in range(20):
        started = time.process_time()
        trial = study.ask()
        SPACE.suggest(trial)
        times.append(1000 * (time.process_time() - started))
        study.tell(trial, 1.0)
    assert sum(times) / len(times) <= milliseconds


def test_history_reads_each_trial_until_it_has_finished() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    history = History({"a": CategoricalDistribution([0, 1]), "b": CategoricalDistribution(["x", "y"])})
    first, second = study.ask(), study.ask()
    history.read(study)
    assert (history.running, history.seen, history.finished) == ({}, set(), [])
    first.suggest_categorical("a", [0, 1])
    second.suggest_categorical("a", [0, 1])
    second.suggest_categorical("b", ["x", "y"])
    history.read(study)
    tokens = (second.params["a"], ["x", "y"].index(second.params["b"]))
    assert (history.running, history.seen) == ({1: tokens}, {tokens})
    study.tell(second, 1.0)
    study.tell(first, 0.0)  # never chose b
    history.read(study)
    history.read(study)
    assert history.running == {}
    assert [finished.trial.number for finished in history.finished] == [1]
    assert history.params(tokens) == study.trials[1].params


def test_history_keeps_the_order_of_completion() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trials = [study.ask({"a": CategoricalDistribution([0, 1])}) for _ in range(4)]
    for i in (2, 0, 3, 1):
        study.tell(trials[i], 0.0)
    history = History({"a": CategoricalDistribution([0, 1])})
    history.read(study)
    assert [finished.trial.number for finished in history.finished] == [2, 0, 3, 1]


@pytest.mark.parametrize("name", NAMES)
def test_a_parameter_with_changing_choices_is_left_out(name: str) -> None:
    study = optuna.create_study(sampler=make(name))
    study.add_trial(
        create_trial(
            params={"a": 0, "x": 0.5},
            distributions={"a": CategoricalDistribution([0, 1]), "x": FloatDistribution(0, 1)},
            value=0.0,
        )
    )
    space = study.sampler.infer_relative_search_space(study, study.trials[0])
    assert list(space) == (["a"] if name == "controller" else ["a", "x"])
