"""Fixtures of all tests."""

import signal
from collections.abc import Iterator

import optuna
import pytest

from nas_optuna import ConvSpace, Objective, SearchData, load_data
from nas_optuna.spec import DataSpec
from tests.helpers import RECIPE

# Shells start background jobs with Ctrl-C ignored, and so would be the commands that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _quiet_optuna() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


@pytest.fixture(scope="session")
def data() -> SearchData:
    return load_data(DataSpec(name="digits", train_limit=200))


@pytest.fixture
def space() -> ConvSpace:
    """36 architectures."""
    return ConvSpace(depth=2, filters=(4, 8), kernels=(3, 5, 7), strides=(1,), input_size=8)


@pytest.fixture
def objective(space: ConvSpace, data: SearchData) -> Objective:
    return Objective(space, data, RECIPE, device="cpu")
