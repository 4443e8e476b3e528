"""Options of ``run``: settings of the recipe that are searched, an end that comes by itself, weights that are kept."""

import os
import shlex
import signal
from pathlib import Path

import optuna
import pytest

from nas_optuna import StudySpec
from nas_optuna.cli.options import named_overrides
from nas_optuna.cli.run_options import SpecOptions
from nas_optuna.fitting.spec import decided_before, spec_for
from nas_optuna.report.notes import NoteWriter
from nas_optuna.study.schema import StudyKey
from tests.helpers import Command, tiny, write_photos
from tests.study import leases


def trials() -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="nas", storage="sqlite:///nas-optuna.db").trials


def test_a_path_may_hold_any_character(place: Path) -> None:
    folder, table = place / "\U0001f4f7 é", place / "\U0001f4f7.json"
    write_photos(folder, each=2, height=30, width=30)
    given = SpecOptions(data=str(folder), latency_table=str(table))
    spec = StudySpec().override([text for _, text in named_overrides(given)])
    assert spec.data.name == spec_for(spec.data.name).data.name == f"folder:{folder}"
    assert spec.latency.table == str(table)
    usual = spec.override(["space.name=backbone"])
    begun = usual.override([f"space.model={folder}"])
    assert decided_before(spec, begun, usual).space.options["model"] == str(folder)


@pytest.mark.parametrize(
    "sampler",
    ["tpe", "arch", *(pytest.param(name, marks=pytest.mark.slow) for name in ("random", "evolution", "controller"))],
)
def test_settings_of_the_recipe_are_searched_beside_the_architecture(command: Command, sampler: str) -> None:
    search = ["--search", "recipe.learning_rate=1e-4..1e-1:log", "--set", "recipe.batch_size=[32,64]"]
    result = command("run", "--trials", 3, *tiny(), *search, "--sampler", sampler, "--pruner", "none")
    assert result.code == 0, result.err
    assert command("run", "--trials", 1).code == 0, "and the study remembers it"
    found = trials()
    assert len(found) == 4
    assert {trial.params["recipe.batch_size"] for trial in found} <= {32, 64}
    assert len({trial.params["recipe.learning_rate"] for trial in found}) == 4
    report = command("retrain", "--json")
    assert report.code == 0, report.err
    best = command("best", "--json").json
    assert best["params"]["recipe.learning_rate"] == found[best["number"]].params["recipe.learning_rate"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--spec", ""), "unknown study spec ''"),
        (("--storage", ""), "the storage is not a database URL"),
        (("--reference", ""), "reference: it must not be empty, got ''"),
        (("--latency-table", ""), "latency.table: it must not be empty, got ''"),
        (("--set", "data.name="), "unknown data set ''; choose one of"),
        (("--search", "recipe.learning_rat=1..2"), "did you mean 'learning_rate'"),
        (("--search", "recipe.learning_rate=0.1..0.01"), "0.1 is above 0.01; write the smaller one first"),
        (("--search", "recipe.learning_rate=0.1..0.1"), "low and high are both 0.1"),
        (("--search", "recipe.learning_rate=0..0.1:log"), "it must be greater than 0"),
        (("--search", "recipe.epochs=1,2"), "epochs"),
        (("--search", "learning_rate"), "--search needs NAME=VALUE"),
        (("--until", "stald"), "ends no study"),
        (("--until", "acuracy>=0.5"), "did you mean 'accuracy'"),
        (("--keep-weights", "bst"), "'bst' is not one of 'best', 'all'"),
        (("--track", "tensorbord:logs"), "did you mean 'tensorboard'"),
        (("--warm-start", "supernet"), " && nas-optuna supernet train --study nas"),
        (("--sampler", "supernet"), "run: nas-optuna study create --study nas --sampler supernet --set "),
        (("--devices", "cpu,cuda:99"), "device 'cuda:99' is not on this machine"),
        (("--files", "s3://bucket/nas"), "--files s3://bucket/nas is a URL"),
        (("--files", "taken/files"), "taken is no folder that you may write to"),
        (("--keep-weights", "all", "--storage", "sqlite:///:memory:"), "--keep-weights is of no use with a storage"),
    ],
)
def test_what_cannot_be_honoured_is_one_line(command: Command, options: tuple[str, ...], says: str) -> None:
    Path("taken").touch()
    result = command("run", "--trials", 1, *tiny(), *options)
    assert result.code == 2
    assert says in result.err.splitlines()[-1]
    assert [path.name for path in Path.cwd().iterdir()] == ["taken"], "nothing is created"


def test_what_begins_a_study_with_a_supernet_makes_the_study_that_was_asked_for(command: Command) -> None:
    asked = ("--space", "conv", "--fix", "conv1.stride=1", "--search", "recipe.learning_rate=1e-4..1e-1:log")
    words = ("run", "--study", "my own", "--spec", "digits-quick", *tiny(), *asked, "--max-params", "50k")
    refused = command(*words, "--data-dir", "here", "--warm-start", "supernet")
    create, train = refused.err.partition("; run: ")[2].split(" && ")
    assert shlex.split(train) == ["nas-optuna", "supernet", "train", "--study", "my own", "--data-dir", "here"]
    created = command(*shlex.split(create)[1:])
    assert created.code == 0, created.err
    again = command(*words, "--warm-start", "supernet").err
    assert "has no trained supernet; run: nas-optuna supernet train" in again, "it is that study"


@pytest.mark.parametrize("begin", [("study", "create"), ("run", "--trials", "1")])
def test_settings_of_a_supernet_that_the_command_line_displaces_begin_a_study(
    command: Command, begin: tuple[str, ...]
) -> None:
    Path("s.toml").write_text("[supernet]\nlearning_rate = 0.1\nepochs = 9\n")
    words = (*begin, "--study", "s", "--spec", "s.toml", *tiny(), "--set", "supernet.budget=0")
    refused = command(*words, "--set", "supernet.clip=1")
    assert "error: supernet.clip is of no use with supernet.budget=0; leave it out" in refused.err
    assert command(*words).code == 0
    study = optuna.load_study(study_name="s", storage="sqlite:///nas-optuna.db")
    section = StudySpec.from_dict(study.user_attrs[StudyKey.SPEC]).supernet
    assert section.strategy_options == {"budget": 0}


def test_a_refusal_names_the_variable_where_that_was_set(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_OPTUNA_FILES", "s3://bucket/nas")
    result = command("run", "--trials", 1, *tiny())
    assert result.err.startswith("error: NAS_OPTUNA_FILES s3://bucket/nas is a URL")
    assert result.code == 2


@pytest.mark.parametrize("variable", ["NAS_OPTUNA_LEASE", "NAS_OPTUNA_STORAGE_PATIENCE"])
def test_a_variable_that_is_no_number_is_refused_before_anything_is_created(
    command: Command, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "soon")
    result = command("run", "--trials", 1, *tiny())
    assert (result.code, len(result.err.splitlines())) == (2, 1)
    assert f"{variable} must be a number of seconds" in result.err
    assert not list(Path.cwd().iterdir())


def test_a_run_is_copied_to_two_trackers(command: Command) -> None:
    database = f"sqlite:///{Path.cwd() / 'mlflow.db'}"
    result = command("run", "--trials", 1, *tiny(), "--track", "tensorboard:logs", "--track", f"mlflow:{database}")
    assert result.code == 0, result.err
    assert list(Path("logs/nas/trial-0").glob("events*"))
    assert Path("mlflow.db").exists()


def test_a_study_ends_when_it_has_what_was_wanted(command: Command) -> None:
    result = command("run", "--trials", 9, *tiny(), "--pruner", "none", "--until", "accuracy>=0.05")
    assert result.code == 0
    assert "ended: trial 0 has reached accuracy" in result.err
    assert len(trials()) == 1


@pytest.mark.parametrize(("which", "kept"), [("best", 1), ("all", 3)])
def test_weights_are_kept_for_export(command: Command, which: str, kept: int) -> None:
    options = ("--pruner", "none", "--sampler", "random", "--keep-weights", which)
    assert command("run", "--trials", 3, *tiny(), *options).code == 0
    assert len(list(Path.cwd().rglob("trial-*.safetensors"))) == kept
    assert command("export", "--out", "made").code == 0
    assert Path("made/model.py").is_file()


def test_a_study_learns_from_an_earlier_one_and_remembers_its_trials(command: Command) -> None:
    assert (
        command("run", "--study", "me@home", "--trials", 6, *tiny(), "--sampler", "random", "--pruner", "none").code
        == 0
    )
    result = command("run", "--trials", 1, *tiny(), "--sampler", "arch", "--learn-from", "me@home")
    assert result.code == 0, result.err
    assert "learning from 6 trials of me@home; in the queue: 1 of its best" in result.err
    first = optuna.load_study(study_name="me@home", storage="sqlite:///nas-optuna.db")
    assert trials()[0].params == first.best_params
    again = command("run", "--trials", 1, "--sampler", "tpe", "--learn-from", "me@home@sqlite:///nas-optuna.db")
    assert "in the queue: 0 of its best" in again.err, "it was tried already"
    assert "sampler tpe learns nothing from 6 trials of me@home (curves, arch, evolution would); in the" in again.err


def test_an_earlier_study_that_cannot_teach_is_refused_before_anything_is_created(command: Command) -> None:
    assert command("run", "--study", "first", "--trials", 1, *tiny()).code == 0
    for named, says in (
        ("absent", "unknown study 'absent'"),
        ("nas", "names this study"),
        ("first", "too few complete trials to learn from (1, and it takes 5)"),
    ):
        result = command("run", "--trials", 1, *tiny(), "--learn-from", named)
        assert result.code == 2
        assert says in result.err
        assert optuna.get_all_study_names("sqlite:///nas-optuna.db") == ["first"]


@pytest.mark.parametrize(
    ("options", "again"),
    [
        (("--trials", "3", "--seed", "0", "--pruner", "none"), "nas-optuna run --trials 2 --seed 0"),
        (("--fixed", "two.json"), "nas-optuna run --fixed two.json"),
    ],
)
def test_after_ctrl_c_the_line_to_continue_does_the_rest(
    command: Command, options: tuple[str, ...], again: str
) -> None:
    patched = pytest.MonkeyPatch()

    def interrupt(*_: object) -> None:
        patched.undo()
        os.kill(os.getpid(), signal.SIGINT)

    Path("two.json").write_text('["f16k3s1-f16k3s1", "f24k3s1-f16k3s1"]')
    patched.setattr(NoteWriter, "trial_finished", interrupt)
    result = command("run", *options, *tiny())
    assert result.code == 130
    line = result.err.splitlines()[-1]
    assert line.startswith("stopped; nothing is lost. Continue: "), result.err
    typed = shlex.split(line.partition("Continue: ")[2])
    assert " ".join(word for word in typed if word in again.split()) == again
    assert command(*typed[1:]).code == 0
    found = [trial for trial in trials() if trial.state == optuna.trial.TrialState.COMPLETE]
    assert len({str(trial.params) for trial in found}) == len(trials()) == (3 if "--trials" in options else 2)


def test_a_killed_run_of_listed_architectures_goes_on_with_the_rest(command: Command) -> None:
    Path("one.txt").write_text("f16k3s1-f16k3s1")
    Path("three.txt").write_text("f16k3s1-f16k3s1 f24k3s1-f16k3s1 f32k3s1-f16k3s1")
    assert command("run", "--fixed", "one.txt", *tiny()).code == 0
    study = optuna.load_study(study_name="nas", storage="sqlite:///nas-optuna.db")
    study.enqueue_trial({**trials()[0].params, "conv1.filters": 24})
    leases.give(study, study.ask()._trial_id, "killed", lasts=-1.0)
    for already in (1, 3):
        result = command("run", "--fixed", "three.txt")
        assert result.code == 0, result.err
        assert f"trained already: {already} of 3 architectures" in result.err
        assert [trial.state.name for trial in trials()] == ["COMPLETE"] * 3


def test_what_waits_beyond_the_total_is_said(command: Command) -> None:
    Path("three.txt").write_text("f16k3s1-f16k3s1 f24k3s1-f16k3s1 f32k3s1-f16k3s1")
    result = command("run", "--total", 1, "--enqueue", "three.txt", *tiny())
    assert result.code == 0, result.err
    assert "--total 1 leaves 2 trials of the queue to a run with a larger one" in result.err
    assert [trial.state.name for trial in trials()] == ["COMPLETE", "WAITING", "WAITING"]
