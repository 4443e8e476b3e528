"""Every stored value is what its key says, whoever has written it."""

import math
from typing import Any

import pytest

from nas_optuna.study.schema import StudyKey, TrialKey, flaw_of_study, flaw_of_trial

HUGE = 10**400


@pytest.mark.parametrize("value", [True, "1", None, []])
def test_what_is_no_number_is_said(value: Any) -> None:
    for key in (TrialKey.ACCURACY, TrialKey.cost("macs"), TrialKey.SECONDS, TrialKey.EPOCHS):
        assert str(flaw_of_trial({key: value}, {})).startswith(f"{key.removeprefix('nas_optuna:')}: ")
    assert str(flaw_of_trial({}, {"constraints:macs": value})).startswith("constraints:macs: ")


@pytest.mark.parametrize("value", [0, 3, -0.5, math.nan, math.inf])
def test_numbers_of_json_are_taken(value: float) -> None:
    assert flaw_of_trial({TrialKey.ACCURACY: value, TrialKey.METRICS: {"loss": value}}, {}) is None


@pytest.mark.parametrize("value", [True, "1", None, [HUGE]])
def test_a_study_keeps_lists_and_dictionaries(value: Any) -> None:
    for key in (StudyKey.RETRAINED, StudyKey.SPACE, StudyKey.FIT, f"{StudyKey.ALPHAS}0"):
        assert str(flaw_of_study({key: value})).startswith(f"{key.removeprefix('nas_optuna:')}")
