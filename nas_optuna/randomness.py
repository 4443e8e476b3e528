"""Random numbers that depend only on a seed, whatever other threads of the process draw.

Torch has one global generator for each device, which all threads share, so drawing from it in two threads gives other
numbers in every run. Here random numbers come from separate generators:

- `seeded` passes a generator to every operation that takes one, such as the initialisation of layers.
- `RandomState` is for operations that take none, such as dropout: under a lock, it puts its own state into the global
  generators, and afterwards restores the earlier state.
- `HostGenerators` finds out whether something was drawn on the host.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_global_generators = threading.RLock()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let this thread draw from a generator with that seed on the CPU; torch's global one is not changed.

    The numbers are those of ``torch.manual_seed(seed)``. Operations on other devices are not affected.

    Examples:
        >>> with seeded(0):
        ...     first = torch.rand(2)
        >>> with seeded(0):
        ...     second = torch.rand(2)
        >>> torch.equal(first, second)
        True
    """
    generator = torch.Generator().manual_seed(seed)
    # The state is for operations that take no generator, and for networks that seed the global one.
    with RandomState(seed, torch.device("cpu")).current(), _GivenGenerator(generator):
        yield


class RandomState:
    """One training's state of torch's global generators: of the CPU, and of its device."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self._devices = [torch.device("cpu"), *([device] if device.type != "cpu" else [])]
        self._states = [torch.Generator(where).manual_seed(seed).get_state() for where in self._devices]

    @contextmanager
    def current(self) -> Iterator[None]:
        """Let the global generators continue from this state, in one thread of the process at a time."""
        # It does not wait for the device, nor prevent other code from drawing without a state.
        with _global_generators:
            before = [_get_state(device) for device in self._devices]
            _set_states(self._devices, self._states)
            try:
                yield
            finally:
                self._states = [_get_state(device) for device in self._devices]
                _set_states(self._devices, before)


class HostGenerators:
    """Watches the host's global generators (torch's, Python's, NumPy's); in the end they draw the same again."""

    # Another thread's `seeded` or `RandomState` waits in the meantime, since it moves a generator, too.

    def __enter__(self) -> Self:
        _global_generators.acquire()
        self._states = self._now()
        return self

    def __exit__(self, *error: object) -> None:
        torch.set_rng_state(self._states[0])
        random.setstate(self._states[1])
        np.random.set_state(self._states[2])
        _global_generators.release()

    @staticmethod
    def _now() -> tuple[Any, ...]:
        return torch.get_rng_state(), random.getstate(), np.random.get_state(legacy=False)

    def have_moved(self) -> bool:
        """Whether something was drawn since."""
        return not all(map(np.array_equal, tree_leaves(self._states), tree_leaves(self._now())))


class _GivenGenerator(TorchDispatchMode):
    """Passes a generator to each of this thread's random operations on the CPU that has none.

    Those that take none, such as ``torch.rand(2)``, draw from the global generator in that generator's state.
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
