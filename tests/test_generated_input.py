"""Generated specs, assignments, queue files, tables and network files: each is taken, or refused in one short line."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from nas_optuna import ConvSpace, load_network
from nas_optuna.costs.latency import measure_table
from nas_optuna.costs.latency_table import LatencyTable
from nas_optuna.costs.runtimes import Conditions
from nas_optuna.data import load_images
from nas_optuna.errors import NasOptunaError
from nas_optuna.spec import StudySpec
from nas_optuna.study.trial_queue import read_architectures
from nas_optuna.training import make_header, make_network, save_network
from tests.helpers import Command

SECTIONS = ("data", "space", "recipe", "sampler", "pruner", "supernet", "objectives", "limits", "latency", "x")
KEYS = ("name", "epochs", "filters", "options", "seed", "macs", "table", "input_size", "learning_rate")
SPACE = ConvSpace(depth=2, filters=(4, 8), kernels=(3, 5), strides=(1,), input_size=8)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats()
    | st.text(max_size=40)
    | st.just("x" * 60_000)
)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4)
)
sections = st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=8), anything, max_size=4)
specs = st.dictionaries(st.sampled_from(SECTIONS), sections | anything, max_size=4)
many = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


def in_one_line(error: NasOptunaError) -> None:
    assert len(str(error)) < 500
    assert len(str(error).splitlines()) == 1


@many
@given(specs)
def test_specs(values: dict[str, Any]) -> None:
    try:
        StudySpec.from_dict(values)
    except NasOptunaError as error:
        in_one_line(error)


@many
@given(st.sampled_from(SECTIONS), st.sampled_from(KEYS), anything.map(repr) | st.text(max_size=60))
def test_assignments(section: str, key: str, text: str) -> None:
    try:
        StudySpec().override([f"{section}.{key}={text}"])
    except NasOptunaError as error:
        in_one_line(error)


@many
@given(anything.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=200))
def test_queue_files(tmp_path_factory: Any, content: bytes) -> None:
    file = Path(tmp_path_factory.getbasetemp()) / "queue.json"
    file.write_bytes(content)
    try:
        read_architectures(file, SPACE)
    except NasOptunaError as error:
        in_one_line(error)


def with_one_leaf_changed(draw: st.DrawFn, value: Any) -> Any:
    """The same JSON value with something else in one place."""
    if isinstance(value, dict) and value and draw(st.booleans()):
        key = draw(st.sampled_from(sorted(value)))
        return value | {key: with_one_leaf_changed(draw, value[key])}
    if isinstance(value, list) and value and draw(st.booleans()):
        i = draw(st.integers(0, len(value) - 1))
        return [*value[:i], with_one_leaf_changed(draw, value[i]), *value[i + 1 :]]
    return draw(anything)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Any:
    file = tmp_path_factory.mktemp("table") / "t.json"
    measure_table(SPACE, Conditions.here(torch.device("cpu")), file, rounds=1)
    return json.loads(file.read_text())


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], bytes]:
    """The header and the bytes of a saved network."""
    file = tmp_path_factory.mktemp("network") / "n.safetensors"
    spec = StudySpec.from_dict({"recipe": {"input_size": 8}})
    architecture = SPACE.parse("f4k3s1-f8k5s1")
    made = make_network(SPACE, architecture, spec.recipe, torch.device("cpu"), seed=0)
    spec = spec.override(
        ["space.depth=2", "space.filters=[4, 8]", "space.kernels=[3, 5]", "space.strides=[1]", "recipe.input_size=8"]
    )
    save_network(file, made, make_header(architecture, spec, load_images("digits", True).subset(range(20))))
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["nas_optuna"]), content


@many
@given(st.data())
def test_tables(table: Any, tmp_path_factory: Any, data: st.DataObject) -> None:
    file = Path(tmp_path_factory.getbasetemp()) / "table.json"
    changed = data.draw(st.composite(with_one_leaf_changed)(table))
    file.write_bytes(data.draw(st.just(json.dumps(changed).encode()) | st.binary(max_size=200)))
    try:
        LatencyTable.load(file)
    except NasOptunaError as error:
        in_one_line(error)


@many
@given(st.data())
def test_network_files(network: Any, tmp_path_factory: Any, data: st.DataObject) -> None:
    file = Path(tmp_path_factory.getbasetemp()) / "n.safetensors"
    header, content = network
    changed = data.draw(st.composite(with_one_leaf_changed)(header))
    cut = data.draw(st.integers(0, len(content)))
    renamed = save(load(content), {"nas_optuna": json.dumps(changed)})
    file.write_bytes(data.draw(st.just(renamed) | st.just(content[:cut]) | st.binary(max_size=200)))
    began = time.process_time()
    try:
        load_network(file)
    except NasOptunaError as error:
        in_one_line(error)
    assert time.process_time() - began < 5  # of work, whatever else the machine does


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_the_command_line_refuses_them_and_creates_nothing(command: Command, data: st.DataObject) -> None:
    folder = Path.cwd()
    key, value = data.draw(st.sampled_from(SECTIONS)), data.draw(st.text(max_size=60).map(repr))
    assignment = ("--set", f"{key}.unknown_key={value}")
    (folder / "bad.json").write_bytes(b"{[" + data.draw(st.binary(max_size=60)))
    words = data.draw(
        st.sampled_from(
            [
                ("run", *assignment),
                ("study", "create", "s", *assignment),
                ("supernet", "train", *assignment),
                ("run", "--fixed", "bad.json"),
                ("run", "--enqueue", "bad.json"),
                ("run", "--spec", "bad.json"),
                ("run", "--latency-table", "bad.json", "--objective", "accuracy", "--objective", "latency_ms"),
            ]
        )
    )
    before = sorted(folder.rglob("*"))
    found = command(*words)
    (line,) = found.err.splitlines()
    assert (found.code, found.out, len(line) < 500, line.startswith("error: ")) == (2, "", True, True)
    assert sorted(folder.rglob("*")) == before
