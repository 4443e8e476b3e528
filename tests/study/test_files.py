"""Where the files of a study are looked for, and that a database cannot lead anybody to the files of others."""

import json
from dataclasses import asdict
from pathlib import Path

import optuna
import pytest
from optuna.artifacts.exceptions import ArtifactNotFound

from nas_optuna.execution.trial_files import Paused
from nas_optuna.report.dashboard import ArtifactFolders
from nas_optuna.study import files as study_files
from nas_optuna.study.files import MARK, are_named, folders, holding, remember
from nas_optuna.study.schema import FORMAT, LONGEST, StudyKey
from nas_optuna.study.transactions import set_study_system_attributes
from tests.helpers import Command, tiny

URL = "sqlite:///nas-optuna.db"
UNNAMED = Path("nas-optuna-files")


def study() -> optuna.Study:
    return optuna.load_study(study_name="nas", storage=URL)


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_every_command_finds_the_folder_that_was_named_once(command: Command, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    assert command("run", "--trials", 1, *tiny(), "--files", shared, "--keep-weights", "best").code == 0
    assert (shared / "checkpoints/nas/kept/trial-0.safetensors").is_file()
    drawn = len(files(shared / "artifacts"))
    assert drawn, "the trial, for the dashboard"
    assert command("export", "--out", "model").code == 0
    assert command("retrain").code == 0
    assert len(files(shared / "artifacts")) > drawn
    assert command("run", "--trials", 1, "--keep-weights", "all").code == 0
    assert len(files(shared / "checkpoints/nas/kept")) == 2
    assert command("study", "delete", "nas", "--yes").err.splitlines() == ["deleted study 'nas'"]
    assert files(shared) == [shared / MARK]
    assert not UNNAMED.exists()


def test_what_lies_in_an_earlier_folder_is_found(command: Command, tmp_path: Path) -> None:
    keep = ("--keep-weights", "all", "--pruner", "none", "--sampler", "random")
    assert command("run", "--trials", 1, *tiny(), *keep).code == 0
    for name in ("one", "two"):
        assert command("run", "--trials", 1, "--keep-weights", "all", "--files", tmp_path / name).code == 0
    assert folders(URL, study().user_attrs) == [tmp_path / "two", tmp_path / "one", UNNAMED]
    for number, folder in enumerate((UNNAMED, tmp_path / "one", tmp_path / "two")):
        assert holding(URL, study(), f"kept/trial-{number}.safetensors") == folder
        assert command("export", "--trial", number, "--out", f"model{number}").code == 0
    assert holding(URL, study(), "kept/trial-3.safetensors") == tmp_path / "two", "where new ones belong"
    (tmp_path / "two" / "checkpoints/nas/kept/trial-2.safetensors").unlink()
    refused = command("export", "--trial", 2, "--out", "model")
    assert f"are not in {tmp_path / 'two' / 'checkpoints/nas/kept'}: they were not kept, or are in" in refused.err


def test_a_folder_named_now_comes_first(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command("study", "create", "nas", *tiny()).code == 0
    remember(study(), URL, tmp_path / "remembered")
    monkeypatch.setenv("NAS_OPTUNA_FILES", "variable")
    known = study().user_attrs
    assert folders(URL, known) == [Path("variable"), tmp_path / "remembered", UNNAMED]
    assert folders(URL, known, Path("given"))[0] == Path("given")
    remember(study(), URL)
    for number in range(9):
        remember(study(), URL, tmp_path / f"{number:0200}")
    kept = study().user_attrs[StudyKey.FILES]
    assert len(json.dumps(kept)) <= LONGEST
    assert kept[-1] == str(tmp_path / f"{8:0200}")


def test_a_path_in_a_database_leads_to_nobody_elses_files(command: Command, tmp_path: Path) -> None:
    assert command("study", "create", "nas", *tiny()).code == 0
    theirs, missing = tmp_path / "theirs", tmp_path / "missing"
    (theirs / "checkpoints" / "nas").mkdir(parents=True)
    (theirs / "checkpoints" / "nas" / "model").touch()
    (theirs / "artifacts").mkdir()
    study().set_user_attr(StudyKey.FILES, [str(missing), "relative", "\0", str(theirs)])
    key = "dashboard:artifacts:1:../../../theirs/checkpoints/nas/model"
    set_study_system_attributes(study(), {key: json.dumps({"filename": "x"})})
    assert folders(URL, study().user_attrs) == [UNNAMED]
    assert command("run", "--trials", 1).code == 0
    (UNNAMED / "artifacts").mkdir(exist_ok=True)
    deleted = command("study", "delete", "nas", "--yes")
    assert deleted.code == 0, deleted.err
    assert f"its files in {theirs} are left: that is no folder of nas-optuna on this host" in deleted.err
    assert files(tmp_path / "theirs") == [theirs / "checkpoints" / "nas" / "model"]
    assert not missing.exists()


def test_files_in_a_folder_that_the_study_has_not_used_are_not_deleted_with_it(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A study of another database has the same name."""
    assert command("study", "create", "nas", *tiny()).code == 0
    theirs = tmp_path / "shared" / "checkpoints" / "nas" / "kept" / "trial-0.safetensors"
    theirs.parent.mkdir(parents=True)
    theirs.touch()
    monkeypatch.setenv("NAS_OPTUNA_FILES", str(tmp_path / "shared"))
    assert command("study", "delete", "nas", "--yes").code == 0
    assert theirs.is_file()


def left(path: Path) -> str:
    return f"its files in {path} are left: they may be those of another study"


@pytest.mark.parametrize("another", ["", "of another"])
def test_files_of_a_study_of_that_name_in_another_database_are_left(
    command: Command, monkeypatch: pytest.MonkeyPatch, another: str
) -> None:
    """By default both are kept in the current folder."""
    assert command("study", "create", "nas", *tiny()).code == 0
    place = UNNAMED / "checkpoints" / "nas"
    paused = Paused(0, 1, 0.5, another)
    (place / "paused" / "key").mkdir(parents=True)
    (place / "paused" / "key" / "paused.json").write_text(json.dumps(asdict(paused)))
    with monkeypatch.context() as patched:
        if not another:  # nothing says whose they are, and the database is a server's
            patched.setattr(study_files, "sqlite_file", lambda url: None)
        assert command("study", "delete", "nas", "--yes").err.splitlines() == ["deleted study 'nas'", left(place)]
    assert files(place)
    assert command("study", "create", "nas", *tiny()).code == 0
    paused = Paused(0, 1, 0.5, study().user_attrs[StudyKey.UID])
    (place / "paused" / "key" / "paused.json").write_text(json.dumps(asdict(paused)))
    assert command("study", "delete", "nas", "--yes").err.splitlines() == ["deleted study 'nas'"]
    assert not place.exists()


@pytest.mark.parametrize(("key", "value"), [(StudyKey.FORMAT, FORMAT + 1), (StudyKey.SPEC, 3), (StudyKey.UID, 3)])
def test_a_study_that_cannot_be_loaded_is_deleted_with_its_own_files(command: Command, key: str, value: int) -> None:
    assert command("study", "create", "nas", *tiny()).code == 0
    place = UNNAMED / "checkpoints" / "nas"
    (place / "paused" / "key").mkdir(parents=True)
    own = Paused(0, 1, 0.5, study().user_attrs[StudyKey.UID])
    (place / "paused" / "key" / "paused.json").write_text(json.dumps(asdict(own)))
    study().set_user_attr(key, value)
    assert command("study", "delete", "nas", "--yes", "--storage", f"{URL}?mode=ro").code == 2
    assert (place / "paused" / "key" / "paused.json").is_file(), "the study is still there"
    told, *lines = command("study", "delete", "nas", "--yes").err.splitlines()
    assert told.endswith("; its files elsewhere are left")
    assert lines == ["deleted study 'nas'"]
    assert not place.exists()


def test_a_study_is_deleted_although_files_are_another_users(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, **_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    assert command("study", "create", "nas", *tiny()).code == 0
    place = UNNAMED / "checkpoints" / "nas"
    place.mkdir(parents=True)
    set_study_system_attributes(study(), {f"artifacts:{'0' * 8}-0000-0000-0000-{'0' * 12}": "{}"})
    with monkeypatch.context() as patched:
        patched.setattr("pathlib.Path.unlink", refuse)
        patched.setattr("os.rmdir", refuse)
        deleted = command("study", "delete", "nas", "--yes")
    assert deleted.code == 0, deleted.err
    assert deleted.err.splitlines() == [
        "deleted study 'nas'",
        f"its files in {UNNAMED / 'artifacts'} are left: you may not delete all of them",
        f"its files in {place} are left: you may not delete all of them",
    ]
    assert command("study", "list", "--json").json == []


def test_a_folder_that_the_study_remembers_is_taken_for_shared(command: Command, tmp_path: Path) -> None:
    assert command("study", "create", "nas", *tiny()).code == 0
    assert not are_named(study().user_attrs, None)
    remember(study(), URL, tmp_path / "shared")
    assert are_named(study().user_attrs, None)


def test_the_dashboard_shows_files_of_every_folder(tmp_path: Path) -> None:
    name, path = "0" * 8 + "-0000-0000-0000-" + "0" * 12, tmp_path / "other"
    for folder in (tmp_path / "own", path):
        folder.mkdir()
    (path / name).write_text("drawn")
    store = ArtifactFolders(tmp_path / "own", lambda: [tmp_path / "own", path])
    with store.open_reader(name) as reader:
        assert reader.read() == b"drawn"
    store.remove(name)
    assert not files(path)
    for gone in (name, "../other"):
        with pytest.raises((ArtifactNotFound, ValueError)):
            store.open_reader(gone)


def test_a_deletion_that_was_stopped_is_completed_by_the_same_command(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    assert command("run", "--trials", 1, *tiny(), "--keep-weights", "all").code == 0
    for step in ("pathlib.Path.unlink", "shutil.rmtree"):  # of artifacts, then of checkpoints and weights
        with monkeypatch.context() as patched:
            patched.setattr(step, stopped)
            assert command("study", "delete", "nas", "--yes").code == 130
        assert files(UNNAMED)
    assert command("study", "delete", "nas", "--yes").code == 0
    assert files(UNNAMED) == []
