"""The replay is a search: what it counts and finds is what the study and the table say."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import compare  # noqa: E402
import limits  # noqa: E402
from made_up import NATURES  # noqa: E402
from replay import Replay, Task, make_study, one_epoch, regret, search  # noqa: E402
from tables import Chain, Table, open_table, synthetic  # noqa: E402

from nas_optuna.execution.stopping import StopWhen, parse_until  # noqa: E402


@pytest.fixture(scope="module", params=["digits", "synthetic", "misleading"])
def table(request: pytest.FixtureRequest) -> Table:
    made = synthetic(layers=2) if request.param == "synthetic" else open_table(request.param)
    assert isinstance(made, Table)
    return made


def written(path: Path, epochs: int) -> Path:
    """A table of a part of its space: slots that are absent, and a schedule that dips every third epoch."""
    rng = np.random.default_rng(0)
    parameters = {
        "layer1.width": {"choices": [8, 16, 32], "ordered": True},
        "layer1.kind": {"choices": ["conv"], "ordered": False},
        "layer2.width": {"choices": ["none", 8, 16, 32], "ordered": True},
        "layer2.kind": {"choices": ["none", "conv", "pool", "gap"], "ordered": False},
        "flip": {"choices": [False, True], "ordered": False},
    }
    drawn = np.stack([rng.integers(0, len(p["choices"]), 80) for p in parameters.values()], 1)
    choices = np.unique(drawn, axis=0).astype(np.int16)
    final = 0.5 + 0.04 * choices[:, [0, 2]].sum(1) + 0.02 * rng.random(len(choices))
    share = np.arange(1, epochs + 1) / epochs
    curves = final[:, None] * np.sqrt(share) - 0.05 * (np.arange(epochs) % 3 == 2) * (share < 0.9)
    np.savez(
        path,
        parameters=np.array(json.dumps(parameters)),
        choices=choices,
        sizes=choices[:, [0, 2]].astype(np.float32),
        size_names=np.array(["first", "second"]),
        curves=curves.astype(np.float32),
        seconds=np.ones(len(choices), np.float32),
        about=np.array(json.dumps({"source": "made up"})),
    )
    return path


def test_tables_are_whole(table: Table) -> None:
    assert table.listed is None
    assert table.curves.shape == (table.size, table.epochs)
    assert ((table.curves > 0) & (table.curves <= 1)).all()
    assert all(table.place(table.params(place)) == place for place in (0, 1, table.size - 1))


def test_the_pruner_is_obeyed_and_curves_are_those_of_the_table(table: Table) -> None:
    study = make_study(table, "random+median", seed=0)
    replay = Replay(table, study)
    for _ in range(60):
        replay.run_trial()
    for trial, point in zip(study.trials, replay.points, strict=True):
        curve = table.curve(point.place)
        assert list(trial.intermediate_values.values()) == curve[: len(trial.intermediate_values)]
        assert (point.value is None) == (trial.state == TrialState.PRUNED)
    assert [t.state for t in study.trials].count(TrialState.PRUNED) > 5
    assert replay.points[-1].epochs <= sum(len(t.intermediate_values) for t in study.trials)
    assert regret(table, replay.points) == pytest.approx(100 * (table.best - study.best_value))


def test_what_was_trained_before_costs_nothing() -> None:
    table = open_table("digits")
    study = make_study(table, "random", seed=0)
    for _ in range(2):
        study.enqueue_trial(table.params(3))  # type: ignore[union-attr]
    replay = Replay(table, study)
    first, second = replay.run_trial(), replay.run_trial()
    assert (first.epochs, second.epochs, second.trainings) == (5, 5, 1)
    assert second.value == first.value


def test_workers_ask_while_others_train() -> None:
    table = open_table("synthetic")
    study = make_study(table, "random", seed=0)
    replay = Replay(table, study, workers=4)
    for _ in range(12):
        replay.run_trial()
        assert len(study.trials) - len(replay.points) in (3, 4)
    alone = Replay(table, make_study(table, "random", seed=0))
    for _ in range(12):
        alone.run_trial()
    assert replay.points[-1].seconds < 0.5 * alone.points[-1].seconds


def test_the_synthetic_table_has_interactions() -> None:
    final = np.log(synthetic(layers=2).final.reshape((4,) * 4))
    effects = sum(final.mean(axis=tuple(j for j in range(4) if j != i), keepdims=True) for i in range(4))
    assert (final - (effects - 3 * final.mean())).std() > 0.3 * final.std()


def test_dynamic_programming_finds_the_best_chain() -> None:
    chain = Chain(3, layers=3)
    everything = itertools.product(range(24), repeat=3)
    assert chain.best == pytest.approx(max(chain.curve((a * 24 + b) * 24 + c)[0] for a, b, c in everything))


def test_a_search_of_a_chain_improves_on_a_random_one() -> None:
    chain = Chain(0)
    ours, drawn = (search(Task("long-chain", trials=60), method, 0) for method in ("arch", "random"))
    assert 0 <= regret(chain, ours) < regret(chain, drawn)


@pytest.mark.parametrize("nature", NATURES)
def test_a_search_of_a_table_of_any_nature_ends_networks(nature: str) -> None:
    table = open_table(nature)
    points = search(Task(nature, trainings=6), "curves", 0)
    assert sum(point.value is not None for point in points) >= 3
    assert 0 <= regret(table, points) <= 100 * (table.best - table.typical)


@pytest.mark.process
@pytest.mark.parametrize("nature", ["three-epochs", "unordered-unknown"])
def test_a_made_up_table_is_a_file_like_any_other(nature: str, tmp_path: Path) -> None:
    path = tmp_path / "made.npz"
    command = [sys.executable, str(BENCHMARKS / "made_up.py"), nature, "--out", str(path)]
    subprocess.run(command, check=True)
    read, named = open_table(str(path)), open_table(nature)
    assert isinstance(read, Table)
    assert isinstance(named, Table)
    assert np.array_equal(read.curves, named.curves)
    assert read.listed is not None
    assert read.place(read.listed[3]) == 3


@pytest.mark.process
@pytest.mark.parametrize("epochs", [5, 90])
def test_every_row_is_measured_on_any_table(tmp_path: Path, epochs: int) -> None:
    rows = "random,tpe,hyperband,one-epoch,arch,curves"
    command = [sys.executable, str(BENCHMARKS / "equal_epochs.py"), "--table", str(written(tmp_path / "a.npz", epochs))]
    command += ["--seeds", "2", "--samplers", rows, "--budgets", "3,6", "--json", str(tmp_path / "out.json")]
    done = subprocess.run([*command, "--processes", "1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    assert list(found) == rows.split(",")
    assert all(set(figures) == {"3", "6"} for figures in found.values())
    assert all(f["mean"] >= 0 and f["se"] >= 0 for row in found.values() for f in row.values())
    assert found["curves"]["6"]["mean"] <= found["random"]["6"]["mean"]


DAMAGES = {
    "sizes, curves": lambda t: {key: value for key, value in t.items() if key not in ("sizes", "curves")},
    "finite": lambda t: t | {"curves": np.where(np.arange(5) == 2, np.nan, t["curves"])},
    "from 0 to 1": lambda t: t | {"curves": 100 * t["curves"]},
    "'layer1.width' are beyond its 3": lambda t: t | {"choices": t["choices"] + np.eye(5, dtype=int)[0] * 3},
    "number of networks": lambda t: t | {"seconds": t["seconds"][1:]},
    "no JSON": lambda t: t | {"parameters": np.array("{")},
    "no curves": lambda t: {k: v[:0] if k in ("choices", "sizes", "curves", "seconds") else v for k, v in t.items()},
    "same choice twice": lambda t: t | {"parameters": np.array(str(t["parameters"]).replace("16", "8"))},
}


@pytest.mark.parametrize("says", DAMAGES)
def test_a_damaged_table_is_one_line(says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with np.load(written(tmp_path / "whole.npz", 5)) as file:
        np.savez(tmp_path / "damaged.npz", **DAMAGES[says](dict(file)))
    with pytest.raises(SystemExit) as ended:
        compare.main(["regret", "--table", str(tmp_path / "damaged.npz")])
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert says in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("kept", [0, 4, 300])
def test_a_file_that_was_cut_is_one_line(kept: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path / "table.npz", 5)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(SystemExit):
        compare.main(["regret", "--table", str(path)])
    assert "cannot be read as .npz" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--budgets", "5,a", "--budgets takes numbers from 1, got 'a'"),
        ("--seeds", "0", "--seeds takes numbers from 1"),
        ("--samplers", "random,acrh", "did you mean 'arch'?"),
        ("--json", "/absent/out.json", "there is no folder /absent"),
    ],
)
def test_an_option_that_cannot_be_is_one_line(
    option: str, value: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        compare.main(["regret", "--table", "digits", option, value])
    said = capsys.readouterr().err
    assert (ended.value.code, said.count("\n")) == (2, 1)
    assert says in said


@pytest.mark.parametrize("networks", [1, 3])
@pytest.mark.parametrize("epochs", [1, 2, 5])
@pytest.mark.parametrize("method", ["random", "tpe", "hyperband", "arch", "curves"])
def test_a_search_ends_where_every_network_was_trained(method: str, epochs: int, networks: int, tmp_path: Path) -> None:
    with np.load(written(tmp_path / "table.npz", epochs)) as file:
        parts = {k: file[k][:networks] for k in ("choices", "sizes", "curves", "seconds")}
        np.savez(tmp_path / "few.npz", **{**file, **parts, "sizes": parts["sizes"][:, :0], "size_names": np.array([])})
    table = open_table(str(tmp_path / "few.npz"))
    points = search(Task(str(tmp_path / "few.npz"), trainings=10), method, 0)
    assert regret(table, points) == 0
    assert points[-1].epochs <= networks * epochs


def test_a_small_space_is_used_up() -> None:
    """Samplers list what is left of it."""
    table = Table.of("small", small())
    replay = Replay(table, make_study(table, "arch", 0))
    assert {replay.run_trial().place for _ in range(16)} == set(range(16))


def small() -> dict[str, np.ndarray]:
    """A whole space of 16 networks, two epochs each."""
    parameters = {
        "a": {"choices": [1, 2, 3, 4], "ordered": True},
        "b": {"choices": [8, "none", 1, 2], "ordered": False},
    }
    return {
        "parameters": np.array(json.dumps(parameters)),
        "choices": np.indices((4, 4)).reshape(2, -1).T,
        "sizes": np.zeros((16, 0)),
        "size_names": np.array([], str),
        "curves": np.random.default_rng(0).random((16, 2)),
        "seconds": np.ones(16),
    }


def test_the_best_of_one_epoch_are_trained_to_the_end() -> None:
    table = open_table("digits")
    assert one_epoch(table, 0, 3) >= one_epoch(table, 0, 10_000) >= 0


@pytest.mark.parametrize("command", ["regret", "time", "stalled", "front"])
def test_each_question_has_an_answer(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    arguments = [command, "--table", "digits", "--samplers", "random,tpe+guarded", "--seeds", "2", "--budgets", "2,4"]
    compare.main([*arguments, "--trials", "12", "--processes", "1", "--json", str(out)])
    found = json.loads(out.read_text())
    assert list(found) == ["random", "tpe+guarded"]
    assert [line.split(" | ")[0] for line in capsys.readouterr().out.splitlines()[2:]] == ["| random", "| tpe+guarded"]


@pytest.mark.parametrize("kind", ["related", "contrary"])
def test_an_earlier_study_of_one_epoch_helps_at_once(kind: str) -> None:
    table = open_table("synthetic")
    plain, taught = (search(Task("synthetic", trials=5, earlier=k), "arch", 0) for k in ("none", kind))
    assert (regret(table, taught) < regret(table, plain)) == (kind == "related")


def test_times_are_those_of_the_first_network_so_good() -> None:
    table = open_table("digits")
    points = search(Task("digits", trials=40), "arch", 0)
    ends = compare.times_of(Task("digits", trials=40), "arch", 0, targets=[1.0, 0.5, -1.0])
    for target, end in zip([1.0, 0.5], ends, strict=False):
        first = next(p for p in points if regret(table, [p]) <= target)
        assert end["trainings"] == first.trainings
    assert ends[2]["seconds"] == float("inf")
    figures = compare.summarise({"arch": [ends, ends]}, ["1", "0.5", "-1"], "quartiles")
    assert compare.cell(figures["arch"]["-1"]["seconds"]) == "- (- to -), 0 %"


def test_a_search_is_said_to_end_where_a_study_ends() -> None:
    table = open_table("digits")
    (run,) = compare.ending_of(Task("digits", trials=40), "arch", 0, until="stalled:3")
    study = make_study(table, "arch", 0)
    stop = StopWhen([parse_until("stalled:3", ["accuracy"])])
    study.optimize(lambda trial: table.curve(table.suggest(trial))[-1], n_trials=40, callbacks=[stop])
    assert run["ends"] == len(study.trials) < 40
    assert run["regret"] == pytest.approx(100 * (table.best - study.best_value))
    assert 0 <= run["lost"] <= run["regret"]


@pytest.mark.parametrize("told", [True, False])
def test_searches_under_a_limit_stay_inside(told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TRAININGS", 5)
    table = open_table("digits")
    assert isinstance(table, Table)
    points, share = limits.search_within(table, "arch", told, float(np.median(table.macs)), 0)
    assert points >= 0
    assert 0 < share <= 1


def test_fronts_are_worse_when_cheap_networks_are_compared_with_dear_ones() -> None:
    table = open_table("digits")
    assert isinstance(table, Table)
    ours, against_all = (limits.search_front(table, "random+asha", 0, against_all=on) for on in (False, True))
    assert 0 < against_all < ours < 1
    assert limits.search_front(table, "random+asha", 0, begin_cheap=True) > ours


def test_a_process_that_knows_the_covariance_finds_more() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    known = f"{BENCHMARKS / 'known_covariance.py'}:known"
    task = Task("synthetic", trials=12)
    found, drawn = (regret(open_table("synthetic"), search(task, method, 0)) for method in (known, "random"))
    assert found < drawn
