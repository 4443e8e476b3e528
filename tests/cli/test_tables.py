"""Tables choose their columns by the width of the terminal."""

import io
import sys
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from nas_optuna.cli.printing import Column, print_facts, print_table, say, write
from nas_optuna.cli.results import SHOWN, print_outcome, print_ranking
from nas_optuna.cli.supernet import _print_alphas
from nas_optuna.report.facts import StudyFacts
from nas_optuna.study.schema import StudyKey
from nas_optuna.study.supernet_result import SupernetResult
from tests.spaces.test_base import Switches

ARCHITECTURE = "-".join(f"f{i}k3s1" for i in range(10, 30))


def study_of(*states: TrialState, validation: int | None = None) -> optuna.Study:
    study = optuna.create_study(direction="maximize", study_name="s")
    if validation is not None:
        study.set_user_attr(StudyKey.DATA, {"validation": validation})
    for i, state in enumerate(states):
        value = 0.5 + i / 1000 if state in (TrialState.COMPLETE, TrialState.PRUNED) else None
        study.add_trial(
            create_trial(
                state=state,
                value=value,
                user_attrs={
                    "nas_optuna:recipe": "r",
                    "nas_optuna:architecture": ARCHITECTURE,
                    "nas_optuna:epochs": 5,
                    "nas_optuna:seconds": 61.0,
                    "nas_optuna:macs": 2.5e6,
                    "nas_optuna:params": 3e4,
                    "nas_optuna:accuracy": value,
                },
            )
        )
    return study


def printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int | None) -> list[str]:
    if width is None:
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", str(width))
    study = study_of(*[TrialState.COMPLETE] * 3, TrialState.PRUNED, TrialState.FAIL, validation=100)
    capsys.readouterr()
    study.set_metric_names(["accuracy"])
    print_ranking(StudyFacts(study))
    return capsys.readouterr().out.splitlines()


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_only_an_accuracy_has_its_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    study = study_of(TrialState.COMPLETE, validation=100)
    for name in ("accuracy", "balanced_accuracy"):  # of a data set whose classes are equally many, the same number
        study.set_metric_names([name])
        print_ranking(StudyFacts(study))
        assert ("0.5000 ± 0.0490" in capsys.readouterr().out) == (name == "accuracy")


@pytest.mark.parametrize(
    ("width", "headings"),
    [
        (40, ["trial", "accuracy", "architecture"]),
        (80, ["rank", "trial", "state", "accuracy", "MACs", "architecture"]),
        (120, ["rank", "trial", "state", "accuracy", "epochs", "MACs", "weights", "time", "architecture", "note"]),
        (None, ["rank", "trial", "state", "accuracy", "epochs", "MACs", "weights", "time", "architecture", "note"]),
    ],
)
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_columns_are_chosen_by_width(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int | None, headings: list[str]
) -> None:
    lines = printed(capsys, monkeypatch, width)
    assert lines[1].split() == headings
    assert len(lines) == 1 + 2 + 5 + 4, "a row is one line"
    assert max(map(len, lines)) <= (width or 1000)
    best = lines[3]
    assert "0.5020 ± 0.0490" in best, "the standard error on 100 images"
    assert ("tied" in best, "tied" in lines[6]) == ("note" in headings, False), "a pruned trial is no winner"
    if width is None:
        assert ARCHITECTURE in best
    else:
        assert "k3s1" in best.split("…")[1]
        assert "f10k3s1"[:4] in best
    assert lines[-2] == "tied: 3 trials as good as the best"
    assert lines[-3] == "5 trials: 3 complete, 1 pruned, 1 failed"


@pytest.mark.parametrize(("filters", "objectives"), [(16, 3), (16, 2), (128, 2)])
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_front_has_whole_architectures_and_the_names_that_are_typed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, filters: int, objectives: int
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    architecture = "-".join([f"f{filters}k3s1"] * 5)
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"][:objectives], study_name="s")
    study.set_user_attr(StudyKey.DATA, {"validation": 100})
    study.set_metric_names(["accuracy", "params", "latency_ms"][:objectives])
    costs = {"macs": 2.5e6, "params": 81_698.0, "latency_ms": 0.5}
    attributes = {"nas_optuna:architecture": architecture, "nas_optuna:accuracy": 0.9, "nas_optuna:epochs": 5}
    attributes |= {f"nas_optuna:{name}": value for name, value in costs.items()}
    study.add_trial(create_trial(values=[0.9, 81_698.0, 0.5][:objectives], user_attrs=attributes))
    print_outcome(StudyFacts(study), everything=False, json=False)
    out, err = capsys.readouterr()
    front = out[out.index("front of study s") :].splitlines()
    assert front[1].split()[: objectives + 1] == ["trial", *study.metric_names]
    assert front[3].split()[-1] == architecture
    assert max(map(len, front)) <= 80
    assert "params 81" in err
    assert "weights" not in out + err


def test_the_best_ten_are_listed_and_all_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    study = study_of(*[TrialState.COMPLETE] * 1200)
    print_ranking(StudyFacts(study))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 + SHOWN + 3
    assert lines[3].split()[:2] == ["1", "1199"]
    assert lines[-2] == "1,200 trials: 1,200 complete; the best 10 are listed, --all lists all"
    print_ranking(StudyFacts(study), everything=True)
    assert len(capsys.readouterr().out.splitlines()) == 3 + 1200 + 3


def test_a_study_without_trials_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    print_ranking(StudyFacts(study_of()))
    assert "no trials yet" in capsys.readouterr().out


def test_words_wider_than_a_character_are_counted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.cells import cell_len

    monkeypatch.setenv("COLUMNS", "40")
    columns = (Column("名前"), Column("x", right=True), Column("text", wrap=True))
    print_table("猫", columns, [("猫" * 6, 1, "a b " * 30)])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(cell_len, lines)) <= 40
    assert "猫" * 6 in lines[3]


def test_a_long_architecture_is_broken_after_its_choices(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "activation=relu,stem.width=16,stage1.width=32,head=average"
    monkeypatch.setenv("COLUMNS", "40")
    print_facts("", [("architecture", text), ("trial", 3)])
    lines = capsys.readouterr().out.splitlines()
    assert "".join(line.removeprefix("architecture").strip() for line in lines[:-2]) == text
    assert all(line.endswith((",", "average")) and len(line) <= 40 for line in lines[:-2])


@pytest.mark.parametrize("word", ["x" * 90, "f48k3s1-" * 9])
def test_a_long_word_leaves_no_empty_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    print_facts("", [("choice", word), ("class\nname", "a\nb")])
    *lines, last, end = capsys.readouterr().out.splitlines()
    assert "".join(line.removeprefix("choice").strip() for line in lines) == word
    assert (last.split(), end) == (["class", "name", "a", "b"], ""), "a name may hold a line break, a cell does not"
    assert all(lines)


@pytest.mark.parametrize(("columns", "longest"), [("40", 40), ("0", 80), ("", 80), ("wide", 80)])
def test_a_dumb_terminal_has_the_width_that_it_names(
    monkeypatch: pytest.MonkeyPatch, columns: str, longest: int
) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", columns)
    print_facts("", [("text", "word " * 60)])
    assert longest - 5 <= max(map(len, terminal.getvalue().splitlines())) <= longest


def test_remarks_stay_below_the_table_that_they_are_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "log").open("w") as log, open(log.fileno(), "w", closefd=False) as out:  # as with > log 2>&1
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", log)
        print_facts("title", [("name", "value")])
        say("remark")
        write("last\n")
    assert (tmp_path / "log").read_text().split() == ["title", "name", "value", "remark", "last"]


def test_alphas_are_of_choices_as_they_are_typed(capsys: pytest.CaptureFixture[str]) -> None:
    space = Switches()
    _print_alphas("s", space, SupernetResult({name: [1.0, 0.0] for name in space.parameters}))
    rows = [line.split() for line in capsys.readouterr().out.strip().splitlines()[-3:]]
    assert [[row[0], row[1], row[-1]] for row in rows] == [
        ["norm", "true", "true"],
        ["layers", "1", "1"],
        ["hidden", "null", "null"],
    ]
