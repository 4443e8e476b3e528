import json
import math
from collections import Counter
from collections.abc import Callable

import optuna
import pytest
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase, MultiObjectiveSamplerTestCase

from nas_optuna.errors import SpecError, StudyError
from nas_optuna.samplers import create_sampler, prior
from nas_optuna.samplers.prior import (
    WARM_START,
    SupernetSampler,
    WarmStartSampler,
    propose,
    read_alphas,
    top,
    write_alphas,
)
from nas_optuna.spaces.conv import ConvSpace

SPACE = ConvSpace(depth=2)
DISTRIBUTIONS = SPACE.distributions()
ALPHAS = {name: [float(i == 0) * 2 for i in range(len(p.choices))] for name, p in SPACE.parameters.items()}
ARGMAX = {name: p.choices[0] for name, p in SPACE.parameters.items()}


def study_with(sampler: BaseSampler | None = None, alphas: dict[str, list[float]] = ALPHAS) -> optuna.Study:
    study = optuna.create_study(direction="maximize", sampler=sampler)
    write_alphas(study, alphas, {"mode": "mixture"})
    return study


def objective(trial: optuna.Trial) -> float:
    return sum(map(float, SPACE.suggest(trial).params.values()))


class TestSupernetSampler(BasicSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: SupernetSampler({}, seed=0)


class TestWarmStartSampler(BasicSamplerTestCase, MultiObjectiveSamplerTestCase):
    """After its warm trials it must do all that the wrapped sampler does."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        class Started(WarmStartSampler):
            def before_trial(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
                self._sampler.before_trial(study, trial)

        return lambda: Started(RandomSampler(seed=0), {}, seed=0, trials=1)


def test_many_alphas_are_stored_in_short_attributes(tmp_path: object) -> None:
    space = ConvSpace(depth=20)
    alphas = {name: [0.12345678 * i for i in range(len(p.choices))] for name, p in space.parameters.items()}
    url = f"sqlite:///{tmp_path}/study.db"
    study = optuna.create_study(storage=url)
    write_alphas(study, alphas, {})
    read, summary = read_alphas(optuna.load_study(study_name=study.study_name, storage=url))
    assert list(read) == list(alphas)
    assert all(
        math.isclose(a, b, abs_tol=1e-4) for name in alphas for a, b in zip(alphas[name], read[name], strict=True)
    )
    assert summary["chunks"] > 1
    assert all(len(json.dumps(value)) < 2046 for value in study.user_attrs.values())


def test_shorter_alphas_replace_longer_ones() -> None:
    study = study_with()
    write_alphas(study, {"x": [0.0, 1.0]}, {})
    assert read_alphas(study)[0] == {"x": [0.0, 1.0]}


def test_argmax_first_then_new_draws() -> None:
    study = study_with(SupernetSampler(DISTRIBUTIONS, 0))
    study.optimize(objective, n_trials=60)
    assert study.trials[0].params == ARGMAX
    assert len({tuple(t.params.values()) for t in study.trials}) == 60


def test_draws_follow_the_prior(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the argmax and repetitions out of the way, shares of choices are those of the softmax."""
    study = study_with()
    study.add_trial(optuna.create_trial(params=ARGMAX, distributions=DISTRIBUTIONS, value=0.0))
    monkeypatch.setattr(prior, "_FLATTEN", 1.0)
    counts = Counter(propose(study, DISTRIBUTIONS, seed=seed, temperature=2.0)["conv1.kernel"] for seed in range(3000))
    # softmax of (1, 0, 0), given that the architecture is not the argmax
    p = math.e / (math.e + 2)
    rest = math.prod(math.e / (math.e + len(x.choices) - 1) for x in SPACE.parameters.values())
    p = (p - rest) / (1 - rest)
    assert counts[3] / 3000 == pytest.approx(p, abs=0.03)
    assert counts[5] / 3000 == pytest.approx((1 - p) / 2, abs=0.03)


def test_temperature_anneals() -> None:
    sampler = SupernetSampler(DISTRIBUTIONS, 0, start_temperature=4, end_temperature=1, anneal_trials=10)
    assert [sampler.temperature(n) for n in (0, 5, 10, 99)] == pytest.approx([4, 2, 1, 1])


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
    study = study_with(WarmStartSampler(make(), DISTRIBUTIONS, 0, trials=3))
    study.optimize(objective, n_trials=6)
    assert [t.user_attrs.get("nas_optuna:origin") == WARM_START for t in study.trials] == [True] * 3 + [False] * 3
    assert study.trials[0].params == ARGMAX


@pytest.mark.parametrize("warm", [True, False])
def test_hyperband_hides_nothing(warm: bool) -> None:
    """Optuna gives samplers a view of the study under Hyperband."""
    sampler = SupernetSampler(DISTRIBUTIONS, 0)
    study = study_with(WarmStartSampler(RandomSampler(seed=0), DISTRIBUTIONS, 0, trials=3) if warm else sampler)
    study.pruner = optuna.pruners.HyperbandPruner(max_resource=9)
    study.optimize(objective, n_trials=5)
    assert study.trials[0].params == ARGMAX
    assert len({tuple(t.params.values()) for t in study.trials}) == 5


def test_warm_trials_are_counted_over_workers() -> None:
    study = study_with(WarmStartSampler(RandomSampler(seed=0), DISTRIBUTIONS, 0, trials=3))
    study.optimize(objective, n_trials=2)
    study.sampler = WarmStartSampler(RandomSampler(seed=1), DISTRIBUTIONS, 0, trials=3)
    study.optimize(objective, n_trials=4)
    assert sum(t.user_attrs.get("nas_optuna:origin") == WARM_START for t in study.trials) == 3


def test_an_enqueued_trial_is_not_a_warm_one() -> None:
    study = study_with(WarmStartSampler(RandomSampler(seed=0), DISTRIBUTIONS, 0, trials=1))
    study.enqueue_trial({name: p.choices[1] for name, p in SPACE.parameters.items()})
    study.optimize(objective, n_trials=2)
    assert [t.user_attrs.get("nas_optuna:origin") == WARM_START for t in study.trials] == [False, True]


def test_top_lists_the_most_probable_first() -> None:
    listed = top({"a": [0.0, 1.0], "b": [0.3, 0.0, 0.1]}, 4)
    assert [tuple(indices.values()) for indices, _ in listed] == [(1, 0), (1, 2), (1, 1), (0, 0)]
    assert [log for _, log in listed] == sorted((log for _, log in listed), reverse=True)
    assert sum(math.exp(log) for _, log in top({"a": [0.0, 1.0], "b": [0.3, 0.0, 0.1]}, 99)) == pytest.approx(1)


def test_a_study_without_a_supernet_says_what_to_run() -> None:
    study = optuna.create_study(sampler=SupernetSampler(DISTRIBUTIONS, 0))
    with pytest.raises(StudyError, match="nas-optuna supernet train"):
        SPACE.suggest(study.ask())


def test_alphas_of_another_space_are_refused() -> None:
    study = study_with(SupernetSampler(ConvSpace(depth=3).distributions(), 0))
    with pytest.raises(StudyError, match="another space"):
        SPACE.suggest(study.ask())


def test_wrong_options_are_refused() -> None:
    with pytest.raises(SpecError):
        create_sampler("supernet", SPACE, 0, {"start_temperature": 0})
    with pytest.raises(SpecError, match="did you mean 'end_temperature'"):
        create_sampler("supernet", SPACE, 0, {"end_temprature": 1})
    with pytest.raises(SpecError):
        WarmStartSampler(RandomSampler(), DISTRIBUTIONS, 0, trials=0)
