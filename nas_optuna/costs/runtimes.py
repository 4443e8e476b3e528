"""Runtimes whose latency is measured, PyTorch, ONNX Runtime or your own, and the conditions of a measurement."""

from __future__ import annotations

import inspect
import io
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

from annotated_types import Ge

from nas_optuna.costs.quantise import quantised, require_tools
from nas_optuna.costs.timing import session_call
from nas_optuna.devices import device_name, forget_compiled
from nas_optuna.errors import DeviceError, SpecError, TrainingError, unknown
from nas_optuna.lazily import lazily
from nas_optuna.registry import Registry

with lazily():
    import torch
    from torch import nn

Call = Callable[[], float]
"""Runs a network once and returns the milliseconds it took."""

RUNTIMES = Registry(
    "runtime",
    "nas_optuna.runtimes",
    {
        "torch": f"{__name__}:TorchEager",
        "torch-compile": f"{__name__}:TorchCompile",
        "onnxruntime": f"{__name__}:OnnxRuntime",
    },
)

RENAMED = {"onnx": "onnxruntime"}
"""Names in tables of release 0.2."""


class Runtime(ABC):
    """One way to run a network. A new one is a subclass and an entry point of the group ``nas_optuna.runtimes``.

    Attributes:
        name: Its name for ``--latency-runtime``.
        devices: Types of the devices that it runs on, e.g. ``("cpu", "cuda")``.
        precisions: Number formats of weights and activations, e.g. ``("fp32", "int8")``.

    Examples:
        >>> make_runtime("torch").precisions
        ('fp32', 'bf16', 'fp16')
    """

    name: ClassVar[str]
    devices: ClassVar[tuple[str, ...]]
    precisions: ClassVar[tuple[str, ...]]

    @abstractmethod
    def version(self) -> str:
        """The runtime's version.

        Raises:
            SpecError: It is not installed; the message says how to get it.
        """

    @abstractmethod
    def prepare(self, module: nn.Module, images: torch.Tensor, device: str, precision: str, threads: int) -> Call:
        """Prepare a network to be run many times.

        Args:
            module: The network, in eval mode, in fp32 on the CPU.
            images: One batch ``[batch, *input_shape]`` in fp32 on the CPU.
            device: Type of the device.
            precision: One of `precisions`.
            threads: Threads of one operation on the CPU; for torch the caller has set them.
        """

    def require(self, device: str, precision: str) -> None:
        """Refuse a device or a precision that the runtime does not have.

        Raises:
            DeviceError: It does not run on that kind of device.
            SpecError: It does not have that precision.
        """
        if device not in self.devices:
            raise DeviceError(
                f"the {self.name} runtime runs on {' or '.join(self.devices)}; use --device cpu (device='cpu')"
            )
        if precision not in self.precisions:
            raise SpecError(unknown(f"precision of runtime {self.name!r}:", precision, self.precisions))


def make_runtime(name: str) -> Runtime:
    """The runtime of that name."""
    made: Runtime = RUNTIMES.make(RENAMED.get(name, name), options={}, wanted=Runtime)
    if missing := [word for word in Runtime.__annotations__ if not hasattr(made, word)]:
        raise SpecError(f"runtime {name!r} lacks {' and '.join(missing)}; its class says name, devices and precisions")
    return made


@dataclass(frozen=True)
class Conditions:
    """The conditions of a latency; two latencies can be compared only under equal conditions."""

    device: str  # type of the device, ``"cpu"``, ``"cuda"`` or ``"mps"``
    device_name: str  # its maker's name for it
    runtime: str  # as `make_runtime` takes it, e.g. ``"torch"``
    version: str  # the runtime's version
    threads: Annotated[int, Ge(1)]  # threads of one operation on the CPU
    batch_size: Annotated[int, Ge(1)]  # images per call
    precision: str  # number format of weights and activations, e.g. ``"fp32"`` or ``"int8"``

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
        made = make_runtime(runtime)
        made.require(device.type, precision)
        # The name that finds it again, which of a class in a file is not its own.
        found_by = RENAMED.get(runtime, runtime)
        return cls(device.type, device_name(device), found_by, made.version(), threads, batch_size, precision)

    def __str__(self) -> str:
        """E.g. ``"measured on ARM Cortex-A72 with onnxruntime 1.32.0, int8, batch 1, threads 1"``."""
        return (
            f"measured on {self.device_name} with {self.runtime} {self.version}, {self.precision},"
            f" batch {self.batch_size}, threads {self.threads}"
        )


class TorchEager(Runtime):
    """PyTorch, operation by operation, in inference mode."""

    name = "torch"
    devices = ("cpu", "cuda", "mps")
    precisions = ("fp32", "bf16", "fp16")

    def version(self) -> str:
        """Torch's own."""
        return torch.version.__version__  # a name of `lazily` gives no dunder itself

    def prepare(self, module: nn.Module, images: torch.Tensor, device: str, precision: str, threads: int) -> Call:
        """See `Runtime`."""
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        module, images = module.to(device, dtype), images.to(device, dtype)
        return _cuda_call(module, images) if device == "cuda" else _host_call(module, images)


class TorchCompile(TorchEager):
    """PyTorch with ``torch.compile``; compiling takes 10 to 40 seconds a network, so that a table takes hours."""

    name = "torch-compile"

    def prepare(self, module: nn.Module, images: torch.Tensor, device: str, precision: str, threads: int) -> Call:
        """See `Runtime`."""
        forget_compiled()
        module.compile(dynamic=False)  # when it is first called
        return super().prepare(module, images, device, precision, threads)


class OnnxRuntime(Runtime):
    """ONNX Runtime on the CPU, in fp32 or statically quantised to eight bits."""

    name = "onnxruntime"
    devices = ("cpu",)
    precisions = ("fp32", "int8")

    def version(self) -> str:
        """ONNX Runtime's own."""
        require_tools("the onnxruntime runtime needs")
        import onnxruntime

        return str(onnxruntime.__version__)

    def prepare(self, module: nn.Module, images: torch.Tensor, device: str, precision: str, threads: int) -> Call:
        """See `Runtime`."""
        model = to_onnx(module, images)
        return session_call(quantised(model, [images.numpy()]) if precision == "int8" else model, threads)


def to_onnx(module: nn.Module, images: torch.Tensor, *, any_batch: bool = False) -> bytes:
    """The ONNX model, with the input ``images``, of a module that takes one tensor."""
    try:
        return _exported(module, images, any_batch)
    except Exception as error:  # whatever the exporter or a user's layer raises
        reason = " ".join(str(error).split()).partition(". ")[0][:160] or type(error).__name__
        raise TrainingError(f"{_unsupported(module, images)} cannot be written as ONNX: {reason}") from error


def _exported(module: nn.Module, images: torch.Tensor, any_batch: bool) -> bytes:
    file = io.BytesIO()
    batch = {"images": {0: "batch"}, "logits": {0: "batch"}} if any_batch else None
    names = {"input_names": ["images"], "output_names": ["logits"], "dynamic_axes": batch}
    with warnings.catch_warnings(), _unlogged():
        warnings.simplefilter("ignore")
        with suppress(ValueError):  # one that torch.jit has traced tells no signature, and has one input
            if len(inspect.signature(module.forward).parameters) > 1:
                module = nn.Sequential(module)  # a further one, if its default is a number, would be one of the model
        # The exporter built on torch.export takes about a second a module, this one 20 ms.
        torch.onnx.export(module, (images,), file, dynamo=False, **names)  # type: ignore[arg-type]
    return file.getvalue()


@contextmanager
def _unlogged() -> Iterator[None]:
    """Keep the exporter from printing its whole graph where it fails, which none of its options prevents."""
    log: Any = getattr(torch._C, "_jit_onnx_log", None)
    torch._C._jit_onnx_log = lambda *parts: None
    try:
        yield
    finally:
        torch._C._jit_onnx_log = log


def _unsupported(module: nn.Module, images: torch.Tensor) -> str:
    """The name of the first layer that cannot be written as ONNX on its own."""
    taken: dict[str, tuple[nn.Module, torch.Tensor]] = {}

    def note(name: str, layer: nn.Module, given: tuple[object, ...]) -> None:
        if len(given) == 1 and isinstance(given[0], torch.Tensor):
            taken.setdefault(name, (layer, given[0].detach().clone()))

    handles = [
        layer.register_forward_pre_hook(partial(note, name))
        for name, layer in module.named_modules()
        if name and not any(layer.children())
    ]
    with torch.no_grad(), suppress(Exception):  # the network itself may fail
        module(images)
    for handle in handles:
        handle.remove()
    for name, (layer, given) in taken.items():
        try:
            _exported(layer, given, any_batch=False)
        except Exception:
            return f"layer {name!r} ({type(layer).__name__})"
    return "this network"


def _host_call(module: nn.Module, images: torch.Tensor) -> Call:
    on_cpu = images.device.type == "cpu"

    def call() -> float:
        with torch.inference_mode():
            start = time.perf_counter()
            module(images)
            if not on_cpu:
                torch.accelerator.synchronize()
            return (time.perf_counter() - start) * 1e3

    return call


def _cuda_call(module: nn.Module, images: torch.Tensor) -> Call:
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
