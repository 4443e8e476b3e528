"""Every stored value is what its key says, whoever has written it."""

import math
from typing import Any

import pytest

from nas_optuna.study.schema import StudyKey, TrialKey, flaw_of_study, flaw_of_trial

REPORT = {"architecture": "f16k3s1", "mean": 0.9, "test_images": 100, "seeds": [0, 1], "spread": None}
HUGE = 10**400


@pytest.mark.parametrize("value", [HUGE, True, "1", None, [], 1e31])
def test_what_is_no_number_is_said(value: Any) -> None:
    for key in (TrialKey.ACCURACY, TrialKey.cost("macs"), TrialKey.SECONDS, TrialKey.EPOCHS):
        assert str(flaw_of_trial({key: value}, {})).startswith(f"{key.removeprefix('nas_optuna:')}: ")
    assert str(flaw_of_trial({}, {"constraints:macs": value})).startswith("constraints:macs: ")


@pytest.mark.parametrize("value", [0, 3, -0.5, math.nan, math.inf])
def test_numbers_of_json_are_taken(value: float) -> None:
    assert flaw_of_trial({TrialKey.ACCURACY: value, TrialKey.METRICS: {"loss": value}}, {}) is None


def test_a_report_has_what_is_shown_of_it() -> None:
    assert flaw_of_study({StudyKey.RETRAINED: [REPORT, {**REPORT, "more": 3}]}) is None
    altered = [{**REPORT, name: value} for name in REPORT for value in (HUGE, {}, True, [])]
    missing = [{key: value for key, value in REPORT.items() if key != name} for name in REPORT]
    for report in altered + missing:
        assert str(flaw_of_study({StudyKey.RETRAINED: [report]})).startswith("retrained.0."), report


@pytest.mark.parametrize("size", [8, [8, 16]])
def test_a_space_tells_enough_to_be_built(size: Any) -> None:
    space = {"in_channels": 1, "classes": 10, "input_size": size, "parameters": {"conv1.filters": [16, None, "x"]}}
    assert flaw_of_study({StudyKey.SPACE: space}) is None
    for altered in ({"input_size": [8, "x"]}, {"input_size": 10**6}, {"classes": 0}, {"parameters": [1]}):
        assert str(flaw_of_study({StudyKey.SPACE: {**space, **altered}})).startswith("space.")
