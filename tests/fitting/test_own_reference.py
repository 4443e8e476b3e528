"""A fit whose user has a network of their own."""

from pathlib import Path

import pytest
import torch

import nas_optuna as nas
from nas_optuna.study.schema import StudyKey

GOOD = """
from torch import nn

def good(task):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 10))

def bad(task):
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.99), nn.Linear(64, 10))
"""
WEIGHTS = 64 * 256 + 256 + 2 * 256 + 256 * 10 + 10
POOR = ("space.width=8", "space.stages=1", "space.fix.head=max", "data.train_limit=400", "recipe.learning_rate=1e-5")
"""With a rate at which nothing learns in seconds, so that the reference is ahead or alike."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(GOOD)
    return path


def fit(folder: Path, reference: str, said: list[str], *overrides: str) -> nas.Fitted:
    return nas.fit("digits", 14, folder, overrides=(*overrides, f"reference={reference}"), say=said.append)


def test_a_reference_that_nothing_beats_is_trained_tested_and_exported(tmp_path: Path, file: Path) -> None:
    said: list[str] = []
    fitted = fit(tmp_path / "model", f"{file}:good", said, *POOR)
    assert any(f"training your reference {file}:good" in line for line in said)
    assert sum(weight.numel() for weight in fitted.network.parameters()) == WEIGHTS
    assert fitted.gain is not None
    assert fitted.gain.is_reference
    assert fitted.gain.best == fitted.gain.reference
    assert "class Network" in (tmp_path / "model" / "network" / "model.py").read_text()
    assert (tmp_path / "model" / "report.html").is_file()
    again = fit(tmp_path / "model", f"{file}:good", said, *POOR)
    assert again.report.accuracies == fitted.report.accuracies
    assert again.gain == fitted.gain
    images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    assert torch.equal(again.network.probabilities(images), fitted.network.probabilities(images))
    assert fitted.study.user_attrs[StudyKey.RETRAINED][-1]["trial"] is None


def test_a_reference_outside_the_limits_is_not_taken(tmp_path: Path, file: Path) -> None:
    fitted = fit(tmp_path / "model", f"{file}:good", [], *POOR, "limits.params=15000")
    assert sum(weight.numel() for weight in fitted.network.parameters()) <= 15_000


def test_a_reference_that_the_search_beats_is_not_taken(tmp_path: Path, file: Path) -> None:
    small = ("space.width=8", "space.stages=1", "data.train_limit=400")
    fitted = fit(tmp_path / "model", f"{file}:bad", [], *small)
    assert fitted.gain is not None
    assert not fitted.gain.is_reference
    assert fitted.report.architecture
