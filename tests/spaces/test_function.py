"""Define by run: what tracing finds, and how architectures are written."""

import copy
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from torch import nn

import nas_optuna as nas
from nas_optuna.costs.complexity import figures
from nas_optuna.errors import ArchitectureError, SpecError
from nas_optuna.spaces import SearchSpace, create_space
from nas_optuna.spaces.function import FunctionSpace, SpaceFunction

SHAPE: dict[str, Any] = {"in_channels": 1, "classes": 10, "input_size": 8}


def classifier(*layers: nn.Module, width: int, classes: int = 10) -> nn.Sequential:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


@nas.space
def network(c: Any, task: Any, most: int = 3) -> nn.Module:
    width = c.choice("width", [4, 8], ordered=True)
    candidates = {"conv": lambda: nn.Conv2d(width, width, 3, padding=1), "skip": nn.Identity}
    blocks = [c.layer(f"block{i}", candidates) for i in range(c.integer("depth", 1, most))]
    return classifier(nn.Conv2d(task.channels, width, 3, padding=1), *blocks, width=width, classes=task.classes)


SPACE = network(**SHAPE)


def made(build: Callable[..., Any], **options: Any) -> FunctionSpace:
    return nas.space(build)(**SHAPE, **options)


def test_every_parameter_is_found_also_behind_conditions() -> None:
    assert list(SPACE.parameters) == ["width", "depth", "block0", "block1", "block2"]
    assert [p.ordered for p in SPACE.parameters.values()] == [True, True, False, False, False]


def test_size_counts_each_network_once() -> None:
    everything = list(SPACE.enumerate())
    assert SPACE.size == len(everything) == len(set(map(str, everything))) == 2 * (2 + 4 + 8)


def test_a_parameter_behind_two_conditions_together_is_found_and_counted() -> None:
    def build(c: Any, task: Any) -> nn.Module:
        a, b = c.choice("a", [0, 1, 2]), c.choice("b", [0, 1, 2])
        if a == 1 and b == 2:
            c.choice("hidden", [4, 8, 16])
        return classifier(width=1)

    space = made(build)
    assert "hidden" in space.parameters
    assert space.size == len(list(space.enumerate())) == 8 + 3


def test_equal_networks_are_equal_architectures() -> None:
    short = {"width": 4, "depth": 1, "block0": "skip"}
    long = {**short, "block1": "skip", "block2": "skip"}
    assert SPACE.architecture(short) == SPACE.architecture(long)
    assert str(SPACE.architecture(long)) == "width=4,depth=1,block0=skip"


def test_text_params_and_tokens_round_trip() -> None:
    for architecture in SPACE.enumerate():
        assert SPACE.parse(str(architecture)) == architecture
        assert SPACE.architecture(architecture.params) == architecture
        assert SPACE.from_tokens(SPACE.tokens(architecture)) == architecture
        assert SPACE.suggest(optuna.trial.FixedTrial(dict(architecture.params))) == architecture


def test_names_and_choices_may_hold_anything() -> None:
    def build(c: Any, task: Any) -> nn.Module:
        c.choice("a.b c=ü,%", ["x,y", "2", 2, None, True, 0.5])
        c.scope("stage 1").choice("größe", ["ä b", ""])
        return classifier(width=1)

    space = made(build)
    everything = list(space.enumerate())
    assert len(everything) == len(set(map(str, everything))) == 12
    assert "stage 1.größe" in space.parameters
    assert not any(c.isspace() for c in "".join(map(str, everything)))
    assert [space.parse(str(a)) for a in everything] == everything
    study = optuna.create_study()
    study.optimize(lambda trial: float(len(str(space.suggest(trial)))), n_trials=5)


def test_neighbours_differ_by_one_choice() -> None:
    start = SPACE.parse("width=4,depth=2,block0=conv,block1=skip")
    assert set(map(str, SPACE.neighbours(start))) == {
        "width=8,depth=2,block0=conv,block1=skip",
        "width=4,depth=1,block0=conv",
        "width=4,depth=3,block0=conv,block1=skip,block2=conv",
        "width=4,depth=2,block0=skip,block1=skip",
        "width=4,depth=2,block0=conv,block1=conv",
    }


def test_fixed_leaves_out_what_can_no_longer_be_asked() -> None:
    space = SPACE.fixed({"depth": "1", "width": 8})
    assert list(space.parameters) == ["width", "depth", "block0"]
    assert space.size == 2
    assert {str(a) for a in space.enumerate()} == {"width=8,depth=1,block0=conv", "width=8,depth=1,block0=skip"}
    with pytest.raises(SpecError, match="did you mean 'width'"):
        SPACE.fixed({"widht": 8})
    with pytest.raises(SpecError, match=r"width = 7 is outside its choices; choose one of \(4, 8\)"):
        SPACE.fixed({"width": 7})


@pytest.mark.parametrize("name", ["conv", "block", "macro"])
def test_fix_is_an_option_of_every_space(name: str) -> None:
    shape = {**SHAPE, "input_size": 32}
    free = create_space(name, {}, **shape)
    parameter, values = next((n, p.choices) for n, p in free.parameters.items() if len(p.choices) > 1)
    fixed = create_space(name, {"fix": {parameter: str(values[-1])}}, **shape)
    assert fixed.parameters[parameter].choices == (values[-1],)
    assert fixed.size < free.size


def test_the_network_is_what_the_function_builds_and_its_costs_are_counted() -> None:
    architecture = SPACE.parse("width=8,depth=2,block0=conv,block1=skip")
    built = SPACE.build(architecture)
    assert built(torch.zeros(3, 1, 8, 8)).shape == (3, 10)
    counted = figures(SPACE, architecture)
    assert counted.params == sum(p.numel() for p in built.parameters())
    assert counted.macs == 64 * (9 * 8 + 9 * 8 * 8) + 8 * 10


def test_building_takes_only_the_networks_own_random_numbers() -> None:
    def fresh() -> FunctionSpace:
        return network(**SHAPE)

    torch.manual_seed(1)
    space = fresh()
    first = space.build(space.parse("width=4,depth=1,block0=conv")).state_dict()
    torch.manual_seed(1)
    second = space.build(space.parse("width=4,depth=1,block0=conv")).state_dict()
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_a_network_that_reads_values_while_it_is_built_and_lazy_layers_work() -> None:
    def build(c: Any, task: Any) -> nn.Module:
        rates = torch.linspace(0, 0.5, c.integer("depth", 1, 2)).tolist()
        return nn.Sequential(nn.Flatten(), *(nn.Dropout(r) for r in rates), nn.LazyLinear(task.classes))

    space = made(build)
    assert space.size == 2
    assert space.build(space.parse("depth=2"))(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_a_space_travels_to_another_process() -> None:
    assert pickle.loads(pickle.dumps(SPACE)).size == SPACE.size
    assert copy.deepcopy(SPACE).parameters == SPACE.parameters


def test_non_square_and_options_of_the_function() -> None:
    space = network(in_channels=3, classes=2, input_size=(8, 12), most=1)
    assert space.build(space.sample(random.Random(0)))(torch.zeros(2, 3, 8, 12)).shape == (2, 2)
    with pytest.raises(SpecError, match="most"):
        create_space(f"{__file__}:network", {"mots": 1}, **SHAPE)


def test_a_file_names_a_space(tmp_path: Path) -> None:
    file = tmp_path / "my net.py"
    file.write_text(Path("examples/my_space.py").read_text())
    space: SearchSpace = create_space(f"{file}:network", {"fix": {"width": 16}}, **SHAPE)
    assert space.size == 3 + 9 + 27 + 81


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("width", "is not name=value"),
        ("with=4", "did you mean 'width'"),
        ("width=5,depth=1,block0=conv", "outside its choices"),
        ("width=4,depth=2,block0=conv", "'block1' has no value"),
        ("width=4,depth=1,block0=conv,block2=conv", "'block2', which its network does not ask for"),
    ],
)
def test_text_that_is_no_architecture_is_refused(text: str, message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        SPACE.parse(text)


def test_networks_can_be_exported() -> None:
    architecture = SPACE.parse("width=4,depth=2,block0=conv,block1=skip")
    built = SPACE.build(architecture).eval()
    images = torch.rand(2, 1, 8, 8)
    exported = torch.export.export(built, (images,)).module()
    torch.testing.assert_close(exported(images), built(images))


@pytest.mark.parametrize("sampler", ["random", "tpe", "gp", "nsga2", "evolution", "controller", "arch", "qmc"])
def test_every_sampler_proposes_in_such_a_space(sampler: str) -> None:
    from nas_optuna.samplers import create_sampler

    study = optuna.create_study(direction="maximize", sampler=create_sampler(sampler, SPACE, 0, {}))
    seen = set()

    def score(trial: optuna.Trial) -> float:
        seen.add(architecture := SPACE.suggest(trial))
        return float(figures(SPACE, architecture).params)

    study.optimize(score, n_trials=14)
    assert len(seen) >= 3
    assert study.best_trial.params["width"] in (4, 8)


def test_a_space_function_is_described_by_its_own_options() -> None:
    assert isinstance(network, SpaceFunction)
    assert network.__name__ == "network"


def test_figures_of_the_data_are_no_options() -> None:
    def network(c: Any, *, in_channels: int, classes: int, input_size: int) -> nn.Module:
        return nn.Identity()

    with pytest.raises(SpecError, match=r"classes comes with the data .* task\.classes"):
        nas.space(network)


def test_a_space_names_its_reference() -> None:
    @nas.space(reference={"width": 8, "depth": 2, "block0": "conv", "block1": "conv"})
    def known(c: Any, task: Any, widths: tuple[int, ...] = (4, 8), most: int = 3) -> nn.Module:
        width = c.choice("width", widths)
        blocks = [
            c.layer(f"block{i}", {"skip": nn.Identity, "conv": nn.ReLU}) for i in range(c.integer("depth", 1, most))
        ]
        return classifier(nn.Conv2d(task.channels, width, 3), *blocks, width=width)

    space = known(**SHAPE)
    assert str(space.reference) == "width=8,depth=2,block0=conv,block1=conv"
    assert str(pickle.loads(pickle.dumps(_reference_space(**SHAPE))).reference) == "a=2"
    assert str(space.fixed({"depth": 3}).reference) == "width=8,depth=3,block0=conv,block1=conv,block2=skip"
    assert str(space.fixed({"depth": 1, "width": 4}).reference) == "width=4,depth=1,block0=conv"
    assert known(**SHAPE, widths=(16, 32)).reference is None
    assert SPACE.reference is None
    assert nas.ConvSpace().reference is None


@nas.space(reference={"a": 2})
def _reference_space(c: Any, task: Any) -> nn.Module:
    c.choice("a", [1, 2])
    return classifier(width=1)


@pytest.mark.parametrize(
    ("reference", "said"),
    [({"widht": 8}, "did you mean 'width'"), ({"width": 9}, r"width = 9 is outside its choices")],
)
def test_a_reference_that_the_space_does_not_have_is_refused(reference: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=f"its reference: .*{said}"):
        nas.space(reference=reference)(network.build)(**SHAPE)
