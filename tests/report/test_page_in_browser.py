import time
from pathlib import Path

from optuna.trial import TrialState
from playwright.sync_api import sync_playwright

from nas_optuna.report.page import report
from tests.report.test_page import add, made


def test_a_thousand_trials_fit_into_a_page_that_opens_at_once(tmp_path: Path) -> None:
    study = made()
    for number in range(1000):
        add(study, number, TrialState.PRUNED if number % 3 else TrialState.COMPLETE, epochs=10)
    path = tmp_path / "report.html"
    path.write_text(report(study), encoding="utf-8")
    assert path.stat().st_size < 3e6
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 400, "height": 800})
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        began = time.monotonic()
        page.goto(path.as_uri())
        assert time.monotonic() - began < 20  # on a busy machine
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        assert [url for url in asked if not url.startswith("file:")] == []
        cells = page.locator("td", has_text="f").filter(has_text="k").all()  # the architectures, whole
        assert len(cells) >= 11
        for cell in cells:
            box = cell.bounding_box()
            assert box is not None
            assert box["x"] + box["width"] <= 400
        browser.close()
