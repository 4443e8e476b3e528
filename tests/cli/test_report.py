from pathlib import Path

import pytest

from tests.helpers import Command, files_in
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
