"""The devices of this machine, their names, and the settings that suit them.

A processor's name does not tell which memory format trains faster, or with how many threads. A second of measuring
does, and the result is kept in the user's cache folder, so that it is the same in every run and process.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas_optuna.errors import (
    DeviceError,
    DeviceLostError,
    Interrupted,
    NasOptunaError,
    TrainingError,
    describe_error,
    unknown,
)
from nas_optuna.files import read_json, write_file
from nas_optuna.lazily import lazily

with lazily():
    import platformdirs
    import torch
    from torch import nn

_TYPES = ("auto", "cpu", "cuda", "mps")


@dataclass(frozen=True)
class DeviceInfo:
    """One device of this machine, by the name that `resolve_device` takes; 0 bytes if the system does not say."""

    device: str
    index: int | None
    name: str
    memory_bytes: int
    capability: str


def resolve_device(name: str = "auto") -> torch.device:
    """The device of a name."""
    kind, _, index = name.strip().lower().partition(":")
    if kind not in _TYPES or (index and not index.isdigit()):
        own = "mps" if sys.platform == "darwin" else "cuda"
        raise DeviceError(unknown("device", name, _TYPES, dict.fromkeys(("gpu", "gpu0", "nvidia"), own)))
    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if kind == "auto":
        kind = next(k for k in ("cuda", "mps", "cpu") if counts[k])
    if int(index or 0) >= counts[kind]:
        present = [f"{k}:{i}" for k, n in counts.items() if k != "cpu" for i in range(n)]
        raise DeviceError(f"device {name!r} is not on this machine; choose auto, {', '.join(['cpu', *present])}")
    return torch.device(kind, int(index)) if index else torch.device(kind)


def current(device: torch.device) -> AbstractContextManager[object]:
    """Make a device the current one of its kind, which "cuda" without a number means."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def synchronize(device: torch.device) -> None:
    """Wait until a device has done what it was given, as a processor has at once."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def require_working(device: torch.device) -> None:
    """Refuse a device on which an earlier error, such as a failed assertion of CUDA, makes everything fail."""
    try:
        synchronize(device)
    except RuntimeError as error:
        cause = str(error).partition("\n")[0]
        raise DeviceLostError(
            f"device {device} computes nothing more in this process ({cause}); what is left waits, and the same command"
            " goes on with it"
        ) from error


def list_devices() -> list[DeviceInfo]:
    """Every GPU of this machine, then the CPU."""
    found = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        capability = f"{properties.major}.{properties.minor}"
        found.append(DeviceInfo(f"cuda:{index}", index, properties.name, properties.total_memory, capability))
    if torch.backends.mps.is_available():
        found.append(DeviceInfo("mps", 0, device_name(torch.device("mps")), _machine_memory(), ""))
    cpu = device_name(torch.device("cpu"))
    return [*found, DeviceInfo("cpu", None, cpu, _machine_memory(), torch.backends.cpu.get_cpu_capability())]


def usable_cores() -> int:
    """How many cores this process may use: those that it may run on, limited by its container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _of_container("cpu.max")
        return max(1, min(cores, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no container, or one without a quota ("max")
        return cores


def free_memory() -> int | None:
    """Bytes that this process can still allocate, also within a container's limit; None if the system does not say."""
    found = []
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found.append(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")))
    with suppress(OSError, ValueError):  # a limit of "max" is none
        (limit,), (used,), statistics = map(_of_container, ("memory.max", "memory.current", "memory.stat"))
        # Cached files count as used, but the kernel drops them when memory is needed.
        cached = int(statistics[statistics.index("inactive_file") + 1])
        found.append(int(limit) - int(used) + cached)
    return min(found, default=None)


def _of_container(figure: str) -> list[str]:
    return (Path("/sys/fs/cgroup") / figure).read_text(encoding="ascii").split()


_MOST_THREADS = 256
"""So many threads are allowed on a small machine, too, since a cluster's nodes may be larger."""


def use_threads(count: int) -> None:
    """Compute on the CPU with this many threads in this process."""
    if count < 1:
        raise DeviceError(f"the number of threads must be at least 1, got {count}")
    if count > (most := max(_MOST_THREADS, 4 * (os.cpu_count() or 1))):
        raise DeviceError(f"{count:,} threads are more than this machine can use; take at most {most}")
    torch.set_num_threads(count)


def device_name(device: torch.device) -> str:
    """The product name of a device, e.g. ``"NVIDIA GeForce RTX 3060"`` or the CPU's model."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:  # `platform.processor` is empty on most Linux systems
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    model = names[0] if names else platform.processor() or platform.machine()
    return f"Apple GPU ({model})" if device.type == "mps" else model


def _machine_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        return 0


GAIN = 1.2
"""The speed-up that justifies another choice than the default. Since it can change the last digits of values, it must
not vary by chance."""
_ROUNDS = 7
_KEPT = 200
"""How many of the latest measurements are kept."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's ``mallopt``."""


def remembered(what: str, device: torch.device, measure: Callable[[], Any]) -> Any:
    """A kept measurement of this machine, or a new one; `what` names everything that it depends on."""
    key = f"{what} on {device_name(device)} with torch {torch.version.__version__}"
    known = read_json(_file(), dict)
    if key not in known:
        known[key] = measure()
        if known[key] is None:
            return None
        latest = dict(list((read_json(_file(), dict) | {key: known[key]}).items())[-_KEPT:])
        with suppress(OSError):  # if the folder cannot be written, another process measures again
            _file().parent.mkdir(parents=True, exist_ok=True)
            write_file(_file(), json.dumps(latest, indent=1))
    return known[key]


def _file() -> Path:
    return platformdirs.user_cache_path("nas-optuna") / "machine.json"


@functools.cache
def memory_format(device: torch.device) -> torch.memory_format:
    """The memory format in which convolutions train fastest on a device; by default channels last."""
    contiguous = remembered("contiguous images are faster", device, lambda: _contiguous_is_faster(device))
    return torch.contiguous_format if contiguous else torch.channels_last


def laid_out(module: nn.Module, device: torch.device) -> nn.Module:
    """Move a module to a device in the memory format that suits it."""
    module, format_ = module.to(device), memory_format(device)
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.dim() == 4:  # ``Module.to`` would refuse the five dimensions of a Conv3d's weights
            # ``contiguous`` would not change weights of one channel, whose layer then returns the other format: a
            # training on grey images would take 1.3 times as long.
            tensor.data = tensor.data.to(memory_format=format_)
    return module


def _contiguous_is_faster(device: torch.device) -> bool | None:
    """Time a step of a small network with one input channel in both formats, in turn; None if that fails."""
    formats = (torch.channels_last, torch.contiguous_format)
    taken: dict[torch.memory_format, list[float]] = {format_: [] for format_ in formats}
    try:
        steps = {format_: _step(device, format_) for format_ in formats}
        for step in steps.values():
            step()
        for _ in range(_ROUNDS):
            for format_, step in steps.items():
                began = time.perf_counter()
                step()
                taken[format_].append(time.perf_counter() - began)
    except (RuntimeError, ValueError):  # out of memory, or the device lacks an operation
        return None
    usual, other = (statistics.median(taken[format_]) for format_ in formats)
    return other * GAIN < usual


def _step(device: torch.device, format_: torch.memory_format) -> Callable[[], None]:
    """A forward and backward pass of a small network; it draws no random numbers."""
    with torch.device("meta"):
        network = nn.Sequential(
            nn.Conv2d(1, 24, 3, padding=1), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(24, 48, 5, padding=2), nn.MaxPool2d(2)
        )
    network = network.to_empty(device=device).to(memory_format=format_)
    for weight in network.parameters():
        nn.init.constant_(weight, 0.01)
    images = torch.ones(32, 1, 28, 28, device=device).contiguous(memory_format=format_)

    def step() -> None:
        network(images).sum().backward()
        synchronize(device)

    return step


def forget_compiled() -> None:
    """Let ``torch.compile`` take the next network as the first one of the process."""
    # It keeps eight results for each function, which all networks share, and runs what comes later without compiling
    # it; and it makes a size variable if an earlier network had another one.
    torch.compiler.reset()


@functools.cache
def prepare_process(device: torch.device) -> None:
    """Set process-wide options that make trainings on a device faster, and change no value on a CPU."""
    if device.type == "cuda":  # TF32; and cuDNN benchmarks its algorithms, since shapes repeat during a trial
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    if device.type == "cpu":
        _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Let the C library keep freed memory for the next step.

    By default it returns the memory of activations to the system after each step, and the system clears it for the
    next: a quarter of the time of a pretrained network at 128 pixels, a twentieth of that of a small one.
    """
    with suppress(OSError, AttributeError, TypeError):  # not with another C library than glibc
        allocator = ctypes.CDLL(None)
        # The first is refused above 32 MB by some releases of glibc, and the second alone would make steps slower.
        if any(allocator.mallopt(_MMAP_THRESHOLD, size) for size in (1 << 30, 1 << 25)):
            allocator.mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)


_OUT_OF_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
"""Messages of other errors than `torch.OutOfMemoryError`: from the CPU's allocator, the driver, NVIDIA's libraries."""


@contextmanager
def network_failures(doing: str, *others: type[Exception]) -> Iterator[None]:
    """Turn errors of somebody else's code, and a lack of memory, into `TrainingError`; others pass."""
    passing: tuple[type[Exception], ...] = (NasOptunaError, Interrupted, *others)
    try:
        yield
    except passing:
        raise
    except Exception as error:
        full = is_out_of_memory(error)
        cause = "oom" if full else describe_error(error, 240)
        reason = "it does not fit into the memory of the device" if full else cause
        raise TrainingError(f"{doing}: {reason}", cause) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed; of torch's allocators, only CUDA's has an exception for it."""
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or any(words in str(error) for words in _OUT_OF_MEMORY)
