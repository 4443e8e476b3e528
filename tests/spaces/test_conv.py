import itertools
import random

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas_optuna.errors import ArchitectureError, SpecError
from nas_optuna.spaces import create_space
from nas_optuna.spaces.conv import ConvSpace

SPACE = ConvSpace()


def formula(side: int, layers: list[tuple[int, int, int]]) -> tuple[int, int]:
    """Output side and parameter count written out from the reference's description, independent of the space."""
    channels, parameters = 1, 0
    for filters, kernel, stride in layers:
        parameters += filters * channels * kernel * kernel + filters
        side = int(((side - kernel + 2 * ((kernel + 1) // 2)) // stride + 1) / 2)
        channels = filters
    return side, parameters + channels * side * side * 10 + 10


def layer_lists() -> list[list[tuple[int, int, int]]]:
    rng = random.Random(0)
    drawn = [
        [(rng.choice((16, 24, 32, 48)), rng.choice((3, 5, 7)), rng.choice((1, 2))) for _ in range(5)] for _ in range(20)
    ]
    extremes = [[(f, k, s)] * 5 for f in (16, 48) for k in (3, 7) for s in (1, 2)]
    return extremes + drawn


@pytest.mark.parametrize("input_size", [28, 224])
def test_parameters_and_sides_are_the_references(input_size: int) -> None:
    import torch

    space = ConvSpace(input_size=input_size)
    for layers in layer_lists():
        architecture = space.parse("-".join(f"f{f}k{k}s{s}" for f, k, s in layers))
        with torch.device("meta"):
            network = space.build(architecture)
            features = network[:-1](torch.empty(2, 1, input_size, input_size))
        side, parameters = formula(input_size, layers)
        assert features.shape == (2, layers[-1][0], side, side)
        assert sum(p.numel() for p in network.parameters()) == parameters


def test_sizes_are_the_references() -> None:
    assert SPACE.size == 24**5 == 7_962_624
    assert ConvSpace(depth=20).size == 24**20


def test_depth_20_builds() -> None:
    import torch

    space = ConvSpace(depth=20, in_channels=3, classes=7, input_size=32)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    network = space.build(space.suggest(study.ask()))
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


@given(st.tuples(*(st.integers(0, len(p.choices) - 1) for p in SPACE.parameters.values())))
def test_text_round_trips(tokens: tuple[int, ...]) -> None:
    params = {name: p.choices[t] for (name, p), t in zip(SPACE.parameters.items(), tokens, strict=True)}
    architecture = SPACE.architecture(params)
    assert SPACE.parse(str(architecture)) == architecture
    assert SPACE.tokens(architecture) == tokens
    assert SPACE.suggest(optuna.trial.FixedTrial(dict(architecture.params))) == architecture


def test_equal_architectures_hash_equal() -> None:
    text = "f16k3s1-f24k5s2-f32k7s1-f48k3s2-f16k5s1"
    assert len({SPACE.parse(text), SPACE.parse(text.upper())}) == 1


def test_every_network_is_made_of_reachable_operations() -> None:
    reachable = list(SPACE.reachable_operations())
    assert len(reachable) == len(set(reachable))
    for layers in layer_lists():
        architecture = SPACE.parse("-".join(f"f{f}k{k}s{s}" for f, k, s in layers))
        operations = SPACE.operations(architecture)
        assert set(operations) <= set(reachable)
        for before, after in itertools.pairwise(operations):
            assert before.output_shape == after.input_shape


@pytest.mark.parametrize("text", ["", "f16k3s1", "f16k3s1-f24k5s2-f32k7s1-f48k3s2-f16k5", "f17k3s1" + "-f16k3s1" * 4])
def test_strings_outside_the_space_are_refused(text: str) -> None:
    with pytest.raises(ArchitectureError):
        SPACE.parse(text)


def test_params_outside_the_choices_are_refused() -> None:
    params = dict(SPACE.parse("f16k3s1" + "-f16k3s1" * 4).params)
    with pytest.raises(ArchitectureError, match=r"conv1\.filters = 17"):
        SPACE.architecture(params | {"conv1.filters": 17})
    with pytest.raises(ArchitectureError, match=r"did you mean 'conv1\.filters'"):
        SPACE.architecture(params | {"conv1.filter": 16})
    del params["conv5.stride"]
    with pytest.raises(ArchitectureError, match=r"'conv5\.stride' has no value"):
        SPACE.architecture(params)


@pytest.mark.parametrize("options", [{"depth": 0}, {"filters": []}, {"kernels": [3, 3]}, {"depht": 4}, {"classes": 3}])
def test_wrong_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(SpecError):
        create_space("conv", options, in_channels=1, classes=10, input_size=28)
