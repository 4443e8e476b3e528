"""Whatever a user gets wrong: one line on stderr that names it and the remedy, exit code 2, and nothing changed."""

import resource
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest

from nas_optuna import Experiment, cli
from tests.cli.refusals import DATABASE, RUN, refused
from tests.helpers import Command, tiny

UNWRITABLE = "/proc/nas-optuna"  # not even for root


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "--trials", 0), ("'--trials': it must be at least 1",)),
        (("run", "--trials", "many"), ("--trials", "must be a whole number", "see nas-optuna run --help")),
        (("run", "--objective", "f1"), ("--objective: objectives: unknown objective 'f1'",)),
        (("run", "--max-macs", "many"), ("--max-macs: limits", "300k")),
        (("run", "--set", "objectives=accuracy"), ("objectives", "must be a list")),
        (("run", "--timeout", 0), ("--timeout must be positive",)),
        (("run", "--timeout", "1e400"), ("--timeout must be positive and finite, got inf",)),
        (("run", "--trails", 3), ("--trails", "--trials")),
        (("rnu",), ("rnu", "run")),
        ((*RUN, "--sampler", "tqe"), ("unknown sampler 'tqe'; did you mean 'tpe'?",)),
        ((*RUN, "--pruner", "medain"), ("unknown pruner 'medain'; did you mean 'median'?",)),
        ((*RUN, "--device", "cuda:99"), ("'cuda:99' is not on this machine; choose auto, cpu",)),
        ((*RUN, "--device", "gpu"), ("unknown device 'gpu'",)),
        ((*RUN, "--seed", -1), ("sampler.seed", "must be at least 0")),
        ((*RUN, "--spec", "digit-quick"), ("unknown study spec 'digit-quick'; did you mean 'digits-quick'?",)),
        ((*RUN, "--spec", "absent.toml"), ("absent.toml does not exist", "digits-quick")),
        ((*RUN, "--set", "data.name=digit"), ("unknown data set 'digit'; did you mean 'digits'?",)),
        ((*RUN, "--set", "recipe.epoch=3"), ("unknown key 'epoch'; did you mean 'epochs'? (in [recipe])",)),
        ((*RUN, "--set", "recipe.epochs=0"), ("recipe.epochs", "must be at least 1, got 0")),
        ((*RUN, "--set", "recipe.epochs"), ("--set needs section.key=value",)),
        ((*RUN, "--set", "recipe.epochs.x=3"), ("'epochs' is not a section",)),
        ((*RUN, "--set", "recipe=3"), ("recipe",)),
        ((*RUN, "--set", "recipe.precision=fp16"), ("recipe.precision = 'fp16' needs CUDA",)),
        ((*RUN, "--set", "space.name=convv"), ("unknown space 'convv'; did you mean 'conv'?",)),
        ((*RUN, "--set", "space.depht=3"), ("unknown option of space 'conv': 'depht'; did you mean 'depth'?",)),
        ((*RUN, "--set", "space.depth=0"), ("'depth' must be a whole number of at least 1",)),
        ((*RUN, "--set", "sampler.n_startup=3"), ("did you mean 'n_startup_trials'?",)),
        ((*RUN, "--pruner", "guarded", "--set", "pruner.windo=3"), ("did you mean 'window'?",)),
        ((*RUN, "--set", "pruner.windo=3"), ("unknown option of pruner 'curves': 'windo'; there is none",)),
        ((*RUN, "--sampler", "grid"), ("'grid' lists every architecture", "7,962,624", "use random")),
        ((*RUN, "--sampler", "no_such_module:make"), ("'no_such_module:make' cannot be imported",)),
        ((*RUN, "--sampler", "math:cos"), ("sampler 'math:cos' cannot be made",)),
        ((*RUN, "--sampler", "math:pi"), ("sampler 'math:pi' is a float, which cannot be called",)),
        ((*RUN, "--pruner", "math:cos"), ("pruner 'math:cos' gave a float, not a BasePruner",)),
        ((*RUN, "--set", "space.name=builtins:dict"), ("space 'builtins:dict' gave a dict, not a SearchSpace",)),
        ((*RUN, "--set", "data.name=math:cos"), ("data set 'math:cos' cannot be made",)),
        ((*RUN, "--set", "data.name=operator:is_"), ("data set 'operator:is_' gave a bool, not an ImageSet",)),
        ((*RUN, "--set", "data.name=os.path:relpath"), ("data set 'os.path:relpath' cannot be made",)),
        ((*RUN, "--set", "data.train_limit=5000"), ("data.train_limit = 5000 is more than the 1438 images",)),
        (
            (*RUN, "--set", "data.train_limit=2"),
            ("cannot be split with validation_fraction = 0.2", "add images, or change the fraction"),
        ),
        ((*RUN, "--image-size", 50000), ("recipe.input_size: it must be at most 32768",)),
        ((*RUN, "--image-size", 0), ("recipe.input_size: it must be at least 1",)),
        ((*RUN, "--set", "recipe.input_size=[16,40000]"), ("recipe.input_size",)),
        ((*RUN, "--set", "recipe.mix=2"), ("recipe.mix: it must be at most 1",)),
        ((*RUN, "--set", "recipe.shift=-1"), ("recipe.shift: it must be at least 0",)),
        ((*RUN, "--set", "recipe.shift=8"), ("recipe.shift=8 can leave nothing of images of 8×8 pixels",)),
        ((*RUN, "--set", "recipe.cutout=8"), ("recipe.cutout=8", "make it smaller than 8")),
        ((*RUN, "--search", "recipe.cutout=0..9"), ("recipe.cutout=9", "make it smaller than 8")),
        ((*RUN, "--set", "recipe.seed=9007199254740992"), ("recipe.seed: it must be less than",)),
        ((*RUN, "--search", "recipe.learning_rate=1e-4..1e31:log"), ("recipe.learning_rate: it must be less than",)),
        ((*RUN, "--search", "recipe.batch_size=0..3"), ("recipe.batch_size: it must be at least 1, got 0",)),
        ((*RUN, "--search", "recipe.optimizer=sgd,adm"), ("recipe.optimizer: it must be 'sgd' or 'adamw', got 'adm'",)),
        (
            (*RUN, "--latency-runtime", "onnxruntime"),
            ("settings of latency are of no use", "--objective accuracy --objective latency_ms"),
        ),
        ((*RUN, "--max-macs", "1M", "--latency-runtime", "torch"), ("are of no use",)),
        (("study", "create", "--latency-runtime", "torch"), ("are of no use",)),
        ((*RUN, "--set", "latency.threads=2"), ("are of no use",)),
        ((*RUN, "--set", 'latency={runtime="torch"}'), ("are of no use",)),
        (
            (*RUN, "--max-latency", "5", "--latency-runtime", "onnxrt"),
            ("unknown runtime 'onnxrt'; did you mean 'onnxruntime'?",),
        ),
        ((*RUN, "--threads", "9999"), ("9,999 threads are more than this machine can use; take at most",)),
        ((*RUN, "--set", "limits.params=abc"), ("for example 0.5, 300k or 2M\n",)),
        ((*RUN, "--set", "supernet.strategy=dart"), ("unknown strategy 'dart'; did you mean 'darts'?",)),
        (("study", "create", "--set", "supernet.strategy=dart"), ("unknown strategy 'dart'",)),
        ((*RUN, "--fix", "a=1", "--fix", "a = 2"), ("--fix has two values for 'a'; leave one out",)),
        ((*RUN, "--reference", "nowhere:net"), ("reference 'nowhere:net' cannot be imported",)),
        (
            (*RUN, "--sampler", "controller", "--objective", "accuracy", "--objective", "macs"),
            ("sampler 'controller' learns from one objective; for several use evolution or arch",),
        ),
        (("study", "list"), ("there is no database nas-optuna.db; nas-optuna run begins one",)),
        (("best",), ("there is no database",)),
        (("dashboard",), ("there is no database",)),
        (("dashboard", "--port", "0"), ("'--port': it must be at least 1",)),
        (("study", "export", "--format", "xml"), ("'--format': 'xml' is not one of 'csv', 'json'",)),
        (("data", "fetch", "mnst"), ("unknown data set 'mnst'; did you mean 'mnist'?",)),
        (("space", "show", "--set", "space.kernels=[3,3]"), ("'kernel' repeats a choice",)),
        (("study", "create", "--spec", "mnist_fast"), ("did you mean 'mnist-fast'?",)),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else None,
)
def test_options_that_cannot_be_honoured(
    command: Command, arguments: tuple[object, ...], says: tuple[str, ...]
) -> None:
    refused(command, *arguments, says=says)


@pytest.mark.parametrize(
    "arguments",
    [
        ("retrain", "--study", "nsa"),
        ("best", "--study", "nsa"),
        ("study", "show", "nsa"),
        ("study", "export", "nsa"),
        ("study", "delete", "nsa", "--yes"),
    ],
    ids=str,
)
def test_an_unknown_study_is_named_with_the_nearest(
    command: Command, study: str, arguments: tuple[object, ...]
) -> None:
    refused(command, *arguments, says=("unknown study 'nsa'; did you mean 'nas'?",))


def test_a_study_is_not_made_twice(command: Command, study: str) -> None:
    refused(
        command,
        "study",
        "create",
        *tiny(),
        says=("study 'nas' exists; go on with it, delete it",),
    )


@pytest.mark.parametrize("text", ["objectives = [", "just words", "\x00", "a = 1\na = 2"])
def test_a_spec_that_is_not_toml(command: Command, text: str) -> None:
    Path("s.toml").write_text(text)
    refused(command, *RUN, "--spec", "s.toml", says=("s.toml is not TOML",))


def test_a_spec_that_is_not_text(command: Command) -> None:
    Path("s.toml").write_bytes(b"\xff\xfe\x00")
    refused(command, *RUN, "--spec", "s.toml", says=("s.toml is not TOML",))
    Path("folder.toml").mkdir()
    refused(command, *RUN, "--spec", "folder.toml", says=("folder.toml",))


@pytest.mark.parametrize("key", ["recpie", "objective"])
def test_an_unknown_section(command: Command, key: str) -> None:
    Path("s.toml").write_text(f"{key} = 1")
    refused(command, *RUN, "--spec", "s.toml", says=("s.toml: unknown key", "did you mean", "(at the top)"))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("postgresql+psycopg://me:se/cret@127.0.0.1:1/nas", "onnection"),
        ("postgresql+psycopg://me:se/c@ret@127.0.0.1:1/nas", "write one in a user name or password as %40"),
        ("postgresql+nodriver://me:se/cret@127.0.0.1/nas", "is not a database URL; e.g. sqlite:///nas-optuna.db"),
        ("nonsense", "is not a database URL; e.g. sqlite:///nas-optuna.db"),
        (f"sqlite:///{UNWRITABLE}/x.db", "is the folder there, and may you write to it?"),
        ("sqlite:///no/such/folder/x.db", "is the folder there, and may you write to it?"),
        ("sqlite:///x.db?mode=ro", "there is no database x.db"),
        ("sqlite:///x.db?mode=memory", "it may say ?mode=ro"),
        ("sqlite:///x.db?cache=shared", "it may say ?mode=ro"),
        ("sqlite:///x.db?cache_size=1", "leave out the rest"),
        ("sqlite:///what?/x.db", "leave out the rest"),
        *((f"sqlite:///x.db?timeout={text}", "?timeout=SECONDS") for text in ("soon", ".", "²", "-1", "nan", "9" * 22)),
    ],
)
def test_a_storage_that_cannot_be_opened(command: Command, url: str, reason: str) -> None:
    for arguments in (("study", "create", *tiny()), (*RUN, *tiny())):
        refused(command, *arguments, "--storage", url, says=(reason,))
        error = command(*arguments, "--storage", url).err
        assert "se/c" not in error
        assert "ret" not in error.replace("interpret", "")


@pytest.mark.parametrize("arguments", [("study", "list"), (*RUN, *tiny()), ("export", "--out", "model")], ids=str)
def test_a_current_folder_that_is_gone(command: Command, place: Path, arguments: tuple[object, ...]) -> None:
    place.rmdir()
    result = command(*arguments)
    assert (result.code, result.out, len(result.err.splitlines())) == (2, "", 1)
    assert "the current folder cannot be used: No such file or directory; cd to" in result.err


@pytest.mark.parametrize("arguments", [("--version",), ("--help",), ("run", "--help"), ("study", "--help")], ids=str)
def test_help_and_version_need_no_current_folder(command: Command, place: Path, arguments: tuple[object, ...]) -> None:
    place.rmdir()
    result = command(*arguments)
    assert (result.code, result.err) == (0, "")
    assert "nas-optuna" in result.out


def test_words_of_the_process_are_left_to_the_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has no shell that expands * and ~; the parser does, where it is given no words."""
    given: list[object] = []
    monkeypatch.setattr(cli, "app", lambda words, **_: given.append(words))
    monkeypatch.setattr("sys.argv", ["nas-optuna", "study", "list"])
    monkeypatch.setattr(cli, "end_facts", lambda: None)
    monkeypatch.setattr(cli, "prepare_streams", lambda **_: None)
    assert (cli.main(), cli.main(["study", "list"])) == (0, 0)
    assert given == [None, ["study", "list"]]


def test_a_storage_from_the_environment_is_masked_as_well(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_OPTUNA_STORAGE", "postgresql+psycopg://me:hidden@127.0.0.1:1/nas?sslpassword=hidden")
    refused(command, "study", "list", says=("cannot open storage postgresql+psycopg://me:***@127.0.0.1:1/nas",))
    assert "hidden" not in command("study", "list").err


def test_a_file_that_is_no_database(command: Command) -> None:
    Path("notes.txt").write_text("not a database " * 100)
    refused(command, "study", "list", "--storage", "sqlite:///notes.txt", says=("file is not a database",))
    refused(command, *RUN, *tiny(), "--storage", "sqlite:///notes.txt", says=("name another file as the storage",))
    assert Path("notes.txt").read_text() == "not a database " * 100


def test_a_read_only_folder(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir("/proc/self")
    refused(
        command, *RUN, *tiny(), says=("cannot keep files in nas-optuna-files", "may write to; NAS_OPTUNA_FILES names")
    )
    says = ("unable to open database file; is the folder there, and may you write to it?",)
    refused(command, *RUN, *tiny(), "--files", tmp_path / "files", says=says)


def test_files_that_cannot_be_written(command: Command, study: str) -> None:
    refused(command, "study", "export", "--out", UNWRITABLE, says=(f"cannot write {UNWRITABLE}",))
    refused(
        command,
        *("run", "--study", "m", "--spec", "mnist-fast", "--data-dir", UNWRITABLE),
        says=(UNWRITABLE, "digits-quick, which needs no download"),
    )


def test_another_spec_for_a_study_that_exists(command: Command, study: str) -> None:
    refused(command, *RUN, "--set", "space.depth=3", says=("another 'space'", "under another name"))
    refused(command, *RUN, "--set", "recipe.epochs=2", says=("another 'recipe'",))
    refused(command, *RUN, "--spec", "digits-quick", says=("study 'nas' was made with another",))


def test_a_study_that_is_missing_is_created_and_said(command: Command, study: str) -> None:
    made = command("run", "--trials", 1, "--study", "other", "--sampler", "random", *tiny())
    assert (made.code, "created study 'other' from the preset digits-quick" in made.err) == (0, True)


def test_a_study_of_a_newer_version(command: Command, study: str) -> None:
    opened = optuna.load_study(study_name="nas", storage="sqlite:///nas-optuna.db")
    opened.set_user_attr("nas_optuna:format", 99)
    for arguments in (RUN, ("best",), ("study", "show"), ("study", "export")):
        refused(command, *arguments, says=("made by a newer nas-optuna", "pip install -U nas-optuna"))


def test_a_database_of_a_newer_optuna(command: Command, study: str) -> None:
    with closing(sqlite3.connect(DATABASE)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v99.0.0.a'")
    for arguments in (RUN, ("best",), ("study", "list")):
        refused(command, *arguments, says=("cannot open storage sqlite:///nas-optuna.db", "pip install -U optuna"))


def test_a_study_that_is_not_ours(command: Command) -> None:
    optuna.create_study(study_name="theirs", storage="sqlite:///nas-optuna.db")
    refused(
        command, *RUN, "--study", "theirs", says=("was not made by nas-optuna", "study create makes one that knows")
    )
    refused(command, "study", "show", "theirs", says=("was not made by nas-optuna", "best shows what it has"))
    refused(command, "best", "--study", "theirs", says=("no complete trial yet",))
    assert "theirs" in command("study", "list").out


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            '{"conv1.filters": 17, "conv1.kernel": 3, "conv1.stride": 1, "conv2.filters": 16, "conv2.kernel": 3,'
            ' "conv2.stride": 1}',
            ("conv1.filters = 17 is outside its choices", "(16, 24, 32, 48)"),
        ),
        ('{"conv1.filter": 16}', ("did you mean 'conv1.filters'?",)),
        ('{"conv1.filters": 16}', ("'conv1.kernel' has no value",)),
        ("f16k3s1-f16k3s1\nf17k3s1-f16k3s1", ("entry 2", "conv1.filters = 17")),
        ("f16k3s1", ("is not 2 layers of the form f16k3s1",)),
        ("[3]", ("entry 1: 3 is neither",)),
        ("", ("holds no architecture",)),
        ("[]", ("holds no architecture",)),
    ],
)
def test_architectures_to_try_first(command: Command, text: str, says: tuple[str, ...]) -> None:
    Path("first.json").write_text(text)
    refused(command, *RUN, *tiny(), "--enqueue", "first.json", says=("first.json", *says))


def test_a_queue_that_cannot_be_read(command: Command) -> None:
    refused(command, *RUN, *tiny(), "--enqueue", "absent.json", says=("cannot read absent.json: No such file",))
    Path("binary").write_bytes(b"\xff\xf0")
    refused(command, *RUN, *tiny(), "--enqueue", "binary", says=("cannot read binary: it is not text in UTF-8",))


def test_a_locked_database(command: Command, study: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_OPTUNA_STORAGE_PATIENCE", "0.2")
    with closing(sqlite3.connect(DATABASE)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert "nas" in command("study", "list").out, "reading goes on"
        result = command(*RUN)
        assert result.code == 2
        assert result.err.splitlines()[-1].startswith("error: the storage failed: database is locked; another process")
        other.execute("ROLLBACK")
    assert command(*RUN).code == 0


@contextmanager
def limited(kind: int, size: Callable[[], int]) -> Iterator[None]:
    """Let the kernel give this process no more of something as soon as a run has made its experiment."""
    before = resource.getrlimit(kind)
    from_spec = Experiment.from_spec

    def make(*arguments: Any, **given: Any) -> Experiment:
        made = from_spec(*arguments, **given)
        resource.setrlimit(kind, (size(), before[1]))
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Experiment, "from_spec", staticmethod(make))
        try:
            yield
        finally:
            resource.setrlimit(kind, before)


@pytest.mark.parametrize(("size", "says"), [(2_000_000, "cannot keep a checkpoint"), (4096, "the storage failed")])
def test_a_full_disk(command: Command, size: int, says: str) -> None:
    """The kernel refuses to let files of this process grow beyond `size`, as it would on a full disk."""
    Path("large").write_text("f128k7s1-f128k7s1")
    assert command("study", "create", *tiny(space__filters="[16,128]")).code == 0
    with limited(resource.RLIMIT_FSIZE, lambda: size):
        found = command("run", "--trials", 1, "--enqueue", "large")
    assert found.code == 2
    assert "Traceback" not in found.err
    assert found.err.splitlines()[-1].startswith(f"error: {says}")
    states = [trial["state"] for trial in command("study", "show", "--json").json["trials"]]
    assert states in ([], ["waiting"]), "no trial is lost to it"
    assert command(*RUN).code == 0
    assert [trial["state"] for trial in command("study", "show", "--json").json["trials"]] == ["complete"]


@pytest.mark.process
def test_a_full_device(study: str) -> None:
    list_ = [sys.executable, "-c", "from nas_optuna.cli import main; raise SystemExit(main(['study', 'list']))"]
    with open("/dev/full", "w") as full:
        found = subprocess.run(list_, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (found.returncode, found.stderr) == (2, "error: No space left on device\n")


def test_a_port_in_use(command: Command, study: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        result = command("dashboard", "--port", port)
    assert result.code == 2
    assert len(result.err.splitlines()) == 1
    assert f"cannot serve on 127.0.0.1:{port}" in result.err
    assert "choose another --port" in result.err


def test_a_network_that_does_not_fit_fails_alone(command: Command) -> None:
    """Two GiB are left: too little for the first architecture, enough for the second."""
    Path("two").write_text("f8192k7s1-f8192k7s1 f16k3s2-f16k3s2")

    def two_gib_more() -> int:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + 2**31

    with limited(resource.RLIMIT_AS, two_gib_more):
        found = command("run", "--trials", 2, "--enqueue", "two", *tiny(space__filters="[16,8192]"))
    assert found.code == 0, found.err
    assert "Traceback" not in found.err
    trials = sorted(command("study", "show", "--json").json["trials"], key=lambda trial: trial["number"])
    assert [(trial["state"], trial["cause"]) for trial in trials] == [("fail", "oom"), ("complete", None)]


def test_a_fit_that_times_nothing_has_no_use_for_a_runtime(command: Command) -> None:
    result = command("fit", "digits", "--within", "20s", "--latency-runtime", "torch")
    assert result.code == 2
    assert result.err.splitlines()[-1].startswith("error: settings of latency are of no use")
