"""A search by accuracy in eight bits: measured as a device runs it, refused where it cannot be."""

import builtins
import json
import random
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from torch import Tensor, nn

from nas_optuna import ConvSpace, Objective, Recipe, SearchData, space
from nas_optuna.errors import SpecError, TrainingError
from nas_optuna.study.schema import TrialKey
from nas_optuna.training import make_network
from nas_optuna.training.evaluate import outputs_in_eight_bits
from tests.helpers import Command

SETS = [
    word
    for value in ("recipe.epochs=2", "recipe.input_size=8", "space.depth=2", "data.train_limit=400")
    for word in ("--set", value)
]


def test_a_search_ranks_by_accuracy_in_eight_bits(command: Command, place: Path) -> None:
    eight = ["--objective", "accuracy_int8", "--max-params", "30k", "--keep-weights", "all"]
    said = command("run", "--sampler", "random", "--trials", "3", *eight, *SETS)
    assert said.code == 0, said.err
    study = optuna.load_study(study_name="nas", storage="sqlite:///nas-optuna.db")
    complete = [trial for trial in study.trials if trial.values]
    best = command("best", "--json").json
    assert best["values"][0] == max(trial.value for trial in complete)
    for trial in complete:
        figures = trial.user_attrs[TrialKey.METRICS]
        assert figures["accuracy_int8"] == trial.value
        assert 0 <= figures["accuracy"] <= 1
        assert trial.user_attrs[TrialKey.cost("params")] <= 30_000
    shown = command("best").out
    assert f"{best['values'][0]:.4f} ± " in shown
    # The exported file, which is quantised anew from the trial's weights, classifies as well.
    exported = command("export", "--trial", best["number"], "--out", "model", "--int8", "--json").json["int8"]
    assert exported["int8"]["accuracy"] == pytest.approx(best["values"][0], abs=0.03)
    assert command("report", "--out", "page.html").code == 0
    assert "accuracy_int8" in (place / "page.html").read_text()


COLLAPSES = """
from torch import nn

class Far(nn.Module):
    def forward(self, x):
        return (x + 3000.0) - 3000.0

def network(task):
    pixels = task.shape[0] * task.shape[1] * task.shape[2]
    return nn.Sequential(Far(), nn.Flatten(), nn.Linear(pixels, task.classes))
"""


def test_the_gain_over_a_reference_is_that_of_eight_bits(command: Command, place: Path) -> None:
    """What is left of a step of 24 in eight bits tells no digits apart, whatever full precision tells."""
    (place / "mine.py").write_text(COLLAPSES)
    asked = ["--objective", "accuracy_int8", "--reference", "mine.py:network"]
    said = command("run", "--sampler", "random", "--trials", "1", *asked, *SETS)
    assert said.code == 0, said.err
    best = command("best", "--json").json
    assert best["gain"]["accuracy"] == best["values"][0]
    assert best["gain"]["reference_accuracy"] < 0.3
    assert "reference 0." in command("best").out


def test_the_outputs_are_those_of_eight_bits_and_the_network_stays(space: ConvSpace, data: SearchData) -> None:
    objective = Objective(space, data, Recipe(epochs=1, input_size=8), objectives=["accuracy_int8"], device="cpu")
    evaluator: Any = objective.evaluator
    architecture = space.sample(random.Random(0))
    network = make_network(space, architecture, evaluator.recipe, torch.device("cpu"), seed=0).eval()
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    loaders = evaluator.train_loader, evaluator.validation_loader
    logits = outputs_in_eight_bits(network, *loaders)
    with torch.no_grad():
        exact = torch.cat([network(images) for images, _ in evaluator.validation_loader.epoch()])
    assert logits.shape == exact.shape
    off = (logits - exact).abs().max() / exact.abs().max()
    assert 0 < off < 0.1, "rounded to eight bits, and to no fewer"
    assert all(torch.equal(weight, before[name]) for name, weight in network.state_dict().items())


class Bessel(nn.Module):
    """A function that ONNX does not have."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.special.i0(x).clamp(max=2.0)


@space
def odd(c: Any, task: Any) -> nn.Module:
    middle = c.layer("middle", {"relu": nn.ReLU, "bessel": Bessel})
    return nn.Sequential(nn.Conv2d(task.channels, 4, 3), middle, nn.Flatten(), nn.LazyLinear(task.classes))


def test_a_layer_that_cannot_be_quantised_ends_its_trial_alone_and_is_named(data: SearchData) -> None:
    objective = Objective(odd, data, Recipe(epochs=1, input_size=8), objectives=["accuracy_int8"], device="cpu")
    study = optuna.create_study(direction="maximize")
    for middle in ("bessel", "relu"):
        study.enqueue_trial({"middle": middle})
    study.optimize(objective, n_trials=2, catch=[TrainingError])
    failed, complete = study.trials
    assert failed.state.name == "FAIL"
    assert "layer '1' (Bessel) cannot be written as ONNX" in failed.user_attrs[TrialKey.CAUSE]
    assert complete.state.name == "COMPLETE"


def test_without_onnx_it_is_refused_before_anything_is_trained(
    data: SearchData, space: ConvSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("onnx"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(SpecError, match=r"pip install 'nas-optuna\[onnx\]'"):
        Objective(space, data, Recipe(epochs=1, input_size=8), objectives=["accuracy_int8"], device="cpu")


def test_a_training_that_goes_on_reports_what_it_measured(command: Command, place: Path) -> None:
    both = ["--objective", "accuracy_int8", "--objective", "macs"]
    assert command("run", "--sampler", "random", "--trials", "1", *both, *SETS).code == 0
    study = optuna.load_study(study_name="nas", storage="sqlite:///nas-optuna.db")
    assert study.metric_names == ["accuracy_int8", "macs"]
    (trial,) = study.trials
    again = command("best", "--json").json
    assert again["values"][0] == trial.values[0]
    assert json.dumps(again)
