import re
from pathlib import Path

import optuna
import pytest
from optuna_dashboard import get_note

from tests.helpers import Command, files_in, tiny
from tests.report.test_page import tags


def test_report_of_a_real_study(command: Command, study: str, place: Path) -> None:
    result = command("report", "--out", "r.html")
    assert result.code == 0, result.err
    assert "wrote r.html" in result.err
    page = (place / "r.html").read_text("utf-8")
    tags(page)
    assert "Drawing of the network" in page


@pytest.mark.parametrize("arguments", [("--out", "no/such/r.html"), ("--study", "nobody"), ("--out", ".")])
def test_report_refuses_in_one_line(command: Command, study: str, place: Path, arguments: tuple[str, ...]) -> None:
    before = files_in(place)
    result = command("report", *arguments)
    assert result.code == 2
    assert result.err.startswith("error: ")
    assert len(result.err.splitlines()) == 1
    assert files_in(place) == before


def test_images_that_ranked_the_networks_are_not_said_to_have_chosen_nothing(command: Command, place: Path) -> None:
    """With ``data.select_on=test`` they are the test images."""

    def told(command_: str, *words: str) -> str:
        result = command(command_, *words)
        assert result.code == 0, result.err
        assert command("report").code == 0
        note = get_note(optuna.load_study(study_name="nas", storage="sqlite:///nas-optuna.db"))
        everything = " ".join((result.err + (place / "report.html").read_text("utf-8") + note).split())
        for untrue in ("validation (images|pictures|figures)", "nor selected", "chose nothing", "not looked at yet"):
            assert not re.search(untrue, everything, re.IGNORECASE)
        return everything

    searched = told("run", "--trials", "1", "--keep-weights", "best", *tiny(data__select_on="test"))
    assert "test images, which chose the best" in searched
    assert "The test images selected the winner, so that none are left" in searched
    assert "Test pictures that it gets wrong" in searched
    assert "These are test figures on 359 images, which selected it" in told("best")
    retrained = told("retrain")
    assert "The test images ranked the networks of this study" in retrained
    assert "Scored on the images that selected it, so expect a little less" in retrained
    assert "scored on the images that chose the best" in retrained
