"""Tables that must not be believed: every command that takes one refuses it, in one line and with a remedy."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nas_optuna import ConvSpace
from nas_optuna.cli import main
from nas_optuna.costs.latency_table import LatencyTable
from tests.helpers import Command

OPTIONS = {"depth": 2, "filters": (4, 8), "kernels": (3,), "strides": (1,)}
SPACE = ConvSpace(**OPTIONS, input_size=8)  # type: ignore[arg-type]
SETS = [f"space.{name}={list(v) if isinstance(v, tuple) else v}" for name, v in OPTIONS.items()]
SIZED = [word for text in (*SETS, "recipe.input_size=8") for word in ("--set", text)]
SETTINGS = [*SIZED, "--set", "recipe.epochs=1"]
BOARD = {
    "device": "cpu",
    "device_name": "a board on my desk",
    "runtime": "onnxruntime",
    "version": "1.32.0",
    "threads": 1,
    "batch_size": 1,
    "precision": "fp32",
}
Table = dict[str, Any]
Change = Callable[[Table], Any]


def sound() -> Table:
    """A table as a kit's measure.py prints it: whole networks take what their operations take, and a tenth more."""
    entries = {op.key: [[0.01 * (i + 1)] * 3] * 2 for i, op in enumerate(SPACE.reachable_operations())}
    told = {str(a): sum(entries[op.key][0][1] for op in SPACE.operations(a)) for a in SPACE.enumerate()}
    networks = {text: [[1.1 * ms] * 3] * 2 for text, ms in told.items()}
    head = {"format": "nas-optuna latency table 1", "space": "conv", "conditions": BOARD, "date": "2026-01-01"}
    looks = [[0.01] * 3] * 12
    return {**head, "entries": entries, "networks": networks, "looks": looks, "kit": "0123", "overhead_ms": 0.0}


def first(table: Table) -> list[Any]:
    """The visits of some operation."""
    return next(iter(table["entries"].values()))


def one(value: object) -> Change:
    return lambda table: first(table).__setitem__(0, [value, value, value])


def conditions(**more: object) -> Change:
    return lambda table: table.update(conditions=BOARD | more)


def scaled(kind: str, factor: float) -> Change:
    def change(table: Table) -> None:
        table[kind] = {key: [[factor * ms for ms in v] for v in visits] for key, visits in table[kind].items()}

    return change


DAMAGED: dict[str, tuple[Change, str]] = {
    "an operation is missing": (lambda t: t["entries"].pop(next(iter(t["entries"]))), "lacks 1 of the 8 operations"),
    "no operation is left": (lambda t: t.update(entries={}), "lacks 8 of the 8 operations"),
    "an operation without visits": (lambda t: first(t).clear(), "at least 1 item"),
    "unknown precision": (conditions(precision="int4"), "unknown precision of runtime 'onnxruntime': 'int4'"),
    "a precision of another runtime": (conditions(runtime="torch", precision="int8"), "unknown precision"),
    "unknown runtime": (conditions(runtime="tflite"), "unknown runtime 'tflite'"),
    "a runtime that is code": (conditions(runtime="evil.py:run"), "unknown runtime 'evil.py:run'"),
    "a device that the runtime has not": (conditions(device="npu"), "runs on cpu"),
    "no threads": (conditions(threads=0), "greater than or equal to 1"),
    "a batch of text": (conditions(batch_size="one"), "conditions.batch_size"),
    "negative": (one(-0.1), "-0.1 cannot be the milliseconds of a call"),
    "zero": (one(0.0), "0 cannot be the milliseconds of a call"),
    "not a number": (one(float("nan")), "nan"),
    "infinite": (one(float("inf")), "inf"),
    "huge": (one(1e300), "1e+300 cannot be the milliseconds of a call"),
    "more digits than a float holds": (one(10**400), "entries"),
    "true": (one(True), "entries"),
    "text": (one("0.1"), "entries"),
    "null": (one(None), "entries"),
    "quartiles out of order": (
        lambda t: first(t).__setitem__(0, [3.0, 2.0, 1.0]),
        "3, 2, 1 cannot be the milliseconds",
    ),
    "seconds": (scaled("entries", 1e-3), "cannot be the milliseconds of a call"),
    "operations in microseconds": (scaled("entries", 1e3), "contradicts itself"),
    "networks in microseconds": (scaled("networks", 1e3), "contradicts itself"),
    "an overhead that leaves nothing": (lambda t: t.update(overhead_ms=-9.0), "overhead of -9 ms leaves nothing"),
    "an overhead that is all": (lambda t: t.update(overhead_ms=900.0), "contradicts itself"),
    "a unit of its own": (lambda t: t.update(unit="us"), "unit"),
    "throttled": (lambda t: t.update(looks=[[0.01] * 3] * 6 + [[0.02] * 3] * 6), "throttled or busy (6 of 12 looks)"),
    "a later version": (lambda t: t.update(format="nas-optuna latency table 2"), "format: String should match pattern"),
    "another file of ours": (lambda t: t.update(format="nas-optuna latency kit 1"), "or the measure.py of a kit"),
    "another space": (lambda t: t.update(space="block"), "is of space 'block', not 'conv'"),
    "another input size": (
        lambda t: t.update(entries={key.replace("8x8", "9x9"): v for key, v in t["entries"].items()}),
        "of another input size",
    ),
}
TORN: dict[str, tuple[Callable[[str], str], str]] = {
    "empty": (lambda text: "", "Invalid JSON"),
    "half written": (lambda text: text[: len(text) // 2], "Invalid JSON"),
    "two of them": (lambda text: text * 2, "Invalid JSON"),
    "a list": (lambda text: f"[{text}]", "should be an object"),
    "deep": (lambda text: "[" * 100_000, "is not a sound latency table"),
    "no text": (lambda text: "\0" + text, "Invalid JSON"),
    "the log of a measurement": (lambda text: '{"kit": "0123"}\n["entries", "conv", [1, 1, 1]]\n', "Invalid JSON"),
}


def texts() -> dict[str, tuple[str, str]]:
    """Every damaged file's text, and what is said of it."""
    found = {}
    for name, (change, says) in DAMAGED.items():
        table = json.loads(json.dumps(sound()))
        change(table)
        found[name] = json.dumps(table), says
    whole = json.dumps(sound())
    return found | {name: (change(whole), says) for name, (change, says) in TORN.items()}


TEXTS = texts()


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study of one trained network."""
    folder = tmp_path_factory.mktemp("searched")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("NAS_OPTUNA_STORAGE", raising=False)
        more = ["--set", "data.train_limit=100"]
        assert main(["run", "--study", "done", "--sampler", "random", "--trials", "1", *SETTINGS, *more]) == 0
    return folder


@pytest.mark.parametrize("name", TEXTS)
def test_commands_refuse_it_in_one_line(name: str, searched: Path, command: Command, place: Path) -> None:
    shutil.copytree(searched, place, dirs_exist_ok=True)
    text, says = TEXTS[name]
    (place / "table.json").write_text(text)
    by_table = ["--latency-table", "table.json"]
    limited = [*by_table, "--max-latency", "50"]
    commands = (
        ["best", "--study", "done", *by_table],
        ["run", "--study", "new", "--trials", "1", *SETTINGS, *limited],
        ["supernet", "train", "--study", "new", *SETTINGS, *by_table],
        ["fit", "digits", "--within", "20s", "--space", "conv", "--out", "model", *SIZED, *limited],
    )
    for words in (commands[0], commands[1 + list(TEXTS).index(name) % 3]):  # all read it in the same way
        refused = command(*words)
        lines = [
            line for line in refused.err.splitlines() if "reading digits" not in line and "a network for" not in line
        ]
        assert (refused.code, refused.out, len(lines)) == (2, "", 1), (words, refused.err)
        assert lines[0].startswith("error: ")
        assert "table" in lines[0]
        assert says in lines[0], words
        assert ";" in lines[0] or ":" in lines[0].removeprefix("error: "), "it says what to do"
        assert LatencyTable.__name__ not in lines[0]
    assert command("study", "list", "--json").out.count('"new"') == 0, "nothing was begun"


def test_the_same_table_without_damage_is_taken(searched: Path, command: Command, place: Path) -> None:
    shutil.copytree(searched, place, dirs_exist_ok=True)
    (place / "table.json").write_text(json.dumps(sound()))
    shown = command("best", "--study", "done", "--latency-table", "table.json", "--max-latency", "50", "--json")
    assert shown.code == 0, shown.err
    more = ["--set", "data.train_limit=100", "--latency-table", "table.json", "--max-latency", "50"]
    assert command("run", "--study", "new", "--trials", "1", *SETTINGS, *more).code == 0


def test_where_nothing_is_inside_a_limit_it_says_what_the_fastest_takes(
    searched: Path, command: Command, place: Path
) -> None:
    shutil.copytree(searched, place, dirs_exist_ok=True)
    table = sound()
    words = ["best", "--study", "done", "--latency-table", "table.json"]
    for networks, more in ((table["networks"], ", and may take 10.0% longer"), ({}, "")):
        (place / "table.json").write_text(json.dumps(table | {"networks": networks}))
        told = command(*words, "--json").json["costs"]["latency_ms"]
        refused = command(*words, "--max-latency", "1e-3")
        assert (refused.code, refused.out) == (2, "")
        assert refused.err == (
            "error: no network of study 'done' needs at most 0.001 ms; the fastest takes"
            f" {told:.4g} ms by table.json{more}; raise --max-latency\n"
        )


def test_a_throttled_table_is_taken_when_its_user_says_so(command: Command, place: Path) -> None:
    (place / "table.json").write_text(TEXTS["throttled"][0])
    more = ["--set", "data.train_limit=100", "--latency-table", "table.json", "--set", "latency.force=true"]
    taken = command("run", "--trials", "1", *SETTINGS, *more)
    assert taken.code == 0, taken.err
