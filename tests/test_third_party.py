"""A package of somebody else's adds a part of every kind without touching ours."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

PACKAGE = '''
"""Somebody's parts."""
from nas_optuna.oneshot.strategies.base import ChoiceWeights, RankedOptions, Strategy
import optuna
from nas_optuna import Callback, Measurement, metric
from nas_optuna.costs.cost import Cost


@metric(direction="minimize", ideal=0.0, worst=1.0)
def error_rate(outputs, targets):
    """Share of wrong predictions."""
    return (outputs.argmax(1) != targets).float().mean()


class Depth(Cost):
    """Number of operations."""

    name, unit = "depth", "operations"

    def __call__(self, architecture):
        return float(len(self.context.space.operations(architecture)))


def first_epoch(epochs, *, below=0.0):
    """Stop what is below a threshold after its first epoch."""
    return optuna.pruners.ThresholdPruner(lower=below)


def backwards(space, seed, *, skip=0):
    """Propose at random, from seeds of its own."""
    return optuna.samplers.RandomSampler(seed=seed + 100 + skip)


class Constant:
    """Scores every architecture alike."""

    def __init__(self, context, *, score=0.5):
        self.space = context.space(in_channels=1, outputs=2, input_size=8)
        self.steps, self.identity, self.score = 1, f"constant {score}", score

    def evaluate(self, architecture, *, resume, stop):
        yield Measurement(1, {"score": self.score}, 0.0)


class LineTracker(Callback):
    """Writes a line per event."""

    def __init__(self, path):
        self.path = path

    def _write(self, text):
        with open(self.path, "a") as file:
            print(text, file=file)

    def run_started(self, run):
        self._write(f"run {run.study.study_name}")

    def step_finished(self, subject, measurement):
        self._write(f"{subject.name} {measurement.step} {measurement.metrics['accuracy']:.2f}")

    def run_finished(self, run):
        self._write("end")


class WidestOptions(RankedOptions):
    again: int = 1


class Widest(Strategy):
    """Trains the last choice of every parameter."""

    Options = WidestOptions

    def step(self, batch):
        path = {name: ChoiceWeights(len(alpha) - 1, None) for name, alpha in self.supernet.alphas.items()}
        for _ in range(self.options.again):
            result = self.train_weights(*self.cross_entropy(batch, path), batch)
        return result
'''

ENTRY_POINTS = """
[nas_optuna.metrics]
error_rate = somebody:error_rate
[nas_optuna.costs]
depth = somebody:Depth
[nas_optuna.pruners]
first_epoch = somebody:first_epoch
[nas_optuna.samplers]
backwards = somebody:backwards
[nas_optuna.evaluators]
constant = somebody:Constant
[nas_optuna.trackers]
lines = somebody:LineTracker
[nas_optuna.strategies]
widest = somebody:Widest
"""

SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from nas_optuna.cli import main
TINY = ["--set=recipe.epochs=2", "--set=recipe.input_size=8", "--set=space.depth=2", "--set=data.train_limit=100"]
code = main(["run", "--trials", "2", *TINY, "--objective", "error_rate", "--objective", "depth",
             "--sampler", "backwards", "--set=sampler.skip=1", "--pruner", "first_epoch", "--set=limits.depth=9"])
assert code == 0, code
assert main(["run", "--study", "c", "--trials", "2", "--set=evaluator.name=constant", "--set=evaluator.score=0.25",
             "--objective", "score:maximize", "--sampler", "random", "--set=space.depth=2"]) == 0
assert main(["run", "--study", "t", "--trials", "1", "--sampler", "random", *TINY, "--track", "lines:lines.txt"]) == 0
lines = open("lines.txt").read().splitlines()
assert lines[0] == "run t" and lines[-1] == "end" and lines[1].startswith("trial 0 1 "), lines
assert main(["run", "--study", "t", "--track", "lines"]) == 2
assert main(["run", "--study", "t", "--track", "line:x"]) == 2
assert main(["samplers"]) == 0
assert main(["supernet", "train", "--study", "t", "--strategy", "widest", "--epochs", "1", "--set=supernet.again=3",
             "--set=supernet.evaluations=10", "--set=supernet.short_trainings=0"]) == 0
assert main(["list", "strategies"]) == 0
import optuna, somebody
first = optuna.load_study(study_name="nas", storage="sqlite:///nas-optuna.db")
assert [d.name for d in first.directions] == ["MINIMIZE", "MINIMIZE"], first.directions
assert all(t.values[1] == 3 for t in first.trials if t.values), [t.values for t in first.trials]
second = optuna.load_study(study_name="c", storage="sqlite:///nas-optuna.db")
assert {t.value for t in second.trials} == {0.25}
"""


def test_a_package_adds_metric_cost_pruner_sampler_evaluator_and_tracker_and_strategy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "somebody.py").write_text(PACKAGE)
    info = site / "somebody-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: somebody\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(textwrap.dedent(ENTRY_POINTS))
    (tmp_path / "script.py").write_text(SCRIPT)
    monkeypatch.delenv("NAS_OPTUNA_STORAGE", raising=False)
    found = subprocess.run(
        [sys.executable, str(tmp_path / "script.py"), str(site)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert found.returncode == 0, found.stderr[-2000:]
    assert "backwards" in found.stdout
