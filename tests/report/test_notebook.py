import json
from pathlib import Path

import pytest
import torch

import nas_optuna
from nas_optuna.errors import ArchitectureError, StudyError
from tests.helpers import Command, tiny


def test_a_loaded_study_shows_its_best_trial_its_table_its_report_and_its_network(study: str, place: Path) -> None:
    loaded = nas_optuna.load_study("nas")
    frame = loaded.frame()
    assert len(frame) == 2
    assert loaded.best.values[0] == frame[frame.state == "complete"].accuracy.max()
    assert loaded.best.architecture in loaded.draw().svg
    assert loaded._repr_svg_() == loaded.draw().svg
    assert loaded.network()(torch.zeros(3, 1, 8, 8)).shape == (3, 10)
    assert "<script" not in loaded.report()._repr_html_()
    assert max(len(repr(shown)) for shown in (loaded, loaded.draw(), loaded.report())) < 200, "a page is no line"
    assert loaded.report().save(place / "r.html").read_text("utf-8").startswith("<!DOCTYPE html>")


def test_a_study_without_a_complete_trial_has_no_picture(command: Command, place: Path) -> None:
    assert command("study", "create", "empty", *tiny()).code == 0
    loaded = nas_optuna.load_study("empty")
    assert loaded._repr_svg_() is None
    with pytest.raises(StudyError, match="no complete trial"):
        _ = loaded.best


def test_a_network_that_cannot_be_drawn_has_no_picture(study: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def changed(*_: object) -> None:
        raise ArchitectureError("the space's code has changed")

    monkeypatch.setattr("nas_optuna.report.drawing.draw_trial", changed)
    assert nas_optuna.load_study("nas")._repr_svg_() is None


def test_compare_two_studies(command: Command, study: str, place: Path) -> None:
    assert command("run", "--study", "other", "--sampler", "tpe", "--trials", 1, *tiny()).code == 0
    result = command("compare", "nas", "other", "--out", "c.html", "--json")
    assert result.code == 0, result.err
    assert [(s["study"], s["trials"], s["sampler"]) for s in json.loads(result.out)] == [
        ("nas", 2, "random"),
        ("other", 1, "tpe"),
    ]
    page = (place / "c.html").read_text("utf-8")
    assert page.count("<polyline") + page.count("<circle") >= 4
    assert "other" in command("compare", "nas", "other").out


def test_compare_refuses_studies_that_optimise_different_things(command: Command, study: str) -> None:
    assert command("study", "create", "small", "--objective", "macs", "--objective", "accuracy", *tiny()).code == 0
    result = command("compare", "nas", "small", "--out", "c.html")
    assert result.code == 2
    assert "cannot be compared" in result.err
    assert not Path("c.html").exists()


def test_cells_that_run_twice_go_on_and_their_refusals_say_what_to_do_in_python(place: Path) -> None:
    def cell(**recipe: int) -> int:
        settings = {"name": "digits", "train_limit": 60}
        spec = {"space": {"depth": 1}, "recipe": {"epochs": 1, "input_size": 8} | recipe, "data": settings}
        experiment = nas_optuna.Experiment.from_spec(nas_optuna.StudySpec.from_dict(spec))
        study = experiment.create("sqlite:///cells.db", "cells", load_if_exists=True)
        experiment.run(study, trials=1)
        return len(study.trials)

    assert [cell(), cell()] == [1, 2]
    with pytest.raises(StudyError, match=r"epochs 1 → 2.*under another name"):
        cell(epochs=2)
    with pytest.raises(StudyError, match=r"^there is no database (?!.*--)"):
        nas_optuna.load_study("cells", "sqlite:///absent.db")
    with pytest.raises(StudyError, match=r"^the storage is not a database URL"):
        nas_optuna.Experiment.from_spec(nas_optuna.StudySpec()).create("cells.db", "cells")
