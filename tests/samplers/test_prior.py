import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import create_trial

from nas_optuna import Experiment, StudySpec
from nas_optuna.errors import SpecError, StudyError
from nas_optuna.samplers import create_sampler, prior
from nas_optuna.samplers.prior import AS_LEARNED, WARM_START, SupernetConfig, SupernetSampler, WarmStartSampler, propose
from nas_optuna.spaces.conv import ConvSpace
from nas_optuna.study import database
from nas_optuna.study.schema import StudyKey, TrialKey
from nas_optuna.study.storage import open_storage
from nas_optuna.study.supernet_result import Predictor, SupernetResult, write_result

SPACE = ConvSpace(depth=2)
ALPHAS = {name: [float(i == 0) * 2 for i in range(len(p.choices))] for name, p in SPACE.parameters.items()}
ARGMAX = {name: p.choices[0] for name, p in SPACE.parameters.items()}


def study_with(sampler: BaseSampler | None = None, alphas: dict[str, list[float]] = ALPHAS) -> optuna.Study:
    study = optuna.create_study(direction="maximize", sampler=sampler)
    write_result(study, SupernetResult(alphas))
    return study


def warm_start(sampler: BaseSampler, trials: int) -> WarmStartSampler:
    return WarmStartSampler(sampler, SupernetSampler(SPACE, 0, AS_LEARNED), trials=trials)


def objective(trial: optuna.Trial) -> float:
    return sum(map(float, SPACE.suggest(trial).params.values()))


def test_argmax_first_then_new_draws() -> None:
    study = study_with(SupernetSampler(SPACE, 0))
    study.optimize(objective, n_trials=60)
    assert study.trials[0].params == ARGMAX
    assert len({tuple(t.params.values()) for t in study.trials}) == 60


def test_draws_follow_the_prior(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the argmax and repetitions out of the way, shares of choices are those of the softmax."""
    study = study_with()
    study.add_trial(optuna.create_trial(params=ARGMAX, distributions=SPACE.distributions(), value=0.0))
    monkeypatch.setattr(prior, "_FLATTEN", 1.0)
    counts = Counter(propose(study, SPACE, seed=seed, temperature=2.0)["conv1.kernel"] for seed in range(3000))
    # softmax of (1, 0, 0), given that the architecture is not the argmax
    p = math.e / (math.e + 2)
    rest = math.prod(math.e / (math.e + len(x.choices) - 1) for x in SPACE.parameters.values())
    p = (p - rest) / (1 - rest)
    assert counts[3] / 3000 == pytest.approx(p, abs=0.03)
    assert counts[5] / 3000 == pytest.approx((1 - p) / 2, abs=0.03)


def test_temperature_anneals() -> None:
    config = SupernetConfig(start_temperature=4, end_temperature=1, anneal_trials=10)
    assert [config.temperature(n) for n in (0, 5, 10, 99)] == pytest.approx([4, 2, 1, 1])


def test_a_second_process_goes_on_where_the_first_stopped() -> None:
    whole = study_with(create_sampler("supernet", SPACE, 7, {}))
    whole.optimize(objective, n_trials=8)
    parts = study_with(create_sampler("supernet", SPACE, 7, {}))
    parts.optimize(objective, n_trials=4)
    parts.sampler = create_sampler("supernet", SPACE, 7, {})
    parts.optimize(objective, n_trials=4)
    assert [t.params for t in parts.trials] == [t.params for t in whole.trials]


@pytest.mark.parametrize("make", [lambda: RandomSampler(seed=0), lambda: TPESampler(seed=0, n_startup_trials=2)])
def test_warm_start_then_the_named_sampler(make: Callable[[], BaseSampler]) -> None:
    study = study_with(warm_start(make(), 3))
    study.optimize(objective, n_trials=6)
    assert [t.user_attrs.get("nas_optuna:origin") == WARM_START for t in study.trials] == [True] * 3 + [False] * 3
    assert study.trials[0].params == ARGMAX


@pytest.mark.parametrize("make", [lambda: RandomSampler(seed=3), lambda: TPESampler(seed=3, n_startup_trials=4)])
def test_after_the_warm_trials_everything_is_the_other_samplers_own(make: Callable[[], BaseSampler]) -> None:
    """What it proposes, also of a number that the space does not have, is what it would propose without us."""

    def with_a_rate(trial: optuna.Trial) -> float:
        return objective(trial) + trial.suggest_float("rate", 0, 1)

    warm = study_with(warm_start(make(), 2))
    warm.optimize(with_a_rate, n_trials=2)
    plain = optuna.create_study(direction="maximize", sampler=make())
    plain.add_trials(warm.trials)
    warm.sampler = warm_start(make(), 2)
    for study in (warm, plain):
        study.optimize(with_a_rate, n_trials=6)
    assert [t.params for t in warm.trials[2:]] == [t.params for t in plain.trials[2:]]


def test_several_objectives_and_a_number_beside_the_space() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=SupernetSampler(SPACE, 0))
    write_result(study, SupernetResult(ALPHAS))
    study.optimize(lambda trial: (objective(trial), trial.suggest_float("rate", 0, 1)), n_trials=4)
    assert {name: study.trials[0].params[name] for name in ARGMAX} == ARGMAX
    assert len({trial.params["rate"] for trial in study.trials}) == 4


def test_workers_that_propose_at_once_take_the_starts_in_turn() -> None:
    """A uniformly random network took the place of all but the first."""
    starts = [(i % 4, i % 3, 0, 1, i // 4, 1) for i in range(6)]
    choices = {name: p.choices for name, p in SPACE.parameters.items()}
    sampler = SupernetSampler(SPACE, 0)
    study = study_with(sampler)
    write_result(study, SupernetResult(ALPHAS, starts=starts, predictor=Predictor(choices, np.zeros(1), 0.0)))
    found = []
    for trial in [study.ask() for _ in starts]:
        running = study.trials[trial.number]  # what it is given is published, and not yet a parameter of the trial
        found.append(sampler.sample_relative(study, running, sampler.infer_relative_search_space(study, running)))
    assert [SPACE.tokens(SPACE.architecture(params)) for params in found] == starts


@pytest.mark.parametrize("warm", [True, False])
def test_hyperband_hides_nothing(warm: bool) -> None:
    """Optuna gives samplers a view of the study under Hyperband."""
    sampler = SupernetSampler(SPACE, 0)
    study = study_with(warm_start(RandomSampler(seed=0), 3) if warm else sampler)
    study.pruner = optuna.pruners.HyperbandPruner(max_resource=9)
    study.optimize(objective, n_trials=5)
    assert study.trials[0].params == ARGMAX
    assert len({tuple(t.params.values()) for t in study.trials}) == 5


def test_warm_trials_are_counted_over_workers() -> None:
    study = study_with(warm_start(RandomSampler(seed=0), 3))
    study.optimize(objective, n_trials=2)
    study.sampler = warm_start(RandomSampler(seed=1), 3)
    study.optimize(objective, n_trials=4)
    assert sum(t.user_attrs.get("nas_optuna:origin") == WARM_START for t in study.trials) == 3


def test_a_supernet_that_is_trained_anew_proposes_its_own_warm_trials() -> None:
    study = study_with(warm_start(RandomSampler(seed=0), 2))
    study.optimize(objective, n_trials=3)
    write_result(study, SupernetResult({name: logits[::-1] for name, logits in ALPHAS.items()}))
    study.optimize(objective, n_trials=3)
    origins = [t.user_attrs.get("nas_optuna:origin") == WARM_START for t in study.trials]
    assert origins == [True, True, False] * 2
    assert study.trials[3].params == {name: p.choices[-1] for name, p in SPACE.parameters.items()}


def test_warm_trials_are_counted_by_one_attribute_of_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = optuna.create_study(storage=open_storage(f"sqlite:///{tmp_path}/x.db", create=True))
    write_result(study, SupernetResult(ALPHAS))
    real, read = database.attributes_of, []

    def counted(rows: list[tuple[str, str]]) -> dict[str, object]:
        read.extend(key for key, _ in rows)
        return real(rows)

    monkeypatch.setattr(database, "attributes_of", counted)
    study.add_trial(create_trial(value=1.0))
    assert (prior.warm_trials(study), read) == (0, []), "none is warm"
    study.add_trial(create_trial(value=1.0, user_attrs={TrialKey.ORIGIN: WARM_START}))
    read.clear()
    assert prior.warm_trials(study) == 1
    assert [key for key in read if key != TrialKey.ORIGIN] == [StudyKey.SUPERNET]


@pytest.mark.parametrize("damaged", [{"chunks": 1}, {"first_trial": "x"}, ["chunks"], None])
def test_after_the_warm_trials_a_supernet_that_cannot_be_read_is_not_needed(damaged: Any) -> None:
    study = study_with(warm_start(RandomSampler(seed=0), 2))
    study.optimize(objective, n_trials=2)
    study.set_user_attr(StudyKey.SUPERNET, damaged)
    study.optimize(objective, n_trials=1)
    assert [t.user_attrs.get("nas_optuna:origin") == WARM_START for t in study.trials] == [True, True, False]


@pytest.mark.parametrize(
    "given",
    [
        {"fixed": {"conv1.kernel": 5, "conv2.stride": 2}},
        {"limits": {"params": 500}},
        {"among": "f4k3s2-f4k5s2 f8k5s2-f4k3s1 f4k5s1-f8k3s1 f8k3s2-f8k3s2 f8k5s1-f8k5s1"},
    ],
)
def test_warm_trials_obey_pins_list_and_limits(given: dict[str, Any], tmp_path: Path) -> None:
    if "among" in given:
        (tmp_path / "listed").write_text(given["among"])
        given = {"among": str(tmp_path / "listed")}
    space = {"name": "conv", "depth": 2, "filters": [4, 8], "kernels": [3, 5]}
    data, recipe = {"name": "digits", "train_limit": 60}, {"epochs": 1, "input_size": 8}
    spec = StudySpec.from_dict({"sampler": "random", "space": space, "data": data, "recipe": recipe, **given})
    experiment = Experiment.from_spec(spec, device="cpu")
    study = experiment.create(optuna.storages.InMemoryStorage(), "s")
    choices = experiment.space.parameters.items()
    write_result(study, SupernetResult({name: [2.0 * (i == 0) for i in range(len(p.choices))] for name, p in choices}))
    experiment.begin_warm(study, 4)
    trials = [study.ask() for _ in range(4)]
    found = [experiment.space.suggest(trial) for trial in trials]
    assert all(architecture in experiment.candidates for architecture in found)
    assert len(set(found)) == 4
    assert {trial.user_attrs["nas_optuna:origin"] for trial in trials} == {WARM_START}


def test_an_enqueued_trial_is_not_a_warm_one() -> None:
    study = study_with(warm_start(RandomSampler(seed=0), 1))
    study.enqueue_trial({name: p.choices[1] for name, p in SPACE.parameters.items()})
    study.optimize(objective, n_trials=2)
    assert [t.user_attrs.get("nas_optuna:origin") == WARM_START for t in study.trials] == [False, True]


def test_a_study_without_a_supernet_says_what_to_run() -> None:
    study = optuna.create_study(sampler=SupernetSampler(SPACE, 0))
    with pytest.raises(StudyError, match="nas-optuna supernet train"):
        SPACE.suggest(study.ask())


def test_alphas_of_another_space_are_refused() -> None:
    study = study_with(SupernetSampler(ConvSpace(depth=3), 0))
    with pytest.raises(StudyError, match="another space"):
        SPACE.suggest(study.ask())


def test_wrong_options_are_refused() -> None:
    with pytest.raises(SpecError):
        create_sampler("supernet", SPACE, 0, {"start_temperature": 0})
    with pytest.raises(SpecError, match="did you mean 'end_temperature'"):
        create_sampler("supernet", SPACE, 0, {"end_temprature": 1})
    with pytest.raises(SpecError):
        warm_start(RandomSampler(), 0)
