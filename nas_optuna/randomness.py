"""Random numbers that depend on a seed alone, whatever other threads of the process draw meanwhile.

Torch has one global generator for each device, which every thread shares. Whatever draws from it in two threads gives
other numbers in every run. So what is drawn here comes from generators of our own:

- `seeded` gives a generator to every operation that takes one, such as those that initialise layers.
- `RandomState` is for what takes none, such as dropout: it puts a state of its own into the global generators while a
  lock keeps every other user of it waiting, and puts the earlier state back.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_global_generators = threading.RLock()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within it, this thread draws from a generator with that seed on the CPU; torch's global one is left as it was.

    The numbers are those that ``torch.manual_seed(seed)`` gives. Operations on other devices are not affected.

    Examples:
        >>> with seeded(0):
        ...     first = torch.rand(2)
        >>> with seeded(0):
        ...     second = torch.rand(2)
        >>> torch.equal(first, second)
        True
    """
    generator = torch.Generator().manual_seed(seed)
    # The state contains what takes no generator, and a network that seeds the global one by itself.
    with RandomState(seed, torch.device("cpu")).current(), _GivenGenerator(generator):
        yield


class RandomState:
    """The state of torch's global generators as one training sees them; the CPU's belongs to it on every device."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self._devices = [torch.device("cpu"), *([device] if device.type != "cpu" else [])]
        self._states = [torch.Generator(where).manual_seed(seed).get_state() for where in self._devices]

    @contextmanager
    def current(self) -> Iterator[None]:
        """Within it the global generators go on from this state; one thread of the process at a time."""
        # Nothing waits for the device. Code that draws without asking for a state is not kept from drawing.
        with _global_generators:
            before = [_get_state(device) for device in self._devices]
            _set_states(self._devices, self._states)
            try:
                yield
            finally:
                self._states = [_get_state(device) for device in self._devices]
                _set_states(self._devices, before)


class _GivenGenerator(TorchDispatchMode):
    """Gives a generator to each of this thread's operations on the CPU that draws and was given none.

    Those that take none, such as ``torch.rand(2)``, draw from the global generator in the given one's state.
    """

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._generator = generator

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if not _is_on_cpu(args, given):
            return func(*args, **given)
        if any(argument.name == "generator" for argument in func._schema.arguments):
            given["generator"] = given.get("generator") or self._generator
            return func(*args, **given)
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **given)
        torch.set_rng_state(self._generator.get_state())
        result = func(*args, **given)
        self._generator.set_state(torch.get_rng_state())
        return result


def _is_on_cpu(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    if tensors:
        return all(tensor.device.type == "cpu" for tensor in tensors)
    device = kwargs.get("device")
    return device is None or torch.device(device).type == "cpu"


def _get_state(device: torch.device) -> Tensor:
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.mps.get_rng_state() if device.type == "mps" else torch.get_rng_state()


def _set_states(devices: Sequence[torch.device], states: Sequence[Tensor]) -> None:
    for device, state in zip(devices, states, strict=True):
        if device.type == "cuda":
            torch.cuda.set_rng_state(state, device)
        elif device.type == "mps":
            torch.mps.set_rng_state(state)
        else:
            torch.set_rng_state(state)
