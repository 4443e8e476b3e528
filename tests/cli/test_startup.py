"""The command answers at once: what is slow to import waits until it is needed."""

import json
import os
import sqlite3
import statistics
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from nas_optuna.cli import main
from tests.helpers import Command

PROBE = """
import json, sys
from nas_optuna.cli import main
code = main(sys.argv[1:])
print(json.dumps([code, sorted(sys.modules)]), file=sys.stderr)
"""


def modules(*arguments: str) -> set[str]:
    """The modules that a command has imported when it ends well."""
    found = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments], capture_output=True, text=True, check=True, timeout=100
    )
    code, names = json.loads(found.stderr.splitlines()[-1])
    assert code == 0
    return set(names)


@pytest.mark.process
def test_help_imports_neither_torch_nor_optuna() -> None:
    assert not modules("--help") & {"torch", "optuna", "sqlalchemy", "numpy", "sklearn"}


@pytest.mark.process
@pytest.mark.parametrize("arguments", [("study", "list"), ("best",), ("study", "export")])
def test_a_look_at_studies_does_not_import_torch(command: Command, study: str, arguments: tuple[str, ...]) -> None:
    assert not modules(*arguments) & {"torch", "torchvision", "sklearn", "scipy"}


@pytest.mark.process
def test_importing_the_package_does_not_import_torch() -> None:
    code = "import nas_optuna, sys; nas_optuna.Recipe(); assert not {'torch', 'optuna'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


COMPLETED = """
import sys, typer
from nas_optuna.cli import app
top = typer.main.get_command(app)
waiting, offered = [(top, typer.Context(top))], {}
while waiting:
    command, context = waiting.pop()
    for name in getattr(command, "commands", ()):
        waiting.append((command.commands[name], typer.Context(command.commands[name], parent=context, info_name=name)))
    for parameter in command.params:
        found = parameter.shell_complete(context, "")
        offered[f"{context.command_path} {parameter.opts[0]}".strip()] = [item.value for item in found]
assert "mnist" in offered["run --data"] and "tpe" in offered["run --sampler"], offered
assert offered["best --study"] == offered["supernet check --study"] == ["nas"], offered
assert "presets" in offered["list what"], offered
assert not {"torch", "torchvision", "optuna", "numpy"} & set(sys.modules)
"""


@pytest.mark.process
def test_no_completion_imports_torch(command: Command, study: str) -> None:
    subprocess.run([sys.executable, "-c", COMPLETED], check=True, timeout=100)


def median_seconds(*arguments: str, times: int = 10) -> float:
    """Seconds that the process computed, which do not grow where others use the processor, as the wall clock's do."""
    script = Path(sys.executable).with_name("nas-optuna")
    launch = [str(script)] if script.exists() else [sys.executable, "-m", "nas_optuna"]

    def once() -> float:
        process = subprocess.Popen([*launch, *arguments], stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        return used.ru_utime + used.ru_stime

    return statistics.median(once() for _ in range(times))


@pytest.mark.slow
def test_it_answers_at_once(command: Command, study: str) -> None:
    """0.3 s and 0.8 s on a machine that does nothing else; here two to three times that."""
    assert median_seconds("--help") <= 0.9
    assert median_seconds("study", "list") <= 2.0


def multiply(file: str, times: int) -> None:
    """Give a study many more trials like its first, whose numbers and values differ."""
    columns = {
        "trial_params": "param_name, param_value, distribution_json",
        "trial_user_attributes": "key, value_json",
        "trial_intermediate_values": "step, intermediate_value, intermediate_value_type",
    }
    numbers = f"WITH RECURSIVE n(i) AS (SELECT 100 UNION ALL SELECT i + 1 FROM n WHERE i < {99 + times}) "
    with closing(sqlite3.connect(file)) as connection, connection:
        execute = connection.execute
        execute(
            "INSERT INTO trials (trial_id, number, study_id, state, datetime_start, datetime_complete) " + numbers
            + "SELECT i, (SELECT COUNT(*) FROM trials) + i - 100, study_id, state, datetime_start, datetime_complete"
            " FROM trials, n WHERE trial_id = 1"
        )  # fmt: skip
        for table, names in columns.items():
            chosen = f"{numbers} SELECT i, {names} FROM {table}, n WHERE trial_id = 1"
            execute(f"INSERT INTO {table} (trial_id, {names}) {chosen}")
        execute(
            f"INSERT INTO trial_values (trial_id, objective, value, value_type) {numbers}"
            " SELECT i, 0, i * 1e-5, value_type FROM trial_values, n WHERE trial_id = 1"
        )


@pytest.mark.slow
def test_five_thousand_trials_are_read_in_seconds(command: Command, study: str) -> None:
    multiply("nas-optuna.db", 5000)
    assert command("study", "list", "--json").json[0]["trials"] == 5002
    assert median_seconds("study", "list", times=3) <= 2
    assert median_seconds("best", times=3) <= 3
    assert median_seconds("run", "--trials", "1", times=3) <= 6


@pytest.mark.parametrize(
    ("command", "users_own", "kept"), [("run", None, 256), ("supernet", None, 16384), ("supernet", "7", 7)]
)
def test_a_supernet_keeps_the_kernels_of_all_its_shapes_and_a_users_own_number_stands(
    monkeypatch: pytest.MonkeyPatch, command: str, users_own: str | None, kept: int
) -> None:
    names = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
    for name in names:
        monkeypatch.setenv(name, users_own or "")
        if users_own is None:
            monkeypatch.delenv(name)
    main(["--quiet", command, "--help"])
    assert [os.environ[name] for name in names] == [str(kept)] * 2
