"""The command answers at once: what is slow to import waits until it is needed."""

import json
import os
import statistics
import subprocess
import sys
import time
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


def test_help_imports_neither_torch_nor_optuna() -> None:
    assert not modules("--help") & {"torch", "optuna", "sqlalchemy", "numpy", "sklearn", "plotly"}


@pytest.mark.parametrize("arguments", [("study", "list"), ("best",), ("study", "export")])
def test_a_look_at_studies_does_not_import_torch(command: Command, study: str, arguments: tuple[str, ...]) -> None:
    assert not modules(*arguments) & {"torch", "torchvision", "sklearn", "scipy"}


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import nas_optuna, sys; nas_optuna.Recipe(); assert not {'torch', 'optuna'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def median_seconds(*arguments: str) -> float:
    script = Path(sys.executable).with_name("nas-optuna")
    launch = [str(script)] if script.exists() else [sys.executable, "-m", "nas_optuna"]

    def once() -> float:
        began = time.perf_counter()
        subprocess.run([*launch, *arguments], check=True, stdout=subprocess.DEVNULL, timeout=60)
        return time.perf_counter() - began

    return statistics.median(once() for _ in range(10))


@pytest.mark.slow
def test_it_answers_at_once(command: Command, study: str) -> None:
    """0.3 s and 1.0 s on a machine that does nothing else; here three times that."""
    assert median_seconds("--help") <= 0.9
    assert median_seconds("study", "list") <= 3.0


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
