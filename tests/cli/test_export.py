"""``export``: before and after ``retrain``, with figures that are measured again."""

import json
import shutil
from pathlib import Path

import onnxruntime
import optuna
import pytest
import torch

from nas_optuna import load_network
from nas_optuna.cli import main
from nas_optuna.experiment import ExperimentHandle
from nas_optuna.study.significance import sampling_error
from nas_optuna.study.studies import checkpoint_folder
from nas_optuna.training import CheckpointFolder, fit, make_network
from nas_optuna.training.checkpoint import KeptWeights
from tests.helpers import as_0_2_wrote_it

URL = "sqlite:///nas-optuna.db"
SMALL = ["--set", "space.depth=2", "--set", "recipe.epochs=1", "--set", "recipe.input_size=8"]
ALL = {"model.safetensors", "model.py", "model.pt2", "model.onnx", "README.md", "drawing.svg", "picture.py"}


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder after a search of two trials."""
    folder = tmp_path_factory.mktemp("searched")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("NAS_OPTUNA_STORAGE", raising=False)
        assert main(["run", "--sampler", "random", "--trials", "2", "--pruner", "none", *SMALL]) == 0
    return folder


@pytest.fixture(scope="module")
def retrained_once(searched: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder after its trial 0 was trained anew, too."""
    folder = tmp_path_factory.mktemp("retrained") / "folder"
    shutil.copytree(searched, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["retrain", "--trial", "0"]) == 0
    return folder


@pytest.fixture
def study(searched: Path, place: Path) -> Path:
    shutil.copytree(searched, place, dirs_exist_ok=True)
    return place


@pytest.fixture
def retrained(retrained_once: Path, place: Path) -> Path:
    shutil.copytree(retrained_once, place, dirs_exist_ok=True)
    return place


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
    kept = KeptWeights(checkpoint_folder(Path("nas-optuna-files"), "nas"))
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
    assert "is of trial 1, not of trial 0" in " ".join(capsys.readouterr().err.split())


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

    def refused(why: str) -> None:
        assert main(["export", "--trial", "0", "--out", "model2"]) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert why in said
        assert said.endswith("; nas-optuna retrain --study nas --trial 0 makes the file of this one")

    refused("the images or the weights have changed")
    file.write_bytes(file.read_bytes()[:100])
    refused("are damaged")
    changed.save(1, {"other": torch.zeros(2)}, {}, [])
    kept.keep(0, changed, {})
    refused("are of another network")
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


def _refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(["export", "--out", "refused", *arguments]) == 2
    assert not Path("refused").exists()
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("error:") == 1
    return said


def test_a_file_carries_the_figures_of_its_own_weights(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two retrainings of one architecture, one of them with two seeds: each file is exported with what is its own."""
    capsys.readouterr()
    assert main(["retrain", "--trial", "0", "--out", "first.safetensors", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert main(["retrain", "--trial", "0", "--epochs", "2", "--seeds", "2", "--out", "two.safetensors", "--json"]) == 0
    two = json.loads(capsys.readouterr().out)
    assert first["mean"] != two["mean"] != two["accuracies"][0]
    expected = {"first": first["mean"], "two": two["accuracies"][0]}
    for name, accuracy in expected.items():
        assert main(["export", "--trial", "0", "--network", f"{name}.safetensors", "--out", name]) == 0
        readme = Path(name, "README.md").read_text()
        assert f"| test accuracy | {accuracy:.4f} ± " in readme
        assert ("mean test accuracy of 2 seeds" in readme) == (name == "two")
    assert f"{two['mean']:.4f}, of which these weights are one" in readme
    capsys.readouterr()


def test_the_file_of_a_retraining_can_be_named(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "one that is elsewhere is --network FILE" in _refused(capsys, "--trial", "0")


def test_a_file_of_another_study_is_refused_by_name(retrained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["run", "--sampler", "random", "--trials", "1", "--pruner", "none", *SMALL, "--set", "data.train_limit=100"]
    assert main([*run, "--study", "other"]) == 0
    assert "is of trial 0 of another study, 'nas', not of trial 0" in _refused(
        capsys, "--study", "other", "--trial", "0", "--network", "nas-trial-0.safetensors"
    )
    assert main(["study", "delete", "nas", "--yes"]) == 0
    assert main([*run, "--study", "nas"]) == 0
    assert Path("nas-trial-0.safetensors").exists(), "it lies there still"
    said = _refused(capsys, "--trial", "0")
    assert "is of trial 0 of another study, 'nas', not of trial 0" in said
    assert "nas-optuna retrain --study nas --trial 0" in said
    _keep(0)
    assert "without the file kept weights are exported" in _refused(capsys, "--trial", "0")
    Path("nas-trial-0.safetensors").unlink()
    assert main(["export", "--trial", "0", "--out", "kept"]) == 0
    assert "as trial 0 of study nas" in Path("kept/README.md").read_text()


def test_kept_weights_of_a_deleted_study_are_not_those_of_its_successor(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = _keep(0)
    found = kept.load(0)
    assert found is not None
    again = CheckpointFolder(Path("again"))
    again.save(1, found[0], {}, [{"accuracy": float(found[1]["accuracy"])}])
    kept.keep(0, again, {"study_uid": "0123456789abcdef"})
    assert "are of an earlier study of that name" in _refused(capsys, "--trial", "0")


def test_a_shared_folder_in_which_another_study_has_that_name_hides_no_weights(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = _keep(0).load(0)
    assert found is not None
    again = CheckpointFolder(Path("again"))
    again.save(1, found[0], {}, [{"accuracy": float(found[1]["accuracy"])}])
    KeptWeights(checkpoint_folder(Path("shared"), "nas")).keep(0, again, {"study_uid": "0123456789abcdef"})
    monkeypatch.setenv("NAS_OPTUNA_FILES", "shared")
    assert main(["export", "--trial", "0", "--out", "kept"]) == 0


def test_a_file_of_the_release_before_is_taken_only_where_somebody_names_it(
    retrained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = Path("nas-trial-0.safetensors")
    as_0_2_wrote_it(file)
    assert "does not say of which study and trial" in _refused(capsys, "--trial", "0")
    assert main(["export", "--trial", "0", "--network", str(file), "--out", "old"]) == 0
    assert "| test accuracy | not known: the file does not say of which study" in Path("old/README.md").read_text()


def test_an_export_touches_only_its_own_folder(retrained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder as Hugging Face's hub makes it; one of somebody's own with our names; a link to one."""
    for name in ("hub", "own"):
        Path(name).mkdir()
        for file in ("model.safetensors", "README.md", "model.onnx")[: 3 if name == "hub" else 1]:
            Path(name, file).write_text("mine")
    Path("link").symlink_to("hub")
    capsys.readouterr()
    for name in ("hub", "own", "link"):
        assert main(["export", "--trial", "0", "--out", name]) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert f"{name} holds files that nas-optuna export did not write; choose an empty or a new folder" in said
        assert {path.read_text() for path in Path(name).iterdir()} == {"mine"}
    Path("empty").mkdir()
    assert main(["export", "--trial", "0", "--out", "empty"]) == 0
    Path("empty/notes.txt").write_text("mine")
    assert main(["export", "--trial", "0", "--out", "empty"]) == 0
    assert Path("empty/notes.txt").read_text() == "mine"
    assert main(["export", "--trial", "0", "--out", "-"]) == 2
    assert not Path("-").exists()


def test_an_export_says_what_it_does_and_retrain_names_it_as_the_next_step(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["retrain", "--trial", "0", "--out", "n.safetensors"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "next: nas-optuna export --study nas --trial 0 --network n.safetensors --out exported" in said
    assert main(["export", "--trial", "0", "--network", "n.safetensors", "--out", "model"]) == 0
    said = capsys.readouterr().err
    for form in ("1/4: model.safetensors", "2/4: model.py", "3/4: model.pt2", "4/4: model.onnx"):
        assert form in said


@pytest.mark.parametrize("words", [["report"], ["compare", "nas"], ["draw"], ["study", "export"]])
def test_a_dash_is_stdout(study: Path, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert main([*words, "--out", "-"]) == 0
    out = capsys.readouterr().out
    assert out.startswith({"study": "number,", "draw": "<svg"}.get(words[0], "<!DOCTYPE html>"))
    assert not Path("-").exists()
    assert main(["retrain", "--out", "-"]) == 2
    assert "name a file" in " ".join(capsys.readouterr().err.split())


def test_eight_bits_are_measured_beside_the_other(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _keep(1)
    assert main(["export", "--trial", "1", "--out", "model", "--int8", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    small = report["int8"]
    assert "model.int8.onnx" in report["files"]
    assert small["int8"]["bytes"] < small["fp32"]["bytes"]
    assert small["images"] == 288  # the validation images: the network was not trained on them
    experiment, _ = ExperimentHandle(URL, "nas", device="cpu").open()
    held_out = experiment.search.data.validation
    session = onnxruntime.InferenceSession("model/model.int8.onnx")
    (logits,) = session.run(None, {"images": held_out.images.numpy()})
    assert float((logits.argmax(1) == held_out.labels.numpy()).mean()) == pytest.approx(small["int8"]["accuracy"])
    assert "model.int8.onnx" in (study / "model" / "README.md").read_text()
    # Another export of the folder keeps no file that belongs to the one before.
    assert main(["export", "--trial", "1", "--out", "model"]) == 0
    assert not (study / "model" / "model.int8.onnx").exists()
    assert main(["export", "--trial", "1", "--out", "other", "--int8"]) == 0
    assert "eight bits: validation accuracy" in capsys.readouterr().out
