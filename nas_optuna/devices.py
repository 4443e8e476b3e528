"""Which devices this machine has, and which one a name means."""

from __future__ import annotations

import os
import platform
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nas_optuna.errors import DeviceError, unknown

if TYPE_CHECKING:
    import torch

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
    """Bytes that this process can still take, a container's limit included; None where the system does not say."""
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
    model = _cpu_model()
    return f"Apple GPU ({model})" if device.type == "mps" else model


def _cpu_model() -> str:
    """`platform.processor` is empty on most Linux systems; the kernel knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _machine_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        return 0
