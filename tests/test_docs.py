"""Every command and Python block of the documentation is run word for word, page by page: pytest -m docs.

A page's blocks run in order, in one empty folder. A block with a title is a file of that name. `console` blocks say
what their commands print. A comment above a block says why it is not run, or that it serves until Ctrl-C.
"""

from __future__ import annotations

import builtins
import os
import re
import shutil
import signal
import subprocess
import symtable
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import nas_optuna

ROOT = Path(__file__).parent.parent
PAGES = sorted(path for path in (ROOT / "docs").rglob("*.md") if "reference" not in path.parts)
_BLOCK = re.compile(
    r"(?:^<!-- (?P<remark>[^\n]*?) -->\n)?^```(?P<language>\w*)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_LANGUAGES = {"sh", "python", "console", "toml", "yaml"}


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    title: str | None
    remark: str
    text: str


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in _BLOCK.finditer(text):
        line = text.count("\n", 0, found.start("text"))
        yield Block(page.name, line, found["language"], found["title"], found["remark"] or "", found["text"])


def run(command: str) -> tuple[int, str]:
    """The exit status of a shell command and all that it prints."""
    result = subprocess.run(
        ["bash", "-e", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=1500
    )
    return result.returncode, result.stdout


def serve(command: str) -> None:
    """Start a command that serves, wait until it says its address, and interrupt it."""
    with subprocess.Popen(
        ["bash", "-c", f"exec {command}"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        assert "http://127.0.0.1" in process.stdout.readline()
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def check_console(block: Block) -> None:
    """Run each line after ``$``, and look for the lines below it in what it prints; ``…`` stands for anything."""
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, *expected = part.splitlines()
        code, printed = run(command)
        assert code == (2 if any(line.startswith("error: ") for line in expected) else 0), printed
        for line in expected:
            pattern = ".*".join(map(re.escape, line.split("…")))
            assert re.search(f"^{pattern}$", printed, re.MULTILINE), f"{command!r} printed {printed!r}, not {line!r}"


def execute(block: Block, names: dict[str, Any]) -> None:
    if block.title:
        Path(block.title).write_text(block.text, encoding="utf-8")
    elif block.remark.startswith("not run: "):
        return
    elif block.remark == "serves":
        serve(block.text.strip())
    elif block.language == "sh":
        code, printed = run(block.text)
        assert code == 0, f"{block.page}:{block.line}: {block.text}\n{printed}"
    elif block.language == "console":
        check_console(block)
    elif block.language == "python":
        exec(compile("\n" * block.line + block.text, block.page, "exec"), names)


def test_every_block_says_its_language_and_every_remark_is_known() -> None:
    found = [block for page in PAGES for block in blocks(page)]
    assert len(found) > 50
    for block in found:
        assert block.language in _LANGUAGES, f"{block.page}:{block.line} has a block that no test runs"
        assert block.remark in ("", "serves") or block.remark.startswith("not run: "), block
    assert sum(bool(block.remark) for block in found) < len(found) / 8
    for page in PAGES:
        outside = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        assert not re.search(r"^ {4}(nas-optuna|python|pip) ", outside, re.MULTILINE), f"{page} has a command unrun"


def test_what_checks_the_readme_leaves_studies_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".ci").mkdir()
    for name in (".ci/run", "README.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("python3", "pip", "nas-optuna", "pytest", "ruff", "mypy", "lint-imports", "mkdocs", "chromium"):
        (tools / tool).write_text(f'#!/bin/sh\necho "{tool} $1 in ($NAS_OPTUNA_STORAGE) ($NAS_OPTUNA_FILES)"\n')
        (tools / tool).chmod(0o755)
    studies = [tmp_path / "nas-optuna.db", tmp_path / "nas-optuna-files" / "weights"]
    studies[1].parent.mkdir()
    for file in studies:
        file.touch()
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("NAS_OPTUNA_STORAGE", "sqlite:///mine.db")
    monkeypatch.setenv("NAS_OPTUNA_FILES", "mine")
    code, printed = run(str(tmp_path / ".ci" / "run"))
    assert (code, "all passed" in printed) == (0, True), printed
    assert re.search(r"^nas-optuna run in \(sqlite:////\S+/readme\.db\) \(\)$", printed, re.MULTILINE), printed
    assert "pytest  in () ()" in printed
    assert all(file.exists() for file in studies)


def test_the_reference_has_every_public_name() -> None:
    pages = (ROOT / "docs" / "reference").glob("*.md")
    listed = re.findall(
        r"^::: [\w.]*\b(\w+)$", "\n".join(page.read_text(encoding="utf-8") for page in pages), re.MULTILINE
    )
    assert set(nas_optuna.__all__) - {"__version__"} <= set(listed)


def names_from_elsewhere(text: str) -> set[str]:
    """The names that a block uses, and neither makes, imports nor finds in Python."""
    top = symtable.symtable(text, "block", "exec")
    tables = [top]
    for table in tables:
        tables += table.get_children()
    made = {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported() or s.is_namespace()}
    wanted = (s.get_name() for table in tables for s in table.get_symbols() if s.is_global() and s.is_referenced())
    return set(wanted) - made - set(vars(builtins)) - {"__name__"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_python_block_runs_by_itself_or_says_what_it_goes_on_from(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    for block in blocks(page):
        if block.language == "python" and "goes on from" not in " ".join(lines[block.line - 4 : block.line]):
            assert not names_from_elsewhere(block.text), f"{page.name}:{block.line}"


@pytest.mark.docs
@pytest.mark.timeout(3000)  # on a machine that is busy with other work
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_page_is_true(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("NAS_OPTUNA_STORAGE", raising=False)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    names: dict[str, Any] = {"__name__": "documentation"}
    for block in blocks(page):
        execute(block, names)
