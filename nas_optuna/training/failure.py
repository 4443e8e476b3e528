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


@contextmanager
def network_failures(doing: str) -> Iterator[None]:
    """Within it whatever the network's code raises becomes a `TrainingError`.

    Exceptions of this package pass, and so does a lack of memory on a device, which the caller may know how to meet.

    Args:
        doing: What is being done, for the message, e.g. ``"training failed in epoch 2"``.

    Raises:
        TrainingError: Its cause is the exception's type and message in one line.

    Examples:
        >>> with network_failures("building failed"):
        ...     torch.nn.Conv2d(1, 8, 3)(torch.zeros(1, 3, 8, 8))
        Traceback (most recent call last):
        ...
        nas_optuna.errors.TrainingError: building failed: RuntimeError: Given groups=1, weight of size [8, 1, 3, 3], ...
    """
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
    """Return an exception's type and message in one short line of printable text.

    Examples:
        >>> describe(ValueError("wrong"))
        'ValueError: wrong'
    """
    words = " ".join(str(error).split())
    text = "".join(c if c.isprintable() else "?" for c in f"{type(error).__name__}: {words}".removesuffix(": "))
    return text if len(text) <= _CAUSE_LENGTH else f"{text[: _CAUSE_LENGTH - 1]}…"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation on a device failed: CUDA has an exception for it, the CPU's allocator only a message.

    Examples:
        >>> is_out_of_memory(torch.OutOfMemoryError()), is_out_of_memory(ValueError())
        (True, False)
    """
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error)


def require_logits(logits: object, images: int) -> None:
    """Refuse what is not one row of logits per image, before a loss is computed from it.

    Args:
        logits: What the network gave; ``[images, classes]``, floating point, is right.
        images: How many images it was given.

    Raises:
        TrainingError: Naming what it gave.

    Examples:
        >>> require_logits(torch.zeros(2, 10), 2)
    """
    if isinstance(logits, Tensor) and logits.dim() == 2 and len(logits) == images and logits.is_floating_point():
        return
    cause = f"the network gave {kind_of(logits)} for {images} images, not logits [{images}, classes]"
    raise TrainingError(cause, cause)


def kind_of(value: object) -> str:
    """Return a tensor's number type and shape, or another value's type, for a message.

    Examples:
        >>> kind_of(torch.zeros(2, 10)), kind_of(None)
        ('float32 [2, 10]', 'a NoneType')
    """
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
