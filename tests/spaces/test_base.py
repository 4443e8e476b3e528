"""What every space can do by itself: choose, sample, list neighbours, and be narrowed."""

import random
from collections.abc import Mapping
from typing import Any

import optuna
import pytest
from torch import nn

from nas_optuna.costs.complexity import figures, macs_table
from nas_optuna.errors import ArchitectureError, NasOptunaError, SpecError
from nas_optuna.spaces import Decomposable, Parameter, SearchSpace, create_space
from nas_optuna.spaces.architecture import Architecture, require_choices
from nas_optuna.spaces.block import BlockSpace
from nas_optuna.spaces.conv import ConvSpace
from nas_optuna.spaces.supernet import Supernet, supernet_for


class Switches(SearchSpace):
    """A space without operations, with choices that Python takes for equal: True and 1."""

    name = "switches"

    def __init__(self, *, in_channels: int = 1, classes: int = 3, input_size: int = 8) -> None:
        self.in_channels, self.classes, self.input_size = in_channels, classes, input_size
        self.parameters = {
            "norm": Parameter((True, False)),
            "layers": Parameter((1, 2), ordered=True),
            "hidden": Parameter((None, 4)),
        }

    def format(self, params: Mapping[str, Any]) -> str:
        return f"{params['norm']}/{params['layers']}/{params['hidden']}"

    def parse(self, text: str) -> Architecture:
        norm, layers, hidden = text.split("/")
        hidden_units = None if hidden == "None" else int(hidden)
        return self.architecture({"norm": norm == "True", "layers": int(layers), "hidden": hidden_units})

    def build(self, architecture: Architecture) -> nn.Module:
        params = architecture.params
        layers: list[nn.Module] = [nn.Conv2d(self.in_channels, 4, 3, padding=1)]
        layers += [nn.BatchNorm2d(4)] if params["norm"] else []
        layers += [nn.Conv2d(4, 4, 3, padding=1) for _ in range(int(params["layers"] or 0))]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, self.classes))


def test_true_is_not_one() -> None:
    space = Switches()
    good = {"norm": True, "layers": 1, "hidden": None}
    assert space.architecture(good).params == good
    for wrong in ({"norm": 1}, {"layers": True}, {"norm": 0}, {"hidden": False}):
        with pytest.raises(ArchitectureError, match="outside its choices"):
            space.architecture({**good, **wrong})
    with pytest.raises(SpecError, match=r"cannot tell 1, 1\.0 and true apart"):
        require_choices("norms", (1, True))
    for value in ((3, 3), nn.ReLU, float("nan")):
        with pytest.raises(SpecError, match="'norms'"):
            require_choices("norms", (value,))


def test_bool_and_none_choices_survive_a_database(tmp_path) -> None:
    space = Switches()
    study = optuna.create_study(storage=f"sqlite:///{tmp_path}/study.db", sampler=optuna.samplers.RandomSampler(seed=1))
    study.optimize(lambda trial: float(len(str(space.suggest(trial)))), n_trials=6)
    for trial in study.get_trials():
        architecture = space.architecture(trial.params)
        assert type(architecture.params["norm"]) is bool
        assert space.parse(str(architecture)) == architecture


def test_a_space_without_operations_is_counted_whole() -> None:
    space = Switches()
    architecture = space.architecture({"norm": True, "layers": 1, "hidden": 4})
    assert not isinstance(space, Decomposable)
    assert figures(space, architecture).macs == 64 * 9 * (1 * 4 + 4 * 4) + 4 * 3
    assert figures(space, architecture).params == (9 * 4 + 4) + 8 + (9 * 16 + 4) + (12 + 3)
    with pytest.raises(SpecError, match="'switches'"):
        macs_table(space)


def test_a_whole_network_is_counted_as_its_operations_are() -> None:
    """Of a chain, both ways of counting give the same."""

    class Whole(ConvSpace):
        sequential = False

    text = "f4k3s1-f8k5s2"
    options = {"depth": 2, "filters": (4, 8), "kernels": (3, 5), "input_size": (20, 13)}
    parts, whole = ConvSpace(**options), Whole(**options)
    a, b = figures(parts, parts.parse(text), 4), figures(whole, whole.parse(text), 4)
    assert (a.macs, a.params, a.weight_bytes) == (b.macs, b.params, b.weight_bytes)
    assert b.activation_bytes == pytest.approx(a.activation_bytes, rel=0.02)


WRONG: dict[str, tuple[Any, ...]] = {
    "parse": (None, b"f16k3s1", ["f16k3s1"]),
    "architecture": (None, ["a"]),
    "fixed": (None, 3, ""),
    "build": (None, "f16k3s1", Switches().sample(random.Random(0))),
    "operations": (None, "f16k3s1"),
    "tokens": (None, {"a": 1}),
    "from_tokens": (None, (), [0]),
    "sample": (None, 3),
    "suggest": (None, {}),
}


@pytest.mark.parametrize("name", ["conv", "block", "macro", "residual"])
def test_methods_of_spaces_refuse_what_they_do_not_take_in_one_line(name: str) -> None:
    space = create_space(name, {}, in_channels=1, classes=3, input_size=16)
    for method, arguments in WRONG.items():
        for wrong in arguments:
            with pytest.raises(NasOptunaError):
                getattr(space, method)(wrong)
    for index in (999, "a", -1):
        with pytest.raises(ArchitectureError, match="tokens are the index of a choice for each parameter"):
            space.from_tokens([index] * len(space.parameters))  # type: ignore[list-item]
    with pytest.raises(SpecError, match="the architecture cannot be of type str; give one that parse"):
        list(space.neighbours("f16k3s1"))  # type: ignore[arg-type]


@pytest.mark.parametrize("space", [ConvSpace(depth=2), BlockSpace(depth=2), Switches()], ids=lambda s: s.name)
def test_neighbours_differ_in_one_parameter(space: SearchSpace) -> None:
    architecture = space.sample(random.Random(0))
    neighbours = list(space.neighbours(architecture))
    assert len(neighbours) == len(set(neighbours)) == sum(len(p.choices) - 1 for p in space.parameters.values())
    for other in neighbours:
        assert sum(a != b for a, b in zip(other.items, architecture.items, strict=True)) == 1


def test_enumeration_and_distinct_samples_cover_a_small_space() -> None:
    space = Switches()
    assert len(set(space.enumerate())) == space.size == 8
    assert set(space.sample_distinct(100, random.Random(0))) == set(space.enumerate())


def test_distinct_samples_are_those_that_are_accepted() -> None:
    space = ConvSpace(depth=1)
    wide = space.sample_distinct(100, random.Random(0), lambda a: a.params["conv1.filters"] == 48)
    assert set(wide) == {a for a in space.enumerate() if a.params["conv1.filters"] == 48}
    assert space.sample_distinct(3, random.Random(0), lambda a: False) == []


def test_fixed_parameters_keep_one_choice() -> None:
    space = ConvSpace(depth=2)
    fixed = space.fixed({"conv1.kernel": "5", "conv2.stride": 1})
    assert fixed.size == space.size // 6
    assert space.parameters["conv1.kernel"].choices == (3, 5, 7)
    for _ in range(5):
        params = fixed.sample(random.Random(0)).params
        assert (params["conv1.kernel"], params["conv2.stride"]) == (5, 1)
    assert set(fixed.reachable_operations()) < set(space.reachable_operations())
    assert supernet_for(fixed).derive()["conv1.kernel"] == 5
    blocks = BlockSpace(depth=2).fixed({"block2": "k5_f24"})
    assert supernet_for(blocks).extract(blocks.sample(random.Random(0))) is not None
    assert Switches().fixed({"norm": "false"}).parameters["norm"].choices == (False,)
    with pytest.raises(SpecError, match=r"did you mean 'conv1\.kernel'"):
        space.fixed({"conv1.kernl": 5})
    with pytest.raises(SpecError, match=r"conv1\.kernel = '9' is outside its choices"):
        space.fixed({"conv1.kernel": "9"})
    with pytest.raises(SpecError, match=r'a dot needs quotes: {"conv1.kernel" = …}'):
        space.fixed({"conv1": {"kernel": 5}})


def test_the_identity_of_square_spaces_is_what_studies_remember() -> None:
    identity = ConvSpace(depth=1, filters=(4,), kernels=(3,), strides=(1,)).identity()
    assert identity == {
        "name": "conv",
        "version": 1,
        "in_channels": 1,
        "classes": 10,
        "input_size": 28,
        "parameters": {"conv1.filters": [4], "conv1.kernel": [3], "conv1.stride": [1]},
    }
    assert ConvSpace(input_size=(28, 28)).identity()["input_size"] == 28
    assert ConvSpace(input_size=(28, 20)).identity()["input_size"] == [28, 20]


@pytest.mark.parametrize("size", [0, (28,), (28, 0), (1, 2, 3), "28", 2.5])
def test_wrong_input_sizes_are_refused(size: object) -> None:
    with pytest.raises(SpecError, match="input_size"):
        ConvSpace(input_size=size)  # type: ignore[arg-type]


def test_a_space_says_what_it_is() -> None:
    assert repr(ConvSpace(depth=2, input_size=(20, 30), classes=4)) == (
        "<ConvSpace 'conv': 576 architectures of 6 parameters, 1x20x30 to 4 classes>"
    )
    assert ": 1.1e+345 architectures of 750 parameters," in repr(ConvSpace(depth=250))


def test_a_notebook_shows_a_space_and_no_markup_of_its_names() -> None:
    odd = Switches()
    odd.parameters = {"<b>": Parameter(("<i>", 3))}
    page = odd._repr_html_()
    assert "<td>&lt;b&gt;</td><td>&lt;i&gt;, 3</td>" in page
    assert "<b>" not in page
    assert "<td>conv1.filters</td><td>16, 24, 32, 48</td>" in ConvSpace(depth=1)._repr_html_()


def test_a_space_may_have_a_supernet_of_its_own_and_its_options_are_checked() -> None:
    class MineSupernet(Supernet):
        def __init__(self, space: SearchSpace, *, alpha_init: str = "zero", sharing: int = 1) -> None:
            super().__init__(space, alpha_init=alpha_init)
            self.sharing = sharing

        forward = cost_model = extract = lambda self, *_: None  # type: ignore[assignment]

    MineSupernet.__abstractmethods__ = frozenset()

    class Mine(Switches):
        name = "mine"

        def supernet_class(self) -> type[Supernet]:
            return MineSupernet

    with pytest.raises(SpecError, match="has no supernet"):
        supernet_for(Switches())
    assert supernet_for(Mine(), sharing=2).sharing == 2
    with pytest.raises(SpecError, match="did you mean 'sharing'"):
        supernet_for(Mine(), shraing=2)
