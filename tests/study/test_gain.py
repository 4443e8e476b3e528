"""What a search brought, in words."""

import numpy as np
import pytest

from nas_optuna.study.significance import Gain, Measured, sampling_error


@pytest.mark.parametrize(
    ("best", "reference", "beats"),
    [(0.712, 0.64, True), (0.66, 0.64, False), (0.67, 0.64, False), (0.64, 0.64, False), (0.6, None, None)],
)
def test_a_gain_is_more_than_two_standard_errors_of_the_difference(
    best: float, reference: float | None, beats: bool | None
) -> None:
    gain = Gain(Measured(best, 0.011), None if reference is None else Measured(reference, 0.012), 0.1)
    assert gain.beats_reference is beats
    assert any("ahead of the reference" in remark for remark in gain.remarks()) == (beats is False)


@pytest.mark.parametrize(
    ("best", "reference", "said"),
    [
        (0.60, 0.61, "This network is not ahead of the reference (0.610 ± 0.010) by more than two standard errors"),
        (0.60, 0.90, "The reference (0.900 ± 0.010) is ahead of this network by more than two standard errors"),
    ],
)
def test_the_network_that_is_shown_is_compared_with_the_reference(best: float, reference: float, said: str) -> None:
    """A limit may have left out the reference, and a cheaper network may be shown than the best."""
    (remark,) = Gain(Measured(best, 0.01), Measured(reference, 0.01)).remarks()
    assert remark.startswith(said)
    assert "either" not in remark


def test_of_equal_networks_one_is_seldom_said_to_be_better() -> None:
    drawn = np.random.default_rng(0).binomial(288, 0.9, (2000, 2)) / 288
    pairs = [[Measured(float(a), sampling_error(float(a), 288)) for a in pair] for pair in drawn]
    assert np.mean([bool(Gain(*pair).beats_reference) for pair in pairs]) < 0.05


@pytest.mark.parametrize(("best", "learned"), [(0.27, False), (0.30, False), (0.33, True), (0.9, True)])
def test_what_is_no_better_than_the_largest_class_warns(best: float, learned: bool) -> None:
    gain = Gain(Measured(best, 0.02), None, 0.26)
    assert gain.has_learned is learned
    assert any(remark.startswith("Warning") and "larger images" in remark for remark in gain.remarks()) != learned


@pytest.mark.parametrize(("tested", "learned"), [(0.56, True), (0.36, False)])
def test_the_last_training_decides_whether_a_network_has_learned(tested: float, learned: bool) -> None:
    """A search may train its networks for seconds; what it leaves was trained, and tested, after that."""
    gain = Gain(Measured(0.22 if learned else 0.9, 0.07), None, 0.33, tested=Measured(tested, 0.08))
    assert gain.has_learned is learned
    assert any(f"Warning: {tested:.3f} ± 0.080 is no better" in remark for remark in gain.remarks()) != learned


@pytest.mark.parametrize(("selects", "tests", "learned"), [(0.1, 0.6, False), (0.6, 0.1, True)])
def test_a_test_accuracy_is_compared_with_the_largest_class_of_the_test_images(
    selects: float, tests: float, learned: bool
) -> None:
    gain = Gain(Measured(0.5, 0.01), None, selects, tested=Measured(0.5, 0.01, tests))
    assert gain.has_learned is learned
    assert any("0.500 ± 0.010 is no better" in said and "(0.60)" in said for said in gain.remarks()) != learned


def test_a_best_that_is_the_reference_says_so() -> None:
    same = Measured(0.64, 0.012)
    gain = Gain(same, same, 0.1, is_reference=True)
    assert str(gain) == "0.640 ± 0.012, the reference itself, majority class 0.10"
    (remark,) = gain.remarks()
    assert remark.startswith("This network is the reference")
