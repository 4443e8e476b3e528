import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import optuna
import pytest
import torch
from optuna.trial import FrozenTrial

from nas_optuna.costs.candidates import Candidates
from nas_optuna.costs.study_costs import Limits, StudyCosts, best_in_cost
from nas_optuna.objectives import parse_criterion
from nas_optuna.spaces import create_space
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spaces.conv import ConvSpace
from nas_optuna.study import database
from nas_optuna.study.schema import TrialKey
from nas_optuna.study.storage import open_storage
from nas_optuna.study.trial_queue import (
    UNFINISHED,
    enqueue_all,
    enqueue_cheapest,
    enqueue_once,
    enqueue_reference,
)

SPACE = ConvSpace(depth=2, filters=(4, 16), kernels=(3, 5), strides=(1, 2), input_size=20)
CPU = torch.device("cpu")
ALL = [
    SPACE.architecture(dict(zip(SPACE.parameters, values, strict=True)))
    for values in itertools.product(*(parameter.choices for parameter in SPACE.parameters.values()))
]


def study(*objectives: str) -> optuna.Study:
    made = optuna.create_study(directions=[parse_criterion(name).direction for name in objectives])
    made.set_metric_names(list(objectives))
    return made


def waiting(study: optuna.Study) -> list[tuple[str, dict[str, Any]]]:
    return [(t.user_attrs[TrialKey.ORIGIN], t.system_attrs["fixed_params"]) for t in study.trials]


class Made:
    """A cost of 0 for its cheapest architecture, else 1."""

    proxy = None

    def __init__(self, cheapest: Architecture) -> None:
        self.cheapest = cheapest

    def __call__(self, architecture: Architecture) -> float:
        return float(architecture != self.cheapest)


class Opposed(dict[str, Made]):
    """Costs of which each has a cheapest architecture of its own."""

    space = SPACE

    def of(self, name: str, architecture: Architecture) -> float:
        return self[name](architecture)

    def __call__(self, architecture: Architecture, names: Iterable[str]) -> dict[str, float]:
        return {name: self.of(name, architecture) for name in names}


OPPOSED = cast(StudyCosts, Opposed({"macs": Made(ALL[1]), "params": Made(ALL[2])}))
FREE = Candidates(Limits({}, OPPOSED))


class Forbidding(Limits):
    """Limits that one architecture is above."""

    def total_excess(self, architecture: Architecture) -> float:
        return float(architecture == ALL[1])


def test_a_study_of_several_objectives_begins_with_the_cheapest_of_each_cost() -> None:
    made = study("accuracy", "macs", "params")
    assert enqueue_cheapest(made, FREE) == {"macs": ALL[1], "params": ALL[2]}
    enqueue_cheapest(made, FREE)
    assert waiting(made) == [("cheapest", dict(ALL[1].params)), ("cheapest", dict(ALL[2].params))], "once"


def test_what_is_above_another_limit_is_left_out() -> None:
    made = study("accuracy", "macs", "params")
    assert enqueue_cheapest(made, Candidates(Forbidding({}, OPPOSED))) == {"params": ALL[2]}
    assert waiting(made) == [("cheapest", dict(ALL[2].params))]


@pytest.mark.parametrize("name", ["macs", "params", "memory"])
def test_the_cheapest_has_the_least_of_the_cost_and_nothing_is_measured_for_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    least = min(StudyCosts(SPACE, CPU)(architecture)[name] for architecture in ALL)
    monkeypatch.setattr("nas_optuna.costs.latency.measure", lambda *_: pytest.fail("measured"))
    costs = StudyCosts(SPACE, CPU, (name, "latency_ms"))
    made = study("accuracy", name, "latency_ms")
    found = enqueue_cheapest(made, Candidates(Limits({}, costs)))
    assert StudyCosts(SPACE, CPU)(found[name])[name] == least
    assert found["latency_ms"] == best_in_cost(costs, "macs")
    assert len(made.trials) == len(set(found.values()))


@pytest.mark.parametrize("objectives", [("accuracy",), ("macs",), ("accuracy", "accuracy*(macs/1k)^-0.1")])
def test_other_studies_begin_as_their_samplers_like(objectives: tuple[str, ...]) -> None:
    made = study(*objectives)
    assert enqueue_cheapest(made, FREE) == {}
    assert not made.trials


def test_the_reference_waits_once_with_settings_of_the_recipe() -> None:
    space = create_space("residual", {"width": 8, "stages": 1}, in_channels=1, classes=10, input_size=8)
    made, settings = study("accuracy"), {"recipe.learning_rate": 0.1}
    for _ in range(2):
        assert enqueue_reference(made, Candidates(Limits({}, StudyCosts(space, CPU))), settings) == space.reference
    assert space.reference is not None
    assert waiting(made) == [("reference", {**space.reference.params, **settings})]


def test_a_list_is_enqueued_as_often_as_it_says_by_one_reading_and_one_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = optuna.create_study(storage=open_storage(f"sqlite:///{tmp_path}/s.db", create=True))
    real, read = database.read_trials, []
    made.enqueue_trial({"conv1.filters": [4]})  # no choice of the space
    enqueue_all(made, SPACE, [ALL[1].params], "enqueued")

    def counted(*arguments: Any) -> list[FrozenTrial]:
        read.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(database, "read_trials", counted)
    listed = [ALL[place].params for place in (2, 1, 3, 1, *range(2, 16))]
    assert enqueue_all(made, SPACE, listed, "enqueued", UNFINISHED) == len(listed) - 1
    assert len(read) <= 3
    assert enqueue_all(made, SPACE, listed, "enqueued", UNFINISHED) == 0
    assert [trial.number for trial in made.trials] == list(range(len(listed) + 1))
    waiting = [trial.system_attrs["fixed_params"] for trial in made.trials[1:]]
    assert waiting == [ALL[1].params, *(params for i, params in enumerate(listed) if i != 1)]


def test_what_must_begin_for_a_list_to_begin_is_counted() -> None:
    made = study("accuracy")
    enqueue_all(made, SPACE, [ALL[5].params], "enqueued")
    assert enqueue_once(made, SPACE, [ALL[5].params, ALL[1].params, ALL[1].params], "fixed") == 2
    assert enqueue_once(made, SPACE, [ALL[5].params], "fixed") == 1
    assert enqueue_once(made, SPACE, [], "fixed") == 0
    assert len(made.trials) == 2


def test_what_waits_already_stays_first_and_what_has_begun_goes_on() -> None:
    made = study("accuracy", "macs", "params")
    enqueue_all(made, SPACE, [ALL[5].params], "enqueued")
    enqueue_all(made, SPACE, [ALL[1].params], "enqueued")
    enqueue_cheapest(made, FREE)
    expected = [("enqueued", ALL[5]), ("enqueued", ALL[1]), ("cheapest", ALL[2])]
    assert waiting(made) == [(origin, dict(architecture.params)) for origin, architecture in expected]
    begun = study("accuracy", "macs")
    begun.ask()
    assert enqueue_cheapest(begun, FREE) == {}
    assert len(begun.trials) == 1
