"""Spaces, samplers, pruners and data sets of third parties: through an entry point, or as ``package.module:name``."""

import json
import pickle
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch

from nas_optuna import ConvSpace, ImageSet, SearchSpace, create_sampler, create_space
from nas_optuna.data import load_images
from nas_optuna.data_sets import DATA_SETS
from nas_optuna.errors import SpecError, with_types
from nas_optuna.execution.executors.contract import Executor
from nas_optuna.pruners import create_pruner
from nas_optuna.registry import Registry, check_options
from nas_optuna.samplers.optuna_builtin import DistinctSampler, tpe
from tests.helpers import Command

PACKAGE = """
import optuna, torch
from nas_optuna import ConvSpace, ImageSet

class Tiny(ConvSpace):
    name = "tiny"
    def __init__(self, *, wide: bool = False, **figures):
        super().__init__(depth=1, filters=(64,) if wide else (2, 4), **figures)

def first(space, seed, *, offset=0):
    '''The first choice of every parameter.'''
    choices = {name: [p.choices[offset]] for name, p in space.parameters.items()}
    return optuna.samplers.GridSampler(choices, seed=seed)

def never(epochs):
    return optuna.pruners.NopPruner()

def stripes(train, directory):
    labels = torch.arange(20) % 2
    images = torch.zeros(20, 1, 4, 4, dtype=torch.uint8)
    images[labels == 1, :, ::2] = 255
    return ImageSet(images, labels, ("plain", "striped"))
"""
ENTRY_POINTS = """
[nas_optuna.spaces]
tiny = third_party_nas:Tiny
[nas_optuna.samplers]
first = third_party_nas:first
[nas_optuna.pruners]
never = third_party_nas:never
[nas_optuna.datasets]
stripes = third_party_nas:stripes
broken = third_party_nas:absent
"""
FIGURES = {"in_channels": 1, "classes": 2, "input_size": 4}


@pytest.fixture(params=["entry point", "module"])
def prefix(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """What stands before a name: nothing for an entry point of an installed package."""
    (tmp_path / "third_party_nas.py").write_text(PACKAGE)
    if request.param == "entry point":
        metadata = tmp_path / "third_party_nas-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party-nas\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(tmp_path)
    yield "" if request.param == "entry point" else "third_party_nas:"
    sys.modules.pop("third_party_nas", None)


def test_a_space(prefix: str) -> None:
    name = prefix + ("Tiny" if prefix else "tiny")
    assert create_space(name, {}, **FIGURES).size == 2 * 3 * 2
    assert create_space(name, {"wide": True}, **FIGURES).size == 3 * 2


def test_a_sampler(prefix: str) -> None:
    space = ConvSpace(depth=1)
    study = optuna.create_study(sampler=create_sampler(f"{prefix}first", space, 0, {"offset": 1}))
    assert str(space.suggest(study.ask())) == "f24k5s2"
    with pytest.raises(SpecError, match=r"unknown option of sampler '.*first': 'ofset'; did you mean 'offset'\?"):
        create_sampler(f"{prefix}first", space, 0, {"ofset": 1})


def test_a_pruner(prefix: str) -> None:
    assert isinstance(create_pruner(f"{prefix}never", 3, {}), optuna.pruners.NopPruner)


def test_a_data_set(prefix: str) -> None:
    images = load_images(f"{prefix}stripes", True)
    assert isinstance(images, ImageSet)
    assert images.classes == ("plain", "striped")
    assert torch.equal(images.labels, torch.arange(20) % 2)
    if not prefix:
        assert "stripes" in DATA_SETS.names()
        with pytest.raises(SpecError, match=r"data set 'broken' cannot be imported: .*absent"):
            load_images("broken", True)


def test_a_space_of_a_file_goes_into_another_process(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "import nas_optuna as nas\nfrom torch import nn\n\n@nas.space\ndef net(c, task):\n"
        "    return nn.Sequential(nn.Flatten(), nn.LazyLinear(c.choice('a', [2, 4])), nn.LazyLinear(task.classes))\n"
    )
    space: Any = create_space(f"{tmp_path}/net.py:net", {}, **FIGURES)
    sent = pickle.dumps(space)
    assert pickle.loads(sent)._function is space._function
    module = sys.modules.pop(space._function.__module__)  # as in a process that has not seen the file
    found = pickle.loads(sent)
    assert found._function is not space._function
    assert found.identity() == space.identity()
    sys.modules[module.__name__] = module


def test_built_in_names_win() -> None:
    assert type(create_space("conv", {}, **FIGURES)) is ConvSpace
    assert isinstance(create_sampler("random", ConvSpace(), 0, {}), DistinctSampler)


def test_options_are_checked_before_anything_is_made() -> None:
    def factory(space: SearchSpace, seed: int, *, width: int = 1) -> None:
        raise AssertionError

    check_options("sampler", "mine", factory, ["width"], reserved=("space", "seed"))
    for option in ("widht", "seed"):
        with pytest.raises(SpecError, match="unknown option of sampler 'mine'"):
            check_options("sampler", "mine", factory, [option], reserved=("space", "seed"))


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        ("tpe", {"n_startup_trials": "ten"}, "sampler.n_startup_trials: it must be a whole number, got 'ten'"),
        ("tpe", {"multivariate": "no"}, "sampler.multivariate: it must be true or false, got 'no'"),
        ("gp", {"n_startup_trials": 2.5}, "sampler.n_startup_trials: it must be a whole number, got 2.5"),
        ("nsga2", {"population_size": 1}, "sampler 'nsga2' refuses {'population_size': 1}: "),
        ("controller", {"learning_rate": "fast"}, "sampler.learning_rate: it must be a number, got 'fast'"),
    ],
)
def test_a_value_of_an_option_is_refused_before_a_trial(name: str, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(SpecError, match=re.escape(problem)):
        create_sampler(name, ConvSpace(), 0, options)
    assert create_sampler("evolution", ConvSpace(), 0, {"children": np.int64(4), "population_size": 2e1})


def test_a_switch_that_a_study_of_before_has_stored_as_text_is_taken() -> None:
    assert with_types(tpe, {"multivariate": "False"}, "sampler") == {"multivariate": False}


def test_options_of_a_users_code_reach_it_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    lines = ("import optuna", "def sampler(space, seed, *, kind: str = '3', rate: int = 0.5):", "    assert kind == 3")
    file.write_text("\n".join((*lines, "    return optuna.samplers.RandomSampler(int(seed + rate))\n")))
    assert create_sampler(f"{file}:sampler", ConvSpace(), 0, {"kind": 3, "rate": 0.25})


def test_the_type_of_an_option_is_checked_only_if_it_is_known() -> None:
    def factory(*, width: "how wide" = 1, path: Path | None = None, sizes: list[int] = []) -> None: ...  # type: ignore # noqa: F722, B006

    given = {"width": "wide", "path": "p", "sizes": "all"}
    assert with_types(factory, given, "sampler") == given
    assert with_types(print, {"end": 3}, "sampler") == {"end": 3}


def test_options_are_listed_as_they_are_set(command: Command) -> None:
    listed = " ".join(command("list", "spaces").out.split())
    assert "filters=[16, 24, 32, 48]" in listed
    assert "None" not in listed
    assert "multivariate=true" in command("list", "samplers").out


def test_a_part_that_cannot_be_described_is_listed_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    (tmp_path / "odd-1.0.dist-info").mkdir()
    points = "[nas_optuna.samplers]\nodd = odd:number\nfull = odd:full\n[nas_optuna.strategies]\nasks = odd:Asks\n"
    (tmp_path / "odd-1.0.dist-info" / "entry_points.txt").write_text(points)
    options = "class Options(RankedOptions):\n    needed: int\nclass Asks:\n    Options = Options\n"
    base = "from nas_optuna.oneshot.strategies.base import RankedOptions\n"
    (tmp_path / "odd.py").write_text(f"{base}number = 7\ndef full(space, seed, *, kind=int): ...\n{options}")
    monkeypatch.syspath_prepend(tmp_path)
    found = {part["name"]: part for part in json.loads(command("list", "samplers", "--json").out)}
    assert "7 is not a callable object" in found["odd"]["advice"]
    assert found["full"]["options"] == {"kind": "<class 'int'>"}
    result = command("list", "strategies")
    assert result.code == 0
    assert "needed" in result.out


def test_what_comes_onto_the_search_path_later_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry("space", "nas_optuna.spaces")
    assert "later" not in registry
    (tmp_path / "later-1.0.dist-info").mkdir()
    (tmp_path / "later-1.0.dist-info" / "entry_points.txt").write_text("[nas_optuna.spaces]\nlater = later:Space\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "later" in registry


class Undescribed(Executor):
    pass


def test_a_class_without_a_docstring_has_no_advice_rather_than_its_bases() -> None:
    registry = Registry("executor", "nas_optuna.nothing", {"mine": f"{__name__}:Undescribed"})
    assert registry.describe() == [{"name": "mine", "advice": "", "options": {}}]
