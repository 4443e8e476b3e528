"""A fit that ranks networks by eight bits, inside what a device allows."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import nas_optuna as nas
from nas_optuna.data import load_images
from nas_optuna.errors import SpecError
from nas_optuna.fitting import run

SHORT = ("data.train_limit=400", "space.width=8", "space.stages=1", 'objectives=["accuracy_int8"]')


def test_what_is_ranked_in_eight_bits_is_exported_in_eight_bits(tmp_path: Path) -> None:
    fitted = nas.fit("digits", 16, tmp_path, max_params="100k", overrides=SHORT, say=lambda line: None)
    tests = load_images("digits", train=False)
    session = onnxruntime.InferenceSession(str(tmp_path / "network" / "model.int8.onnx"))
    (logits,) = session.run(None, {"images": tests.images.numpy()})
    accuracy = np.mean(logits.argmax(1) == tests.labels.numpy())
    assert fitted.facts["in eight bits"].endswith(f"→ {accuracy:.4f} on {len(tests):,} images")
    weights = sum(weight.numel() for weight in fitted.network.network.parameters())
    assert fitted.facts["weights"] == f"{weights:,}, where at most 100,000 was asked for"
    readme = (tmp_path / "network" / "README.md").read_text()
    assert all(fact in readme for fact in fitted.facts.values())


def test_eight_bits_that_cannot_be_made_do_not_cost_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = run.export_network

    def refuse(*arguments: object, eight_bits: object = None, **more: object) -> object:
        if eight_bits is not None:
            raise SpecError("layer 'x' cannot be quantised")
        return written(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(run, "export_network", refuse)
    said: list[str] = []
    fitted = nas.fit("digits", 12, tmp_path, overrides=SHORT, say=said.append)
    assert any("model.int8.onnx was not written: layer 'x' cannot be quantised" in line for line in said)
    assert (tmp_path / "network" / "model.onnx").is_file()
    assert fitted.facts == {}
