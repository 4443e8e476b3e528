"""What a supernet found survives its storage exactly, also as release 0.2 stored it."""

import json
import math
import random
from pathlib import Path

import numpy as np
import optuna
import pytest

from nas_optuna.errors import StudyError
from nas_optuna.spaces.conv import ConvSpace
from nas_optuna.study.schema import StudyKey
from nas_optuna.study.supernet_result import (
    Predictor,
    SupernetResult,
    entropy,
    find_result,
    indicators,
    read_result,
    softmax,
    write_result,
)

DEEP = ConvSpace(depth=20)


def drawn_alphas(seed: int) -> dict[str, list[float]]:
    rng = random.Random(seed)
    return {
        name: [float(np.float32(rng.gauss(0, 1))) for _ in parameter.choices]
        for name, parameter in DEEP.parameters.items()
    }


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    choices = {"a": [1, 2, 3], "b": ["x", "y"]}
    count = indicators([3, 2], [(0, 0)]).shape[1]
    predictor = Predictor(choices, np.round(np.linspace(-1, 1, count), 3), 0.25)
    written = SupernetResult(
        drawn_alphas(0), argmax="f16", starts=[(2, 1), (0, 0)], predictor=predictor, calibration_set=[((1, 1), 0.5)]
    )
    url = f"sqlite:///{tmp_path}/study.db"
    study = optuna.create_study(storage=url)
    write_result(study, written)
    read = read_result(optuna.load_study(study_name=study.study_name, storage=url))
    assert read.summary() == written.summary()
    assert {n: np.float32(a).tolist() for n, a in read.alphas.items()} == dict(written.alphas)
    assert read.start_params() == [{"a": 3, "b": "y"}, {"a": 1, "b": "x"}]
    assert read.calibration_set == written.calibration_set
    assert read.predictor is not None
    assert read.predictor([{"a": 2, "b": "y"}]) == predictor([{"a": 2, "b": "y"}])
    assert all(len(json.dumps(value)) < 2046 for value in study.user_attrs.values())


@pytest.mark.parametrize("gap", [1e-4, 1e-5, 1e-6])
def test_the_argmax_is_the_same_before_and_after_storage(gap: float) -> None:
    """Logits that agree to four decimals still have one largest."""
    alphas = {"a": [0.3, 0.3 + gap, 0.3 - gap], "b": [-1.0, -1.0 - gap]}
    study = optuna.create_study()
    write_result(study, SupernetResult(alphas))
    assert read_result(study).derived == SupernetResult(alphas).derived == {"a": 1, "b": 0}


def test_a_parameter_without_logits_is_refused() -> None:
    study = optuna.create_study()
    write_result(study, SupernetResult({"x": [0.0, 1.0], "y": []}))
    with pytest.raises(StudyError, match="cannot be read; train it again"):
        read_result(study)


def test_a_shorter_result_replaces_a_longer_one() -> None:
    study = optuna.create_study()
    write_result(study, SupernetResult(drawn_alphas(0)))
    write_result(study, SupernetResult({"x": [0.0, 1.0]}))
    assert read_result(study).alphas == {"x": [0.0, 1.0]}


def test_a_result_that_cannot_be_written_whole_leaves_the_earlier_one(tmp_path: Path) -> None:
    study = optuna.create_study(storage=f"sqlite:///{tmp_path}/study.db")
    write_result(study, SupernetResult({"x": [0.0, 1.0]}))
    with pytest.raises(TypeError):
        write_result(study, SupernetResult({"x": [1.0, 0.0]}, settings={"no": object()}))
    assert read_result(study).alphas == {"x": [0.0, 1.0]}


def test_a_result_of_release_0_2_is_read() -> None:
    study = optuna.create_study()
    study.set_user_attr(f"{StudyKey.ALPHAS}0", {"a": [0.1, 0.7]})
    study.set_user_attr(f"{StudyKey.ALPHAS}1", {"b": [0.5, 0.2, 0.1]})
    study.set_user_attr(f"{StudyKey.SCORE}0", [0.5, *range(11)])
    study.set_user_attr(f"{StudyKey.STARTS}0", [[1, 2], [0, 0]])
    study.set_user_attr(f"{StudyKey.CHOICES}0", [["a", [8, 16]], ["b", [3, 5, 7]]])
    study.set_user_attr(f"{StudyKey.TEACHERS}0", [[1, 1, 0.75]])
    counts = {f"{name}_chunks": 1 for name in ("score", "start", "choice", "teacher")}
    summary = {"strategy": "fair", "argmax": "x", "best": "y", "epochs": 3, "seconds": 2.5, "mean_entropy": 0.7}
    study.set_user_attr(StudyKey.SUPERNET, {**summary, **counts, "chunks": 2, "first_trial": 4})
    result = read_result(study)
    assert result.derived == {"a": 1, "b": 0}
    assert result.start_params() == [{"a": 16, "b": 7}, {"a": 8, "b": 3}]
    assert (result.best, result.epochs, result.first_trial) == ("y", 3, 4)
    assert result.calibration_set == [((1, 1), 0.75)]
    assert result.predictor is not None


def test_a_study_without_a_result_says_what_to_run() -> None:
    study = optuna.create_study()
    assert find_result(study) is None
    with pytest.raises(StudyError, match="nas-optuna supernet train --study"):
        read_result(study)


def test_the_most_probable_come_first() -> None:
    result = SupernetResult({"a": [0.0, 1.0], "b": [0.3, 0.0, 0.1]})
    listed = result.most_probable(4)
    assert [tuple(indices.values()) for indices, _ in listed] == [(1, 0), (1, 2), (1, 1), (0, 0)]
    assert listed[0][0] == result.derived
    assert [log for _, log in listed] == sorted((log for _, log in listed), reverse=True)
    assert sum(math.exp(log) for _, log in result.most_probable(99)) == pytest.approx(1)


def test_softmax_and_entropy() -> None:
    assert softmax([1000.0, 1000.0 + math.log(3)]) == pytest.approx([0.25, 0.75])
    assert softmax([0.0, 2.0], temperature=2.0) == pytest.approx(softmax([0.0, 1.0]))
    assert entropy([0.0] * 4) == pytest.approx(math.log(4))
    assert [str(float(entropy(logits))) for logits in ([0.0, 1000.0], [0.0])] == ["0.0", "0.0"]
