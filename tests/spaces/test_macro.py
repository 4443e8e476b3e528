"""The macro space: its strings, its networks, its costs, and what it refuses."""

import itertools
import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_optuna.costs.complexity import figures, operation_macs
from nas_optuna.errors import ArchitectureError, SpecError
from nas_optuna.spaces import SearchSpace, create_space
from nas_optuna.spaces.macro import ACTIVATIONS, CONNECTIONS, LAYERS, MacroSpace
from nas_optuna.spaces.supernet import ChoiceWeights, GumbelSample, supernet_for

SPACE = MacroSpace()
SMALL = MacroSpace(
    stages=2,
    widths=[[4], [4, 8]],
    depths=[1, 2],
    layers=["conv", "maxpool", "skip"],
    kernels=[3],
    expansions=[2],
    activations=["relu"],
    connections=["plain"],
    branches=[1, 2],
    merges=["add"],
    input_size=8,
)
ARCHITECTURES = st.tuples(*(st.integers(0, len(p.choices) - 1) for p in SPACE.parameters.values()))


@given(ARCHITECTURES)
def test_text_and_params_round_trip(tokens: tuple[int, ...]) -> None:
    architecture = SPACE.from_tokens(tokens)
    assert SPACE.parse(str(architecture)) == architecture
    assert SPACE.parse(str(architecture).upper()) == architecture
    assert SPACE.architecture(architecture.params) == architecture


@given(ARCHITECTURES, ARCHITECTURES)
@settings(max_examples=50)
def test_equal_strings_are_equal_networks(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    first, second = SPACE.from_tokens(a), SPACE.from_tokens(b)
    assert (first == second) == (str(first) == str(second)) == (SPACE.operations(first) == SPACE.operations(second))


def test_choices_that_do_not_matter_count_as_the_first() -> None:
    text = "w16_d1.skip-w24_d1.maxpool_k5_res-w32_d1.ir_k3_e4_gelu"
    architecture = SPACE.parse(text)
    same = dict(architecture.params)
    same |= {
        "stage1.slot1.kernel": 7,
        "stage1.slot3.layer": "ir",
        "stage2.slot1.branches": 3,
        "stage3.slot1.merge": "cat",
    }
    assert SPACE.architecture(same) == architecture
    assert SPACE.architecture({**same, "stage2.slot1.kernel": 7}) != architecture


def test_the_size_counts_every_network_once() -> None:
    architectures = list(SMALL.enumerate())
    assert len(architectures) == SMALL.size == len({SMALL.operations(a) for a in architectures})
    assert SPACE.size == (4 * (739 + 739**2 + 739**3)) ** 3
    assert SMALL.fixed({"stage1.depth": 1}).size < SMALL.size


def test_a_small_space_is_listed_however_many_combinations_it_has() -> None:
    """It was listed by its combinations: of the first one here there are 645 million."""
    alike = MacroSpace(stages=1, widths=[8], depths=[3], layers=["skip", "maxpool"])
    assert len(set(alike.enumerate())) == alike.size == 1000
    options: dict[str, Any] = {"kernels": [5, 3], "expansions": [2], "activations": ["silu"], "connections": ["plain"]}
    small = MacroSpace(stages=2, widths=[[8], [24, 16]], depths=[2, 1], layers=["skip", "ir"], branches=[1], **options)
    for space in (small, small.fixed({"stage2.depth": 1})):
        listed = list(space.enumerate())
        assert len(listed) == space.size
        assert listed == list(SearchSpace.enumerate(space)), "in the same order"


def test_200_random_architectures_show_every_layer_and_connection() -> None:
    rng = random.Random(0)
    text = " ".join(str(SPACE.sample(rng)) for _ in range(200))
    for word in (*LAYERS, *ACTIVATIONS, *CONNECTIONS[1:], "k3", "k5", "k7", "e2", "e4", "b2add", "b3cat", "d1", "d3"):
        assert word in text, word


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_random_networks_train_one_step(norm: str) -> None:
    rng = random.Random(norm)
    torch.manual_seed(0)
    for _ in range(25):
        height, width = rng.randint(8, 14), rng.randint(8, 14)
        space = MacroSpace(
            widths=(8, 16),
            norm=norm,
            stem_stride=rng.choice((1, 2, 4)),
            head=rng.choice(("linear", "hidden")),
            in_channels=rng.randint(1, 5),
            classes=rng.choice((2, 10, 1000)),
            input_size=(height, width),
        )
        architecture = space.sample(rng)
        network = space.build(architecture)
        optimizer = torch.optim.SGD(network.parameters(), 0.01)
        logits = network(torch.randn(2, space.in_channels, height, width))
        assert logits.shape == (2, space.classes)
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1]))
        loss.backward()
        optimizer.step()
        assert torch.isfinite(loss), architecture
        assert all(p.isfinite().all() for p in network.parameters()), architecture


def test_operations_chain_and_their_formula_is_what_torch_counts() -> None:
    rng = random.Random(1)
    space = MacroSpace(input_size=(9, 30), in_channels=2, classes=7, head="hidden")
    reachable = list(space.reachable_operations())
    assert len(reachable) == len(set(reachable))
    for _ in range(6):
        architecture = space.sample(rng)
        operations = space.operations(architecture)
        assert set(operations) <= set(reachable)
        for before, after in itertools.pairwise(operations):
            assert before.output_shape == after.input_shape
        counted = figures(space, architecture)
        assert counted.macs == sum(operation_macs(space, operation) for operation in operations)
        assert counted.params == sum(p.numel() for p in space.build(architecture).parameters())


def test_dense_and_branches_do_what_they_say() -> None:
    torch.manual_seed(0)
    space = MacroSpace(stages=1, widths=[4], input_size=8, norm="none")
    x = torch.randn(2, 4, 8, 8)
    plain, res, added, joined, dense = (
        space.operations(space.parse(f"w4_d1.conv_k3_relu{rest}"))[1].make()
        for rest in ("", "_res", "_b2add", "_b2cat", "_dense")
    )
    torch.testing.assert_close(plain(x), plain.branches[0](x).relu())
    torch.testing.assert_close(res(x), (x + res.branches[0](x)).relu())
    torch.testing.assert_close(added(x), (added.branches[0](x) + added.branches[1](x)).relu())
    torch.testing.assert_close(joined(x), joined.merge(torch.cat([b(x) for b in joined.branches], 1)).relu())
    torch.testing.assert_close(dense(x), dense.dense(torch.cat([x, dense.branches[0](x)], 1)).relu())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "w16_d1.skip",
        "w17_d1.skip-w16_d1.skip-w16_d1.skip",
        "w16_d2.skip-w16_d1.skip-w16_d1.skip",
        "w16_d1.skip_k3-w16_d1.skip-w16_d1.skip",
        "w16_d1.conv_k3-w16_d1.skip-w16_d1.skip",
        "w16_d1.conv_relu_k3-w16_d1.skip-w16_d1.skip",
        "w16_d4.skip.skip.skip.skip-w16_d1.skip-w16_d1.skip",
        "w\u0661\u0666_d1.skip-w16_d1.skip-w16_d1.skip",
    ],
)
def test_strings_outside_the_space_are_refused(text: str) -> None:
    with pytest.raises(ArchitectureError):
        SPACE.parse(text)


@pytest.mark.parametrize(
    "options",
    [
        {"stages": 0},
        {"widths": []},
        {"widths": [[8], [16]]},
        {"widths": [0]},
        {"widths": 16},
        {"depths": [0]},
        {"kernels": [4]},
        {"layers": ["con"]},
        {"layers": "conv"},
        {"activations": ["tanh"]},
        {"connections": ["residual"]},
        {"branches": [True]},
        {"merges": ["sum"]},
        {"norm": "layer"},
        {"head": "none"},
        {"stem_stride": 3},
        {"stride": 2},
    ],
    ids=str,
)
def test_wrong_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(SpecError):
        create_space("macro", options, in_channels=1, classes=10, input_size=28)


def test_images_that_are_too_small_are_refused() -> None:
    with pytest.raises(SpecError, match="at least 8 pixels"):
        MacroSpace(input_size=(7, 30))


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_certain_mixtures_paths_and_extracted_networks_agree(norm: str) -> None:
    torch.manual_seed(0)
    space = MacroSpace(stages=2, widths=(8, 16), depths=(1, 3), norm=norm, input_size=12, head="hidden")
    supernet = supernet_for(space)
    images = torch.randn(3, 1, 12, 12)
    loader = [(torch.randn(16, 1, 12, 12), torch.zeros(16)) for _ in range(2)]
    rng = random.Random(norm)
    for _ in range(3):
        architecture = space.sample(rng)
        supernet.train()
        supernet.recalibrate(architecture, loader, 2)
        supernet.eval()
        tokens = zip(space.parameters, space.tokens(architecture), strict=True)
        certain = {
            name: ChoiceWeights(
                None, torch.nn.functional.one_hot(torch.tensor(i), len(space.parameters[name].choices)).float()
            )
            for name, i in tokens
        }
        with torch.no_grad():
            expected = supernet.extract(architecture).eval()(images)
            torch.testing.assert_close(supernet(images, supernet.path(architecture)), expected, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(supernet(images, certain), expected, rtol=1e-4, atol=1e-5)


def test_every_alpha_of_a_mixture_learns() -> None:
    torch.manual_seed(0)
    space = MacroSpace(stages=2, widths=(8, 16), depths=(1, 2), input_size=12)
    supernet = supernet_for(space)
    drawn = GumbelSample(dict.fromkeys(space.parameters, 0), {}, 1.0)
    supernet(
        torch.randn(8, 1, 12, 12), supernet.picks("mixture", drawn, differentiable=True)
    ).square().mean().backward()
    assert all(float(alpha.grad.abs().max()) > 0 for alpha in supernet.alphas.values())  # type: ignore[union-attr]


def test_slots_that_are_alike_are_priced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table of a supernet's cost needs no more operations where stages are deeper."""
    made: list[object] = []
    original = MacroSpace.slot_operation
    monkeypatch.setattr(
        MacroSpace, "slot_operation", lambda space, *given: made.append(given) or original(space, *given)
    )
    counts = []
    for depths in ([1], [1, 2, 3]):
        made.clear()
        list(MacroSpace(stages=1, widths=[8, 16], depths=depths).cost_steps(lambda operation: 1.0))
        counts.append(len(made))
    assert counts[0] == counts[1] == 2 * 6 * 3 * 2 * 4 * 3 * 3 * 2
