import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas_optuna.errors import SpecError, TrainingError
from nas_optuna.objectives import COSTS, parse_amount, parse_criteria, parse_criterion

VALUES = {
    "latency_ms": 2.0,
    "macs": 5e6,
    "params": 300.0,
    "memory": 4096.0,
    "flash": 1024.0,
    "arena": 512.0,
    "energy_mj": 0.1,
}


def test_plain_names() -> None:
    accuracy = parse_criterion("accuracy")
    assert (accuracy.direction, accuracy.cost, accuracy.value({"accuracy": 0.75}, {})) == ("maximize", None, 0.75)
    for name in COSTS.names():
        cost = parse_criterion(name)
        assert (cost.direction, cost.metric, cost.value({}, VALUES)) == ("minimize", None, VALUES[name])


def test_one_name_needs_no_list() -> None:
    assert parse_criteria("accuracy") == parse_criteria(["accuracy"]) == (parse_criterion("accuracy"),)


def test_a_soft_target_is_mnasnets() -> None:
    soft = parse_criterion("accuracy*(latency_ms/0.5)^-0.07")
    assert (soft.direction, soft.cost, soft.metric) == ("maximize", "latency_ms", "accuracy")
    assert soft.value({"accuracy": 0.9}, {"latency_ms": 0.5}) == 0.9
    assert soft.value({"accuracy": 0.9}, {"latency_ms": 1.0}) == pytest.approx(0.9 * 2**-0.07)
    assert soft.value({"accuracy": 0.9}, {"latency_ms": 0.25}) > 0.9
    assert parse_criterion(" accuracy * (macs / 2M) ^ -0.5 ").target == 2e6


@pytest.mark.parametrize("metric", ["metrics/worst.py:worst", "./worst class.py:worst", "my-metric.py:worst"])
def test_a_soft_target_may_be_of_a_metric_in_any_file(metric: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Path(file := metric.partition(":")[0]).parent.mkdir(exist_ok=True)
    Path(file).write_text("def worst(outputs, targets): return 0.5")
    soft = parse_criterion(f"{metric}*(macs/1M)^-0.07")
    assert (soft.code, soft.cost, soft.target, soft.exponent) == (metric, "macs", 1e6, -0.07)
    assert soft.name == f"{metric}*(macs/1M)^-0.07"


def test_no_text_takes_long_to_be_no_soft_target() -> None:
    began = time.process_time()
    for text in ("a*(" + " " * 190, "a*(" + " " * 95 + "/" + " " * 95, "a" * 100 + "*(" * 45, "*(b/1)^" * 28):
        with pytest.raises(SpecError, match="is not of the form"):
            parse_criterion(text)
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize("cost", [0.0, -3.0])
def test_a_soft_target_of_nothing_fails_its_trial_with_the_reason(cost: float) -> None:
    soft = parse_criterion("accuracy*(macs/1M)^-0.07")
    with pytest.raises(TrainingError, match=rf"macs is {cost:g}, and accuracy\*\(macs/1M\)\^-0.07 has a value only"):
        soft.value({"accuracy": 0.9}, {"macs": cost})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("acuracy", "unknown objective 'acuracy'; did you mean 'accuracy'? (or a soft target such as accuracy*("),
        ("latency", "did you mean 'latency_ms'"),
        ("accuracy:minimize", "has one direction, maximize"),
        ("accuracy*(latncy_ms/0.5)^-0.07", "unknown cost 'latncy_ms'; did you mean 'latency_ms'"),
        ("accuracy*(latency-ms/0.5)^-0.07", "unknown cost 'latency-ms'; did you mean 'latency_ms'"),
        ("accuracy*(latency_ms/0.5)^0.07", "must be negative"),
        ("accuracy*(latency_ms/0)^-0.07", "not a positive amount"),
        ("accuracy*(latency_ms/0.5)^-0.0.7", "could not convert"),
        ("accuracy*latency_ms", "is not of the form"),
        ("", "unknown objective ''"),
    ],
)
def test_other_objectives_are_refused(text: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_criterion(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "amount"),
    [("2M", 2e6), ("300k", 3e5), ("1.5G", 1.5e9), ("0.5", 0.5), (".5", 0.5), (7, 7.0), ("2e6", 2e6)],
)
def test_amounts(text: str | float, amount: float) -> None:
    assert parse_amount(text) == amount


@given(st.floats(min_value=1e-9, max_value=1e30))
def test_every_positive_number_is_an_amount(number: float) -> None:
    assert parse_amount(number) == number


@given(st.one_of(st.floats(max_value=0), st.text("kMGeE.,-+ ab", max_size=5), st.sampled_from(["inf", "nan", "2 MB"])))
def test_other_amounts_are_refused(text: str | float) -> None:
    with pytest.raises(SpecError, match="is not a positive amount"):
        parse_amount(text)
