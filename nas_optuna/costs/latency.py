"""How long a network or one of its operations takes, measured under conditions that are written down."""

from __future__ import annotations

import io
import random
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nas_optuna.errors import DeviceError, SpecError, unknown
from nas_optuna.spaces import Shape

if TYPE_CHECKING:
    import torch
    from torch import nn

PRECISIONS = ("fp32", "bf16", "fp16")
RUNTIMES = ("torch", "onnx")
_WARM_UP = 3
_CALLS = 5
"""The fewest timed calls; a fast module is called as often as its seconds allow."""


@dataclass(frozen=True)
class Conditions:
    """What a latency depends on beside the network; two latencies compare only where all of it is the same.

    Attributes:
        device: Type of the device, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        device_name: What its maker calls it.
        runtime: ``"torch"`` (eager, inference mode) or ``"onnx"`` (ONNX Runtime).
        version: The runtime's version.
        threads: Threads of one operation on the CPU.
        batch_size: Images per call.
        precision: Of weights and activations: ``"fp32"``, ``"bf16"`` or ``"fp16"``.
    """

    device: str
    device_name: str
    runtime: str
    version: str
    threads: int
    batch_size: int
    precision: str

    @classmethod
    def here(
        cls,
        device: torch.device,
        *,
        runtime: str = "torch",
        threads: int = 1,
        batch_size: int = 1,
        precision: str = "fp32",
    ) -> Conditions:
        """The conditions on this machine.

        Raises:
            SpecError: A value is refused, or ONNX Runtime is not installed.
            DeviceError: ONNX Runtime is asked for another device than the CPU.
        """
        for kind, name, known in (("precision", precision, PRECISIONS), ("runtime", runtime, RUNTIMES)):
            if name not in known:
                raise SpecError(unknown(kind, name, known))
        if threads < 1 or batch_size < 1:
            raise SpecError(f"threads and batch size must be at least 1, got {threads} and {batch_size}")
        if runtime == "onnx" and device.type != "cpu":
            raise DeviceError("the onnx runtime measures on the CPU; use --device cpu")
        if runtime == "onnx" and precision != "fp32":
            raise SpecError("the onnx runtime measures in fp32; use --precision fp32")
        from nas_optuna.devices import device_name

        name = device_name(device)
        return cls(device.type, name, runtime, _runtime_version(runtime), threads, batch_size, precision)


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one call: the median and the quartiles around it."""

    lower_ms: float
    median_ms: float
    upper_ms: float


def measure(module: nn.Module, input_shape: Shape, conditions: Conditions, seconds: float = 0.1) -> Latency:
    """Time a module's forward pass.

    Args:
        module: Any module that takes one tensor; it is moved to the device and into eval mode.
        input_shape: Shape of one input, without the batch.
        conditions: Where and how. The device must be this machine's.
        seconds: How long to go on calling, after the warm-up; at least 5 calls are made.
    """
    with _threads(conditions.threads):
        call = _prepare(module, input_shape, conditions)
        for _ in range(_WARM_UP):
            call()
        times: list[float] = []
        end = time.perf_counter() + seconds
        while len(times) < _CALLS or time.perf_counter() < end:
            times.append(call())
    lower, median, upper = statistics.quantiles(times, n=4)
    return Latency(lower, median, upper)


def measure_in_rounds(
    modules: Mapping[str, Callable[[], tuple[nn.Module, Shape]]],
    conditions: Conditions,
    *,
    rounds: int,
    seconds: float,
    done: Mapping[str, int] | None = None,
    seed: int = 0,
) -> Iterator[tuple[str, Latency]]:
    """Time many modules, each once a round, every round in another random order.

    A machine's speed drifts, and is disturbed for seconds. Several visits in random order let that fall on all alike,
    and leave some undisturbed (`fastest`).

    Args:
        modules: By key, what makes the module and its input's shape. It is called anew for every visit.
        conditions: Where and how.
        rounds: Visits of each module.
        seconds: Length of a visit.
        done: Visits that each key has had already.
        seed: Seed of the orders.

    Yields:
        The key and what its visit measured.
    """
    visits = dict(done or {})
    for turn in range(rounds):
        order = sorted(modules)
        random.Random(seed + turn).shuffle(order)
        for key in order:
            if visits.get(key, 0) <= turn:
                module, input_shape = modules[key]()
                yield key, measure(module, input_shape, conditions, seconds)


def fastest(visits: Iterable[Latency]) -> Latency:
    """One latency for several visits: that of the fastest.

    What else runs on a machine makes it slower, for seconds at a time, and hardly ever faster. Where half of the
    visits were disturbed, so is their median.
    """
    return min(visits, key=lambda visit: visit.median_ms)


def _prepare(module: nn.Module, input_shape: Shape, conditions: Conditions) -> Callable[[], float]:
    """A call that runs the module once and returns its milliseconds."""
    import torch

    module = module.eval()
    images = torch.randn(conditions.batch_size, *input_shape, generator=torch.Generator().manual_seed(0))
    if conditions.runtime == "onnx":
        return _onnx_call(module, images, conditions.threads)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[conditions.precision]
    module = module.to(conditions.device, dtype)
    images = images.to(conditions.device, dtype)
    return _cuda_call(module, images) if conditions.device == "cuda" else _host_call(module, images)


def _host_call(module: nn.Module, images: torch.Tensor) -> Callable[[], float]:
    import torch

    on_cpu = images.device.type == "cpu"

    def call() -> float:
        with torch.inference_mode():
            start = time.perf_counter()
            module(images)
            if not on_cpu:
                torch.accelerator.synchronize()
            return (time.perf_counter() - start) * 1e3

    return call


def _cuda_call(module: nn.Module, images: torch.Tensor) -> Callable[[], float]:
    import torch

    start = torch.cuda.Event(enable_timing=True)
    end = torch.cuda.Event(enable_timing=True)

    def call() -> float:
        with torch.inference_mode():
            start.record()
            module(images)
            end.record()
            end.synchronize()
            return float(start.elapsed_time(end))

    return call


def _onnx_call(module: nn.Module, images: torch.Tensor, threads: int) -> Callable[[], float]:
    import onnxruntime
    import torch

    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # The exporter built on torch.export takes about a second a module, this one 20 ms.
        torch.onnx.export(module, (images,), file, dynamo=False, input_names=["images"])  # type: ignore[arg-type]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
    feed: dict[str, Any] = {"images": images.numpy()}

    def call() -> float:
        start = time.perf_counter()
        session.run(None, feed)
        return (time.perf_counter() - start) * 1e3

    return call


@contextmanager
def _threads(count: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _runtime_version(runtime: str) -> str:
    if runtime == "torch":
        import torch

        return torch.__version__
    try:
        import onnx  # noqa: F401  the exporter needs it
        import onnxruntime
    except ImportError as error:
        raise SpecError(f"the onnx runtime needs more packages: pip install 'nas-optuna[onnx]' ({error})") from None
    return str(onnxruntime.__version__)
