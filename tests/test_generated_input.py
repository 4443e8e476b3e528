"""Five hundred generated specs, assignments and queue files: each is taken, or refused in one short line."""

import json
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nas_optuna import ConvSpace
from nas_optuna.errors import NasOptunaError
from nas_optuna.spec import StudySpec
from nas_optuna.study.trial_queue import read_architectures

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
many = settings(max_examples=170, deadline=None, suppress_health_check=list(HealthCheck))


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
