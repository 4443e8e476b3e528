import pickle
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.distributions import CategoricalDistribution
from optuna.trial import create_trial

from nas_optuna.errors import SpecError
from nas_optuna.samplers import create_sampler
from nas_optuna.samplers.controller import ControllerConfig, ControllerSampler
from nas_optuna.samplers.policy import Policy
from nas_optuna.spaces.conv import ConvSpace
from nas_optuna.study.schema import TrialKey

NAMES = ("a", "b", "c", "d")
CHOICES = (0, 1, 2)
TARGET = (2, 0, 1, 2)


def suggest(trial: optuna.Trial) -> tuple[int, ...]:
    return tuple(trial.suggest_categorical(name, CHOICES) for name in NAMES)


def distance(trial: optuna.Trial) -> float:
    return float(sum(x != y for x, y in zip(suggest(trial), TARGET, strict=True)))


def policy_of(sampler: ControllerSampler, study: optuna.Study) -> Policy:
    """The policy after all finished trials of a study."""
    return sampler._learn(sampler._read(study, sampler._common(study)), study)


def probability(sampler: ControllerSampler, study: optuna.Study, tokens: tuple[int, ...]) -> float:
    return policy_of(sampler, study).evaluate(torch.tensor([tokens])).log_prob[0].exp().item()


def weights(sampler: ControllerSampler, study: optuna.Study) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(policy_of(sampler, study).parameters()).detach()


def journal(path: Path) -> optuna.storages.BaseStorage:
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("reward", ["rank", "standardised"])
def test_learns_the_one_rewarded_sequence_and_unlearns_it_when_the_reward_flips(seed: int, reward: Any) -> None:
    sampler = ControllerSampler(ControllerConfig(reward=reward), seed=seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)

    def hit(trial: optuna.Trial) -> bool:
        return tuple(trial.suggest_categorical(name, CHOICES) for name in "abc") == (2, 0, 1)

    learned, unlearned = [], []
    for _ in range(6):
        study.optimize(lambda t: float(hit(t)), n_trials=50)
        learned.append(probability(sampler, study, (2, 0, 1)))
    for _ in range(6):
        study.optimize(lambda t: float(not hit(t)), n_trials=50)
        unlearned.append(probability(sampler, study, (2, 0, 1)))
    assert max(learned) > 0.9
    assert unlearned[-1] < 0.1


@pytest.mark.parametrize(("direction", "towards"), [("minimize", True), ("maximize", False)])
def test_the_direction_is_respected(direction: str, towards: bool) -> None:
    sampler = ControllerSampler(seed=0)
    study = optuna.create_study(direction=direction, sampler=sampler)
    study.optimize(distance, n_trials=60)
    assert (probability(sampler, study, TARGET) > len(CHOICES) ** -4) == towards


def test_ten_trials_and_ten_in_a_second_process_are_twenty_in_one(tmp_path: Path) -> None:
    whole = optuna.create_study(storage=journal(tmp_path / "whole"), sampler=ControllerSampler(seed=3))
    whole.optimize(distance, n_trials=20)
    for _ in range(2):
        part = optuna.create_study(
            storage=journal(tmp_path / "part"), study_name="s", sampler=ControllerSampler(seed=3), load_if_exists=True
        )
        part.optimize(distance, n_trials=10)
    assert [t.params for t in part.trials] == [t.params for t in whole.trials]
    assert [t.user_attrs for t in part.trials] == [t.user_attrs for t in whole.trials]


def test_sampling_is_from_the_policy_and_says_so() -> None:
    sampler = ControllerSampler(seed=0)
    study = optuna.create_study(sampler=sampler)
    study.optimize(distance, n_trials=15)
    policy = policy_of(sampler, study)
    tokens = suggest(study.ask())
    attributes = study.trials[-1].user_attrs
    assert attributes[TrialKey.LOG_PROB] == pytest.approx(
        policy.evaluate(torch.tensor([tokens])).log_prob[0].item(), rel=1e-5
    )
    entropy = policy.sample(2000, torch.Generator().manual_seed(1)).entropy.mean()
    assert entropy < 0.99 * np.log(len(CHOICES))
    assert attributes[TrialKey.ENTROPY] == pytest.approx(float(entropy), rel=0.05)


@pytest.mark.parametrize("failures", ["ignore", "worst"])
def test_failed_trials_teach_only_if_asked_to(failures: Any) -> None:
    def objective(trial: optuna.Trial) -> float:
        if suggest(trial)[0] == 0:
            raise RuntimeError
        return 1.0

    sampler = ControllerSampler(ControllerConfig(failures=failures), seed=0)
    study = optuna.create_study(sampler=sampler, direction="maximize")
    study.optimize(objective, n_trials=60, catch=(RuntimeError,))
    p = policy_of(sampler, study).evaluate(torch.tensor([TARGET])).logits[0, 0].softmax(0)[0]
    assert p < 0.15 if failures == "worst" else p > 0.15


def test_infinite_values_do_not_break_the_policy() -> None:
    for reward in ("rank", "standardised"):
        sampler = ControllerSampler(ControllerConfig(reward=reward), seed=0)  # type: ignore[arg-type]
        study = optuna.create_study(sampler=sampler)
        study.optimize(lambda t: float("inf") if suggest(t)[0] == 0 else 1.0, n_trials=40)
        assert weights(sampler, study).isfinite().all()


def test_a_pickled_sampler_goes_on_the_same() -> None:
    sampler = ControllerSampler(seed=0)
    study = optuna.create_study(sampler=sampler)
    study.optimize(distance, n_trials=20)
    copy = pickle.loads(pickle.dumps(sampler))
    assert torch.equal(weights(copy, study), weights(sampler, study))


def test_an_instance_may_move_to_another_study() -> None:
    sampler = ControllerSampler(seed=0)
    for name in ("first", "second"):
        study = optuna.create_study(sampler=sampler, study_name=name)
        study.optimize(distance, n_trials=20)
    alone = optuna.create_study(sampler=ControllerSampler(seed=0))
    alone.optimize(distance, n_trials=20)
    assert [t.params for t in study.trials] == [t.params for t in alone.trials]


def test_enqueued_trials_and_trials_of_other_samplers_are_learned_from() -> None:
    sampler = ControllerSampler(seed=0)
    study = optuna.create_study(sampler=sampler)
    distributions = {name: CategoricalDistribution(CHOICES) for name in NAMES}
    for _ in range(20):
        params = dict(zip(NAMES, TARGET, strict=True))
        study.add_trial(create_trial(params=params, distributions=distributions, value=0.0))
        study.add_trial(create_trial(params=dict.fromkeys(NAMES, 1), distributions=distributions, value=1.0))
    assert probability(sampler, study, TARGET) > 5 * len(CHOICES) ** -4


@pytest.mark.parametrize(
    "options",
    [
        {"entropy": -1},
        {"reward": "value"},
        {"failures": "count"},
        {"hidden": 0},
        {"learning_rate": 0},
        {"entropie": 1},
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        create_sampler("controller", ConvSpace(), 0, options)


def test_a_misspelt_option_is_named_with_the_right_one() -> None:
    with pytest.raises(SpecError, match=r"'entropie'.* did you mean 'entropy'"):
        create_sampler("controller", ConvSpace(), 0, {"entropie": 0.1})


def test_several_objectives_are_refused_with_a_remedy() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=ControllerSampler(seed=0))
    with pytest.raises(SpecError, match="use evolution or arch"):
        suggest(study.ask())


def test_the_policy_does_not_depend_on_the_seed() -> None:
    study = optuna.create_study(sampler=ControllerSampler(seed=0))
    study.optimize(distance, n_trials=20)
    assert torch.equal(*(weights(ControllerSampler(seed=seed), study) for seed in (0, 1)))
