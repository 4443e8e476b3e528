"""``export``: before and after ``retrain``, with figures that are measured again."""

import json
from pathlib import Path

import optuna
import pytest
import torch

from nas_optuna import load_network
from nas_optuna.cli import main
from nas_optuna.experiment import ExperimentHandle
from nas_optuna.study.standard_errors import sampling_error
from nas_optuna.study.studies import checkpoint_folder
from nas_optuna.training import CheckpointFolder, fit, make_network
from nas_optuna.training.kept_weights import KeptWeights

URL = "sqlite:///nas-optuna.db"
SMALL = ["--set", "space.depth=2", "--set", "recipe.epochs=1", "--set", "recipe.input_size=8"]
ALL = {"model.safetensors", "model.py", "model.pt2", "model.onnx", "README.md", "drawing.svg"}


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "--sampler", "random", "--trials", "2", "--pruner", "none", *SMALL]) == 0
    capsys.readouterr()
    return tmp_path


def _keep(number: int) -> KeptWeights:
    """What the run does of itself where it is asked to: keep the last checkpoint's weights."""
    experiment, loaded = ExperimentHandle(URL, "nas", device="cpu").open()
    search, cpu = experiment.search, torch.device("cpu")
    architecture = search.space.architecture(loaded.trials[number].params)
    evaluator = experiment.objective.evaluator
    training = CheckpointFolder(Path("training"))
    network = make_network(search.space, architecture, search.spec.recipe, cpu, 0)
    loaders = (evaluator.train_loader, evaluator.validation_loader)  # type: ignore[attr-defined]
    list(fit(network, *loaders, search.spec.recipe, cpu, seed=0, checkpoints=training))
    kept = KeptWeights(checkpoint_folder(Path("nas-optuna-files"), "nas") / "kept")
    kept.keep(number, training, {"architecture": str(architecture)})
    training.remove()
    return kept


def test_without_weights_the_remedy_is_said_and_after_retrain_it_exports(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "--trial", "1", "--out", "model"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "nas-optuna retrain --study nas --trial 1" in said
    assert not (study / "model").exists()
    assert main(["retrain", "--trial", "1"]) == 0
    capsys.readouterr()
    assert main(["export", "--trial", "1", "--out", "model", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (set(report["files"]), report["left_out"], report["images"]) == (ALL, {}, 100)
    retrained = load_network("nas-trial-1.safetensors")
    weights = load_network("model/model.safetensors").network.state_dict()
    for name, value in retrained.network.state_dict().items():
        assert torch.equal(weights[name], value)
    assert "test accuracy" in Path("model/README.md").read_text()
    assert main(["export", "--trial", "0", "--network", "nas-trial-1.safetensors", "--out", "other"]) == 2
    assert "and trial 0 is" in " ".join(capsys.readouterr().err.split())


def test_kept_weights_are_exported_before_retrain_with_the_figures_of_the_search(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = optuna.load_study(study_name="nas", storage=URL).trials[0].value
    kept = _keep(0)
    assert main(["export", "--trial", "0", "--out", "model"]) == 0
    readme = Path("model/README.md").read_text()
    assert f"{measured:.4f} ± {sampling_error(measured, 288):.4f} on 288 images" in readme

    found = kept.load(0)
    assert found is not None
    assert float(found[1]["accuracy"]) == pytest.approx(measured)
    file = kept.path / "trial-0.safetensors"
    weights = dict(found[0])
    weights["0.conv.weight"] = torch.zeros_like(weights["0.conv.weight"])
    changed = CheckpointFolder(Path("changed"))
    changed.save(1, weights, {}, [{"accuracy": measured}])
    kept.keep(0, changed, {})
    capsys.readouterr()
    assert main(["export", "--trial", "0", "--out", "model2"]) == 2
    assert "the images or the weights have changed" in " ".join(capsys.readouterr().err.split())
    file.write_bytes(file.read_bytes()[:100])
    assert main(["export", "--trial", "0", "--out", "model2"]) == 2
    assert "are damaged" in " ".join(capsys.readouterr().err.split())
    changed.save(1, {"other": torch.zeros(2)}, {}, [])
    kept.keep(0, changed, {})
    assert main(["export", "--trial", "0", "--out", "model2"]) == 2
    assert "are of another network" in " ".join(capsys.readouterr().err.split())
    assert not Path("model2").exists()


def test_bad_input_gets_one_line(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, says in (
        (["--trial", "7", "--out", "m"], "choose best, cheapest or a number below 2"),
        (["--trial", "²", "--out", "m"], "choose best, cheapest or a number below 2"),
        (["--study", "nsa", "--out", "m"], "did you mean 'nas'"),
        (["--network", "absent", "--out", "m"], "no such file"),
        (["--network", "nas-optuna.db", "--out", "m"], "is not a network that nas-optuna retrain wrote"),
        ([], "--out"),
    ):
        assert main(["export", *arguments]) == 2
        printed = " ".join(capsys.readouterr().err.split())
        assert says in printed
        assert printed.count("error:") == 1
        assert not Path("m").exists()
