"""What is suggested for a name that nobody knows: what was meant, or nothing, but never something else."""

from pathlib import Path

import pytest

from tests.helpers import Command, tiny

RUN = ("run", "--trials", "1")


def last_line(command: Command, *words: str) -> str:
    result = command(*words)
    assert result.code == 2, result
    (line,) = result.err.splitlines()
    return line


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("epochs", "'recipe.epochs'"),
        ("epoch", "'recipe.epochs'"),
        ("lr", "'recipe.learning_rate'"),
        ("batch", "'recipe.batch_size' or 'latency.batch_size'"),
        ("train_limit", "'data.train_limit'"),
        ("macs", "'limits.macs'"),
        ("latency_ms", "'limits.latency_ms'"),
        ("table", "'latency.table'"),
        ("precision", "'recipe.precision' or 'latency.precision'"),
        ("objective", "'objectives'"),
        ("dataset", "'data'"),
        ("recipe.lr", "'learning_rate'"),
    ],
)
def test_a_key_without_its_section(command: Command, key: str, meant: str) -> None:
    assert f"did you mean {meant}?" in last_line(command, *RUN, "--set", f"{key}=3")


@pytest.mark.parametrize("key", ["depth", "window", "foo.bar"])
def test_a_key_that_nothing_is_near_to(command: Command, key: str) -> None:
    assert "did you mean" not in (line := last_line(command, *RUN, "--set", f"{key}=3"))
    assert line.endswith("other keys follow their section, as in recipe.epochs or space.depth (at the top)")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        *(
            ("acc", "accuracy"),
            ("accuarcy", "accuracy"),
            ("lat", "latency_ms"),
            ("flops", "macs"),
            ("top5", "top5_accuracy"),
        ),
        *(("f1", "macro_f1"), ("loss", "negative_log_likelihood"), ("energy", "energy_mj"), ("parameters", "params")),
        *(("rmse", None), ("auc", None), ("error", None), ("max", None)),
    ],
)
def test_an_objective(command: Command, name: str, meant: str | None) -> None:
    line = last_line(command, *RUN, "--objective", name)
    assert f"did you mean {meant!r}?" in line if meant else "did you mean" not in line


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        *(("--gpu", "--device"), ("--cuda", "--device"), ("--epoch", "--epochs"), ("--n-jobs", "--workers")),
        *(("--n-trials", "--trials"), ("--study-name", "--study"), ("--db", "--storage"), ("--config", "--spec")),
        *(("--max-latency-ms", "--max-latency"), ("--metric", "--objective"), ("--img-size", "--image-size")),
        *(("--debug", None), ("--resume", None), ("--minus", None)),
    ],
)
def test_an_option(command: Command, option: str, meant: str | None) -> None:
    line = last_line(command, *RUN, option, "3")
    assert f"No such option: {option}; did you mean {meant}?" in line if meant else "did you mean" not in line


@pytest.mark.parametrize(
    ("option", "name", "meant"),
    [
        *(("--sampler", "genetic", None), ("--sampler", "hyperband", None), ("--sampler", "random search", "random")),
        *(
            ("--sampler", "nsga-ii", "nsga2"),
            ("--pruner", "Hyper Band", "hyperband"),
            ("--data", "CIFAR-10", "cifar10"),
        ),
        *(("--data", "fashion", "fashion-mnist"), ("--space", "Macro-Space", "macro"), ("--space", "resnet", None)),
    ],
)
def test_a_part(command: Command, option: str, name: str, meant: str | None) -> None:
    line = last_line(command, *RUN, option, name)
    assert f"did you mean {meant!r}?" in line if meant else "choose one of: " in line


@pytest.mark.parametrize("words", [("best",), ("report",), ("study", "list"), ("export", "--out", "model")])
def test_an_empty_folder_is_told_what_begins_a_study(command: Command, words: tuple[str, ...]) -> None:
    assert "nas-optuna run begins one" in last_line(command, *words)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("folder:.", "here has 0 class folders"),
        ("folder:..", "has 1 class folder"),
        ("", "the data set has no name; give"),
        (" ", "the data set has no name; give"),
        ("https://example.org/photos.zip", "is an address; download it"),
        ("NPZ:absent.npz", "data set 'npz:absent.npz': it does not exist"),
        ("Folder:absent", "absent does not exist; it should hold one directory per class"),
    ],
)
def test_data_that_are_none_have_a_name(command: Command, data: str, said: str) -> None:
    assert said in last_line(command, *RUN, "--data", data)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--epochs", "12"), "another 'recipe' (epochs 1 → 12)"),
        (("--set", "space.depth=3"), "another 'space' (depth 2 → 3)"),
        (("--epochs", "12", "--set", "space.depth=3"), "another 'space' (depth 2 → 3); 'recipe' (epochs 1 → 12)"),
        (("--objective", "macro_f1"), "another 'objectives' (accuracy → macro_f1)"),
        (("--max-macs", "3M"), "another 'limits' (macs none → 3000000)"),
    ],
)
def test_what_has_changed_is_shown(command: Command, study: str, words: tuple[str, ...], said: str) -> None:
    assert said in last_line(command, *RUN, *words)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("accuracy 95", "the best possible is 1 and the worst possible is 0; 95 per cent are written as 0.95 or 95%"),
        ("stalled:-1", "'stalled:-1' ends no study; write stalled, stalled:10"),
        ("macs:1M", "unknown objective 'macs'"),
        ("accuracy", "in quotes, because a shell takes > and < for itself"),
        ("accuracy > 0.9", "'accuracy > 0.9' ends no study; write stalled, stalled:10, accuracy:0.98"),
    ],
)
def test_until(command: Command, study: str, text: str, said: str) -> None:
    assert said in last_line(command, *RUN, "--until", text)


def test_a_dash_is_no_folder(command: Command) -> None:
    assert "--out - would write to the terminal" in last_line(command, "fit", "digits", "--within", "30s", "--out", "-")
    assert not Path("-").exists()
    assert command("study", "create", *tiny()).code == 0
