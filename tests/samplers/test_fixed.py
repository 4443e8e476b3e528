"""Pinned parameters hold whatever proposes, with limits and without."""

import pickle

import optuna
import pytest

from nas_optuna import Experiment, StudySpec
from nas_optuna.samplers import SAMPLERS, create_sampler
from nas_optuna.samplers.base import innermost
from tests.helpers import Command, tiny
from tests.samplers.test_conditional import SHAPE, deep


@pytest.mark.parametrize("limits", [{}, {"macs": 30_000}])
@pytest.mark.parametrize("sampler", ["random", "tpe", "gp", "nsga2", "qmc", "evolution", "controller", "arch"])
def test_a_pinned_parameter_holds_for_every_sampler(sampler: str, limits: dict[str, float]) -> None:
    spec = StudySpec.from_dict(
        {
            "sampler": sampler,
            "pruner": "none",
            "limits": limits,
            "data": {"name": "digits", "train_limit": 60},
            "space": {"name": "conv", "depth": 2, "filters": [4, 8], "kernels": [3, 5]},
            "recipe": {"epochs": 1, "input_size": 8},
            "fixed": {"conv1.kernel": "5", "conv2.stride": 2},
        }
    )
    experiment = Experiment.from_spec(spec, device="cpu")
    study = experiment.create(optuna.storages.InMemoryStorage(), "s")
    pickle.loads(pickle.dumps(study.sampler))
    experiment.run(study, trials=8)
    assert {trial.params["conv1.kernel"] for trial in study.trials} == {5}
    assert {trial.params["conv2.stride"] for trial in study.trials} == {2}
    assert len({trial.params["conv1.filters"] for trial in study.trials}) == 2


@pytest.mark.parametrize("name", sorted(set(SAMPLERS.names()) - {"supernet"}))
def test_optunas_sampler_of_fixed_parameters_hides_none_of_them_from_ours(name: str) -> None:
    space = deep(**SHAPE, most=3, kinds=3)
    own = create_sampler(name, space, 0)
    sampler = optuna.samplers.PartialFixedSampler({"depth": 2, "block0": "kind1"}, own)
    assert innermost(sampler) is innermost(own)
    found: list[str] = []

    def score(trial: optuna.Trial) -> float:
        found.append(str(space.suggest(trial)))
        return float(sum(map(ord, found[-1])) % 101)

    study = optuna.create_study(sampler=sampler)
    study.optimize(score, n_trials=None if name == "grid" else 3)
    assert sorted(found) == [f"depth=2,block0=kind1,block1=kind{i}" for i in range(3)]


@pytest.mark.parametrize("value", ["5", 4, None, [1]])
def test_a_value_that_is_no_choice_is_refused_by_optuna_itself(value: object) -> None:
    space = deep(**SHAPE)
    base = create_sampler("arch", space, 0)
    study = optuna.create_study(sampler=optuna.samplers.PartialFixedSampler({"block0": value}, base))
    for _ in range(2):
        with pytest.raises(ValueError, match="not in"):
            study.ask(dict(space.distributions()))


def test_a_study_can_be_pinned_in_one_run_and_not_in_the_next(command: Command) -> None:
    assert command("run", "--trials", 3, *tiny(), "--sampler", "random", "--fix", "conv1.kernel=7").code == 0
    assert command("run", "--trials", 8, "--set", "fixed={}").code == 0
    trials = optuna.load_study(study_name="nas", storage="sqlite:///nas-optuna.db").trials
    kernels = [trial.params["conv1.kernel"] for trial in trials]
    assert kernels[:3] == [7, 7, 7]
    assert len(set(kernels[3:])) > 1


@pytest.mark.parametrize(
    ("fix", "says"),
    [
        ("conv1.kernal=3", "did you mean 'conv1.kernel'"),
        ("conv1.kernel=4", "4"),
        ("conv1.kernel", "--fix needs NAME=VALUE"),
        ("=3", "--fix needs NAME=VALUE"),
    ],
)
def test_a_pin_that_cannot_hold_is_refused(command: Command, fix: str, says: str) -> None:
    result = command("run", "--trials", 1, *tiny(), "--fix", fix)
    assert (result.code, len(result.err.splitlines())) == (2, 1)
    assert says in result.err
