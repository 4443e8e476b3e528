"""The residual space: a good network as its reference, good networks around it, for pictures of any size."""

import random

import pytest
import torch
from torch import nn

from nas_optuna.costs.complexity import figures
from nas_optuna.data import BatchLoader, load_data
from nas_optuna.errors import SpecError
from nas_optuna.execution.evaluator import space_identity
from nas_optuna.export.source import write_source
from nas_optuna.spaces import create_space
from nas_optuna.spaces.built import Task
from nas_optuna.spaces.function import FunctionSpace, space
from nas_optuna.spaces.residual import BLOCKS, stem_strides
from nas_optuna.spaces.supernet import supernet_for
from nas_optuna.spec import Recipe
from nas_optuna.training import fit, make_network

CPU = torch.device("cpu")


def residual(size: int = 32, channels: int = 3, **options: object) -> FunctionSpace:
    made = create_space("residual", options, in_channels=channels, classes=10, input_size=size)
    assert isinstance(made, FunctionSpace)
    return made


SPACE = residual()


@pytest.mark.parametrize(
    "options",
    [{"width": 0}, {"width": -16}, {"width": 1.5}, {"stages": 0}, {"stages": "3"}, {"width": 2**16}, {"stages": 19}],
)
def test_options_that_would_be_taken_for_others_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(SpecError, match="must be a whole number of at least 1 and at most"):
        residual(**options)  # type: ignore[arg-type]


def test_a_wide_network_may_have_few_stages() -> None:
    assert residual(width=1280, stages=1).size


def test_stored_studies_go_on_while_its_file_is_as_it_was() -> None:
    assert SPACE.source == "3b44e91af8f8d157", "finished trials and epochs of earlier studies no longer count"


@pytest.mark.parametrize(("size", "strides"), [(8, [1]), (16, [1, 2]), (32, [1, 2]), (64, [2, 4]), (224, [4, 8])])
def test_the_stem_makes_large_pictures_small(size: int, strides: list[int]) -> None:
    assert stem_strides(Task(3, 10, size)) == strides


@pytest.mark.parametrize("size", [1, 4, 8, 28, 64, 256])
def test_pictures_of_any_size_have_a_reference(size: int) -> None:
    made = residual(size)
    assert made.reference is not None
    assert made.build(made.reference).eval()(torch.zeros(2, 3, size, size)).shape == (2, 10)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("attention", [False, True])
def test_every_block_is_built_trains_and_is_exported(block: str, attention: bool) -> None:
    params = dict(SPACE.reference.params)  # type: ignore[union-attr]
    for stage in (1, 2, 3):
        params |= {f"stage{stage}.block": block, f"stage{stage}.attention": attention, f"stage{stage}.kernel": 5}
    network = SPACE.build(SPACE.architecture(params))
    images = torch.randn(4, 3, 32, 32)
    network(images).square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in network.parameters() if p.ndim > 1)
    assert "return" in write_source(network.eval(), images)[1][-1]


def test_neighbours_of_the_reference_are_of_its_kind() -> None:
    """Nothing that one changes makes another thing of it: within a factor of six in compute."""
    assert SPACE.reference is not None
    whole = figures(SPACE, SPACE.reference).macs
    for name, parameter in SPACE.parameters.items():
        for value in parameter.choices:
            changed = SPACE.architecture({**SPACE.reference.params, name: value})
            assert 1 / 6 < figures(SPACE, changed).macs / whole < 6, str(changed)


def test_an_objective_has_the_same_identity_however_much_of_its_space_was_used() -> None:
    made = residual(8, 1, width=8)
    before = space_identity(made)
    made.build(made.sample(random.Random(0)))
    assert space_identity(made) == space_identity(residual(8, 1, width=8)) == before


def test_the_width_of_the_reference_scales_all() -> None:
    small, large = residual(width=8), residual(width=32)
    counts = [figures(made, made.reference).params for made in (small, SPACE, large)]  # type: ignore[arg-type]
    assert counts[0] * 3 < counts[1] < counts[2] / 3


def test_networks_of_a_fixed_depth_share_a_supernet() -> None:
    part = SPACE.fixed({f"stage{i}.depth": 1 for i in (1, 2, 3)})
    supernet = supernet_for(part).eval()
    architecture = supernet.space.sample(random.Random(0))
    assert isinstance(supernet.extract(architecture), nn.Module)
    assert {"stage1.width", "stage1.block"} <= set(supernet.alphas)


def test_the_reference_learns_digits_in_three_epochs() -> None:
    data, made = load_data("digits"), residual(8, 1)
    assert made.reference is not None
    recipe = Recipe(epochs=3, batch_size=32, weight_decay=0.05, decay_norms=False, schedule="one-cycle")
    network = make_network(made, made.reference, recipe, CPU, seed=0)
    train, validation = (BatchLoader(part, 32, 8, CPU) for part in (data.train, data.validation))
    assert list(fit(network, train, validation, recipe, CPU, seed=0))[-1].accuracy > 0.95


def test_a_reference_may_follow_from_the_task() -> None:
    @space(reference=lambda task, units=8: {"units": units * task.channels})
    def network(c, task, units=8):  # type: ignore[no-untyped-def]
        hidden = c.choice("units", [units, units * 2, units * 3], ordered=True)
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(hidden), nn.Linear(hidden, task.classes))

    sizes = {"classes": 10, "input_size": 4}
    assert str(network(in_channels=3, **sizes).reference) == "units=24"
    assert str(network(in_channels=2, units=4, **sizes).reference) == "units=8"
    with pytest.raises(SpecError, match="reference"):
        network(in_channels=4, **sizes)
