"""What people type at any command line: -h, --version, --quiet, completion, and words that are wrong."""

import io
import json
import math
import os
import shlex
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest

from nas_optuna.__main__ import main as installed_command
from nas_optuna.cli import _COMMANDS, app, main
from nas_optuna.cli.options import _options_of
from nas_optuna.data_sets import data_in
from nas_optuna.study.studies import command as suggestion
from tests.helpers import Command, tiny


def test_the_version_is_printed(command: Command) -> None:
    result = command("--version")
    assert (result.code, result.out, result.err) == (0, f"nas-optuna {version('nas-optuna')}\n", "")


@pytest.mark.parametrize("words", [(), ("run",), ("study",), ("study", "create"), ("latency", "check")])
def test_help_is_short_too(command: Command, words: tuple[str, ...]) -> None:
    assert command(*words, "-h") == command(*words, "--help")
    assert command(*words, "-h").code == 0


@pytest.mark.parametrize("words", [(), ("study",), ("latency",), ("data",), ("supernet",)])
def test_a_group_alone_shows_its_help(command: Command, words: tuple[str, ...]) -> None:
    assert command(*words) == command(*words, "--help")


@pytest.mark.parametrize(
    ("words", "help_"),
    [
        (("run", "--trails", "3"), "nas-optuna run --help"),
        (("run", "--trials", "x"), "nas-optuna run --help"),
        (("study", "create", "--foo"), "nas-optuna study create --help"),
        (("study", "creat"), "nas-optuna study --help"),
        (("study", "show", "--quiet"), "nas-optuna study show --help"),
        (("nonsense",), "nas-optuna --help"),
    ],
)
def test_errors_name_the_right_help(command: Command, words: tuple[str, ...], help_: str) -> None:
    result = command(*words)
    assert (result.code, result.out) == (2, "")
    assert result.err.endswith(f"; see {help_}\n")
    assert len(result.err.splitlines()) == 1


def test_an_option_of_every_command_is_told_its_place(command: Command) -> None:
    for option in ("--quiet", "-q", "--version"):
        said = command("study", "list", option).err
        assert f"No such option: {option}; it stands before the command: nas-optuna {option} study list;" in said


def test_quiet_leaves_facts_and_errors(command: Command) -> None:
    result = command("--quiet", "run", "--sampler", "random", "--trials", 1, *tiny())
    assert (result.code, result.err) == (0, "")
    assert "1 trial: 1 complete" in result.out
    assert command("--quiet", "best", "--study", "x").err.startswith("error: unknown study 'x'")
    assert command("best").err, "quiet is not remembered"


def completed(words: str) -> list[str]:
    """What bash is offered for the last of the words."""
    launch = [sys.executable, "-c", "import sys; sys.argv[0] = 'nas-optuna'; from nas_optuna.cli import main; main()"]
    asked = {"_NAS_OPTUNA_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    found = subprocess.run(launch, env=os.environ | asked, capture_output=True, text=True, timeout=60, check=False)
    assert (found.returncode, found.stderr) == (0, "")
    return found.stdout.split()


@pytest.mark.process
def test_the_shell_completes_commands() -> None:
    assert completed("nas-optuna st") == ["study"]


@pytest.mark.process
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("run --sampler con", ["controller"]),
        ("run --objective macro", ["macro_f1"]),
        ("supernet train --strategy ", ["fair", "darts", "gumbel"]),
        ("data fetch cifar1", ["cifar10", "cifar100"]),
        ("fit photos --device cu", ["cuda"]),
        ("run --sampler $(touch${IFS}touched)", []),
    ],
)
def test_the_shell_completes_names(place: Path, words: str, offered: list[str]) -> None:
    assert completed(f"nas-optuna {words}") == offered
    assert not list(place.iterdir())


def test_what_a_shell_says_of_an_option_is_what_its_help_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_NAS_OPTUNA_COMPLETE", "complete_fish")
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "nas-optuna run --sp")
    with pytest.raises(SystemExit):
        app(prog_name="nas-optuna")
    assert "--space\tSearch space: conv, block, macro, residual, backbone or" in capsys.readouterr().out


@pytest.mark.process
def test_the_shell_completes_names_of_studies(place: Path) -> None:
    """A name that the shell would read as a command or as several words is left out: anybody may have given it."""
    assert completed("nas-optuna best --study ") == []
    for storage, names in (
        ("sqlite:///nas-optuna.db", ("plain", "pla-in.2", "$(touch touched)", "a b", "`x`", "p;x", "né", "--yes")),
        ("sqlite:///other.db", ("elsewhere",)),
    ):
        for name in names:
            optuna.create_study(study_name=name, storage=storage)
    assert completed("nas-optuna best --study ") == ["plain", "pla-in.2"]
    assert completed("nas-optuna study delete pla-") == ["pla-in.2"]
    assert completed("nas-optuna compare plain pla-") == ["pla-in.2"]
    assert completed("nas-optuna best --storage sqlite:///other.db --study ") == ["elsewhere"]
    for url in ("postgresql://nobody@127.0.0.1:1/x", "nonsense", "sqlite:///absent.db"):
        assert completed(f"nas-optuna best --storage {url} --study ") == []
    assert sorted(file.name for file in place.iterdir()) == ["nas-optuna.db", "other.db"]


def test_hints_can_be_typed(command: Command) -> None:
    name, storage = "a b; echo $x", "sqlite:///other place.db"
    created = command("study", "create", name, "--storage", storage, *tiny())
    assert created.code == 0, created.err
    words = shlex.split(created.err.rpartition("next: ")[2])
    assert words == ["nas-optuna", "run", "--study", name, "--trials", "20", "--storage", storage]
    for arguments in (("best",), ("pareto",)):
        error = command(*arguments, "--study", name, "--storage", storage).err
        said = error.partition("; nas-optuna ")[2]
        assert shlex.split(said.rpartition(" makes some")[0])[-4:] == ["--study", name, "--storage", storage]


def test_what_comes_next_finds_the_same_data_sets(command: Command) -> None:
    where = ("--data-dir", "my data")
    created = command("study", "create", *tiny(), *where)
    ran = command("run", "--trials", 1, *where)
    trained = command("supernet", "train", "--budget", 0, "--set", "supernet.short_trainings=0", *where)
    exported = command("supernet", "export", *where)
    for each in (created, ran, trained, exported, command("retrain", *where)):
        assert each.code == 0, each.err
        steps = [line for line in each.err.partition("next: ")[2].splitlines() if "nas-optuna" in line]
        for step in steps:
            assert ("--data-dir 'my data'" in step) != (shlex.split(step)[1] in ("best", "dashboard")), step
        assert steps


def test_a_remedy_finds_the_same_data_sets(command: Command) -> None:
    assert command("study", "create", *tiny()).code == 0
    refused = command("supernet", "export", "--data-dir", "my data").err
    assert "run: nas-optuna supernet train --study nas --data-dir 'my data'" in refused
    with data_in("d"):
        for words, (function, _) in _COMMANDS.items():
            known = _options_of(function)
            if "storage" in known:
                suggested = suggestion("sqlite:///nas-optuna.db", *words.split())
                assert suggested == f"nas-optuna {words}" + " --data-dir d" * ("data_dir" in known)


def test_study_commands_take_the_name_as_a_word_or_as_an_option(command: Command, study: str) -> None:
    assert command("study", "show", "--study", study, "--json") == command("study", "show", study, "--json")
    assert command("study", "export", "--study", study) == command("study", "export", study)
    assert command("study", "delete", "--yes").err.startswith("error: which study?")
    for words in (("show",), ("export",), ("create",), ("delete", "--yes")):
        both = command("study", *words, study, "--study", "other")
        assert (both.code, both.err) == (2, f"error: NAME is {study!r} and --study is 'other'; give one of them\n")
    assert command("study", "delete", "--study", study, "--yes", "--json").json["trials"] == 2


def test_what_comes_next_is_never_a_command_that_fails(command: Command, study: str) -> None:
    limited = command("run", "--study", "l", "--sampler", "random", "--trials", 1, "--max-macs", "20k", *tiny())
    assert limited.code == 0, limited.err
    assert ("nas-optuna best" in limited.err) == ("1 complete" in limited.out)
    for line in command("run", "--sampler", "random", "--trials", 1).err.partition("next: ")[2].splitlines():
        words = shlex.split(line.partition("  ")[0].strip() or line.strip().partition("  ")[0])
        if words[1] in ("best", "report"):
            assert command(*words[1:]).code == 0


def test_best_says_beside_the_accuracy_what_it_is_to_be_compared_with(command: Command, study: str) -> None:
    names = [line.split("  ")[0] for line in command("best").out.splitlines()]
    assert names.index("to compare with") == names.index("accuracy") + 1


def test_two_options_that_contradict_each_other_are_refused(command: Command, study: str) -> None:
    for words, says in (
        (("draw", "--study", study, "--trial", 0, "--architecture", "f4k3s1-f4k3s1"), "give one of them"),
        (("draw", "--study", study, "--trial", "best", "--architecture", "f4k3s1-f4k3s1"), "give one of them"),
        (("study", "export", study, "--format", "csv", "--json"), "leave out --format csv"),
        (("run", "--epochs", 3, "--set", "recipe.epochs=4"), "--epochs and --set recipe.epochs set the same; leave"),
        (("run", "--epochs", 3, "--set", "recipe={epochs=4}"), "--epochs and --set recipe.epochs set the same; leave"),
        (("run", "--epochs", 3, "--set", "recipe . epochs=4"), "--epochs and --set recipe.epochs set the same; leave"),
        (("run", "--set", "sampler.seed = 1", "--seed", 2), "--seed and --set sampler.seed set the same; leave one"),
        (("run", "--sampler", "tpe", "--set", "sampler.name=random"), "--sampler and --set sampler.name set the same"),
        (("study", "create", "--space", "macro", "--set", "space=conv"), "--space and --set space set the same"),
        (("run", "--data", "mnist", "--set", "data=digits"), "--data and --set data set the same; leave one out"),
        (("supernet", "train", "--epochs", 3, "--set", "supernet.epochs=4"), "--epochs and --set supernet.epochs set"),
        (("fit", "digits", "--batch-size", 8, "--set", "recipe.batch_size=9"), "--batch-size and --set recipe.batch"),
    ):
        result = command(*words)
        assert (result.code, result.out, len(result.err.splitlines())) == (2, "", 1)
        assert says in result.err
    assert command("study", "export", study, "--json").code == 0
    assert command("draw", "--study", study, "--trial", 0, "--out", "-").out.startswith("<svg")


def test_a_file_holds_what_its_name_says(command: Command, study: str, place: Path) -> None:
    for words, name, ending in (
        (("report",), "report.pdf", ".html"),
        (("draw", "--trial", 0), "best.PNG", ".svg"),
        (("compare", study), "compare.json", ".html"),
        (("study", "export", "--format", "csv"), "trials.json", ".csv"),
        (("study", "export", "--json"), "trials.csv", ".json"),
        (("study", "export"), "trials.xlsx", ".csv"),
    ):
        result = command(*words, *(() if words[0] == "compare" else ("--study", study)), "--out", name)
        assert (result.code, result.err.count("\n")) == (2, 1), result.err
        assert f"give a file that ends in {ending}" in result.err
        assert not (place / name).exists()
    assert command("study", "export", study, "--out", "trials.JSON").code == 0
    assert json.loads((place / "trials.JSON").read_text(encoding="utf-8"))
    assert command("draw", "--study", study, "--trial", 0, "--out", "picture").code == 0


def test_a_study_shows_what_stands_at_the_top_of_its_spec(command: Command, study: str) -> None:
    shown = command("study", "show", study).out
    (line,) = [line for line in shown.splitlines() if line.startswith("at the top")]
    assert line.split("  ")[-1] == "reuse_duplicates = true, keep_paused = 1000000000"


def test_an_export_holds_no_number_that_json_lacks(command: Command, place: Path) -> None:
    trial = optuna.create_study(storage="sqlite:///nas-optuna.db", study_name="own").ask()
    trial.study.tell(trial, math.inf)
    assert command("study", "export", "own", "--json", "--out", "own.json").code == 0
    exported = (place / "own.json").read_text(encoding="utf-8")
    for text in (exported, command("study", "export", "own", "--json").out):
        (row,) = json.loads(text, parse_constant=pytest.fail)
        assert row["value"] is None


@pytest.mark.parametrize(("answer", "code", "said"), [("", 2, "is kept; --yes says it\n"), ("n\n", 0, "is kept\n")])
def test_a_study_is_kept_where_nobody_says_yes(
    command: Command, study: str, monkeypatch: pytest.MonkeyPatch, answer: str, code: int, said: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    kept = command("study", "delete", study)
    assert (kept.code, kept.err.endswith(said)) == (code, True)
    assert study in command("study", "list").out


def test_ctrl_c_at_the_question_is_an_interruption(
    command: Command, study: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Pressed(io.StringIO):
        def readline(self, *_: int | None) -> str:
            raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stdin", Pressed())
    assert command("study", "delete", study).code == 130
    assert study in command("study", "list").out


def test_a_number_that_nobody_reads_is_no_trial_to_release(command: Command, study: str) -> None:
    result = command("study", "release", study, "9" * 5000)
    assert result.code == 2
    assert result.err.startswith("error: which trials? give the numbers of running ones, not '999")
    assert result.err.count("\n") == 1
    forgotten = command("study", "release", "3")
    assert "give the numbers of running ones after the study's name, '3'" in forgotten.err


def test_ctrl_c_in_any_command_is_one_line(command: Command, study: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def press(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nas_optuna.report.facts.StudyFacts.gain_of", press)
    result = command("best", "--study", study)
    assert (result.code, result.out, result.err) == (130, "", "error: interrupted\n")

    def press_in_an_import(*_: object, **__: object) -> None:
        try:
            press()
        except KeyboardInterrupt:
            raise AttributeError("module 'sqlalchemy' has no attribute 'exc'") from None

    monkeypatch.setattr("nas_optuna.report.facts.StudyFacts.gain_of", press_in_an_import)
    result = command("best", "--study", study)
    assert (result.code, result.out, result.err) == (130, "", "error: interrupted\n")
    monkeypatch.setattr("nas_optuna.cli.options.Command.make_context", press)  # while its words are read
    result = command("best", "--study", study)
    assert (result.code, result.out, result.err) == (130, "", "error: interrupted\n")


@pytest.mark.parametrize("importing", [False, True])
def test_ctrl_c_while_torch_is_imported_ends_the_process_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], importing: bool
) -> None:
    class Ended(BaseException):
        pass

    def end(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr("os._exit", end)
    torch = SimpleNamespace(__spec__=SimpleNamespace(_initializing=importing))
    monkeypatch.setitem(sys.modules, "torch", torch)  # type: ignore[arg-type]
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr("nas_optuna.cli._run", lambda _: signal.raise_signal(signal.SIGINT))
    monkeypatch.setattr("nas_optuna.cli.end_facts", lambda: None)
    try:
        with pytest.raises(Ended if importing else KeyboardInterrupt):
            main()
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "error: interrupted\n" * importing


def test_ctrl_c_while_the_command_is_imported_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Pressed:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "nas_optuna.cli":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "nas_optuna.cli")
    monkeypatch.setattr(sys, "meta_path", [Pressed(), *sys.meta_path])
    assert installed_command() == 130
    assert capsys.readouterr().err == "error: interrupted\n"
