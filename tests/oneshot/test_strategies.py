"""Strategies by name: options are checked by their own class, an own one is one file, earlier specs are translated."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch

from nas_optuna import ConvSpace, load_data
from nas_optuna.costs.candidates import Candidates
from nas_optuna.costs.study_costs import Limits
from nas_optuna.errors import SpecError
from nas_optuna.execution.evaluator import Search
from nas_optuna.experiment import Experiment
from nas_optuna.oneshot.price import CostTable
from nas_optuna.oneshot.strategies import (
    STRATEGIES,
    find_strategy,
    refuse_unread,
    strategy_options,
    unread,
    without_displaced,
)
from nas_optuna.oneshot.strategies.base import RankedOptions, Strategy, StrategyOptions
from nas_optuna.oneshot.training import make_strategy
from nas_optuna.spec import StudySpec, SupernetSpec
from nas_optuna.study.supernet_result import read_result
from tests.helpers import Command

OWN = '''
"""Shared weights of the widest path only, twice as many steps as it is told."""

from nas_optuna.oneshot.strategies.base import ChoiceWeights, RankedOptions, Strategy


class Options(RankedOptions):
    """One option more.

    Attributes:
        repeats: Steps per batch.
    """

    repeats: int = 2


class Widest(Strategy):
    """Trains the last choice of every parameter."""

    Options = Options

    def step(self, batch):
        path = {name: ChoiceWeights(len(alpha) - 1, None) for name, alpha in self.supernet.alphas.items()}
        for _ in range(self.options.repeats):
            result = self.train_weights(*self.cross_entropy(batch, path), batch)
        return result
'''
CPU = torch.device("cpu")
KEYS = [(name, key) for name in STRATEGIES.names() for key in find_strategy(name).Options.model_fields]


@pytest.mark.parametrize(("strategy", "key"), KEYS)
def test_every_misspelt_option_is_refused_with_the_right_one(strategy: str, key: str) -> None:
    with pytest.raises(SpecError, match=rf"^unknown key '{key}x'; did you mean '{key}'\? \(in \[supernet\], strategy"):
        strategy_options(SupernetSpec(**{"strategy": strategy, f"{key}x": 1}))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"strategy": "fair", "order": 2}, "supernet.order belongs to strategy darts or gumbel"),
        ({"strategy": "darts", "short_trainings": 3}, "supernet.short_trainings belongs to strategy fair"),
        ({"strategy": "gumbel", "budget": 3}, "supernet.budget belongs to strategy fair"),
        ({"budget": 3, "epochs": 2}, "supernet: budget and epochs both"),
        ({"epochs": "many"}, "supernet.epochs: "),
        ({"strategy": "fiar"}, "unknown strategy 'fiar'; did you mean 'fair'"),
        ({"strategy": "math:pi"}, "no subclass"),
    ],
)
def test_what_a_strategy_cannot_have_is_one_line(section: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as error:
        strategy_options(StudySpec.from_dict({"supernet": section}).supernet)
    assert str(error.value).startswith(message) or message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("section", "key", "why"),
    [
        ({"budget": 0, "learning_rate": 0.1, "evaluations": 20}, "learning_rate", "budget=0"),
        ({"budget": 0, "options": {"misspelt": 1}}, "options", "budget=0"),
        ({"alpha_init": "uniform"}, "alpha_init", "strategy=fair"),
        ({"strategy": "darts", "optimizer": "adamw", "momentum": 0.5}, "momentum", "optimizer=adamw"),
    ],
)
def test_a_key_without_effect_is_refused_unless_it_is_stored_or_displaced(
    section: dict[str, Any], key: str, why: str
) -> None:
    spec = StudySpec.from_dict({"supernet": section})
    with pytest.raises(SpecError, match=rf"^supernet\.{key} is of no use with supernet\.{why}; leave it out$"):
        Experiment.from_spec(spec).create(optuna.storages.InMemoryStorage(), "s")
    other = why.partition("=")[0]
    refuse_unread(without_displaced(spec.supernet, [other]), [other])
    assert not unread(without_displaced(spec.supernet, [other], new=True))
    with pytest.raises(SpecError, match=f"supernet.{key}"):
        refuse_unread(without_displaced(spec.supernet, [key], new=True), [key])


@pytest.mark.parametrize(
    ("of_0_2", "strategy", "options"),
    [
        ({"mode": "sampled", "temperature": 2.0}, "gumbel", {"temperature": 2.0}),
        ({"strategy": "darts", "mode": "sampled", "order": 2}, "gumbel", {"order": 2}),
        ({"mode": "mixture"}, "darts", {}),
        ({"update": "joint", "warmup_epochs": 0}, "darts", {"update": "joint", "warmup_epochs": 0}),
        ({"alpha_learning_rate": 0.1}, "darts", {"alpha_learning_rate": 0.1}),
        ({"strategy": "darts", "mode": None}, "darts", {}),
        ({"epochs": 3, "evaluations": 20}, "fair", {"epochs": 3, "evaluations": 20}),
    ],
)
def test_a_section_of_release_0_2_means_what_it_meant(
    of_0_2: dict[str, Any], strategy: str, options: dict[str, Any]
) -> None:
    spec = StudySpec.from_dict({"supernet": of_0_2})
    assert (spec.supernet.strategy, spec.supernet.strategy_options) == (strategy, options)
    assert StudySpec.from_dict(spec.to_dict()) == spec
    assert strategy_options(spec.supernet)


def test_fair_has_no_mode() -> None:
    with pytest.raises(SpecError, match="has no mode"):
        StudySpec.from_dict({"supernet": {"strategy": "fair", "mode": "sampled"}})


def test_an_own_strategy_is_one_file(command: Command, place: Path) -> None:
    """It trains, is ranked, stored, exported and checked; its options are checked by its class."""
    (place / "widest.py").write_text(OWN, encoding="utf-8")
    tiny = ("--set", "data.train_limit=200", "--set", "recipe.input_size=8", "--set", "recipe.epochs=1")
    space = ("--set", "space.depth=2", "--set", "supernet.batch_size=32", "--set", "supernet.evaluations=20")
    named = ("--strategy", "widest.py:Widest", "--trust")
    wrong = command("supernet", "train", *named, *tiny, *space, "--set", "supernet.repeat=3")
    assert wrong.code == 2
    assert "did you mean 'repeats'" in wrong.err
    trained = command(
        "supernet", "train", *named, *tiny, *space, "--epochs", 2, "--json", "--set", "supernet.repeats=3"
    )
    assert trained.code == 0, trained.err
    assert "strategy widest.py:Widest" in trained.err
    assert trained.json["settings"]["repeats"] == 3
    assert len(trained.json["history"]) == 2
    assert command("supernet", "export", "--trust").code == 0
    checked = command("supernet", "check", "--architectures", 3, "--trust")
    assert checked.code == 0, checked.err
    (name,) = optuna.get_all_study_names("sqlite:///nas-optuna.db")
    result = read_result(optuna.load_study(study_name=name, storage="sqlite:///nas-optuna.db"))
    assert result.strategy == "widest.py:Widest"
    assert result.starts


class Silent(Strategy):
    """Trains nothing, and says nothing."""

    gives: Any = None

    def step(self, batch: Any) -> Any:
        return self.gives


class Wordy(Silent):
    gives = "done"


class Halved(Silent):
    gives = (0.5, 3)


class Closing(Silent):
    gives = (torch.tensor(2.0), torch.tensor(1), torch.tensor(1.0), 8)

    def end_epoch(self) -> Any:
        return 5


class Naming(Closing):
    def end_epoch(self) -> Any:
        return {"alpha": 1.0}


class Forgetful(Closing):
    def end_epoch(self) -> Any:
        return {}

    def state_dict(self) -> Any:
        return {"mine": 1}


class Odd(Forgetful):
    def state_dict(self) -> Any:
        return Strategy.state_dict(self) | {"made": {"by": lambda: 1}}


class Stepless(Strategy):
    """Its step is missing."""


class Optionless(Silent):
    Options = dict  # type: ignore[assignment]


class Unranked(Silent):
    Options = StrategyOptions


class Apart(Silent):
    def __init__(self, job: Any, options: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("strategy", "says"),
    [
        (Silent, "step of strategy Silent must return what train_weights gives"),
        (Wordy, "step of strategy Wordy must return"),
        (Halved, "step of strategy Halved must return"),
        (Closing, "end_epoch of strategy Closing must return a dictionary"),
        (Naming, "end_epoch of strategy Naming must return a dictionary"),
        (Forgetful, r"state_dict of strategy Forgetful must return what super\(\)\.state_dict\(\) gives"),
        (Odd, "state_dict of strategy Odd must return .*, to which it may add tensors"),
        (Stepless, "cannot be made: Can't instantiate abstract class Stepless"),
        (Optionless, "the Options of strategy .* are no subclass of"),
        (Unranked, "the Options of strategy .* are no subclass of RankedOptions, which .* learns_alphas = True"),
        (Apart, "must call super"),
    ],
)
def test_a_strategy_that_is_not_finished_is_one_line(strategy: type[Strategy], says: str) -> None:
    data, space = load_data("digits"), ConvSpace(depth=1, filters=(2, 4), kernels=(3,), input_size=8)
    spec = StudySpec.from_dict({"supernet": {"strategy": f"{__name__}:{strategy.__name__}"}})
    search = Search(
        spec, replace(data, train=data.train.subset(range(64))), space, Candidates(Limits.of(spec, space, CPU))
    )

    def train() -> None:
        made = make_strategy(search, CostTable({}, "MMACs", "MACs"), CPU)
        assert made is not None
        list(made.epochs())
        made.checked_state()

    with pytest.raises(SpecError, match=says):
        train()


def test_a_strategy_says_what_it_needs_to_be_ranked() -> None:
    for name in STRATEGIES.names():
        strategy = find_strategy(name)
        assert strategy.learns_alphas != issubclass(strategy.Options, RankedOptions)
        assert strategy.__doc__, "listings show it"


def test_what_is_said_displaces_another_length_and_the_options_of_another_strategy() -> None:
    """A study remembers the settings of its first supernet, of which nobody can leave one out."""
    earlier = SupernetSpec(budget=0, short_trainings=3, seed=2)
    length = without_displaced(earlier, ["epochs", "seed"])
    assert length == SupernetSpec(short_trainings=3, seed=2)
    darts = SupernetSpec(strategy="darts", budget=0, short_trainings=3, learning_rate=0.1)
    assert without_displaced(darts, ["strategy"]) == SupernetSpec(strategy="darts", learning_rate=0.1)
    assert without_displaced(darts, ["strategy", "budget"]).strategy_options.keys() == {"budget", "learning_rate"}
    assert without_displaced(earlier, ["short_trainings"]) == earlier
    misspelt = SupernetSpec(strategy="darts", epoch=3)
    assert without_displaced(misspelt, ["strategy"]) == misspelt, "which is refused"
