"""A GPU with which the process can compute nothing any more, after a failed assertion of CUDA, for example."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch

import nas_optuna as nas
from nas_optuna.errors import DeviceLostError
from nas_optuna.execution.evaluator import Measurement
from nas_optuna.execution.executors import pool
from nas_optuna.execution.executors.contract import Handle, Work
from nas_optuna.execution.executors.pool import Message, WorkerSpec, run_worker
from nas_optuna.execution.loop import StopRequest, run
from nas_optuna.study.schema import TrialKey

SPACE = nas.ConvSpace(depth=1, input_size=8)
ASSERTION = "CUDA error: device-side assert triggered"


class Failing:
    """Fails in every trial, each time for another cause."""

    identity, steps, space = "failing", 1, SPACE
    calls = 0

    def evaluate(self, architecture: Any, *, resume: Path | None, stop: Any) -> Iterator[Measurement]:
        self.calls += 1
        raise RuntimeError(f"{ASSERTION} {self.calls}")
        yield


@pytest.fixture
def objective(monkeypatch: pytest.MonkeyPatch) -> nas.EvaluatorObjective:
    monkeypatch.setattr("nas_optuna.execution.objective.device_name", lambda device: "a GPU")
    made = nas.EvaluatorObjective(Failing(), device="cpu", reuse_duplicates=False)
    made.device = torch.device("cuda", 1)
    return made


@pytest.fixture
def study() -> optuna.Study:
    made = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    for choice in (0, 1, 2):
        made.enqueue_trial(SPACE.from_tokens([choice, 0, 0]).params)
    return made


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def synchronize(device: torch.device) -> None:
        raise RuntimeError(f"{ASSERTION} on {device}\nCUDA kernel errors might be asynchronously reported")

    monkeypatch.setattr(torch.accelerator, "synchronize", synchronize)


@pytest.mark.usefixtures("lost")
def test_only_the_trial_fails_that_the_device_was_lost_with(
    objective: nas.EvaluatorObjective, study: optuna.Study
) -> None:
    with pytest.raises(
        DeviceLostError, match=r"^device cuda:1 computes nothing .* triggered on cuda:1\); what is left"
    ):
        run(study, objective, trials=3)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "WAITING", "WAITING"]
    assert ASSERTION in study.trials[0].user_attrs[TrialKey.CAUSE]


def test_trials_go_on_after_one_that_the_device_survives(
    objective: nas.EvaluatorObjective, study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[torch.device] = []
    monkeypatch.setattr(torch.accelerator, "synchronize", asked.append)
    assert run(study, objective, trials=3).trials == 3
    assert asked == [objective.device] * 3
    objective.device = torch.device("cpu")
    assert run(study, objective, trials=1).trials == 1
    assert len(asked) == 3


@dataclass(frozen=True)
class Opened(Handle):
    """What a worker opens."""

    given: Any = None

    def work(self, *, interrupted: Callable[[], bool]) -> Work:
        return Work(*self.given)


@pytest.mark.usefixtures("lost")
def test_a_worker_says_why_it_ends(
    objective: nas.EvaluatorObjective, study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_logging_to", nullcontext)
    said: list[Message] = []

    def tell(message: Message) -> bool:
        said.append(message)
        return True

    spec = WorkerSpec(1, "cuda:1", torch.get_num_threads())
    run_worker(Opened("", "", given=(study, objective)), spec, tell, StopRequest())
    kinds = [message.kind for message in said]
    assert kinds == ["ask", "trial_started", "trial_finished", "done"]
    assert isinstance(said[-1].about, DeviceLostError)
