import os
from pathlib import Path

import pytest


@pytest.fixture
def mnist_directory() -> Path:
    if not os.environ.get("NAS_OPTUNA_DATA"):
        pytest.skip("NAS_OPTUNA_DATA is not set to a directory that holds MNIST")
    return Path(os.environ["NAS_OPTUNA_DATA"])
