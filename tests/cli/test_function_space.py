"""A function in a file, searched from the command line: samplers, supernet, and what a bad file gets."""

import json
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest

from nas_optuna.spaces.supernet import CERTAIN
from tests.helpers import Command

EXAMPLE = """
import nas_optuna as nas
from torch import nn


def Conv(width, kernel):
    return nn.Sequential(nn.Conv2d(width, width, kernel, padding=kernel // 2), nn.BatchNorm2d(width), nn.ReLU())


@nas.space
def network(c, task):                       # task.channels, task.classes, task.input_size
    width = c.choice("width", [16, 32, 64], ordered=True)
    layers = [nn.Conv2d(task.channels, width, 3, padding=1)]
    for i in range(c.integer("depth", 1, 4)):
        layers.append(c.layer(f"block{i}", {"conv3": lambda: Conv(width, 3), "conv5": lambda: Conv(width, 5), "skip": nn.Identity}))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, task.classes))
"""  # noqa: E501
TINY = [
    word
    for setting in ("recipe.epochs=1", "recipe.input_size=8", "data.train_limit=200", "pruner.name=none")
    for word in ("--set", setting)
]


@pytest.fixture
def net(place: Path) -> str:
    file = place / "my net.py"
    file.write_text(EXAMPLE)
    return f"space.name={json.dumps(f'{file}:network')}"


@pytest.mark.parametrize(
    "sampler",
    [
        "tpe",
        "nsga2",
        "arch",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("random", "gp", "evolution", "controller")),
    ],
)
def test_a_file_is_searched_and_goes_on_by_every_sampler(command: Command, net: str, sampler: str) -> None:
    first = command("run", *TINY, "--set", net, "--sampler", sampler, "--trials", 1)
    assert first.code == 0, first.err
    second = command("run", "--trials", 1)
    assert second.code == 0, second.err
    best = command("best", "--json")
    assert best.code == 0, best.err
    assert best.json["architecture"].startswith("width=")


def test_what_its_constructors_print_stays_out_of_the_facts(command: Command, place: Path) -> None:
    (place / "loud.py").write_text(
        "import nas_optuna as nas\nfrom torch import nn\n\n@nas.space\ndef net(c, task):\n    print('LOUD')\n"
        "    width = c.choice('width', [2, 4])\n"
        "    return nn.Sequential(nn.Flatten(), nn.LazyLinear(width), nn.Linear(width, task.classes))\n"
    )
    ran = command("run", *TINY, "--set", "space.name=loud.py:net", "--trials", 1, "--json")
    assert ran.code == 0, ran.err
    assert len(ran.json) == 1
    assert "LOUD" in ran.err
    exported = command("export", "--trial", 0, "--trust")
    assert "LOUD" not in exported.out
    assert "LOUD" not in command("space", "show", "--set", "space.name=loud.py:net").out


def test_choices_are_shown_as_an_architecture_writes_them_and_pinned_as_python_does(
    command: Command, place: Path
) -> None:
    (place / "odd.py").write_text(
        "import nas_optuna as nas\nfrom torch import nn\n\n@nas.space\ndef net(c, task):\n"
        "    layers = [nn.Flatten()] if c.choice('flat', [True, False]) else [nn.Flatten(), nn.ReLU()]\n"
        "    rate = c.choice('rate', [0.5, None])\n"
        "    return nn.Sequential(*layers, nn.Dropout(rate or 0), nn.LazyLinear(task.classes))\n"
    )
    options = ("--set", "space.name=odd.py:net")
    shown = command("space", "show", *options).out
    assert "true, false" in shown
    assert "0.5, null" in shown
    assert command("run", *TINY, *options, "--fix", "flat=True", "--fix", "rate=None", "--trials", 1).code == 0
    lines = [line.split() for line in command("best").out.splitlines()]
    assert ["flat", "true"] in lines
    assert ["rate", "null"] in lines


@pytest.mark.parametrize("pins", [pytest.param("space.fix", marks=pytest.mark.slow), "fixed"])  # the latter is --fix
def test_its_supernet_is_trained_checked_and_exported(command: Command, net: str, pins: str) -> None:
    settings = ["--set", net, "--set", f"{pins}={{width = 16, depth = 2}}", "--set", "supernet.epochs=4"]
    trained = command("supernet", "train", "--study", "nas", *TINY, *settings)
    assert trained.code == 0, trained.err
    commands = (
        ("supernet", "export", "--study", "nas"),
        ("supernet", "check", "--study", "nas", "--architectures", 3),
        ("run", "--sampler", "supernet", "--trials", 1),
    )
    for words in commands:
        result = command(*words)
        assert result.code == 0, result.err
    trials = optuna.load_study(study_name="nas", storage="sqlite:///nas-optuna.db").trials
    assert len(trials) >= 5
    assert {(trial.params["width"], trial.params["depth"]) for trial in trials if trial.params} == {(16, 2)}


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_same_numbers(command: Command, net: str, place: Path) -> None:
    words = ["--set", net, "--set", "space.fix={width = 16}", *TINY, "--set", "recipe.epochs=30", "--sampler", "random"]
    assert command("run", "--study", "whole", *words, "--trials", 1).code == 0
    start = [sys.executable, "-m", "nas_optuna", "run", "--study", "killed", *words, "--trials", "1"]
    process = subprocess.Popen(start, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and process.poll() is None and len(_curve("killed")) < 3:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert 3 <= len(_curve("killed")) < 30
    again = command("run", "--study", "killed", "--trials", 1)
    assert again.code == 0, again.err
    assert _curve("killed") == _curve("whole")


def _curve(study: str) -> dict[int, float]:
    """Accuracy of each epoch of a study's first trial; empty where there is none."""
    try:
        trials = optuna.load_study(study_name=study, storage="sqlite:///nas-optuna.db").trials
    except KeyError:
        return {}
    return trials[0].intermediate_values if trials else {}


ELASTIC = """
import nas_optuna as nas
from torch import nn

@nas.space
def net(c, task):
    width = c.elastic("width", [4, 8])
    conv = nas.layers.ElasticConv2d
    layers = [conv(task.channels, width, 3, padding=1), nas.layers.ElasticBatchNorm2d(width)]
    for i in range(c.integer("depth", 1, 2)):
        kernels = {f"conv {k}": lambda k=k: conv(width, width, k, padding=k // 2) for k in (3, 5)}
        layers += [c.layer(f"\u00e4.{i}", kernels), nn.ReLU()]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nas.layers.ElasticLinear(width, task.classes)]
    return nn.Sequential(*layers)
"""


@pytest.mark.parametrize("strategy", ["fair", "darts"])
def test_a_supernet_keeps_values_opens_widths_and_stays_inside(command: Command, place: Path, strategy: str) -> None:
    (place / "net.py").write_text(ELASTIC, encoding="utf-8")
    one = command("run", *TINY, "--set", "space.name=net.py:net", "--trials", 1)
    assert one.code == 0, one.err
    how = ["--set", "supernet.evaluations=10"] if strategy == "fair" else ["--set", "supernet.warmup_epochs=1"]
    trained = command(
        "supernet", "train", "--json", "--set", f"supernet.strategy={strategy}", "--set", "supernet.epochs=2", *how
    )
    assert trained.code == 0, trained.err
    assert trained.json["alphas"]["width"] != [0.0, 0.0]
    assert max(trained.json["alphas"]["depth"]) == CERTAIN
    assert "depth=2" in trained.json["argmax"]
    exported = command("supernet", "export", "--json", "--top", 3)
    assert exported.code == 0, exported.err
    assert {row["params"]["depth"] for row in exported.json} == {2}
    checked = command("supernet", "check", "--architectures", 3)
    assert checked.code == 0, checked.err
    warm = command("run", "--warm-start", "supernet", "--sampler", "random", "--trials", 2)
    assert warm.code == 0, warm.err
    (study,) = optuna.get_all_study_summaries("sqlite:///nas-optuna.db")
    last = optuna.load_study(study_name=study.study_name, storage="sqlite:///nas-optuna.db").trials[-2:]
    assert {trial.params["depth"] for trial in last} == {2}


def test_a_network_of_a_function_is_exported_in_every_form(command: Command, net: str, place: Path) -> None:
    assert command("run", *TINY, "--set", net, "--trials", 1).code == 0
    assert command("retrain", "--epochs", 1).code == 0
    exported = command("export", "--out", "model")
    assert exported.code == 0, exported.err
    assert {file.name for file in (place / "model").iterdir()} >= {"model.py", "model.onnx", "model.pt2"}


def test_a_latency_table_of_a_function_is_measured_checked_and_used(command: Command, net: str, place: Path) -> None:
    name = json.loads(net.partition("=")[2])
    size = ("--input-size", 8, "--set", "fix={width = 16, depth = 2}")
    measured = command(
        "latency", "measure", "--space", name, *size, "--device", "cpu", "--rounds", 1, "--out", "t.json"
    )
    assert measured.code == 0, measured.err
    assert command("latency", "check", "t.json", *size, "--device", "cpu").err.strip() == (
        "error: t.json is of the function 'network'; say where it is: --space FILE.py:network"
    )
    checked = command(
        "latency", "check", "t.json", "--space", name, *size, "--device", "cpu", "--networks", 4, "--json"
    )
    assert checked.code == 0, checked.err
    assert checked.json["networks"] == 4
    objectives = ("--objective", "accuracy", "--objective", "latency_ms", "--latency-table", "t.json")
    fix = ("--set", "space.fix={width = 16, depth = 2}")
    run = command("run", *TINY, "--set", net, *fix, *objectives, "--trials", 1, "--json")
    assert run.code == 0, run.err


BROKEN = """
import nas_optuna as nas
from torch import nn

class Picky(nn.Module):
    def forward(self, x):
        raise ValueError("never")

@nas.space
def net(c, task):
    layer = c.layer("block0", {"ok": nn.Identity, "bad": lambda: nn.Sequential(nn.ReLU(), Picky())})
    return nn.Sequential(nn.Conv2d(1, 4, 3), layer, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, task.classes))
"""


def test_what_needs_every_network_names_the_broken_one_and_a_remedy(command: Command, place: Path) -> None:
    (place / "broken.py").write_text(BROKEN)
    size = ("--space", "broken.py:net", "--input-size", 8, "--out")
    train = ("supernet", "train", "--set", "space.name=broken.py:net", "--set", "recipe.input_size=8")
    for words in (
        ("latency", "measure", *size, "t.json", "--rounds", 1),
        ("latency", "kit", *size, "kit"),
        (*train, "--study", "s", "--budget", 0),
    ):
        said = command(*words)
        assert said.code == 2
        assert "block0=bad cannot be built" in said.err
        assert "needs every network of its space, so mend this one, or take its choice out" in said.err
    said = command(*train, "--study", "weights")
    assert said.code == 2
    assert "candidate 'bad' of 'block0': layer '1.1.1' (Picky) cannot take [2, 4, 6, 6]: never" in said.err


def test_a_file_whose_network_cannot_take_the_images_costs_one_line_and_makes_nothing(
    command: Command, place: Path
) -> None:
    (place / "bad.py").write_text(
        "import nas_optuna as nas\nfrom torch import nn\n\n@nas.space\ndef net(c, task):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(c.choice('a', [7, 9]), task.classes))\n"
    )
    result = command("run", *TINY, "--set", f"space.name={place}/bad.py:net", "--trials", 1)
    assert result.code == 2
    assert len(result.err.strip().splitlines()) == 1
    assert "layer '1' (Linear, weights [10, 7]) cannot take [2, 64]" in result.err
    assert {path.name for path in place.iterdir()} <= {"bad.py", "__pycache__"}, "Python may keep what it compiled"
