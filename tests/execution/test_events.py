"""Every kind of training tells the same events: a search's are in `test_experiment.py`, the others' here."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.trial import FrozenTrial
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nas_optuna.execution.evaluator import Measurement
from nas_optuna.execution.events import Callback, Callbacks, Run, Subject
from nas_optuna.experiment import Experiment
from nas_optuna.oneshot.price import cost_table
from nas_optuna.oneshot.training import SupernetTraining
from nas_optuna.spec import StudySpec, SupernetSpec
from tests.helpers import Command, tiny

SPEC = StudySpec.from_dict(
    {
        "data": {"name": "digits", "train_limit": 120},
        "space": {"name": "conv", "depth": 2, "filters": [4, 8], "kernels": [3, 5], "strides": [1]},
        "recipe": {"input_size": 8, "epochs": 12},
    }
)
SUPERNETS = [
    SupernetSpec(epochs=2, batch_size=32, evaluations=10),
    SupernetSpec(strategy="darts", epochs=2, warmup_epochs=0, batch_size=32),
]


class Listener(Callback):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []
        self.measured: list[Measurement] = []

    def run_started(self, run: Run) -> None:
        self.told.append(("run started", run.kind, run.steps))
        self.facts = run.facts

    def trial_started(self, subject: Subject) -> None:
        self.told.append(("trial started", subject.name))

    def step_finished(self, subject: Subject, measurement: Measurement) -> None:
        self.told.append(("step finished", measurement.step))
        self.measured.append(measurement)

    def trial_finished(self, subject: Subject, ended: FrozenTrial | None) -> None:
        self.told.append(("trial finished", subject.name))

    def run_finished(self, run: Run) -> None:
        self.told.append(("run finished", run.kind))


@pytest.mark.parametrize("settings", SUPERNETS, ids=["fair", "darts"])
def test_a_supernets_training_tells_its_epochs(settings: SupernetSpec, tmp_path: Path) -> None:
    experiment, listener = Experiment.from_spec(SPEC, device="cpu"), Listener()
    study = optuna.create_study(study_name="s")
    table = cost_table(experiment.space, None)
    device = experiment.objective.device
    search = replace(experiment.search, spec=SPEC.model_copy(update={"supernet": settings}))
    training = SupernetTraining(study, search, table, device, tmp_path)
    training.train([listener])
    plan, told = training.plan, listener.told
    first, last = told[:4], told[-2:]
    assert first == [
        ("run started", "supernet", 2),
        ("trial started", "supernet"),
        ("step finished", 1),
        ("step finished", 2),
    ]
    assert last == [("trial finished", "supernet"), ("run finished", "supernet")]
    names = [f"short training {i + 1}" for i in range(plan.calibrating + plan.finalists)]
    assert [name for event, name, *_ in told[4:-2] if event == "trial started"] == names
    assert [name for event, name, *_ in told[4:-2] if event == "trial finished"] == names
    assert len(listener.measured) == 2 + plan.epochs
    assert (plan.epochs > 0) == (settings.strategy == "fair")
    figures = listener.measured[1].metrics
    assert figures["train_loss"] == training.history[-1].loss
    assert ("expected_cost" in figures) == (settings.strategy == "darts")  # fair has it at the end
    entropies = {f"entropy/{name}" for name in experiment.space.parameters}
    assert entropies & set(figures) == (entropies if settings.strategy == "darts" else set())
    assert listener.facts["epochs_done"] == 0
    again = Listener()
    SupernetTraining(study, search, table, device, tmp_path).train([again])
    assert again.told == [("run started", "supernet", 2), ("run finished", "supernet")]
    assert again.facts["epochs_done"] == 2


def curves(folder: Path) -> Iterator[tuple[str, set[str]]]:
    for run in sorted(path.parent for path in folder.rglob("events*")):
        events = EventAccumulator(str(run))
        events.Reload()
        yield str(run.relative_to(folder)), set(events.Tags()["scalars"])


def test_every_command_that_trains_can_be_tracked(command: Command, tmp_path: Path) -> None:
    track = ("--track", f"tensorboard:{tmp_path}/logs")
    fair = ("--set", "supernet.evaluations=10", "--set", "supernet.batch_size=64")
    study = ("--study", "s")
    for words in (
        ("supernet", "train", *study, *tiny(), *fair, "--epochs", "1", *track),
        ("supernet", "check", *study, "--architectures", "3", *track),
        ("retrain", *study, *track),
    ):
        assert command(*words).code == 0
    found = dict(curves(tmp_path / "logs"))
    assert {"train_loss", "train_accuracy"} < found["s-supernet/supernet"]
    assert sum(name.startswith("s-check/trial-") for name in found) >= 4
    assert {"train_loss", "train_accuracy"} <= found["s-retrain/seed-0"]


def test_a_callback_that_raises_is_told_nothing_more(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Callback):
        def run_started(self, run: Run) -> None:
            raise RuntimeError("no\nlog")

    listener, study = Listener(), optuna.create_study()
    told, run = Callbacks([Broken(), listener]), Run("check", study, 1, 1)
    told.run_started(run)
    told.run_finished(run)
    assert [event[0] for event in listener.told] == ["run started", "run finished"]
    assert [record.getMessage() for record in caplog.records] == [
        "Broken is told nothing more: RuntimeError: no log (test_events.py:121)"
    ]


def test_a_callback_that_raises_in_two_threads_at_once_fails_neither_trial(caplog: pytest.LogCaptureFixture) -> None:
    both = threading.Barrier(2, timeout=20)

    class Broken(Callback):
        def step_finished(self, subject: Subject, measurement: Measurement) -> None:
            both.wait()
            raise RuntimeError

    told = Callbacks([Broken()])
    with ThreadPoolExecutor(2) as threads:
        measured = Measurement(1, {}, 0.0)
        ends = [threads.submit(told.step_finished, Subject(f"trial {i}"), measured) for i in range(2)]
    assert [end.exception() for end in ends] == [None, None]
    assert len(caplog.records) == 1
