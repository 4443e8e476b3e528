"""A network of the user's own, with which the search is compared."""

from pathlib import Path

import pytest

from nas_optuna import Experiment
from nas_optuna.errors import Interrupted
from nas_optuna.report.facts import StudyFacts
from nas_optuna.study.schema import StudyKey, TrialKey
from nas_optuna.study.storage import open_storage
from nas_optuna.study.studies import load_study, study_spec
from tests.helpers import Command, tiny

OWN = """
import math
from torch import nn

def linear(task):
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(task.shape), task.classes))

def other_shape(task):
    return nn.Linear(3, 2)

number = 3

def two(c, task):
    return nn.Linear(3, 2)

def nothing(task):
    return None

def wide(task):
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(task.shape), task.classes + 3))

def huge(task):
    wide = 10**9
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(task.shape), wide), nn.Linear(wide, task.classes))

def fixed(task):
    return nn.Sequential(nn.Flatten(), nn.AdaptiveAvgPool1d(task.classes))

def explodes(task):
    last = nn.Linear(math.prod(task.shape), task.classes)
    last.register_forward_hook(lambda module, inputs, output: output * float("nan"))
    return nn.Sequential(nn.Flatten(), last)

def leaves(task):
    raise SystemExit(3)

def leaves_silently(task):
    raise SystemExit
"""


def test_an_own_network_is_trained_once_and_stands_beside_the_best(command: Command) -> None:
    Path("own.py").write_text(OWN)
    made = command("run", "--trials", 1, *tiny(), "--reference", "own.py:linear", "--track", "tensorboard:logs")
    assert made.code == 0, made.err
    assert "told nothing more" not in made.err
    (tracked,) = Path("logs").iterdir()
    assert {path.name for path in tracked.iterdir()} >= {"reference", "trial-0"}
    assert "reference 0." in made.out
    gain = command("best", "--json").json["gain"]
    assert 0 <= gain["reference_accuracy"] <= 1
    again = command("run", "--trials", 1)
    assert again.code == 0, "the yes to the code is remembered, as for any code of a stored study"
    assert command("best", "--json").json["gain"]["reference_accuracy"] == gain["reference_accuracy"]


def test_repeats_that_differ_make_an_own_network_less_certain(command: Command) -> None:
    Path("own.py").write_text(OWN)
    made = command("run", "--trials", 1, *tiny(recipe__repeats=2), "--reference", "own.py:linear")
    assert made.code == 0, made.err
    study = load_study(open_storage("sqlite:///nas-optuna.db"), "nas")
    known = study.user_attrs[StudyKey.REFERENCE]
    assert known["spread"] >= 0
    study.set_user_attr(StudyKey.REFERENCE, known | {"spread": 0.9})
    gain = StudyFacts(study).gain
    assert gain is not None
    assert gain.reference is not None
    assert gain.reference.error == pytest.approx(0.9 / 2**0.5)


def test_references_have_the_recipes_own_settings_where_these_are_searched(command: Command) -> None:
    Path("own.py").write_text(OWN)
    small = ("space.width=8", "space.stages=1", "recipe.epochs=1", "recipe.input_size=8", "data.train_limit=200")
    sets = [word for text in (*small, "recipe.learning_rate=0.02") for word in ("--set", text)]
    search = ("--search", "recipe.learning_rate=1e-5..1e-1:log")
    made = command("run", "--trials", 1, "--space", "residual", *sets, "--reference", "own.py:linear", *search)
    assert made.code == 0, made.err
    study = load_study(open_storage("sqlite:///nas-optuna.db"), "nas")
    assert study.trials[0].user_attrs[TrialKey.ORIGIN] == "reference"
    assert study.trials[0].params["recipe.learning_rate"] == 0.02
    gain = command("best", "--json").json["gain"]
    assert gain["reference_accuracy"] == study.user_attrs[StudyKey.REFERENCE]["accuracy"]


def test_what_waits_is_not_enqueued_again_after_an_interruption(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise Interrupted

    monkeypatch.setattr("nas_optuna.execution.reference.measure", interrupted)  # which comes before the first trial
    Path("own.py").write_text(OWN)
    Path("two.txt").write_text("f16k3s1-f16k3s1 f32k3s1-f16k3s1 f16k3s1-f16k3s1")
    for _ in range(2):
        found = command("run", "--trials", 3, *tiny(), "--reference", "own.py:linear", "--enqueue", "two.txt")
        assert "--enqueue two.txt" in found.err
    study = load_study(open_storage("sqlite:///nas-optuna.db"), "nas")
    assert [trial.state.name for trial in study.trials] == ["WAITING"] * 3


def test_a_stored_reference_asks_for_trust(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Path("own.py").write_text(OWN)
    assert command("run", "--trials", 1, *tiny(), "--reference", "own.py:linear").code == 0
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "somebody else's"))
    refused = command("run", "--trials", 1)
    assert refused.code == 2
    assert "--trust" in refused.err
    assert command("run", "--trials", 1, "--trust").code == 0


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("own.py:other_shape", "cannot take"),
        ("own.py:number", "TypeError: 'int' object is not callable; name a function (task) -> nn.Module"),
        ("own.py:two", "reference 'own.py:two': TypeError: two() missing 1 required positional argument: 'task'"),
        ("own.py:nothing", "reference 'own.py:nothing': its network must be an nn.Module"),
        ("own.py:wide", "reference 'own.py:wide': the network gives [2, 13] for 2 images"),
        ("own.py:fixed", "reference 'own.py:fixed': the network has no weight that learns; let some"),
        ("own.py:explodes", "reference 'own.py:explodes': the loss is not finite in epoch 1"),
        (
            "own.py:huge",
            "reference 'own.py:huge': fixed has 75,000,000,010 weights, whose training takes 900 GB or more",
        ),
        ("own.py:leaves_silently", "code of yours ends the process (own.py:38); let it raise an error"),
        ("own.py:leaves", "code of yours ends the process (SystemExit: 3) (own.py:35)"),
        ("script.py:net", "cannot be imported: it ends its process; put what it runs below if __name__"),
        ("arguments.py:net", "cannot be imported: it ends its process; put what it runs below if __name__"),
        ("own.py:lineer", "did you mean 'linear'"),
        ("nothing.py:net", "there is no file"),
        ("own.py", "say what in it is meant"),
    ],
)
def test_what_is_no_network_is_one_line(command: Command, name: str, says: str) -> None:
    Path("own.py").write_text(OWN)
    Path("script.py").write_text("import sys\nsys.exit('bye')\n")
    Path("arguments.py").write_text("import argparse\nargparse.ArgumentParser().parse_args(['--nothing'])\n")
    result = command("run", "--trials", 1, *tiny(), "--reference", name)
    assert result.code == 2
    assert says in result.err.splitlines()[-1]


EVALUATOR = """
from nas_optuna import Measurement

class Mine:
    def __init__(self, context):
        self.space = context.space(in_channels=1, outputs=10, input_size=8)
        self.steps, self.identity = 1, "mine"

    def evaluate(self, architecture, *, resume, stop):
        yield Measurement(1, {"accuracy": 0.5}, 0.0)
"""

COUNTED = (
    OWN
    + """
from pathlib import Path

def counted(task):
    with Path("built").open("a") as file:
        file.write("x")
    return linear(task)
"""
)


def built() -> int:
    """How often the network of `COUNTED` was built since the last call."""
    file = Path("built")
    count = len(file.read_text()) if file.exists() else 0
    file.unlink(missing_ok=True)
    return count


def test_an_own_network_is_not_tried_out_twice(command: Command) -> None:
    Path("own.py").write_text(COUNTED)
    words = (*tiny(), "--reference", "own.py:counted")
    assert command("study", "create", "first", *words).code == 0
    tried = built()
    assert command("study", "create", "first", *words).code == 2
    assert built() == 0, "the study is there"
    assert command("run", "--study", "second", "--trials", 1, *words).code == 0
    assert tried < built() <= tried + 5, "the training builds a few"


def test_an_experiment_of_a_study_that_is_there_does_not_try_its_network(command: Command) -> None:
    Path("own.py").write_text(COUNTED)
    assert command("study", "create", *tiny(), "--reference", "own.py:counted").code == 0
    built()
    url = "sqlite:///nas-optuna.db"
    spec = study_spec(load_study(open_storage(url), "nas"))
    Experiment.from_spec(spec, device="cpu").create(url, "nas", load_if_exists=True)
    assert built() == 0


def test_an_evaluator_of_ones_own_trains_no_reference(command: Command, place: Path) -> None:
    Path("own.py").write_text(OWN)
    Path("ev.py").write_text(EVALUATOR)
    result = command("run", "--set", "evaluator.name=ev.py:Mine", "--reference", "own.py:linear", "--trials", 1)
    assert result.code == 2
    assert result.err.splitlines()[-1].endswith(
        "a reference is trained by the recipe, and the study has an evaluator of its own"
    )
    assert not list(place.glob("*.db"))
