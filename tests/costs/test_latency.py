import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nas_optuna.costs.latency import measure, measure_table
from nas_optuna.costs.runtimes import Conditions
from nas_optuna.costs.timing import Visit, fastest, visit_in_rounds
from nas_optuna.errors import DeviceError, SpecError
from nas_optuna.spaces.conv import ConvSpace

CPU = torch.device("cpu")
HERE = Conditions.here(CPU)


class Sleep(nn.Module):
    """Takes a known time, and notes how it was called."""

    def __init__(self, seconds: float = 0.002) -> None:
        super().__init__()
        self.seconds = seconds
        self.seen: list[tuple[tuple[int, ...], torch.dtype, bool, bool, int]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((tuple(x.shape), x.dtype, self.training, torch.is_inference_mode_enabled(), threads()))
        time.sleep(self.seconds)
        return x


def threads() -> int:
    return torch.get_num_threads()


def test_a_known_time_is_measured() -> None:
    lower, median, upper = measure(Sleep(0.02), (1,), HERE, seconds=0.2)
    assert 20.0 <= lower <= median <= upper
    assert median < 200.0, "milliseconds, on a busy machine"


def test_conditions_are_kept() -> None:
    before = threads()
    module = Sleep(0).train()
    measure(module, (3, 4), Conditions.here(CPU, threads=2, batch_size=5, precision="bf16"), seconds=0)
    assert set(module.seen) == {((5, 3, 4), torch.bfloat16, False, True, 2)}
    assert len(module.seen) == 3 + 5
    assert threads() == before
    assert HERE.device_name
    assert HERE.version == torch.__version__


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp8"}, "unknown precision of runtime 'torch': 'fp8'"),
        ({"runtime": "tflite"}, "unknown runtime 'tflite'"),
        ({"runtime": "onnxruntime", "precision": "bf16"}, "precision of runtime 'onnxruntime'"),
    ],
)
def test_impossible_conditions_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Conditions.here(CPU, **options)  # type: ignore[arg-type]


def test_onnx_is_refused_on_a_gpu() -> None:
    with pytest.raises(DeviceError, match="use --device cpu"):
        Conditions.here(torch.device("cuda"), runtime="onnx")


@pytest.mark.parametrize("name", ["own", "torch"])
def test_a_runtime_of_ones_own_file_is_the_one_that_runs(tmp_path: Path, name: str) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        "from nas_optuna.costs.runtimes import TorchEager\n\n"
        f"class Own(TorchEager):\n    name = {name!r}\n    prepare = lambda self, *given: lambda: 777.0\n"
    )
    conditions = Conditions.here(CPU, runtime=f"{file}:Own")
    assert measure(Sleep(), (1,), conditions, seconds=0) == (777.0, 777.0, 777.0)
    table = tmp_path / "table.json"
    with pytest.raises(SpecError, match=r"may not name code to import; register .*--latency-runtime FILE\.py:CLASS"):
        measure_table(ConvSpace(depth=1), conditions, table, rounds=1)
    assert not table.exists()


def test_a_runtime_that_lacks_a_part_is_refused_by_its_name(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        "from nas_optuna.costs.runtimes import Runtime\n\n"
        "class Own(Runtime):\n    name = 'own'\n    version = str\n    prepare = lambda self, *given: float\n"
    )
    with pytest.raises(SpecError, match=r"runtime '.*own\.py:Own' lacks devices and precisions; its class says"):
        Conditions.here(CPU, runtime=f"{file}:Own")


def test_onnx_runtime_runs_the_same_network() -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    conditions = Conditions.here(CPU, runtime="onnx", batch_size=2)
    small, large = (measure(nn.Conv2d(8, 8 * n, 3), (8, 16, 16), conditions, seconds=0.05)[1] for n in (1, 64))
    assert 0 < small < large


def test_rounds_visit_every_place_in_changing_order_and_skip_what_is_done() -> None:
    known: Visit = (1.0, 2.0, 3.0)
    places: list[str] = []

    def measure(place: str) -> Visit:
        places.append(place)
        return known

    visits = {name: [] for name in "abcdefgh"} | {"a": [known], "b": [known] * 2, "c": [known] * 5}
    visit_in_rounds(visits, measure, 2, lambda done, total: None)
    assert sorted(places) == sorted("defgh" * 2 + "a")
    assert {key: len(found) for key, found in visits.items()} == {**dict.fromkeys("abdefgh", 2), "c": 5}
    places.clear()
    visit_in_rounds({name: [] for name in "abcdefgh"}, measure, 2, lambda done, total: None)
    assert places[:8] != places[8:]
    assert set(places[:8]) == set(places[8:]) == set("abcdefgh")


def test_visits_that_something_disturbed_do_not_count() -> None:
    calm, disturbed = (1.0, 2.0, 3.0), (2.0, 4.0, 6.0)
    assert fastest([disturbed, calm, disturbed]) == 2.0
