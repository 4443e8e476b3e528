import itertools
import random

import optuna
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nas_optuna.errors import ArchitectureError, SpecError
from nas_optuna.spaces import create_space
from nas_optuna.spaces.block import BlockSpace

SPACE = BlockSpace(candidates=("k3_f16", "k3_f24", "k5_f24_relu", "skip"), input_size=32)
NINE = (*(f"k{k}_f{f}" for k in (3, 5) for f in (8, 16, 24, 36)), "skip")


@given(st.tuples(*(st.integers(0, len(p.choices) - 1) for p in SPACE.parameters.values())))
def test_text_round_trips(tokens: tuple[int, ...]) -> None:
    params = {name: p.choices[t] for (name, p), t in zip(SPACE.parameters.items(), tokens, strict=True)}
    architecture = SPACE.architecture(params)
    assert SPACE.parse(str(architecture)) == architecture
    assert SPACE.tokens(architecture) == tokens
    assert SPACE.suggest(optuna.trial.FixedTrial(dict(architecture.params))) == architecture


def test_the_reference_network_at_224() -> None:
    space = BlockSpace(input_size=224)
    architecture = space.parse("k5_f16-k5_f24-k3_f36-k5_f24-k5_f16")
    with torch.device("meta"):
        network = space.build(architecture)
        assert network(torch.empty(2, 1, 224, 224)).shape == (2, 10)
    k5f16 = 16 * 16 * 25 + 16
    k5f24 = 24 * 16 * 25 + 24 + 24 * 16 + 16
    k3f36 = 36 * 16 * 9 + 36 + 36 * 16 + 16
    expected = (16 + 16) + 2 * k5f16 + 2 * k5f24 + k3f36 + (784 * 10 + 10)
    assert sum(p.numel() for p in network.parameters()) == expected


def test_a_candidate_is_what_the_reference_describes() -> None:
    torch.manual_seed(0)
    space = BlockSpace(depth=1, pool=[], candidates=("k3_f24", "k3_f24_relu"))
    x = torch.randn(2, 16, 7, 7)
    for candidate in space.candidates:
        block = space.block((16, 7, 7), candidate).make()
        state = block.state_dict()
        r = torch.relu(torch.conv2d(x, state["expand.weight"], state["expand.bias"], padding=1))
        r = torch.conv2d(r, state["project.weight"], state["project.bias"])
        r = torch.relu(r) if candidate.endswith("_relu") else r
        torch.testing.assert_close(block(x), torch.relu(x + r))


def test_nine_candidates_and_twenty_blocks() -> None:
    space = BlockSpace(depth=20, candidates=NINE, in_channels=3, input_size=32, pool=[4, 8, 12, 16])
    assert space.size == 9**20
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    network = space.build(space.suggest(study.ask()))
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@given(st.integers(1, 40), st.integers(1, 8))
def test_default_poolings_end_at_one_pixel(input_size: int, depth: int) -> None:
    space = BlockSpace(input_size=input_size, depth=depth)
    shapes = [operation.output_shape for operation in space.operations(space.sample(random.Random(0)))]
    sides = list(dict.fromkeys(shape[1] for shape in shapes if len(shape) == 3))
    assert sides[-1] >= 1
    assert len(sides) == 1 + min(depth, input_size.bit_length() - 1)
    assert all(after == before // 2 for before, after in itertools.pairwise(sides))


def test_every_network_is_made_of_reachable_operations() -> None:
    reachable = list(SPACE.reachable_operations())
    assert len(reachable) == len(set(reachable))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        operations = SPACE.operations(SPACE.suggest(study.ask()))
        assert set(operations) <= set(reachable)
        for before, after in itertools.pairwise(operations):
            assert before.output_shape == after.input_shape


@pytest.mark.parametrize("text", ["", "k3_f16", "k3_f17-k3_f16-k3_f16-k3_f16-k3_f16", "k3_f16-" * 5])
def test_strings_outside_the_space_are_refused(text: str) -> None:
    with pytest.raises(ArchitectureError):
        SPACE.parse(text)


@pytest.mark.parametrize(
    "options",
    [
        {"depth": 0},
        {"candidates": []},
        {"candidates": ["k3_f16", "k3_f16"]},
        {"candidates": ["k4_f16"]},
        {"candidates": ["f16_k3"]},
        {"candidates": [3]},
        {"candidates": ["k3_f16_relu"]},
        {"pool": [0]},
        {"pool": "None"},
        {"pool": 2},
        {"pool": [1, 1]},
        {"pool": [1, 2, 3, 4, 5]},
        {"chanels": 8},
    ],
)
def test_wrong_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(SpecError):
        create_space("block", options, in_channels=1, classes=10, input_size=28)
