import json
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from nas_optuna.cli import app
from nas_optuna.cli.printing import print_json
from tests.helpers import Command


def commands() -> Iterator[tuple[str, ...]]:
    """Every command and every group of them, by its words."""

    def walk(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        yield words
        for name, child in getattr(command, "commands", {}).items():
            yield from walk(child, (*words, name))

    return walk(typer.main.get_command(app), ())


def command_of(words: Sequence[str]) -> Any:
    """The command that a line begins with."""
    command: Any = typer.main.get_command(app)
    for word in words:
        if word not in getattr(command, "commands", {}):
            break
        command = command.commands[word]
    return command


def options(words: Sequence[str]) -> set[str]:
    """The options of the command that a line begins with."""
    return {option for parameter in command_of(words).params for option in parameter.opts}


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_help_ends_with_an_example_that_is_right(command: Command, words: tuple[str, ...]) -> None:
    result = command(*words, "--help")
    assert (result.code, result.err) == (0, "")
    program, *example = shlex.split(result.out.rpartition("Example: ")[2])
    assert program == "nas-optuna"
    assert example[: len(words)] == list(words)
    assert {word for word in example if word.startswith("--")} <= options(example)


ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.stem
)
def test_pages_name_options_that_there_are(page: Path) -> None:
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in re.findall(r"^(?:\$ )?nas-optuna (.*)$", text, re.MULTILINE):
        words = [word.partition("=")[0] for word in shlex.split(line, comments=True)]
        assert {word for word in words if word.startswith("--")} - {"--help"} <= options(words), line


@pytest.mark.parametrize(("words", "otherwise"), [(("run",), "measured"), (("fit",), "all cores")], ids=str)
def test_threads_are_measured_by_run_alone(words: tuple[str, ...], otherwise: str) -> None:
    (threads,) = (parameter for parameter in command_of(words).params if parameter.name == "threads")
    assert threads.help.endswith(f"(default: OMP_NUM_THREADS, else {otherwise}).")


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_a_default_is_said_in_words(words: tuple[str, ...]) -> None:
    for parameter in command_of(words).params:
        if parameter.default not in (None, False):
            assert f"(default: {parameter.default}" in parameter.help, parameter.opts


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("run --trials 0", "'--trials': it must be at least 1"),
        ("run --workers 2 --per-device 0", "'--per-device': it must be at least 1"),
        ("supernet check --architectures 2", "'--architectures': it must be at least 3"),
    ],
)
def test_a_number_out_of_bounds_is_refused_with_the_bound(command: Command, words: str, says: str) -> None:
    result = command(*words.split())
    assert result.code == 2
    assert says in result.err


def test_there_are_the_commands_that_are_promised() -> None:
    names = {" ".join(words) for words in commands()}
    assert names >= {"run", "best", "devices", "dashboard", "space show", "data list", "data fetch"}
    assert names >= {f"study {name}" for name in ("create", "list", "show", "delete", "export")}


def test_a_space_is_shown_by_the_options_of_run(command: Command, tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", images=np.zeros((40, 12, 12), np.uint8), labels=np.arange(40) % 2)
    shown = command("space", "show", "--data", tmp_path / "own.npz", "--space", "conv", "--set", "space.depth=1")
    assert shown.out.startswith("space conv: 24 architectures")
    for ignored in ("--sampler", "--fix", "--max-macs", "--reference", "--latency-runtime"):
        assert command("space", "show", ignored, "1").code == 2


def test_a_space_of_any_size_is_shown(command: Command, tmp_path: Path) -> None:
    words = ("space", "show", "--data", "digits", "--space", "conv", "--set", "space.depth=250")
    assert command(*words).out.startswith("space conv: 1.1e+345 architectures\n")
    assert json.loads(command(*words, "--json").out)["size"] == 24**250
    print_json({"size": 10**5000}, tmp_path / "size.json")
    assert json.loads((tmp_path / "size.json").read_text()) == {"size": None}


def test_the_list_of_metrics_tells_them_apart(command: Command) -> None:
    advice = [row["advice"] for row in json.loads(command("list", "metrics", "--json").out)]
    assert len(set(advice)) == len(advice)
