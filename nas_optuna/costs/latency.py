"""How long a network or one of its operations takes, measured under conditions that are written down."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nas_optuna.costs.runtimes import make_runtime
from nas_optuna.costs.timing import Visit, rounds_of, visit
from nas_optuna.errors import SpecError
from nas_optuna.spaces import Shape

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Conditions:
    """What a latency depends on beside the network; two latencies compare only where all of it is the same.

    Attributes:
        device: Type of the device, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        device_name: What its maker calls it.
        runtime: A name of `nas_optuna.costs.runtimes.RUNTIMES`, e.g. ``"torch"``.
        version: The runtime's version.
        threads: Threads of one operation on the CPU.
        batch_size: Images per call.
        precision: What weights and activations are, e.g. ``"fp32"`` or ``"int8"``.
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
        """The conditions on this machine."""
        if threads < 1 or batch_size < 1:
            raise SpecError(f"threads and batch size must be at least 1, got {threads} and {batch_size}")
        from nas_optuna.devices import device_name

        made = make_runtime(runtime)
        made.require(device.type, precision)
        name = device_name(device)
        return cls(device.type, name, made.name, made.version(), threads, batch_size, precision)

    def __str__(self) -> str:
        """E.g. ``"measured on ARM Cortex-A72 with onnxruntime 1.32.0, int8, batch 1, threads 1"``."""
        return (
            f"measured on {self.device_name} with {self.runtime} {self.version}, {self.precision},"
            f" batch {self.batch_size}, threads {self.threads}"
        )


def measure(module: nn.Module, input_shape: Shape, conditions: Conditions, seconds: float = 0.1) -> Visit:
    """Time a module's forward pass."""
    with _threads(conditions.threads):
        return visit(_prepare(module, input_shape, conditions), seconds)


def measure_in_rounds(
    modules: Mapping[str, Callable[[], tuple[nn.Module, Shape]]],
    visits: dict[str, list[Visit]],
    conditions: Conditions,
    *,
    rounds: int,
    seconds: float,
) -> Iterator[str]:
    """Time many modules, each once a round, and add to their visits; tell which."""
    for key in rounds_of(modules, visits, rounds):
        module, input_shape = modules[key]()
        visits.setdefault(key, []).append(measure(module, input_shape, conditions, seconds))
        yield key


def _prepare(module: nn.Module, input_shape: Shape, conditions: Conditions) -> Callable[[], float]:
    """A call that runs the module once and returns its milliseconds."""
    import torch

    images = torch.randn(conditions.batch_size, *input_shape, generator=torch.Generator().manual_seed(0))
    runtime = make_runtime(conditions.runtime)
    return runtime.prepare(module.eval(), images, conditions.device, conditions.precision, conditions.threads)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
