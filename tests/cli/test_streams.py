"""Text of users is never markup, and the standard streams may be closed, narrow in their encoding, or left."""

import io
import json
import os
import select
import shutil
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from nas_optuna.cli import main, printing
from nas_optuna.cli.printing import STDOUT, print_error, print_json, print_table, say, write_out
from nas_optuna.masking import mask_stream
from nas_optuna.report.facts import to_csv
from tests.helpers import Command, tiny

pytestmark = pytest.mark.process

LAUNCH = [sys.executable, "-m", "nas_optuna"]
NAME = "a[b] [/x] [red]é [link=x]"


def launched(*arguments: str, encoding: str = "utf-8", **streams: object) -> subprocess.CompletedProcess[bytes]:
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    default = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [*LAUNCH, *arguments], env=environment, timeout=100, check=False, **(default | streams)
    )


def encoded(*arguments: str, encoding: str) -> subprocess.CompletedProcess[bytes]:
    """What `launched` gives, without a process of its own."""
    out, err = io.BytesIO(), io.BytesIO()
    with (
        redirect_stdout(io.TextIOWrapper(out, encoding, write_through=True)),
        redirect_stderr(io.TextIOWrapper(err, encoding, write_through=True)),
    ):
        code = main(list(arguments))
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("bracketed")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        patch.delenv("NAS_OPTUNA_STORAGE", raising=False)
        result = encoded("run", "--study", NAME, "--sampler", "random", "--trials", "2", *tiny(), encoding="utf-8")
    assert result.returncode == 0, result.stderr
    assert f"study {NAME}" in result.stdout.decode()
    assert f"created study {NAME!r}" in result.stderr.decode()
    return made


@pytest.fixture
def bracketed(place: Path, folder: Path) -> str:
    """A study with two trials whose name holds what others take for markup."""
    shutil.copytree(folder, place, dirs_exist_ok=True)
    return NAME


def test_brackets_in_a_name_are_no_markup(command: Command, bracketed: str) -> None:
    for arguments in (("study", "show", NAME), ("best", "--study", NAME), ("study", "list")):
        result = command(*arguments)
        assert (result.code, result.err.count("Traceback")) == (0, 0)
        assert NAME in result.out
    assert NAME in command("best", "--study", NAME + "x").err
    assert command("retrain", "--study", NAME, "--trial", "7").err.startswith("error: '7' is no trial")


def test_brackets_in_titles_headings_and_cells_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("[/b] title", ("[/i]", "[red]x"), [("[/]", "[bold]"), (":smile:", "[/c]")])
    out = capsys.readouterr().out
    for text in ("[/b] title", "[/i]", "[red]x", "[/]", "[bold]", ":smile:", "[/c]"):
        assert text in out


def test_brackets_in_help_are_no_markup(command: Command) -> None:
    assert "[supernet] section" in " ".join(command("supernet", "train", "--help").out.split())


def test_what_a_terminal_would_obey_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    print_error("a\x1b[2Jb\rc\nd\x07")
    say("a\x1b]0;title\x07b")
    print_table("\x1b[31m", ("x\x9b2J",), [("\x1b[2J",)])
    printed = "".join(capsys.readouterr())
    assert not set(printed) & set("\x1b\x07\r\x9b")
    assert "error: a\N{REPLACEMENT CHARACTER}[2Jb c d" in printed


def test_what_a_terminal_would_obey_is_not_exported(capsys: pytest.CaptureFixture[str]) -> None:
    cell = "\x1b]0;title\x07\x9b2J"
    table = to_csv([{"param.\x9b2J": cell, "number": 1, "value": None}, {"number": 2}])
    assert table.splitlines()[1:] == ["\ufffd]0;title\ufffd\ufffd2J,1,", ",2,"]
    print_json({cell: cell})
    printed = capsys.readouterr().out
    assert not set(table + printed) & set("\x1b\x07\x9b")
    assert json.loads(printed) == {cell: cell}


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "cp437", "latin-1"])
def test_any_encoding_of_a_pipe_will_do(bracketed: str, encoding: str) -> None:
    for arguments in (
        ("study", "show", NAME),
        ("study", "show", NAME, "--json"),
        ("study", "list"),
        ("best", "--study", NAME),
        ("best", "--study", "Δοκιμή×"),
        ("samplers",),
        ("data", "list"),
        ("run", "--help"),
        ("run", "--study", NAME, "--trials", "1"),
    ):
        found = encoded(*arguments, encoding=encoding)
        assert found.returncode in (0, 2), found.stderr
        assert b"Traceback" not in found.stderr
        if encoding == "ascii":
            (found.stdout + found.stderr).decode("ascii")


def test_a_page_on_stdout_keeps_what_its_encoding_lacks_and_csv_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    def written(text: str, ending: str, encoding: str) -> str:
        out = io.TextIOWrapper(io.BytesIO(), encoding, errors="replace", write_through=True)
        with redirect_stdout(out):
            write_out(STDOUT, text, ending)
        out.seek(0)
        return out.read().strip()

    for ending, encoding in ((".html", "latin-1"), (".svg", "ascii")):
        assert written("<p>é±τ</p>", ending, encoding) == "<p>&#233;&#177;&#964;</p>"
    assert written("<p>é±τ</p>", ".html", "utf_8") == "<p>é±τ</p>"
    assert written("é", ".csv", "latin-1") == "é"
    assert capsys.readouterr().err == ""
    assert written("é,τ", ".csv", "latin-1") == "é,?"
    assert capsys.readouterr().err == "? stands where iso8859-1 lacks a character; --out FILE keeps all\n"


def test_replaced_signs_keep_the_columns_aligned(bracketed: str) -> None:
    lines = launched("study", "show", NAME, encoding="ascii").stdout.decode("ascii").splitlines()
    heading = next(i for i, line in enumerate(lines) if line.startswith("rank"))
    assert set(lines[heading + 1]) == {"?", " "}
    start = lines[heading].index("architecture")
    assert all(line[start] == "f" and line[start - 1] == " " for line in lines[heading + 2 : heading + 4])


@pytest.mark.parametrize(
    ("redirect", "arguments", "code"),
    [
        (">&- 2>&-", ("run", "--study", NAME, "--trials", "1"), 0),
        ("2>&- <&-", ("best", "--study", NAME), 0),
        ("2>&-", ("best", "--study", "no"), 2),
        ("2>/dev/full", ("best", "--study", NAME), 0),
        ("2>/dev/full", ("best", "--study", "no"), 2),
    ],
)
def test_a_stderr_that_takes_nothing_is_no_error_and_the_database_does_not_take_its_place(
    command: Command, bracketed: str, redirect: str, arguments: tuple[str, ...], code: int
) -> None:
    line = f'"$@" {redirect}'
    found = subprocess.run(
        ["bash", "-c", line, "-", *LAUNCH, *arguments], capture_output=True, timeout=100, check=False
    )
    assert (found.returncode, found.stderr) == (code, b"")
    assert b"error" not in found.stdout
    assert bool(found.stdout) == (arguments == ("best", "--study", NAME)), "what belongs on stderr is not on stdout"
    assert command("study", "show", NAME).code == 0


def test_a_terminal_that_is_closed_is_no_error() -> None:
    mine, theirs = os.openpty()
    with os.fdopen(theirs, "w") as stream:
        mask_stream(stream, forgives=True)
        os.close(mine)
        print("facts", file=stream, flush=True)


def test_a_stderr_that_took_nothing_for_a_while_is_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    with os.fdopen(write, "w") as stream, os.fdopen(read) as reader:
        monkeypatch.setattr(sys, "stderr", stream)
        mask_stream(stream, forgives=True)
        for _ in range(20_000):
            printing.say("more than a pipe takes")
        assert os.read(read, 1 << 20)
        printing.say("and again")
        stream.close()
        assert reader.read().endswith("and again\n")


def test_a_slow_reader_of_a_pipe_that_does_not_block_gets_all_facts() -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    code = "from nas_optuna.cli import printing; printing.prepare_streams(); printing.write('facts' * 50_000)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=write) as process:
        os.close(write)
        with os.fdopen(read) as reader:
            assert select.select([reader], [], [], 60)[0]
            time.sleep(0.5)  # the rest finds the pipe full
            assert len(reader.read()) == 250_000
    assert process.returncode == 0


@pytest.mark.parametrize("arguments", [("study", "show", NAME), ("study", "export", NAME), ("run", "--help")])
def test_a_reader_that_leaves_is_no_error(bracketed: str, arguments: tuple[str, ...]) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as gone:
        found = launched(*arguments, stdout=gone)
    assert (found.returncode, found.stderr) == (0, b"")


LOUD = """
import atexit, ctypes, os, sys
from torch import nn
import nas_optuna as nas

def network(c, task):
    print("from print")
    os.write(1, b"from a descriptor\\n")
    os.system("echo from a process")
    sys.__stdout__.write("from the first stream\\n")
    ctypes.CDLL(None).printf(b"from C\\n")
    layers = [nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16, c.choice("width", [4, 8])), nn.LazyLinear(10)]
    return nn.Sequential(*layers)

atexit.register(print, "from the end")
loud = nas.space(network)
"""


@pytest.mark.parametrize("more", [(), ("--workers", "2")])
def test_stdout_holds_facts_alone_whoever_writes_to_it(place: Path, more: tuple[str, ...]) -> None:
    Path("own.py").write_text(LOUD)
    small = ("--set", "recipe.epochs=1", "--set", "data.train_limit=200")
    command = ("run", "--space", "own.py:loud", "--trials", "2", "--json", *small, *more)
    found = subprocess.run(
        [sys.executable, "-m", "nas_optuna", *command], capture_output=True, timeout=300, check=False, text=True
    )
    assert found.returncode == 0, found.stderr
    assert len(json.loads(found.stdout)) == 2
    for who in ("print", "a descriptor", "a process", "the first stream", "C", "the end"):
        assert f"from {who}\n" in found.stderr, who


def test_a_host_keeps_its_stdout(place: Path) -> None:
    script = (
        "import os, sys; from nas_optuna.cli import main; main(sys.argv[1:]); print('mine'); os.system('echo ours')"
    )
    found = subprocess.run(
        [sys.executable, "-c", script, "devices", "--json"], capture_output=True, timeout=100, check=False, text=True
    )
    facts, mine = found.stdout.split("]", 1)
    assert json.loads(facts + "]")
    assert sorted(mine.split()) == ["mine", "ours"]


def test_a_run_goes_on_when_nobody_reads_its_remarks_any_more(command: Command, bracketed: str) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as gone, redirect_stderr(gone):
        assert main(["run", "--study", NAME, "--trials", "2"]) == 0
    states = [trial["state"] for trial in command("study", "show", NAME, "--json").json["trials"]]
    assert states == ["complete"] * 4


def test_words_that_are_no_text_are_refused(command: Command) -> None:
    word = os.fsdecode(b"mine\xff\xfe")
    for arguments in (("study", "create", word), ("run", "--storage", word), (word,)):
        result = command(*arguments)
        assert result.code == 2
        assert result.err.startswith("error: ")
        assert len(result.err.splitlines()) == 1
    assert launched("best", "--study", word).returncode == 2
    assert command("study", "create", "a\0b").err.startswith("error: ")
    assert not list(Path.cwd().iterdir())
    assert command("study", "create", *tiny()).code == 0  # a database is asked for the name
    for arguments in (("best", "--study", word), ("study", "release", word, "1")):
        assert "is not text in UTF-8; write names and paths in UTF-8" in command(*arguments).err
