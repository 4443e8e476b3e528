"""What have samplers found after so many seconds of real training?

Every search trains on one thread, from the same images, until its processor time is used up; loading and the tests at
the end are not counted. Processor time is what the searches have in common on a machine that does other work, too. The
network that a search would give after each mark is its best complete trial by validation; its kept weights are scored
on the test part once. ``curves`` has its own pruner, the others have `guarded`.

Four samplers with five seeds of fifteen minutes are five hours. With ``--keep``, every search can be interrupted, and
one of five minutes goes on when fifteen are asked for.

    python benchmarks/equal_seconds.py mnist-fast --set data.train_limit=12000 --minutes 5 15 --seeds 5 \
        --json OUT --keep FOLDER
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import optuna
import torch
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nas_optuna.data import BatchLoader, load_test_images
from nas_optuna.execution.finished_network import with_kept_weights
from nas_optuna.experiment import Experiment
from nas_optuna.presets import find_spec
from nas_optuna.spec import StudySpec
from nas_optuna.study.storage import sqlite_url
from nas_optuna.training import evaluate
from nas_optuna.training.checkpoint import KeptWeights

SAMPLERS = ("random", "tpe", "arch", "curves")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Found:
    """What a search had after some minutes.

    Attributes:
        sampler: Its name.
        seed: Of proposals; the weights of all trials begin from the spec's.
        minutes: Of processor time.
        validation: Accuracy of the best complete trial.
        test: Accuracy of the same weights on the test part.
        complete: Trials that were trained to their end.
        pruned: Trials that were stopped.
        architecture: The best one.
    """

    sampler: str
    seed: int
    minutes: float
    validation: float
    test: float
    complete: int
    pruned: int
    architecture: str


@dataclass
class Ledger:
    """The processor time of one search, kept in a file, since the search may go on in another process.

    Attributes:
        file: Where it is kept.
        spent: Seconds until the last trial that ended.
        ended: Of each ended trial, the seconds until its end and its number.
    """

    file: Path
    spent: float = 0.0
    ended: list[tuple[float, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.file.exists():
            self.spent, self.ended = json.loads(self.file.read_text())

    def write(self, spent: float) -> None:
        """Keep what is known after so many seconds."""
        self.spent = spent
        self.file.write_text(json.dumps([spent, self.ended]))


def search(spec: StudySpec, sampler: str, seed: int, minutes: list[float], files: Path) -> list[Found]:
    """Search until the last mark, from where these files say; what there was at each."""
    pruner = "curves" if sampler == "curves" else "guarded"
    parts = {"sampler": {"name": sampler, "seed": seed}, "pruner": {"name": pruner}}
    spec = StudySpec.from_dict(spec.to_dict() | parts)
    ledger = Ledger(files / "spent.json")
    before, began = ledger.spent, math.inf

    def spent() -> float:
        return before + time.process_time() - began

    def note(_: Study, trial: FrozenTrial) -> None:
        ledger.ended.append((spent(), trial.number))
        ledger.write(spent())

    until = 60 * max(minutes)
    experiment = Experiment.from_spec(
        spec, device="cpu", checkpoints=files, keep_weights=True, interrupted=lambda: spent() >= until
    )
    study = experiment.create(sqlite_url(files / "study.db"), "equal-seconds", load_if_exists=True)
    began = time.process_time()
    if before < until:
        experiment.run(study, callbacks=[note])
        ledger.write(spent())
        if ledger.spent < until:
            raise SystemExit(f"interrupted after {ledger.spent:.0f} s; with --keep, the same command goes on")
    return [at(minute, ledger, experiment, study, files, sampler, seed) for minute in minutes]


def at(
    minutes: float,
    ledger: Ledger,
    experiment: Experiment,
    study: Study,
    files: Path,
    sampler: str,
    seed: int,
) -> Found:
    """The best complete trial by then, and its test."""
    numbers = {number for seconds, number in ledger.ended if seconds <= 60 * minutes}
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.number in numbers]
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    best = max(complete, key=lambda trial: trial.values[0])
    images, side = experiment.search.data.train, experiment.space.input_size
    test = load_test_images(experiment.spec.data, images, input_size=side)
    network, facts = with_kept_weights(study, experiment.space, best, KeptWeights(files))
    loader = BatchLoader(test, experiment.spec.recipe.batch_size, side, CPU)
    tested = evaluate(network, loader, CPU, torch.float32).accuracy
    pruned = sum(trial.state == TrialState.PRUNED for trial in trials)
    return Found(sampler, seed, minutes, best.values[0], tested, len(complete), pruned, facts.get("architecture", ""))


def table(found: list[Found]) -> str:
    """Mean and standard error over the seeds, in percent."""
    lines = [f"{'minutes':>8}  {'sampler':8} {'validation':>14} {'test':>14} {'complete':>9} {'pruned':>7}"]
    for minutes, sampler in sorted({(one.minutes, one.sampler) for one in found}):
        own = [one for one in found if (one.minutes, one.sampler) == (minutes, sampler)]
        accuracies = (percent([one.validation for one in own]), percent([one.test for one in own]))
        counts = (statistics.fmean(one.complete for one in own), statistics.fmean(one.pruned for one in own))
        lines.append(
            f"{minutes:8g}  {sampler:8} {accuracies[0]:>14} {accuracies[1]:>14} {counts[0]:9.1f} {counts[1]:7.1f}"
        )
    return "\n".join(lines)


def percent(values: list[float]) -> str:
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{100 * statistics.fmean(values):.2f} ± {100 * error:.2f}"


def main(arguments: list[str] | None = None) -> list[Found]:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", help="a preset or a study spec")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override the spec")
    parser.add_argument("--samplers", nargs="+", default=SAMPLERS)
    parser.add_argument("--minutes", type=float, nargs="+", default=[5.0, 15.0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write every result there, and go on with what is there")
    parser.add_argument("--keep", type=Path, help="keep the searches in this folder, and go on with what is there")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    spec = StudySpec.from_toml(find_spec(options.spec), options.set)
    found: list[Found] = []
    if options.json and options.json.exists():
        found = [Found(**one) for one in json.loads(options.json.read_text())]
    for seed in range(options.seeds):
        for sampler in options.samplers:
            known = {one.minutes for one in found if (one.sampler, one.seed) == (sampler, seed)}
            missing = [minutes for minutes in options.minutes if minutes not in known]
            if not missing:
                continue
            with tempfile.TemporaryDirectory() as passing:
                files = (options.keep or Path(passing)) / f"{sampler}-{seed}"
                files.mkdir(parents=True, exist_ok=True)
                found += search(spec, sampler, seed, missing, files)
            print(json.dumps(asdict(found[-1])), flush=True)
            if options.json:
                options.json.write_text(json.dumps([asdict(one) for one in found], indent=1))
    print(table(found))
    return found


if __name__ == "__main__":
    main()
