"""What is chosen by the processor, measured at first use and remembered for this machine.

Which memory format trains faster, and with how many threads, no processor's name tells. A second of measuring does, and
its result is kept in the user's cache folder, so that it is the same in every run and every process.
"""

from __future__ import annotations

import ctypes
import functools
import json
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_optuna.devices import device_name
from nas_optuna.files import write_file

if TYPE_CHECKING:
    import torch
    from torch import nn

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
    known = _read()
    if key not in known:
        known[key] = measure()
        if known[key] is None:
            return None
        latest = dict(list((_read() | {key: known[key]}).items())[-_KEPT:])
        with suppress(OSError):  # a folder that cannot be written: it is measured again in another process
            _file().parent.mkdir(parents=True, exist_ok=True)
            write_file(_file(), json.dumps(latest, indent=1))
    return known[key]


def _file() -> Path:
    import platformdirs

    return platformdirs.user_cache_path("nas-optuna") / "machine.json"


def _read() -> dict[str, Any]:
    try:
        found = json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


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
    """Train a first layer of one channel and a wider one in both formats, in turn; None where that cannot be timed."""
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
