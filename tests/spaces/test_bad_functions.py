"""Define by run: what a bad function gets."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from torch import nn

import nas_optuna as nas
from nas_optuna.errors import SpecError, TrainingError
from nas_optuna.execution import loop
from nas_optuna.spaces import create_space
from nas_optuna.spaces.supernet import supernet_for
from tests.helpers import RECIPE
from tests.spaces.test_function import SHAPE, classifier, made


def no_module(c: Any, task: Any) -> Any:
    return c.choice("a", [1, 2])


def other_choices(c: Any, task: Any) -> Any:
    width = c.choice("width", [4, 8] if c.choice("small", [True, False]) else [16, 32])
    return classifier(nn.Conv2d(1, width, 3), width=width)


def unstorable(c: Any, task: Any) -> Any:
    return classifier(c.choice("activation", [nn.ReLU(), nn.SiLU()]), width=1)


def repeated(c: Any, task: Any) -> Any:
    return classifier(width=c.choice("width", [1, True]))


def instance(c: Any, task: Any) -> Any:
    return classifier(c.layer("a", {"relu": nn.ReLU()}), width=1)


def candidate_of_text(c: Any, task: Any) -> Any:
    return classifier(c.layer("a", {"relu": nn.ReLU, "silu": lambda: "silu"}), width=1)


def too_wide(c: Any, task: Any) -> Any:
    c.choice("a", [1, 2])
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(99, 10))


def wrong_norm(c: Any, task: Any) -> Any:
    c.choice("a", [1, 2])
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.LazyLinear(10))


class Selfless(nn.Sequential):
    def train(self, mode: bool = True) -> Any:
        super().train(mode)


def selfless(c: Any, task: Any) -> Any:
    return Selfless(nn.Flatten(), nn.LazyLinear(c.choice("width", [8, 10])))


def no_logits(c: Any, task: Any) -> Any:
    return nn.Conv2d(1, c.choice("width", [4, 8]), 3)


def misspelt(c: Any, task: Any) -> Any:
    return nn.Sequential(nn.Conv3(1, c.choice("width", [4, 8]), 3))  # type: ignore[attr-defined]


def unnamed(c: Any, task: Any) -> Any:
    return classifier(width=c.choice("", [1]))


def endless(c: Any, task: Any) -> Any:
    return classifier(width=c.integer("width", 1, 10**6))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (no_module, "its network must be an nn.Module, not a int"),
        (other_choices, r"'width' is asked for with the choices \[4, 8\] and with \[16, 32\]"),
        (unstorable, "'activation': no storage can keep the choice ReLU"),
        (repeated, "'width' repeats a choice"),
        (instance, 'write "relu": lambda'),
        (candidate_of_text, "layer 'a': candidate 'silu' gives a str, not a module"),
        (too_wide, r"layer '2' \(Linear, weights \[10, 99\]\) cannot take \[2, 144\]: .*144.*99"),
        (wrong_norm, r"layer '1' \(BatchNorm2d, weights \[8\]\) cannot take \[2, 4, 6, 6\]"),
        (selfless, r"train\(\) of Selfless must return self, as torch's does"),
        (misspelt, "': AttributeError: module .*Conv3"),
        (unnamed, "a parameter needs a name"),
        (endless, "1,000,000 values"),
    ],
)
def test_a_bad_function_is_refused_in_one_line_before_anything_is_trained(
    build: Callable[..., Any], message: str
) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        made(build)
    assert "\n" not in str(caught.value)


def test_only_our_own_training_needs_logits() -> None:
    space = made(no_logits)
    assert space.build(space.parse("width=8"))(torch.zeros(2, 1, 8, 8)).shape == (2, 8, 6, 6)
    with pytest.raises(SpecError, match=r"gives \[2, 4, 6, 6\] for 2 images, not logits \[2, 10\]"):
        nas.Objective(space, nas.load_data("digits"), RECIPE, device="cpu")
    with pytest.raises(SpecError, match=r"not logits \[2, 10\]"):
        space.require_logits(space.parse("width=8"))
    with pytest.raises(SpecError, match=r"the supernet of space .* not logits \[2, 10\]"):
        supernet_for(made(lambda c, task: c.layer("a", {"b": nn.Identity, "c": nn.ReLU})))


def test_one_network_without_logits_fails_alone() -> None:
    def sometimes(c: Any, task: Any) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, c.choice("outputs", [10, 11])))

    objective = nas.Objective(made(sometimes), nas.load_data("digits"), RECIPE, device="cpu")
    study = optuna.create_study(direction="maximize")
    for outputs in (11, 10):
        study.enqueue_trial({"outputs": outputs})
    loop.run(study, objective, trials=2)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE"]
    assert "gives [2, 11] for 2 images, not logits [2, 10]" in study.trials[0].user_attrs["nas_optuna:cause"]


def test_a_network_that_reads_values_is_refused_with_the_reason() -> None:
    class Reading(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2 if float(x.sum()) > 0 else x

    with pytest.raises(SpecError, match=r"layer '1' \(Reading\) .*forward must not depend on what values tensors have"):
        made(lambda c, task: nn.Sequential(nn.Flatten(), Reading(), nn.Linear(64, c.choice("classes", [10]))))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{}", r"is a file; say what in it is meant: .*net\.py:NAME"),
        ("{}:nettwork", r"unknown name in .*net\.py: 'nettwork'; did you mean 'network'"),
        ("{}:plain", r"is a plain function; write @nas_optuna\.space above it"),
        ("{}:number", r"is an int, which cannot be called"),
    ],
)
def test_a_name_in_a_file_that_is_no_space_says_what_is_meant(tmp_path: Path, name: str, message: str) -> None:
    file = tmp_path / "net.py"
    file.write_text(
        "import nas_optuna\nfrom torch import nn\nnumber = 3\n"
        "def plain(c, task):\n    return nn.Sequential(nn.Flatten(), nn.LazyLinear(task.classes))\n"
        "network = nas_optuna.space(plain)\n"
    )
    with pytest.raises(SpecError, match=message):
        create_space(name.format(file), {}, **SHAPE)


def test_a_function_that_draws_its_questions_is_refused() -> None:
    rng = random.Random(0)

    def build(c: Any, task: Any) -> nn.Module:
        return classifier(width=c.choice(f"width{rng.random()}", [1]))

    with pytest.raises(SpecError, match="let it depend on its choices alone"):
        made(build)


@nas.space
def sometimes_broken(c: Any, task: Any) -> nn.Module:
    kernel = c.choice("kernel", [3, 9], ordered=True)
    return classifier(nn.Conv2d(1, 4, kernel), width=4, classes=task.classes)


def test_one_broken_network_ends_its_trial_alone_with_its_cause() -> None:
    objective = nas.Objective(sometimes_broken, nas.load_data("digits"), RECIPE, device="cpu")
    study = optuna.create_study(direction="maximize")
    for kernel in (9, 3):
        study.enqueue_trial({"kernel": kernel})
    study.optimize(objective, n_trials=2, catch=(TrainingError,))
    broken, sound = study.trials
    assert broken.state.name == "FAIL"
    assert "layer '0' (Conv2d, weights" in str(broken.user_attrs)
    assert sound.state.name == "COMPLETE"
