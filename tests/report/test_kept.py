"""Pictures that a network gets wrong whose weights were kept, without a test."""

from pathlib import Path

import numpy as np
import pytest

from nas_optuna import Experiment, StudySpec
from nas_optuna.data import load_images
from nas_optuna.data.catalog import data_name
from nas_optuna.execution.finished_network import kept_of
from nas_optuna.report.page import report
from nas_optuna.study.files import remember
from nas_optuna.study.studies import checkpoint_folder

SPEC = StudySpec.from_dict(
    {
        "space": {"name": "conv", "depth": 1},
        "recipe": {"epochs": 1, "input_size": 8},
        "data": {"name": "digits", "train_limit": 200},
    }
)
SAID = "Validation pictures that it gets wrong"


@pytest.mark.parametrize("keep", [True, False])
def test_a_report_shows_what_kept_weights_get_wrong(tmp_path: Path, keep: bool) -> None:
    files = checkpoint_folder(tmp_path / "nas-files", "kept")
    experiment = Experiment.from_spec(SPEC, device="cpu", checkpoints=files, keep_weights=keep)
    study = experiment.create(f"sqlite:///{tmp_path}/nas.db", "kept")
    experiment.run(study, trials=1)
    page = report(study)
    assert (SAID in page) is keep
    assert page.count("<figcaption>") == page.count("data:image/webp")
    for weights in tmp_path.rglob("trial-*.safetensors"):
        weights.write_bytes(b"damaged")
    assert SAID not in report(study), "the report is whole without them"


def test_test_pictures_that_select_may_be_of_another_size(tmp_path: Path) -> None:
    digits = load_images("digits", True).subset(range(200))
    pixels, labels, larger = digits.images[:, 0].numpy(), digits.labels.numpy(), np.full((20, 16, 12), 200, np.uint8)
    np.savez(tmp_path / "own.npz", x_train=pixels, y_train=labels, x_test=larger, y_test=labels[:20])
    data = {"data": {"name": data_name(str(tmp_path / "own.npz")), "select_on": "test"}}
    files = checkpoint_folder(tmp_path / "nas-files", "kept")
    spec = StudySpec.from_dict(SPEC.to_dict() | data)
    experiment = Experiment.from_spec(spec, device="cpu", checkpoints=files, keep_weights=True)
    study = experiment.create(f"sqlite:///{tmp_path}/nas.db", "kept")
    experiment.run(study, trials=1)
    assert SAID.replace("Validation", "Test") in report(study)


def test_weights_are_found_in_a_folder_that_was_named_before_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, first = f"sqlite:///{tmp_path}/nas.db", tmp_path / "first"
    files = checkpoint_folder(first, "kept")
    experiment = Experiment.from_spec(SPEC, device="cpu", checkpoints=files, keep_weights=True)
    study = experiment.create(url, "kept")
    for folder in (first, tmp_path / "second"):
        monkeypatch.setenv("NAS_OPTUNA_FILES", str(folder))
        remember(study, url)
    monkeypatch.delenv("NAS_OPTUNA_FILES")
    experiment.run(study, trials=1)
    assert SAID in report(study)


def test_weights_are_found_in_the_folder_that_a_program_gave_its_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "weights"
    experiment = Experiment.from_spec(SPEC, device="cpu", checkpoints=own, keep_weights=True)
    study, other = (experiment.create(f"sqlite:///{tmp_path}/nas.db", name) for name in ("kept", "other"))
    experiment.run(study, trials=1)
    assert SAID not in report(study)
    monkeypatch.setenv("NAS_OPTUNA_FILES", str(own))
    assert SAID in report(study)
    assert kept_of(other, study.trials[0]).path == checkpoint_folder(own, "other") / "kept", "they are of another study"
