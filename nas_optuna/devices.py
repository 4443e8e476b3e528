"""Which devices this machine has, which one a name means, and what suits it.

Which memory format trains faster, and with how many threads, no processor's name tells. A second of measuring does, and
its result is kept in the user's cache folder, so that it is the same in every run and every process.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_optuna.errors import DeviceError, unknown
from nas_optuna.files import read_json, write_file

if TYPE_CHECKING:
    import torch
    from torch import nn

_TYPES = ("auto", "cpu", "cuda", "mps")


@dataclass(frozen=True)
class DeviceInfo:
    """One device of this machine, by the name that `resolve_device` takes; 0 bytes where the system does not say."""

    device: str
    index: int | None
    name: str
    memory_bytes: int
    capability: str


def resolve_device(name: str = "auto") -> torch.device:
    """The device that a name means here."""
    import torch

    kind, _, index = name.strip().lower().partition(":")
    if kind not in _TYPES or (index and not index.isdigit()):
        raise DeviceError(unknown("device", name, _TYPES))
    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if kind == "auto":
        kind = next(k for k in ("cuda", "mps", "cpu") if counts[k])
    if int(index or 0) >= counts[kind]:
        present = [f"{k}:{i}" for k, n in counts.items() if k != "cpu" for i in range(n)]
        raise DeviceError(f"device {name!r} is not on this machine; choose auto, {', '.join(['cpu', *present])}")
    return torch.device(kind, int(index)) if index else torch.device(kind)


def current(device: torch.device) -> AbstractContextManager[object]:
    """Within it a device is the current one of its kind, which "cuda" without a number means."""
    import torch

    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def list_devices() -> list[DeviceInfo]:
    """Every GPU of this machine, then the CPU, which is always there."""
    import torch

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
    """How many cores this process may keep busy: those that it may run on, and no more than its container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _of_container("cpu.max")
        return max(1, min(cores, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no container, or one without a quota ("max")
        return cores


def free_memory() -> int | None:
    """Bytes that this process can still take, a container's limit included; None if the system does not say."""
    found = []
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found.append(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")))
    with suppress(OSError, ValueError):  # a limit of "max" is none
        (limit,), (used,), statistics = map(_of_container, ("memory.max", "memory.current", "memory.stat"))
        # Cached files count as used, but the kernel gives them up when memory is asked for.
        cached = int(statistics[statistics.index("inactive_file") + 1])
        found.append(int(limit) - int(used) + cached)
    return min(found, default=None)


def _of_container(figure: str) -> list[str]:
    return (Path("/sys/fs/cgroup") / figure).read_text(encoding="ascii").split()


def use_threads(count: int) -> None:
    """Compute on the CPU with this many threads in this process; several workers on one machine share its cores."""
    import torch

    if count < 1:
        raise DeviceError(f"the number of threads must be at least 1, got {count}")
    torch.set_num_threads(count)


def device_name(device: torch.device) -> str:
    """What the device's maker calls it, e.g. ``"NVIDIA GeForce RTX 3060"`` or the CPU's model."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:  # `platform.processor` is empty on most Linux systems; the kernel knows
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
"""How many times faster a choice must be than the usual one to be taken: values may differ in their last digits, so
that it must not change by chance."""
_ROUNDS = 7
_KEPT = 200
"""So many measurements are remembered, the latest."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Names of glibc's ``mallopt``."""


def remembered(what: str, device: torch.device, measure: Callable[[], Any]) -> Any:
    """What was measured of this machine before, or else measured now; `what` names all that it depends on."""
    import torch

    key = f"{what} on {device_name(device)} with torch {torch.__version__}"
    known = read_json(_file(), dict)
    if key not in known:
        known[key] = measure()
        if known[key] is None:
            return None
        latest = dict(list((read_json(_file(), dict) | {key: known[key]}).items())[-_KEPT:])
        with suppress(OSError):  # a folder that cannot be written: it is measured again in another process
            _file().parent.mkdir(parents=True, exist_ok=True)
            write_file(_file(), json.dumps(latest, indent=1))
    return known[key]


def _file() -> Path:
    import platformdirs

    return platformdirs.user_cache_path("nas-optuna") / "machine.json"


@functools.cache
def memory_format(device: torch.device) -> torch.memory_format:
    """The memory format in which convolutions train fastest on a device: channels last, unless the other is faster."""
    import torch

    contiguous = remembered("contiguous images are faster", device, lambda: _contiguous_is_faster(device))
    return torch.contiguous_format if contiguous else torch.channels_last


def laid_out(module: nn.Module, device: torch.device) -> nn.Module:
    """A module on a device, in the memory format that suits it."""
    module, format_ = module.to(device), memory_format(device)
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.dim() == 4:  # ``Module.to`` would refuse weights of five dimensions, which a Conv3d has
            # ``contiguous`` would leave weights of one channel as they are. Their layer then gives its output in the
            # other format: a training on grey images takes 1.3 times as long.
            tensor.data = tensor.data.to(memory_format=format_)
    return module


def _contiguous_is_faster(device: torch.device) -> bool | None:
    """Train a first layer of one channel and a wider one in both formats, in turn; None if that cannot be timed."""
    import torch

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
    except (RuntimeError, ValueError):  # tensors without memory, or a device that lacks an operation
        return None
    usual, other = (statistics.median(taken[format_]) for format_ in formats)
    return other * GAIN < usual


def _step(device: torch.device, format_: torch.memory_format) -> Callable[[], None]:
    """One forward and backward pass of a small network; it draws nothing from torch's generator."""
    import torch
    from torch import nn

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
        if device.type != "cpu":
            torch.accelerator.synchronize(device)

    return step


@functools.cache
def prepare_process(device: torch.device) -> None:
    """Set what makes trainings on a device faster in all of this process, and changes no value on a processor."""
    import torch

    if device.type == "cuda":  # TF32, and cuDNN measures its algorithms: shapes repeat for a whole trial
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    if device.type == "cpu":
        _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Let the C library keep what a step frees for the next step.

    As it is, it returns the memory of activations to the system after each step and has it cleared anew for the next:
    a quarter of the time of a pretrained network at 128 pixels, a twentieth of that of a small one.
    """
    with suppress(OSError, AttributeError, TypeError):  # another C library than glibc has its own ways
        allocator = ctypes.CDLL(None)
        # The first is refused above 32 MB by some releases of glibc, and the second alone would make steps slower.
        if any(allocator.mallopt(_MMAP_THRESHOLD, size) for size in (1 << 30, 1 << 25)):
            allocator.mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)
