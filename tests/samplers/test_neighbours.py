"""Local search around a good network."""

import optuna
import pytest

from nas_optuna.samplers.neighbours import NeighboursSampler
from nas_optuna.spaces import create_space

SPACE = create_space("residual", {}, in_channels=3, classes=10, input_size=32)
REFERENCE = SPACE.reference
assert REFERENCE is not None
START = REFERENCE.params


def search(trials: int, seed: int = 0) -> list[dict[str, object]]:
    """The params that are tried where every network is as good as the other, but the first is the best."""
    study = optuna.create_study(sampler=NeighboursSampler(seed=seed).for_space(SPACE))
    study.enqueue_trial(dict(START))

    def objective(trial: optuna.Trial) -> float:
        SPACE.suggest(trial)
        return float(trial.number > 0)

    study.optimize(objective, n_trials=trials)
    return [dict(SPACE.architecture(trial.params).params) for trial in study.trials]


def changed(params: dict[str, object]) -> set[str]:
    return {name for name, value in params.items() if value != START[name]}


def test_sizes_are_moved_first_and_in_all_stages_alike() -> None:
    _, wider, narrower, deeper, *_ = search(5)
    assert changed(wider) == {"stem.width", "stage1.width", "stage2.width", "stage3.width"}
    assert all(wider[name] > START[name] for name in changed(wider))  # type: ignore[operator]
    assert all(narrower[name] < START[name] for name in changed(narrower))  # type: ignore[operator]
    assert changed(deeper) == {"stage1.depth", "stage2.depth", "stage3.depth"}


@pytest.mark.parametrize("seed", [0, 1])
def test_no_network_is_proposed_twice_and_kinds_are_not_mixed(seed: int) -> None:
    found = search(40, seed)
    assert len({tuple(params.values()) for params in found}) == 40
    for params in found[1:12]:
        assert len({name.rpartition(".")[2] for name in changed(params) if ".depth" not in name}) <= 2


def test_it_goes_on_from_the_best() -> None:
    study = optuna.create_study(sampler=NeighboursSampler(seed=0), direction="maximize")
    study.enqueue_trial({"a": 1, "b": 1})
    study.optimize(lambda t: t.suggest_categorical("a", range(9)) + t.suggest_categorical("b", range(9)), n_trials=30)
    assert study.best_value >= 14
