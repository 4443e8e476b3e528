"""What a network does wrong, as the cause with which its trial ends.

A network of a user's own space may raise anything. That is the end of its trial, never of a search.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from nas_optuna.errors import Interrupted, NasOptunaError, TrainingError

_CAUSE_LENGTH = 120
_OUT_OF_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
"""What errors say that are no `torch.OutOfMemoryError`: the CPU's allocator, the driver, and NVIDIA's libraries."""


@contextmanager
def network_failures(doing: str) -> Iterator[None]:
    """Within it whatever a network's own code raises, but a lack of memory on a device, becomes a `TrainingError`."""
    try:
        yield
    except (NasOptunaError, Interrupted):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        if isinstance(error, MemoryError):
            raise TrainingError(f"{doing}: out of memory", "oom") from error
        cause = describe(error)
        raise TrainingError(f"{doing}: {cause}", cause) from error


def describe(error: BaseException) -> str:
    """An exception's type and message in one short line of printable text."""
    words = " ".join(str(error).split())
    text = "".join(c if c.isprintable() else "?" for c in f"{type(error).__name__}: {words}".removesuffix(": "))
    return text if len(text) <= _CAUSE_LENGTH else f"{text[: _CAUSE_LENGTH - 1]}…"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation on a device failed: CUDA's allocator has an exception for it, others only a message."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY)


def require_logits(logits: object, images: int) -> None:
    """Refuse what is not one row of logits per image, before a loss is computed from it."""
    if isinstance(logits, Tensor) and logits.dim() == 2 and len(logits) == images and logits.is_floating_point():
        return
    cause = f"the network gave {kind_of(logits)} for {images} images, not logits [{images}, classes]"
    raise TrainingError(cause, cause)


def kind_of(value: object) -> str:
    """A tensor's number type and shape, or another value's type, for a message."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
