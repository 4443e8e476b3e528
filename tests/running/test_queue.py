import itertools

import optuna
import pytest
import torch

from nas_optuna.running.costs import Costs
from nas_optuna.running.queue import CHEAPEST, enqueue, enqueue_cheapest
from nas_optuna.running.records import Attribute
from nas_optuna.spaces.conv import ConvSpace

SPACE = ConvSpace(depth=2, filters=(4, 16), kernels=(3, 5), strides=(1, 2), input_size=20)
COSTS = Costs(SPACE, torch.device("cpu"))


def study(*objectives: str) -> optuna.Study:
    directions = ["maximize" if name == "accuracy" else "minimize" for name in objectives]
    made = optuna.create_study(directions=directions)
    made.set_metric_names(list(objectives))
    return made


def waiting(study: optuna.Study) -> list[dict[str, object]]:
    return [dict(t.system_attrs["fixed_params"]) for t in study.trials if t.user_attrs[Attribute.ORIGIN] == CHEAPEST]


def test_a_study_of_several_objectives_begins_with_the_cheapest_of_each_cost() -> None:
    choices = [parameter.choices for parameter in SPACE.parameters.values()]
    costs = [
        COSTS(SPACE.architecture(dict(zip(SPACE.parameters, values, strict=True))))
        for values in itertools.product(*choices)
    ]
    made = study("accuracy", "macs", "params")
    enqueue_cheapest(made, SPACE, COSTS)
    found = [COSTS(SPACE.architecture(params)) for params in waiting(made)]  # type: ignore[arg-type]
    for name in ("macs", "params"):
        assert min(cost[name] for cost in costs) in [cost[name] for cost in found]
    enqueue_cheapest(made, SPACE, COSTS)
    assert len(made.trials) == len(found), "once"


def test_one_architecture_may_be_the_cheapest_in_several_costs() -> None:
    made = study("accuracy", "macs", "latency_ms")
    enqueue_cheapest(made, SPACE, COSTS)
    assert len(waiting(made)) == 1


@pytest.mark.parametrize("objectives", [("accuracy",), ("macs",)])
def test_a_study_of_one_objective_begins_as_its_sampler_likes(objectives: tuple[str, ...]) -> None:
    made = study(*objectives)
    enqueue_cheapest(made, SPACE, COSTS)
    assert not made.trials


def test_what_waits_already_stays_first_and_what_has_begun_goes_on() -> None:
    made = study("accuracy", "macs")
    enqueue(made, SPACE, SPACE.parse("f16k5s1-f16k5s1").params, "enqueued")
    enqueue_cheapest(made, SPACE, COSTS)
    assert [t.user_attrs[Attribute.ORIGIN] for t in made.trials] == ["enqueued", CHEAPEST]
    begun = study("accuracy", "macs")
    begun.ask()
    enqueue_cheapest(begun, SPACE, COSTS)
    assert len(begun.trials) == 1
