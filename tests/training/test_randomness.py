"""What is drawn depends on seeds alone: in threads as in sequence, and whatever else draws meanwhile."""

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import TrialState
from torch import nn

import nas_optuna as nas
from nas_optuna import ConvSpace, Objective, Recipe, SearchData, SearchSpace, load_data
from nas_optuna.costs.complexity import figures
from nas_optuna.execution.evaluator import Measurement
from nas_optuna.execution.events import Callback, Subject
from nas_optuna.randomness import RandomState, seeded
from nas_optuna.report.network_graph import graph_of
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spaces.block import BlockSpace
from nas_optuna.spaces.function import FunctionSpace
from nas_optuna.spec import DataSpec
from nas_optuna.training import make_network
from nas_optuna.training.network import may_draw, mixes_images
from tests.training.user_space import Functional, Noise, UserSpace

CPU = torch.device("cpu")
RECIPE = Recipe(epochs=1, batch_size=64, input_size=8)


@pytest.fixture(scope="module")
def data() -> SearchData:
    return load_data(DataSpec(name="digits", train_limit=200))


@contextmanager
def disturbed() -> Iterator[None]:
    """Another thread seeds torch's global generator and draws from it all the time."""
    stop = threading.Event()

    def disturb() -> None:
        while not stop.is_set():
            torch.manual_seed(0)
            torch.rand(3)

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def losses(space: SearchSpace, data: SearchData, recipe: Recipe, texts: list[str], jobs: int) -> dict[int, float]:
    """The validation loss of every trial, which tells apart what accuracies do not."""
    found: dict[int, float] = {}

    class Losses(Callback):
        def step_finished(self, subject: Subject, measurement: Measurement) -> None:
            assert subject.trial is not None
            found[subject.trial.number] = measurement.metrics["negative_log_likelihood"]

    objective = Objective(space, data, recipe, device="cpu", reuse_duplicates=False, callbacks=[Losses()])
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.NopPruner())
    for text in texts:
        study.enqueue_trial(dict(space.parse(text).params))
    study.optimize(objective, n_trials=len(texts), n_jobs=jobs)
    assert all(trial.state == TrialState.COMPLETE for trial in study.trials)
    return found


@pytest.mark.parametrize("init", ["kaiming", "default"])
def test_24_architectures_in_four_threads_give_the_numbers_of_one(data: SearchData, init: str) -> None:
    space = ConvSpace(depth=2, filters=(4, 8), kernels=(3, 5), strides=(1, 2), input_size=12)
    recipe = RECIPE.model_copy(update={"init": init, "input_size": 12})
    layers = [f"f{f}k{k}s{s}" for f, k, s in itertools.product((4, 8), (3, 5), (1, 2))]
    texts = [f"{first}-{second}" for first, second in itertools.product(layers, layers)][::2][:24]
    alone = losses(space, data, recipe, texts, 1)
    assert len(set(alone.values())) == 24
    assert losses(space, data, recipe, texts, 4) == alone


@pytest.mark.parametrize("part", ["dropout", "functional", "noise"])
def test_networks_that_draw_give_the_same_numbers_in_threads(data: SearchData, part: str) -> None:
    alone = losses(UserSpace(), data, RECIPE, [part] * 2, 1)
    assert alone[0] == alone[1]
    assert set(losses(UserSpace(), data, RECIPE, [part] * 6, 4).values()) == {alone[0]}


def test_blocks_give_the_same_numbers_beside_a_thread_that_draws(data: SearchData) -> None:
    space = BlockSpace(depth=2, channels=4, candidates=("k3_f4", "k3_f8", "k5_f8"), input_size=8)
    texts = ["k3_f4-k3_f8", "k5_f8-k3_f4", "k3_f8-k3_f8"]
    alone = losses(space, data, RECIPE, texts, 1)
    with disturbed():
        assert losses(space, data, RECIPE, texts, 3) == alone


def layers() -> nn.Module:
    """Draws in every way that modules do."""
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(3, 4), nn.LSTM(3, 4), nn.Embedding(3, 4), nn.Bilinear(2, 3, 4))
    nn.init.trunc_normal_(module[0].weight)  # type: ignore[arg-type]
    nn.init.orthogonal_(module[1].weight)  # type: ignore[arg-type]
    module.register_parameter("token", nn.Parameter(torch.randn(3, 4)))
    module.register_buffer("order", torch.randperm(10))
    module.register_buffer("noise", torch.normal(torch.zeros(3), 1.0))
    module.register_buffer("choices", torch.randint(0, 9, (3,)))
    module.register_buffer("mask", nn.functional.dropout(torch.ones(20)))
    return module


@pytest.mark.parametrize("surrounding", [None, disturbed])
def test_seeded_draws_what_manual_seed_does_and_leaves_the_global_generator(
    surrounding: Callable[[], object] | None,
) -> None:
    torch.manual_seed(5)
    expected = layers().state_dict()
    torch.manual_seed(7)
    before = torch.get_rng_state()
    if surrounding is None:
        with seeded(5):
            found = layers().state_dict()
        assert torch.equal(torch.get_rng_state(), before)
    else:
        with disturbed(), seeded(5):
            drawn = [nn.Conv2d(3, 8, 3) for _ in range(200)]
        with seeded(5):
            again = [nn.Conv2d(3, 8, 3) for _ in range(200)]
        assert all(torch.equal(a.weight, b.weight) for a, b in zip(drawn, again, strict=True))
        return
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def test_a_network_that_fails_leaves_the_global_generator_too() -> None:
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), seeded(0):
        torch.rand(1) / (1 // 0)
    state = RandomState(0, CPU)
    with pytest.raises(ZeroDivisionError), state.current():
        torch.rand(1) / (1 // 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_looks_at_a_networks_size_leaves_the_global_generator() -> None:
    @nas.space
    def draws(c: Any, task: Any) -> nn.Module:
        c.choice("width", [1, 2])
        torch.rand(3, device="cpu")  # also where the network is built without memory
        return nn.Sequential(nn.Flatten(), nn.Linear(64, task.classes))

    space = draws(in_channels=1, classes=10, input_size=8)
    before = torch.get_rng_state()
    make_network(space, space.parse("width=2"), Recipe(), torch.device("cpu"), 0)
    assert torch.equal(torch.get_rng_state(), before)


LOOKS: list[Callable[[FunctionSpace, Architecture], object]] = [
    figures,
    graph_of,
    FunctionSpace.operations,
    lambda space, _: space.fixed({"width": 1}),
]


@pytest.mark.parametrize("look", LOOKS)
def test_a_network_is_looked_at_while_no_other_thread_draws(
    look: Callable[[FunctionSpace, Architecture], object],
) -> None:
    begun = threading.Event()

    @nas.space
    def reads(c: Any, task: Any) -> nn.Module:
        begun.set()
        first = nn.Linear(64, 8 * c.choice("width", [1, 2]))
        assert float(first.weight.detach().abs().sum())  # on meta it has no value
        return nn.Sequential(nn.Flatten(), first, nn.LazyLinear(task.classes))

    space = reads(in_channels=1, classes=10, input_size=8)
    thread = threading.Thread(target=look, args=(space, space.parse("width=2")))
    begun.clear()
    with RandomState(0, CPU).current():
        first = torch.rand(2)
        thread.start()
        assert not begun.wait(0.1)
        second = torch.rand(2)
    thread.join()
    assert begun.is_set()
    torch.manual_seed(0)
    assert torch.equal(torch.cat([first, second]), torch.rand(4))


def test_a_state_goes_on_where_it_stood() -> None:
    torch.manual_seed(3)
    expected = [torch.rand(2), torch.rand(2)]
    state = RandomState(3, CPU)
    found = []
    for _ in range(2):
        torch.rand(5)
        with state.current():
            found.append(torch.rand(2))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("space", [ConvSpace(input_size=16), BlockSpace(input_size=16)])
def test_our_own_networks_neither_draw_nor_let_images_meet(space: SearchSpace) -> None:
    """`may_draw` and `mixes_images` take our word for it."""
    params = {name: parameter.choices[-1] for name, parameter in space.parameters.items()}
    network = make_network(space, space.architecture(params), RECIPE, CPU, seed=0)
    images = torch.rand(3, 1, 16, 16)
    before = torch.get_rng_state()
    together = network(images)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.allclose(together[:1], network(images[:1]), atol=1e-5)
    assert not may_draw(network)
    assert not mixes_images(network, images)


@pytest.mark.parametrize(
    ("module", "draws", "mixes"),
    [
        (nn.Sequential(nn.Conv2d(1, 1, 3), nn.GroupNorm(1, 1)), False, False),
        (nn.Dropout2d(), True, False),
        (nn.BatchNorm2d(1), False, True),
        (nn.BatchNorm2d(1).eval(), False, False),
        (nn.BatchNorm2d(1, track_running_stats=False).eval(), False, True),
        (nn.SyncBatchNorm(1), False, True),
        (nn.Sequential(nn.Flatten(), nn.TransformerEncoderLayer(16, 1, dropout=0.0)), True, True),
        (nn.Sequential(nn.Flatten(0, 1), nn.TransformerEncoderLayer(4, 1, 4, 0.0, batch_first=True)), True, False),
        (Functional(), True, True),
        (Noise(), True, True),
    ],
)  # fmt: skip
def test_what_a_network_does_is_found_out(module: nn.Module, draws: bool, mixes: bool) -> None:
    images = torch.rand(4, 1, 4, 4)
    state, buffers = torch.get_rng_state(), {k: v.clone() for k, v in module.state_dict().items()}
    assert (may_draw(module), mixes_images(module, images)) == (draws, mixes)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, buffers[name]) for name, value in module.state_dict().items())
