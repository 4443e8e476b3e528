import threading
import warnings
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import Trial, TrialState

from nas_optuna.execution.pruning import report, should_prune
from nas_optuna.pruners import PRUNERS, create_pruner
from nas_optuna.study.schema import TrialKey

REPORTS = TrialKey.REPORTS
EPOCHS = 9


def objective(trial: Trial) -> tuple[float, float]:
    """Accuracy grows with `size`, which is also the cost, and falls with `waste`."""
    size = trial.suggest_categorical("size", list(range(1, 6)))
    waste = trial.suggest_categorical("waste", list(range(4)))
    accuracy = 0.5 + 0.1 * size - 0.1 * waste
    trial.set_user_attr("nas_optuna:macs", size)
    for epoch in range(1, EPOCHS + 1):
        report(trial, accuracy * (1 - 0.5**epoch), epoch, {})
        if epoch < EPOCHS and should_prune(trial, {"macs": size}):
            raise optuna.TrialPruned
    return accuracy * (1 - 0.5**EPOCHS), size


def create(pruner: str, sampler: optuna.samplers.BaseSampler, storage: object = None) -> optuna.Study:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # patient is experimental
        made = create_pruner(pruner, EPOCHS, {})
    return optuna.create_study(
        directions=["maximize", "minimize"], sampler=sampler, pruner=made, storage=storage, study_name="s"
    )


def check(study: optuna.Study, n_trials: int) -> list[optuna.trial.FrozenTrial]:
    """The trials that were pruned, after checking that each is nothing else."""
    trials = study.trials
    assert len(trials) == n_trials
    assert {t.state for t in trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    pruned = [t for t in trials if t.state == TrialState.PRUNED]
    assert all(t.values is None and len(t.user_attrs[REPORTS]) < EPOCHS for t in pruned)
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    assert all(len(t.user_attrs[REPORTS]) == EPOCHS for t in complete)
    assert {t.number for t in study.best_trials} <= {t.number for t in complete}
    return pruned


@pytest.mark.parametrize("sampler", [optuna.samplers.TPESampler, optuna.samplers.NSGAIISampler])
@pytest.mark.parametrize("pruner", PRUNERS.builtin)
def test_every_pruner_goes_with_every_sampler(pruner: str, sampler: type[optuna.samplers.BaseSampler]) -> None:
    study = create(pruner, sampler(seed=0))
    study.optimize(objective, n_trials=40)
    pruned = check(study, 40)
    if pruner in ("asha", "hyperband", "percentile"):
        assert pruned
    if pruner == "none":
        assert not pruned


def test_a_cheap_network_is_compared_with_cheap_ones_only() -> None:
    study = create("asha", optuna.samplers.RandomSampler(seed=0))
    for size in (5, 5, 5, 4, 4, 4, 1):
        study.enqueue_trial({"size": size, "waste": 0})
    study.enqueue_trial({"size": 5, "waste": 1})
    study.optimize(objective, n_trials=8)
    assert [t.state for t in study.trials[6:]] == [TrialState.COMPLETE, TrialState.PRUNED]


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_workers_prune_together_and_a_new_process_goes_on(kind: str, tmp_path: Path) -> None:
    def storage() -> object:
        if kind == "sqlite":
            return f"sqlite:///{tmp_path}/s.db"
        return JournalStorage(JournalFileBackend(str(tmp_path / "s.log")))

    create("asha", optuna.samplers.RandomSampler(seed=0), storage())

    def work(seed: int) -> None:
        study = optuna.load_study(
            study_name="s",
            storage=storage(),
            sampler=optuna.samplers.RandomSampler(seed=seed),
            pruner=create_pruner("asha", EPOCHS, {}),
        )
        study.optimize(objective, n_trials=10)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    study = optuna.load_study(study_name="s", storage=storage())
    assert check(study, 20)
    work(3)
    pruned = {t.number for t in check(optuna.load_study(study_name="s", storage=storage()), 30)}
    assert max(pruned) >= 20, "the third worker prunes as well, against the trials of the others"


def test_one_objective_is_left_to_optuna() -> None:
    study = optuna.create_study(direction="maximize", pruner=create_pruner("asha", EPOCHS, {}))
    study.optimize(lambda trial: objective(trial)[0], n_trials=20)
    pruned = [t for t in study.trials if t.state == TrialState.PRUNED]
    assert pruned
    assert all(t.intermediate_values and REPORTS not in t.user_attrs for t in study.trials)
