"""Studies of several objectives, limits and latency tables, as the command line has them."""

from pathlib import Path

import optuna
import pytest
import torch

from tests.helpers import Command, tiny

SETTINGS = tiny(data__train_limit=300, recipe__epochs=3, space__filters="[4, 16]")
RUN = ("run", "--study", "costs", "--sampler", "random")
TWO = ("--objective", "accuracy", "--objective", "macs")
AT = ("--study", "costs")


def load() -> optuna.Study:
    return optuna.load_study(study_name="costs", storage="sqlite:///nas-optuna.db")


def test_a_run_with_two_objectives_prints_its_front(command: Command) -> None:
    result = command(*RUN, *TWO, "--pruner", "asha", "--trials", 14, *SETTINGS)
    assert result.code == 0, result.err
    assert "front of study costs" in result.out
    assert "hypervolume" in result.err
    assert "accuracy and macs on" in result.err
    assert "MACs" not in result.out + result.err, "an objective is called as it was typed"
    study = load()
    assert [d.name for d in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert study.metric_names == ["accuracy", "macs"]
    states = [t.state.name for t in study.trials]
    assert states.count("PRUNED") > 0
    assert all(t.values is None for t in study.trials if t.state.name == "PRUNED")
    cheapest = study.trials[0]
    assert cheapest.user_attrs["nas_optuna:origin"] == "cheapest"
    assert cheapest.number in {t.number for t in study.best_trials}
    assert cheapest.user_attrs["nas_optuna:macs"] == min(t.user_attrs["nas_optuna:macs"] for t in study.trials)

    front = command("pareto", *AT, "--json").json
    assert {r["number"] for r in front["records"]} == {t.number for t in study.best_trials}
    assert 0 < front["hypervolume"] < 1
    assert front["reference"] == [0.0, max(t.user_attrs["nas_optuna:macs"] for t in study.trials)]
    wide = command("pareto", *AT, "--reference", "macs=1e9", "--json").json
    assert wide["reference"] == [0.0, 1e9]
    assert wide["hypervolume"] > front["hypervolume"]
    for reference, message in (("mac=3", "unknown objective 'mac'"), ("macs", "NAME=VALUE"), ("macs=0", "no room")):
        refused = command("pareto", *AT, "--reference", reference)
        assert (refused.code, message in refused.err) == (2, True)
    assert "best in accuracy alone" in command("best", *AT).err


def test_a_fixed_architecture_is_trained_and_no_cheapest_one(command: Command, place: Path) -> None:
    (place / "fixed.json").write_text('"f16k3s1-f4k3s1"')
    assert command(*RUN, *TWO, "--fixed", "fixed.json", *SETTINGS).code == 0
    assert [t.user_attrs["nas_optuna:architecture"] for t in load().trials] == ["f16k3s1-f4k3s1"]


def test_nothing_above_a_limit_is_trained(command: Command) -> None:
    result = command(*RUN, "--max-macs", "20k", "--trials", 6, "--json", *SETTINGS)
    assert result.code == 0, result.err
    assert "inside the limits: 6 of" in result.err
    trials = load().trials
    assert all(t.user_attrs["nas_optuna:macs"] <= 20_000 and t.constraints["macs"] <= 0 for t in trials)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--objective", "acuracy"], "unknown objective 'acuracy'; did you mean 'accuracy'"),
        (["--objective", "accuracy", "--objective", "accuracy:minimize"], "has one direction, maximize"),
        (["--max-macs", "10"], "no architecture has macs of at most 10; the smallest possible is "),
        (["--max-params", "lots"], "'lots' is not a positive amount"),
        (["--objective", "accuracy", "--latency-table", "absent.json"], "cannot read latency table absent.json"),
    ],
)
@pytest.mark.parametrize("words", [["run", "--study", "costs"], ["study", "create", "costs"]])
def test_bad_input_is_one_line_and_leaves_no_study(
    words: list[str], options: list[str], message: str, command: Command, place: Path
) -> None:
    refused = command(*words, *options, *SETTINGS)
    assert (refused.code, refused.out, len(refused.err.splitlines())) == (2, "", 1)
    assert message in refused.err
    assert not list(place.iterdir())


def test_a_study_keeps_its_limits(command: Command) -> None:
    assert command(*RUN, "--trials", 1, "--max-macs", "20k", *SETTINGS).code == 0
    assert command(*RUN, "--trials", 1).code == 0
    refused = command(*RUN, "--trials", 1, "--max-macs", "30k")
    assert (refused.code, "made with another 'limits'" in refused.err) == (2, True)


def test_a_study_goes_on_elsewhere_when_its_table_is_believed(command: Command, place: Path) -> None:
    space = ["--set", "depth=2", "--set", "filters=[4, 16]", "--input-size", "8"]
    assert command("latency", "measure", "--device", "cpu", "--out", "table.json", "--rounds", 1, *space).code == 0
    at = (*RUN, "--trials", 1, "--device", "cpu")
    objectives = ("--objective", "accuracy", "--objective", "latency_ms", "--latency-table", "table.json")
    assert command(*at, *objectives, *SETTINGS).code == 0
    table = place / "table.json"
    table.write_text(table.read_text().replace(torch.__version__, "0.1"))
    refused = command(*at)
    assert refused.code == 2
    assert command(*at, *refused.err.strip().rpartition(": ")[2].split()).code == 0
    assert [t.state.name for t in load().trials] == ["COMPLETE"] * 2
