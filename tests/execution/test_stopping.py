import re
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from torch import nn

import nas_optuna as nas
from nas_optuna.costs.candidates import Candidates
from nas_optuna.costs.study_costs import Limits, StudyCosts
from nas_optuna.errors import SpecError
from nas_optuna.execution.stopping import HARD_STOP, PATIENCE, StopWhen, parse_until, reason_to_stop
from nas_optuna.samplers.gp import ArchitectureGPSampler
from nas_optuna.spaces.architecture import Architecture

optuna.logging.set_verbosity(optuna.logging.ERROR)
ONE = ["accuracy"]
TWO = ["accuracy", "macs"]


def values(study: optuna.Study, *values: float | tuple[float, ...]) -> optuna.Study:
    for value in values:
        study.tell(study.ask(), value)
    return study


def worth(trial: optuna.Trial) -> float:
    """The sum of three numbers from 0 to 3: there are 64 architectures, and the best is worth 9."""
    return float(sum(trial.suggest_categorical(name, range(4)) for name in "abc"))


def parsed(text: str, objectives: list[str]) -> tuple[object, ...]:
    condition = parse_until(text, objectives)
    assert isinstance(condition, partial)
    return condition.args


def test_what_a_user_writes() -> None:
    assert parsed("stalled", ONE) == (ONE, PATIENCE, None)
    assert parsed(" stalled:7 ", ONE) == (ONE, 7, None)
    assert parsed("accuracy>=0.98", ONE) == ("accuracy", 0, True, 0.98)
    assert parsed("macs <= 2e6", TWO) == ("macs", 1, False, 2e6)


@pytest.mark.parametrize("text", ["accuracy 0.98", "accuracy:0.98", " accuracy : 0.98 ", "accuracy  .98"])
def test_what_no_shell_eats(text: str) -> None:
    assert parsed(text, ONE) == ("accuracy", 0, True, 0.98)
    assert parsed("macs:2e6", TWO) == ("macs", 1, False, 2e6)
    assert parsed("params:maximize:1e6", ["params:maximize"]) == ("params:maximize", 0, True, 1e6)
    soft = "accuracy*(macs/1M)^-0.07"
    assert parsed(f"{soft}:1.1", [soft]) == (soft, 0, True, 1.1)  # a cheap network exceeds 1


@pytest.mark.parametrize(
    ("text", "objective", "said"),
    [
        ("accuracy>=95", "accuracy", "the best possible is 1 .*; 95 per cent are written as 0.95 or 95%"),
        ("accuracy>=0", "accuracy", "accuracy 0 is no goal: .* the worst possible is 0"),
        ("macro_f1:98.5", "macro_f1", "the best possible is 1"),
        ("accuracy>=1.01", "accuracy", "the best possible is 1"),
        ("negative_log_likelihood<=-1", "negative_log_likelihood", "the best possible is 0; name a value that can be"),
        ("accuracy<=0.9", "accuracy", "accuracy is maximised, .* write --until accuracy:0.9"),
        ("macs>=1e6", "macs", r"macs is minimised, .* write --until macs:1e\+06"),
        ("accuracy", "accuracy", 'write .* accuracy:0.98 or "accuracy>=0.98", in quotes'),
    ],
)
def test_a_bound_that_cannot_be_meant_is_refused_with_the_remedy(text: str, objective: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        parse_until(text, [objective])


@pytest.mark.parametrize(
    ("text", "value"), [("macs:300k", 3e5), ("macs<=1.5M", 1.5e6), ("accuracy:98%", 0.98), ("accuracy >= 95 %", 0.95)]
)
def test_amounts_are_understood(text: str, value: float) -> None:
    assert parsed(text, ["accuracy", "macs"])[-1] == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "stalled:0", "accuracy=0.9", "accuracy>=x", "acuracy>=0.9", "accuracy>=nan"])
def test_what_ends_no_study_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(SpecError) as error:
        parse_until(text, ONE)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_a_study_stalls_where_nothing_better_is_expected(direction: str) -> None:
    sign = 1 if direction == "maximize" else -1
    study = optuna.create_study(direction=direction, sampler=ArchitectureGPSampler(seed=0))
    stop = StopWhen([parse_until("stalled:4", ONE)])
    study.optimize(lambda trial: sign * worth(trial), n_trials=64, callbacks=[stop])
    assert study.best_value == sign * 9
    assert len(study.trials) < 32
    assert stop.reason is not None
    assert re.fullmatch(
        r"the best accuracy has not improved in the latest \d+ trials,"
        r" and the next is expected to improve it by less than .*",
        stop.reason,
    )


@nas.space
def numbers(c: Any, task: Any) -> nn.Module:
    width = 1 + sum(c.choice(name, range(4)) for name in "abc")
    return nn.Sequential(nn.Flatten(), nn.Linear(16, width), nn.Linear(width, task.classes))


class Below(Limits):
    """A limit on the sum of the numbers."""

    def total_excess(self, architecture: Architecture) -> float:
        return max(0.0, sum(map(int, map(str, architecture.params.values()))) - 1)


NUMBERS = numbers(in_channels=1, classes=4, input_size=4)
COSTS = StudyCosts(NUMBERS, torch.device("cpu"))
FREE = Limits({}, COSTS)
TRIED, BEST = NUMBERS.parse("a=0,b=0,c=0"), NUMBERS.parse("a=3,b=3,c=3")


@pytest.mark.parametrize(
    ("candidates", "stalled"),
    [
        (Candidates(Below({}, COSTS)), True),
        (Candidates(FREE, {"a": 0, "b": 0, "c": 0}), True),
        (Candidates(FREE, {"a": 3}), False),
        (Candidates(FREE, listed=(TRIED,)), True),
        (Candidates(FREE, listed=(TRIED, BEST)), False),
        (None, False),
    ],
)
def test_what_may_not_be_proposed_is_not_waited_for(candidates: Candidates | None, stalled: bool) -> None:
    study = optuna.create_study(direction="maximize")
    for a, b, c in [(0, 0, 0), (0, 0, 1), (1, 1, 0), (0, 1, 0), (0, 1, 1), (1, 0, 1), (1, 0, 0), (2, 0, 0), (0, 2, 0)]:
        study.enqueue_trial({"a": a, "b": b, "c": c})
    study.optimize(worth, n_trials=9)  # the best is the third
    assert (reason_to_stop(study, [parse_until("stalled:4", ONE, candidates)]) is not None) is stalled


def test_a_study_goes_on_while_an_improvement_is_expected() -> None:
    study = optuna.create_study(direction="maximize")
    for a, b, c in [(0, 0, 0), (0, 1, 0), (1, 0, 0), (0, 0, 1), (1, 1, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1), (0, 0, 2)]:
        study.enqueue_trial({"a": a, "b": b, "c": c})
    study.optimize(worth, n_trials=9)  # the best is the fifth
    assert reason_to_stop(study, [parse_until("stalled:4", ONE)]) is None


def test_many_trials_without_an_improvement_end_a_study_whatever_is_expected() -> None:
    study = values(optuna.create_study(direction="maximize"), 0.5, *[0.4] * (HARD_STOP * 2 - 1))
    assert reason_to_stop(study, [parse_until("stalled:2", ONE)]) is None
    values(study, 0.5)
    assert (
        reason_to_stop(study, [parse_until("stalled:2", ONE)])
        == "the best accuracy has not improved in the latest 12 trials"
    )


def test_the_front_stalls_only_when_no_objective_gains() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"])
    values(study, (0.5, 10.0), (0.9, 90.0), (0.6, 80.0), (0.4, 50.0))
    values(study, (0.3, 60.0), (0.2, 70.0))
    assert reason_to_stop(study, [parse_until("stalled:2", TWO)]) == "the front has not improved in the latest 2 trials"
    values(study, (0.7, 20.0))  # neither the most accurate nor the cheapest
    assert reason_to_stop(study, [parse_until("stalled:2", TWO)]) is None


def test_trials_outside_the_limits_reach_nothing() -> None:
    study = optuna.create_study(direction="maximize")
    trial = study.ask()
    trial.set_constraint("macs", 1.0)
    study.tell(trial, 0.99)
    values(study, 0.5)
    condition = parse_until("accuracy>=0.9", ONE)
    assert reason_to_stop(study, [condition]) is None
    values(study, 0.95)
    assert reason_to_stop(study, [condition]) == "trial 2 has reached accuracy 0.95"


def test_every_worker_stops_after_what_any_of_them_has_reached(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'studies.db'}"
    study = optuna.create_study(study_name="s", storage=storage, direction="maximize")
    other = optuna.load_study(study_name="s", storage=storage)
    values(other, 0.99)
    stop = StopWhen([parse_until("accuracy>=0.98", ONE), parse_until("stalled", ONE)])
    study.optimize(lambda _: 0.1, n_trials=9, callbacks=[stop])
    assert len(study.trials) == 2
    assert stop.reason == "trial 0 has reached accuracy 0.99"
