"""Every trial has its note for optuna-dashboard, whenever a process was killed."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.trial import create_trial
from optuna_dashboard._note import get_note_from_system_attrs

from nas_optuna.report.dashboard import dashboard_note, note_in, replace, trial_rows
from nas_optuna.report.notes import note_retraining, write_study_note
from nas_optuna.samplers.beforehand import images_of
from nas_optuna.study import database
from nas_optuna.study.optuna_internals import study_system_attributes
from nas_optuna.study.schema import TrialKey
from nas_optuna.study.storage import open_storage
from nas_optuna.study.studies import summaries
from nas_optuna.study.transactions import set_study_system_attributes
from tests.helpers import Command, tiny
from tests.report.test_confusion import found

KILLED = """
import os, signal, sys
from nas_optuna.cli import main
from nas_optuna.report import notes
real = notes.NoteWriter.trial_finished
def killed(self, subject, ended):
    if ended.number == 1:
        os.kill(os.getpid(), signal.SIGKILL)  # the result is in the database, and nothing was said of it
    real(self, subject, ended)
notes.NoteWriter.trial_finished = killed
main(sys.argv[1:])
"""


def noted() -> list[tuple[str, str]]:
    """The architecture and the note of each trial."""
    study = optuna.load_study(study_name="nas", storage="sqlite:///nas-optuna.db")
    kept = study_system_attributes(study)
    return [
        (trial.user_attrs[TrialKey.ARCHITECTURE], get_note_from_system_attrs(kept, trial._trial_id)["body"])
        for trial in study.trials
    ]


@pytest.mark.process
def test_the_next_run_writes_the_note_that_a_killed_one_could_not(place: Path, command: Command) -> None:
    words = ["run", "--sampler", "random", "--trials", "3", *tiny()]
    done = subprocess.run([sys.executable, "-c", KILLED, *words], capture_output=True, timeout=200, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [bool(note) for _, note in noted()] == [True, False]
    assert command("run", "--trials", 1).code == 0
    assert len(noted()) == 3
    for architecture, note in noted():
        assert architecture in note
        assert note.count("The network, drawn") == 1


def test_a_run_writes_no_notes_of_trials_that_are_none_of_its_own(place: Path, command: Command) -> None:
    words = ["run", "--sampler", "random", "--trials", 1, *tiny()]
    assert command(*words).code == 0
    study = optuna.load_study(study_name="nas", storage="sqlite:///nas-optuna.db")
    study.add_trial(study.trials[0])
    assert command("run", "--trials", 1).code == 0
    assert [bool(note) for _, note in noted()] == [True, False, True]


def test_names_and_a_studys_own_note_are_read_without_the_notes_of_all_trials(
    place: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("run", "--sampler", "random", "--trials", 1, *tiny()).code == 0
    study = optuna.load_study(study_name="nas", storage=open_storage("sqlite:///nas-optuna.db"))
    real, read = database.attributes_of, []

    def counted(rows: list[tuple[str, str]]) -> dict[str, object]:
        read.extend(key for key, _ in rows)
        return real(rows)

    monkeypatch.setattr(database, "attributes_of", counted)
    before = note_in(study_system_attributes(study))
    read.clear()
    assert images_of(study)
    assert [summary.objectives for summary in summaries(study._storage)] == [("accuracy",)]
    write_study_note(study)
    assert "study:metric_names" in read
    assert not [key for key in read if key.startswith(f"dashboard:{study.trials[0]._trial_id}:note")]
    assert note_in(study_system_attributes(study)) == before
    assert "The best network, drawn" in before


def test_a_retraining_leaves_what_a_person_wrote_into_the_note_of_its_trial(tmp_path: Path) -> None:
    study = optuna.create_study()
    study.add_trial(create_trial(value=0.5))
    (trial,) = study.trials
    (tmp_path / "net").write_bytes(b"weights")

    def retrained(seeds: int) -> str:
        note_retraining(study, trial, tmp_path / "store", tmp_path / "net", found(2, seeds))
        return str(get_note_from_system_attrs(study_system_attributes(study), trial._trial_id)["body"])

    note = retrained(1)
    assert "was trained to the end" in note
    before, _, section = note.partition("## Retrained: ")
    assert "mean of" not in section
    mine = f"my words\n\n{note}\n\nand more of them"
    set_study_system_attributes(study, dashboard_note(mine, trial, study_system_attributes(study)))
    again = retrained(3)
    assert again.startswith(f"my words\n\n{before}## Retrained: ")
    assert "mean of 3 seeds" in again
    assert again.endswith(")\n\nand more of them")
    assert again.count("## Retrained: ") == again.count("![Confusion matrix]") == 1
    assert section.rpartition("(")[2] not in again, "the earlier picture was replaced"


@pytest.mark.parametrize("fails", ["shutil.copyfileobj", "nas_optuna.report.dashboard.set_study_system_attributes"])
def test_where_files_cannot_be_replaced_the_earlier_ones_stay_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    study, files = optuna.create_study(), {"net": b"weights", "matrix.svg": b"<svg/>"}

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    replace(study, tmp_path, 0, files)
    before = set(tmp_path.iterdir())
    with monkeypatch.context() as patched:
        patched.setattr(fails, full)
        with pytest.raises(OSError, match="No space"):
            replace(study, tmp_path, 0, files)
    assert set(tmp_path.iterdir()) == before
    replace(study, tmp_path, 0, files)
    after = set(tmp_path.iterdir())
    assert len(after) == len(before) == 2
    assert not after & before


def test_an_attribute_makes_no_page_of_the_dashboard_wide() -> None:
    rows = [{"key": TrialKey.ARCHITECTURE, "value": ",".join(f"stage{i}.kernel=3" for i in range(20))}]
    (row,) = trial_rows(rows)
    assert row["key"] == "architecture"
    assert len(row["value"]) <= 64
    assert trial_rows([{"key": TrialKey.ARCHITECTURE, "value": "f16k3s1"}])[0]["value"] == "f16k3s1"
