"""What another process may be handed: it goes on as the original does."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import torch

from nas_optuna import Recipe, load_network
from nas_optuna.data import BatchLoader, load_images
from nas_optuna.errors import NasOptunaError, TrainingError
from nas_optuna.randomness import RandomState
from nas_optuna.spaces.conv import ConvSpace
from nas_optuna.spec import StudySpec
from nas_optuna.training import CheckpointFolder, TrainStep, evaluate, fit, make_header, make_network, save_network

CPU = torch.device("cpu")
SPACE = ConvSpace(depth=2, filters=(4, 8), input_size=8)
ARCHITECTURE = SPACE.parse("f4k3s1-f8k3s1")
Copy = Callable[[Any], Any]
BOTH = pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps], ids=["pickle", "cloudpickle"])


@BOTH
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_training_goes_on_in_a_copy_as_in_the_original(dumps: Copy, optimizer: str) -> None:
    recipe = Recipe(epochs=2, input_size=8, batch_size=50, optimizer=optimizer, momentum=0.9)
    digits = load_images("digits", True).subset(range(100))
    for loader in (BatchLoader(digits, 50, 8, CPU, resident=resident) for resident in (True, False)):
        step = TrainStep(make_network(SPACE, ARCHITECTURE, recipe, CPU, seed=0), recipe, CPU, total_steps=4)
        for batch in loader.epoch(1):
            step(*batch)
        copy, copied_loader = pickle.loads(dumps((step, loader)))
        for one, images in ((step, loader), (copy, copied_loader)):
            for batch in images.epoch(2):
                one(*batch)
        assert copy.read_sums() == step.read_sums()
        for name, value in step.network.state_dict().items():
            assert torch.equal(copy.network.state_dict()[name], value)


@BOTH
def test_results_folders_states_and_networks_pickle(dumps: Copy, tmp_path: Path) -> None:
    digits = load_images("digits", True).subset(range(60))
    loader = BatchLoader(digits, 60, 8, CPU)
    recipe = Recipe(epochs=1, input_size=8)
    network = make_network(SPACE, ARCHITECTURE, recipe, CPU, seed=0)
    folder = CheckpointFolder(tmp_path / "training")
    results = list(fit(network, loader, loader, recipe, CPU, seed=0, checkpoints=folder))
    again = pickle.loads(dumps(folder))
    other = make_network(SPACE, ARCHITECTURE, recipe, CPU, seed=1)
    assert list(fit(other, loader, loader, recipe, CPU, seed=0, checkpoints=again)) == results
    assert pickle.loads(dumps(results)) == results
    assert pickle.loads(dumps(evaluate(network, loader, CPU, torch.float32))).accuracy == results[0].accuracy
    state = RandomState(3, CPU)
    with pickle.loads(dumps(state)).current():
        drawn = torch.rand(3)
    with state.current():
        assert torch.equal(torch.rand(3), drawn)
    spec = StudySpec.from_dict({"space": {"name": "conv", "depth": 2, "filters": [4, 8]}, "recipe": {"input_size": 8}})
    save_network(tmp_path / "n.safetensors", network, make_header(ARCHITECTURE, spec, digits))
    loaded = load_network(tmp_path / "n.safetensors")
    assert pickle.loads(dumps(loaded)).predict(digits.images) == loaded.predict(digits.images)


def test_every_error_comes_back_from_another_process() -> None:
    error = pickle.loads(pickle.dumps(TrainingError("the loss is not finite", "non-finite loss")))
    assert (str(error), error.cause) == ("the loss is not finite", "non-finite loss")
    for kind in NasOptunaError.__subclasses__():
        if kind is not TrainingError:
            assert str(pickle.loads(pickle.dumps(kind("what is wrong")))) == "what is wrong"
