"""Names of studies: refused, or turned into files that are their own."""

from pathlib import Path

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas_optuna.errors import StudyError, StudyExists
from nas_optuna.spaces.conv import ConvSpace
from nas_optuna.spec import StudySpec
from nas_optuna.study.schema import StudyKey
from nas_optuna.study.storage import open_storage
from nas_optuna.study.studies import (
    checkpoint_folder,
    create_study,
    delete_study,
    file_name,
    load_study,
    study_names,
    study_spec,
)

NAMES = [
    "..",
    ".",
    "a/b",
    "../x",
    "/etc",
    "A",
    "a",
    "a.",
    "a ",
    "con",
    "%2e",
    "ä",
    "x" * 300,
    "~",
    "a~b",
    "-",
    "nul.txt",
]


@pytest.fixture
def storage(tmp_path: Path) -> optuna.storages.BaseStorage:
    return open_storage(f"sqlite:///{tmp_path}/x.db", create=True)


def create(storage: optuna.storages.BaseStorage, name: str) -> optuna.Study:
    return create_study(storage, name, StudySpec(), ConvSpace(depth=1))


@given(st.lists(st.one_of(st.sampled_from(NAMES), st.text(min_size=1)), unique=True))
def test_names_of_files_are_safe_short_and_different(names: list[str]) -> None:
    files = [file_name(name) for name in names]
    assert len({file.casefold() for file in files}) == len(names)
    for file in files:
        assert 1 <= len(file.encode()) <= 80
        assert file.isascii()
        assert not set(file) & set('/\\:*?"<>|% .\0')
        assert file not in ("con", "nul")


def test_a_plain_name_is_its_file() -> None:
    assert [file_name(name) for name in ("nas", "my-study_2")] == ["nas", "my-study_2"]


@pytest.mark.parametrize("name", NAMES)
def test_deleting_a_study_deletes_its_own_files_only(
    storage: optuna.storages.BaseStorage, name: str, tmp_path: Path
) -> None:
    files = tmp_path / "x-files"
    (files / "artifacts").mkdir(parents=True)
    for study in ("other", name):
        create(storage, study)
        folder = checkpoint_folder(files, study)
        assert folder.parent == files / "checkpoints"
        folder.mkdir(parents=True)
    delete_study(storage, name, [files])
    assert study_names(storage) == ["other"]
    assert [path.name for path in (files / "checkpoints").iterdir()] == ["other"]
    assert (files / "artifacts").is_dir()


def test_folders_of_earlier_releases_are_found(tmp_path: Path) -> None:
    old = tmp_path / "checkpoints" / "My.Study"
    old.mkdir(parents=True)
    assert checkpoint_folder(tmp_path, "My.Study") == old
    assert checkpoint_folder(tmp_path, "my.study") != old
    assert checkpoint_folder(tmp_path, "..").name == file_name("..")


def test_a_database_that_compares_names_without_case_gives_nobody_another_study(
    storage: optuna.storages.BaseStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(storage, "digits")
    exact = storage.get_study_id_from_name
    monkeypatch.setattr(storage, "get_study_id_from_name", lambda name: exact(name.lower()))  # as MySQL compares
    with pytest.raises(StudyError, match=r"no study 'Digits', and its database takes .* for that of study 'digits'"):
        load_study(storage, "Digits")
    assert load_study(storage, "digits").study_name == "digits"


@pytest.mark.parametrize("name", ["", " ", "\t", "a\nb", "a\0b", "\x1b[31m", "\udc80", "x" * 513])
def test_names_that_are_refused(storage: optuna.storages.BaseStorage, name: str) -> None:
    with pytest.raises(StudyError, match="a study's name"):
        create(storage, name)
    assert study_names(storage) == []


def test_a_study_is_whole_or_not_there(storage: optuna.storages.BaseStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    from nas_optuna.study import transactions

    with monkeypatch.context() as patch:
        patch.setattr(transactions.json, "dumps", lambda value: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            create(storage, "s")
    assert study_names(storage) == []
    made = create(storage, "s")
    assert made.metric_names == ["accuracy"]
    assert study_spec(made) == StudySpec()
    assert StudyKey.SPACE in made.user_attrs
    with pytest.raises(StudyExists, match="study 's' exists"):
        create(storage, "s")


def test_an_empty_reference_or_table_of_an_earlier_release_is_none(storage: optuna.storages.BaseStorage) -> None:
    study = create(storage, "s")
    spec = study.user_attrs[StudyKey.SPEC]
    study.set_user_attr(StudyKey.SPEC, spec | {"reference": "", "latency": {**spec["latency"], "table": ""}})
    assert study_spec(study) == StudySpec()
