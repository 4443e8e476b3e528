import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from nas_optuna.cli import app
from tests.helpers import Command


def commands() -> Iterator[tuple[str, ...]]:
    """Every command and every group of them, by its words."""

    def walk(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        yield words
        for name, child in getattr(command, "commands", {}).items():
            yield from walk(child, (*words, name))

    return walk(typer.main.get_command(app), ())


def options(words: list[str]) -> set[str]:
    """The options of the command that a line begins with."""
    command: Any = typer.main.get_command(app)
    for word in words:
        if word not in getattr(command, "commands", {}):
            break
        command = command.commands[word]
    return {option for parameter in command.params for option in parameter.opts}


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_help_ends_with_an_example_that_is_right(command: Command, words: tuple[str, ...]) -> None:
    result = command(*words, "--help")
    assert (result.code, result.err) == (0, "")
    program, *example = shlex.split(result.out.rpartition("Example: ")[2])
    assert program == "nas-optuna"
    assert example[: len(words)] == list(words)
    assert {word for word in example if word.startswith("--")} <= options(example)


def test_there_are_the_commands_that_are_promised() -> None:
    names = {" ".join(words) for words in commands()}
    assert names >= {"run", "best", "devices", "dashboard", "space show", "data list", "data fetch"}
    assert names >= {f"study {name}" for name in ("create", "list", "show", "delete", "export")}
