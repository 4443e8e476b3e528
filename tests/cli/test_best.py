"""``nas-optuna best``: the winner, what chance cannot tell from it, and the cheapest of these."""

from pathlib import Path

import optuna
import pytest
from optuna.trial import create_trial

from nas_optuna.study.schema import StudyKey
from tests.helpers import Command


@pytest.fixture
def searched(study: str) -> str:
    """The study with two more trials: one far better than its own, and one that is nearly as good and cheaper."""
    loaded = optuna.load_study(study_name=study, storage="sqlite:///nas-optuna.db")
    template = loaded.trials[0]
    for accuracy, macs in ((0.97, 2000), (0.965, 1000)):
        attributes = template.user_attrs | {"nas_optuna:accuracy": accuracy, "nas_optuna:macs": macs}
        loaded.add_trial(
            create_trial(
                value=accuracy,
                params=template.params,
                distributions=template.distributions,
                user_attrs=attributes,
            )
        )
    return study


def test_the_cheapest_within_one_standard_error(command: Command, searched: str) -> None:
    best, cheapest = (command("best", "--study", searched, *more) for more in ((), ("--within", "1se")))
    assert "accuracy" in best.out
    assert "0.9700 ± 0." in best.out
    assert "0.9650 ± 0." in cheapest.out
    for said in (best, cheapest):
        assert "as good as the best: 1 other network, at most one standard error" in said.err
        assert "cheapest of them is trial 3" in " ".join(said.err.split())
    assert "--trial cheapest --out exported" in cheapest.err.partition("next: ")[2], "--out model is what fit takes"
    facts = command("best", "--study", searched, "--json").json
    assert (facts["number"], facts["tied"], facts["cheapest"]) == (2, [2, 3], 3)
    assert 0 < facts["standard_error"] < 0.1
    assert "tied: 2 trials as good as the best" in command("study", "show", searched).out
    loaded = optuna.load_study(study_name=searched, storage="sqlite:///nas-optuna.db")
    attributes = loaded.trials[-1].user_attrs | {"nas_optuna:accuracy": 0.975, "nas_optuna:macs": 900}
    loaded.add_trial(create_trial(value=0.975, user_attrs=attributes))
    itself = " ".join(command("best", "--study", searched).err.split())
    assert "2 other networks, at most one standard error" in itself
    assert "below it; none of them has fewer MACs" in itself, "it is none of the others"


def test_no_command_is_advised_that_refuses_what_optuna_alone_made(command: Command, place: object) -> None:
    made = optuna.create_study(study_name="other", storage="sqlite:///nas-optuna.db")
    none = command("best", "--study", "other")
    assert (none.code, none.err.strip()) == (2, "error: study 'other' has no complete trial yet")
    made.add_trial(create_trial(value=float("inf")))
    made.add_trial(create_trial(value=2.5))
    best = command("best", "--study", "other")
    assert (best.code, "2.5" in best.out, "next" in best.err) == (0, True, False)
    two = optuna.create_study(study_name="two", storage="sqlite:///nas-optuna.db", directions=["minimize"] * 2)
    two.add_trial(create_trial(values=[1.0, 2.0]))
    best = command("best", "--study", "two")
    assert (best.code, "study.best_trials" in best.err, "nas-optuna pareto" in best.err) == (0, True, False)


def test_what_cannot_be_honoured_is_one_line(command: Command, study: str) -> None:
    refused = command("best", "--study", study, "--within", "2se")
    assert (refused.code, refused.out, len(refused.err.splitlines())) == (2, "", 1)
    assert "'2se' is not one of '1se'" in refused.err
    loaded = optuna.load_study(study_name=study, storage="sqlite:///nas-optuna.db")
    loaded.set_user_attr(StudyKey.DATA, {})
    refused = command("best", "--study", study, "--within", "1se")
    assert (refused.code, refused.out, len(refused.err.splitlines())) == (2, "", 1)
    assert "no standard error is known" in refused.err


@pytest.mark.parametrize(
    "words", ["retrain", "report", "draw", "compare nas", "study export", "latency measure --space conv"]
)
def test_no_out_overwrites_a_database(command: Command, study: str, words: str) -> None:
    before = Path("nas-optuna.db").read_bytes()
    refused = command(*words.split(), "--out", "nas-optuna.db")
    assert refused.code == 2, refused
    assert Path("nas-optuna.db").read_bytes() == before
    assert refused.err.startswith("error: cannot write nas-optuna.db: a database is not overwritten"), refused.err
