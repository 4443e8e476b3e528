"""A fit that ranks networks by eight bits, inside what a device allows."""

import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import optuna
import pytest

from nas_optuna.data import load_images
from nas_optuna.errors import SpecError
from nas_optuna.fitting import run
from nas_optuna.study.schema import StudyKey
from nas_optuna.study.significance import Measured
from tests.fitting.conftest import Limited, fit_limited


def test_what_is_ranked_in_eight_bits_is_exported_in_eight_bits(limited: Limited) -> None:
    fitted, tests = limited.fitted, load_images("digits", train=False)
    session = onnxruntime.InferenceSession(str(fitted.folder / "network" / "model.int8.onnx"))
    (logits,) = session.run(None, {"images": tests.images.numpy()})
    accuracy = np.mean(logits.argmax(1) == tests.labels.numpy())
    assert fitted.facts["in eight bits"].endswith(f"→ {accuracy:.4f} on {len(tests):,} images")
    weights = sum(weight.numel() for weight in fitted.network.network.parameters())
    assert fitted.facts["weights"] == f"{weights:,}, where at most 30,000 was asked for"
    readme = (fitted.folder / "network" / "README.md").read_text()
    assert all(fact in readme for fact in fitted.facts.values())
    assert f"{Measured.on_test(fitted.report.to_dict()).exact} on {len(tests):,} images" in readme


def test_eight_bits_that_cannot_be_made_do_not_cost_the_network(
    limited: Limited, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = run.export_network

    def refuse(*arguments: object, eight_bits: object = None, **more: object) -> object:
        if eight_bits is not None:
            raise SpecError("layer 'x' cannot be quantised")
        return written(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(run, "export_network", refuse)
    folder, said = tmp_path / "model", []
    shutil.copytree(limited.fitted.folder, folder)
    shutil.rmtree(folder / "network")
    study = optuna.load_study(study_name="fit", storage=f"sqlite:///{folder / 'search.db'}")
    study.set_user_attr(StudyKey.FIT, study.user_attrs[StudyKey.FIT] | {"done": False})  # its export is missing
    fitted = fit_limited(folder, say=said.append)
    assert any("model.int8.onnx was not written: layer 'x' cannot be quantised" in line for line in said)
    assert (folder / "network" / "model.onnx").is_file()
    assert not (folder / "network" / "model.int8.onnx").exists()
    assert "in eight bits" not in fitted.facts
