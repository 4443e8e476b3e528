"""A fit that is repeated: after Ctrl-C, with another time, with other images, or beside a search with a clock."""

import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from safetensors.torch import load_file

import nas_optuna as nas
from nas_optuna.cli import main
from nas_optuna.cli.run_options import SpecOptions
from nas_optuna.data import load_images
from nas_optuna.errors import Interrupted, NasOptunaError, SpecError, StudyError
from nas_optuna.execution.loop import StopRequest
from nas_optuna.execution.retrain import Stage, record
from nas_optuna.experiment import Experiment
from nas_optuna.fitting import equal_seconds
from nas_optuna.fitting import run as fitting_run
from nas_optuna.fitting.clock import Load, TimeBudget
from nas_optuna.fitting.equal_seconds import stages_of
from nas_optuna.fitting.inputs import TRAINED, WEIGHTS, name_of, own_folder
from nas_optuna.fitting.run import Fit
from nas_optuna.fitting.rungs import run_within
from nas_optuna.fitting.spec import spec_for, with_few_to_select
from nas_optuna.fitting.winner import report_of
from nas_optuna.study.schema import StudyKey, TrialKey
from nas_optuna.study.studies import checkpoint_folder
from nas_optuna.training import TrainStep
from nas_optuna.training.checkpoint import KeptWeights
from tests.report.test_confusion import found

SECONDS = 12.0
SMALL = ("space.width=8", "space.stages=1", "data.train_limit=400")
SEARCHES = " s each"
"""In the line that says how a search divides its time."""


class Idle(Load):
    """A machine that does nothing else, whatever else it does while tests run."""

    def __call__(self) -> float:
        return 1.0


def work(folder: Path, seconds: float = SECONDS, until: str | None = None) -> tuple[Fit, list[str]]:
    """A fit that is asked to stop as soon as it says something, and what it has said."""
    said: list[str] = []
    fit = Fit(spec_for("digits", overrides=SMALL), TimeBudget(seconds), folder, "cpu", load=Idle())

    def say(line: str) -> None:
        said.append(line)
        fit.stop.asked |= until is not None and until in line

    fit.say = say
    return fit, said


def study_in(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name="fit", storage=f"sqlite:///{folder / 'search.db'}")


def state_in(folder: Path) -> dict[str, Any]:
    return dict(study_in(folder).user_attrs[StudyKey.FIT])


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a fit that was stopped before it had trained a network."""
    folder = tmp_path_factory.mktemp("stopped") / "model"
    fit, said = work(folder, until=SEARCHES)
    with pytest.raises(Interrupted):
        fit.run()
    assert said[-1] == "no network was trained to its end yet"
    return folder


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], list[str]]:
    """A fit that was stopped in its last training, where its network could not be written, and repeated."""
    folder = tmp_path_factory.mktemp("resumed") / "model"
    first, before = work(folder, until="on all ")
    say = first.say

    def spoil(line: str) -> None:
        say(line)
        if "on all " in line:
            (folder / "network").write_text("no folder")

    first.say = spoil
    with pytest.raises(Interrupted):
        first.run()
    (folder / "network").unlink()
    again, after = work(folder)
    again.run()
    return folder, before, after


def test_what_cannot_be_written_does_not_hide_that_somebody_stopped(resumed: tuple[Path, list[str], list[str]]) -> None:
    assert "could not be written" in resumed[1][-1]


def test_a_last_training_that_has_begun_goes_on_without_a_search(resumed: tuple[Path, list[str], list[str]]) -> None:
    folder, before, after = resumed
    assert any(SEARCHES in line or "one network alone" in line for line in before)
    assert not any(SEARCHES in line or "one network alone" in line for line in after)
    assert [line for line in after if "on all " in line] == [line for line in before if "on all " in line]
    chosen = study_in(folder).user_attrs[StudyKey.RETRAINED][-1]
    assert chosen["trial"] == state_in(folder)["final"]["trial"]


def test_where_time_has_run_out_the_network_is_what_the_search_has_left(
    resumed: tuple[Path, list[str], list[str]], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(resumed[0], folder)
    (folder / "search-files" / TRAINED).unlink()
    study, state = study_in(folder), state_in(folder)
    del state["final"]
    study.set_user_attr(StudyKey.FIT, state | {"done": False, "spent": 3 * SECONDS})
    again, said = work(folder)
    fitted = again.run()
    assert any("as the search has left it" in line for line in said)
    kept = KeptWeights(checkpoint_folder(folder / "search-files", "fit"))
    weights = kept.load(state_in(folder)["final"]["trial"])
    assert weights is not None
    found = fitted.network.network.state_dict()
    assert all(torch.equal(found[name], value) for name, value in weights[0].items())
    assert fitted.report.images < 400  # those that chose it did not train it
    told = re.search(r"images within ([\d,]+) s", (folder / "network" / "README.md").read_text())
    assert told is not None
    assert int(told[1]) >= 3 * SECONDS, "it took longer than the time that was given last"


def test_a_last_training_by_a_teacher_goes_on_where_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: Counter[str] = Counter()
    plain = TrainStep.__call__

    def counted(self: TrainStep, images: torch.Tensor, labels: torch.Tensor) -> None:
        steps["plain" if self._teacher is None else "taught"] += 1
        fit.stop.asked |= stops and steps["taught"] > 20
        plain(self, images, labels)

    monkeypatch.setattr(TrainStep, "__call__", counted)
    monkeypatch.setattr(equal_seconds, "TAUGHT_FROM", 0.1)
    stops, (fit, said) = True, work(tmp_path / "model")
    with pytest.raises(Interrupted):
        fit.run()
    assert any("a second network of its kind, which learns from it" in line for line in said)
    assert 20 < steps["taught"] < 25
    steps.clear()
    own = checkpoint_folder(tmp_path / "model" / "search-files", "fit")
    (own / "trial-1-of-another-recipe").mkdir()
    stops, (fit, _) = False, work(tmp_path / "model")
    fitted = fit.run()
    assert not [*own.glob("retrain-*"), *own.glob("trial-*")]
    assert steps["plain"] < 20, "its teacher is not trained again; only a step is timed"
    assert steps["taught"] > 0
    assert fitted.report.mean > 0.3


def test_a_second_network_that_diverges_leaves_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def too_fast(*args: Any) -> list[Stage]:
        first, second = stages_of(*args)
        return [first, replace(second, recipe=second.recipe.model_copy(update={"learning_rate": 1e38}))]

    monkeypatch.setattr(equal_seconds, "TAUGHT_FROM", 0.1)
    monkeypatch.setattr(fitting_run, "stages_of", too_fast)
    fitted = work(tmp_path / "model")[0].run()
    assert "not finite" in caplog.text
    assert fitted.report.mean > 0.3


def test_a_report_that_is_missing_is_made(resumed: tuple[Path, list[str], list[str]], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(resumed[0], folder)
    study = study_in(folder)
    study.set_user_attr(StudyKey.FIT, state_in(folder) | {"done": False})
    (folder / "report.html").unlink()
    (folder / "report.html").mkdir()  # it cannot be written, or somebody kills the process just then
    with pytest.raises(OSError, match=r"report\.html"):
        work(folder)[0].run()
    assert not state_in(folder).get("done")
    (folder / "report.html").rmdir()
    work(folder)[0].run()
    assert (folder / "report.html").is_file()
    assert state_in(folder)["done"]


@pytest.mark.parametrize("missing", ["network", "network/model.safetensors", "network/model.py", "report.html"])
def test_what_somebody_deleted_of_a_finished_fit_is_written_again(
    resumed: tuple[Path, list[str], list[str]], tmp_path: Path, missing: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(resumed[0], folder)
    if missing == "network/model.py":  # the other file that holds the network
        (folder / "search-files" / TRAINED).unlink()
    digits = load_images("digits", False).images
    before = nas.load_network(folder / "network/model.safetensors").predict(digits)
    shutil.rmtree(folder / missing) if missing == "network" else (folder / missing).unlink()
    fitted = work(folder)[0].run()
    assert fitted.predict(digits) == before
    assert (folder / "network/model.py").is_file()
    assert (folder / "report.html").is_file()
    assert len(study_in(folder).user_attrs[StudyKey.RETRAINED]) == 1, "nothing was trained or tested again"


def test_the_network_of_a_fit_is_exported_as_the_fit_has_trained_it(
    resumed: tuple[Path, list[str], list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(resumed[0], folder)
    number = str(state_in(folder)["final"]["trial"])
    stored = ["--storage", f"sqlite:///{folder}/search.db", "--study", "fit", "--trial", number]
    assert main(["export", *stored, "--out", str(tmp_path / "out")]) == 0
    found, expected = (load_file(file) for file in (tmp_path / "out/model.safetensors", folder / WEIGHTS))
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert "by nas-optuna fit, for trial" in (tmp_path / "out/README.md").read_text()
    (folder / "search-files" / TRAINED).unlink()
    assert main(["export", *stored, "--out", str(tmp_path / "other")]) == 2
    assert f"name its file: --network {folder / WEIGHTS}" in " ".join(capsys.readouterr().err.split())


def test_what_is_tested_after_a_fit_does_not_become_its_figure(
    resumed: tuple[Path, list[str], list[str]], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(resumed[0], folder)
    own, study = report_of(study_in(folder)), study_in(folder)
    assert own is not None
    assert record(study, replace(own, accuracies=(0.123,)), trial=0) == 1
    assert work(folder)[0].run().report == own
    (folder / "report.html").unlink()
    assert work(folder)[0].run().report == own, "what is missing is of the same network"


def test_what_is_tested_while_a_fit_is_interrupted_is_not_its_own_test() -> None:
    study = optuna.create_study()
    assert record(study, found(2), trial=0) == 0
    for state, known in (({}, False), ({"look": 0}, True), ({"done": True}, True)):  # the last one of an earlier fit
        study.set_user_attr(StudyKey.FIT, {"final": {"trial": 0}, **state})
        assert (report_of(study) is not None) is known


@pytest.mark.parametrize("content", [b"hello\n" * 2000, b"SQLite format 3\0" + b"\1" * 5000])
def test_a_damaged_search_is_told_with_the_folder_as_the_remedy(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "search.db").write_bytes(content)
    with pytest.raises(StudyError, match=r"search\.db.*name another folder \(--out FOLDER\)"):
        work(tmp_path)[0].run()


@pytest.mark.parametrize("is_done", [True, False])
def test_other_images_are_another_fit(
    resumed: tuple[Path, list[str], list[str]], stopped: Path, tmp_path: Path, is_done: bool
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(resumed[0] if is_done else stopped, folder)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (700, 8, 8), np.uint8)
    with pytest.raises(StudyError, match=r"images.*in another folder"):
        nas.fit((images, np.arange(700) % 10), SECONDS, folder, overrides=SMALL, say=lambda line: None)


def test_arrays_of_a_search_are_not_overwritten_by_others(stopped: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    first, other = ((rng.integers(0, 256, (700, 8, 8), np.uint8), np.arange(700) % 10) for _ in range(2))
    name = name_of(first, tmp_path)
    shutil.copy(stopped / "search.db", tmp_path)
    assert name_of(first, tmp_path) == name
    before = (tmp_path / "images.npz").read_bytes()
    with pytest.raises(StudyError, match="other images"):
        name_of(other, tmp_path)
    assert (tmp_path / "images.npz").read_bytes() == before
    (tmp_path / "images.npz").write_bytes(before[:1000])
    assert name_of(first, tmp_path) == name, "a damaged file is written anew"
    with np.load(tmp_path / "images.npz") as restored:
        assert np.array_equal(restored["images"], first[0])


@pytest.mark.parametrize("name", ["network/mine.txt", "report.html", "images.npz"])
def test_files_of_somebody_else_are_refused_before_anything_is_trained(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8)
    data: Any = (images, np.arange(40) % 2) if name == "images.npz" else "digits"
    with pytest.raises(NasOptunaError, match="choose an"):
        nas.fit(data, SECONDS, tmp_path, say=lambda line: pytest.fail(line))
    assert (tmp_path / name).read_text() == "mine"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / name]


def test_another_time_is_another_plan(stopped: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(stopped, folder)
    began = state_in(folder)["plan"]
    for seconds, same in ((SECONDS, True), (400.0, False)):
        with pytest.raises(Interrupted):
            work(folder, seconds, until=SEARCHES)[0].run()
        assert (state_in(folder)["plan"] == began) is same
    assert sum(rung["networks"] * rung["seconds"] for rung in state_in(folder)["plan"]["rungs"]) > 2 * SECONDS


def test_a_search_with_a_clock_leaves_what_a_fit_has_decided(stopped: Path) -> None:
    before, study = state_in(stopped), study_in(stopped)
    experiment = Experiment.of_study(study, device="cpu")
    stop = StopRequest()
    stop.asked = True
    run_within(experiment, study, TimeBudget(30.0), stop=stop, say=lambda line: None)
    assert state_in(stopped) == before
    assert study_in(stopped).user_attrs[StudyKey.WITHIN]["within"] == 30.0
    assert not [trial for trial in study.trials if TrialKey.RUNG in trial.user_attrs]


@pytest.mark.parametrize(
    "override",
    [
        'data.select_on="test"',
        'evaluator.name="tests.fitting.own:Own"',
        "recipe.epochs=3",
        "recipe.repeats=3",
        "recipe.epoch_size=64",
        'pruner.name="median"',
        "keep_paused=0",
        "search.learning_rate=1e-3..1e-1:log",
    ],
)
def test_what_fit_cannot_do_is_refused_before_anything_is_made(tmp_path: Path, override: str) -> None:
    with pytest.raises(SpecError, match=r"^(fit|a search with a clock) .*leave out|use run"):
        nas.fit("digits", SECONDS, tmp_path / "model", overrides=(*SMALL, override), say=lambda line: None)
    assert not (tmp_path / "model").exists()


def test_a_share_of_images_that_select_is_honoured_where_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas_optuna.fitting.spec.ENOUGH_TO_SELECT", 100)
    assert spec_for("digits", overrides=["data.validation_fraction=0.3"]).data.validation_fraction == 0.3
    assert spec_for("digits").data.validation_fraction < 0.1
    given = SpecOptions(set_=["data.validation_fraction=0.3"])  # of the command
    assert with_few_to_select(given.read(), given.overrides, None).data.validation_fraction == 0.3


@pytest.mark.parametrize("name", ["model", "50%20 off?x=1#é"])
def test_fits_share_no_folder_where_one_is_named_for_all_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Their studies have one name, so that in one folder each would take the other's network for its own."""
    monkeypatch.setenv("NAS_OPTUNA_FILES", str(tmp_path / "shared"))
    monkeypatch.setattr(fitting_run._Running, "run", lambda self: self.files)
    assert work(tmp_path / name)[0].run() == tmp_path / name / "search-files"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_second_fit_is_refused_while_one_works_in_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    with own_folder(folder), pytest.raises(StudyError, match=r"another fit works in .*model; wait until it has ended"):
        work(folder)[0].run()
    with own_folder(folder):
        assert list(folder.iterdir()) == []
