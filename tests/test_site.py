"""The documentation site: its pages and their search work as files, on any width, and ask no other host."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parent.parent
FITS = "element => element.scrollWidth <= element.clientWidth + 1"


def test_docstrings_head_their_examples_as_the_site_reads_them() -> None:
    heading = re.compile(r"^\s*Example:\s*$", re.MULTILINE)  # which the site shows as a box of prose
    sources = {path: path.read_text(encoding="utf-8") for path in (ROOT / "nas_optuna").rglob("*.py")}
    assert [path for path, text in sources.items() if heading.search(text)] == []


def visit(page: Page, file: Path) -> list[str]:
    """Open a page; the addresses of other hosts that it asked."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    return [url for url in asked if not url.startswith("file:")]


@pytest.mark.docs
def test_the_site_is_searched_as_files_and_fits_a_phone(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True)
    reference = sorted((tmp_path / "reference").glob("*.html"))
    assert 'doc-section-title">Examples' in (tmp_path / "reference" / "library.html").read_text(encoding="utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        for width in (375, 1280):
            page = browser.new_page(viewport={"width": width, "height": 900})
            for file in (tmp_path / "index.html", *reference):
                assert visit(page, file) == []
                assert page.evaluate("document.documentElement.scrollWidth") <= width, file
                assert page.evaluate(f"[...document.querySelectorAll('.doc-signature code')].every({FITS})"), file
        visit(page, tmp_path / "index.html")
        page.click("input.md-search__input")
        page.keyboard.type("supernet")
        page.wait_for_selector(".md-search-result__item")
        browser.close()
