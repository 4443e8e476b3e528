"""Whatever a user puts into a value, the error stays one short line, in the library as on the command line."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nas_optuna import ConvSpace, NasOptunaError
from nas_optuna.errors import SpecError, StudyError, TrainingError, describe_error, place_of
from nas_optuna.execution.stopping import parse_until
from nas_optuna.hyperparameters import parse_range
from nas_optuna.metrics import find_metric
from nas_optuna.samplers import create_sampler
from nas_optuna.spaces.block import BlockSpace
from nas_optuna.spaces.macro import MacroSpace

LONG = "x\n\x1b[2J" * 20_000
SPACE = ConvSpace(depth=1, input_size=8)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: SPACE.parse(LONG),
        lambda: MacroSpace(input_size=8).parse(LONG),
        lambda: BlockSpace(input_size=8).parse(LONG),
        lambda: SPACE.architecture({"conv1.filters": LONG}),
        lambda: SPACE.architecture({LONG: 3}),
        lambda: SPACE.fixed({"conv1.kernel": LONG}),
        lambda: parse_until(LONG, ["accuracy"]),
        lambda: parse_range("learning_rate", LONG),
        lambda: find_metric(LONG),
        lambda: create_sampler(LONG, SPACE, 0, {}),
        lambda: create_sampler("random", SPACE, 0, {LONG: 1}),
    ],
)
def test_a_value_of_any_length_gives_one_short_line(wrong: Callable[[], object]) -> None:
    with pytest.raises(NasOptunaError) as caught:
        wrong()
    message = str(caught.value)
    assert len(message) < 500
    assert message.isprintable()


def test_the_beginning_and_the_remedy_of_a_long_message_are_kept() -> None:
    error = SpecError(f"the problem is {LONG}; the remedy is this")
    assert str(error).startswith("the problem is ")
    assert str(error).endswith("; the remedy is this")


def test_errors_are_pickled_as_they_are() -> None:
    for error in (StudyError("gone"), TrainingError(LONG, "oom")):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


@pytest.mark.parametrize("folder", ["user/site-packages/lib", "dist-packages"])
def test_the_place_of_an_error_is_in_no_library(tmp_path: Path, folder: str) -> None:
    library = {"choose": np.random.default_rng(0).choice}  # compiled: its sources have relative names
    exec(compile("def wrong(): return choose(-1)", str(tmp_path / folder / "lib.py"), "exec"), library)
    own = {"wrong": library["wrong"]}
    exec(compile("def mine(): wrong()", str(tmp_path / ("m" * 200 + "\n.py")), "exec"), own)
    with pytest.raises(ValueError, match="a must be") as caught:
        own["mine"]()
    said = describe_error(caught.value, 120)
    assert (place_of(caught.value)[:4], said[-6:], len(said) <= 120) == (" (mm", ".py:1)", True)
    assert said.isprintable()
