from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nas_optuna import load_network
from nas_optuna.data import ResidentLoader, load_images
from nas_optuna.errors import DataError
from nas_optuna.spaces.conv import ConvSpace
from nas_optuna.spec import StudySpec
from nas_optuna.training import make_network, save_network

CPU = torch.device("cpu")
SPEC = StudySpec.from_dict({"space": {"name": "conv", "depth": 2}, "recipe": {"input_size": 16}})
SPACE = ConvSpace(depth=2, input_size=16)
ARCHITECTURE = SPACE.parse("f16k3s1-f24k5s2")


def test_a_saved_network_says_the_same_of_raw_images(tmp_path: Path) -> None:
    digits = load_images("digits", True).subset(range(40))
    network = make_network(SPACE, ARCHITECTURE, SPEC.recipe, CPU, seed=1).eval()
    file = tmp_path / "n.safetensors"
    save_network(file, network, ARCHITECTURE, SPEC, digits)
    loaded = load_network(file)
    (batch, _), *_ = ResidentLoader(digits, 40, 16, CPU).epoch()
    with torch.no_grad():
        assert torch.allclose(loaded(digits.images), network(batch), atol=1e-5)
        names = [digits.classes[i] for i in network(batch).argmax(1).tolist()]
    assert loaded.predict(digits.images) == names
    assert loaded.architecture == ARCHITECTURE


def test_what_is_not_a_saved_network_is_refused_in_one_line(tmp_path: Path) -> None:
    garbage, foreign = tmp_path / "garbage", tmp_path / "foreign.safetensors"
    garbage.write_bytes(b"\x80\x04 not weights")
    save_file({"w": torch.zeros(2)}, foreign)
    for path in (garbage, foreign, tmp_path / "absent"):
        with pytest.raises(DataError, match="is not a network that nas-optuna retrain wrote") as caught:
            load_network(path)
        assert "\n" not in str(caught.value)
