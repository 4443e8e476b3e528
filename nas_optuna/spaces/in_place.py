"""What work in place does to the network around a layer, found once on tensors without values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class MemoryWatch(TorchDispatchMode):
    """Within it, every operation tells which memory it reads and writes: x.data has a version of its own."""

    # Memory is *stale* where it would hold something else, did a candidate compute on its input rather than on a copy.

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kept: dict[int, Any] = {}  # alive, so that no other has their place
        self._written: set[int] = set()
        self._stale: dict[int, list[Callable[[], None]]] = {}
        self._tied: dict[int, list[tuple[int, Callable[[], None]]]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        written: set[int] = set()
        for number, argument in enumerate(func._schema.arguments):
            if argument.is_write:
                value = args[number] if number < len(args) else kwargs.get(argument.name)
                written.update(map(self._memory, tensors_in(value)))
        for memory in set(map(self._memory, tensors_in((args, kwargs)))) - written:
            for on_use in self._stale.get(memory, ()):
                on_use()
        for memory in written:
            for other, on_use in self._tied.get(memory, ()):
                self._stale.setdefault(other, []).append(on_use)
        self._written |= written
        return func(*args, **kwargs)

    def _memory(self, tensor: Tensor) -> int:
        storage = tensor.untyped_storage()
        self._kept.setdefault(storage._cdata, storage)
        return int(storage._cdata)

    def is_changed(self, tensor: Tensor) -> bool:
        """Whether something was written into a tensor's memory, or would have been."""
        memory = self._memory(tensor)
        return memory in self._written or memory in self._stale

    def share_memory(self, one: Tensor, other: Tensor) -> bool:
        """Whether one tensor is a view of the other."""
        return self._memory(one) == self._memory(other)

    def spoil(self, tensor: Tensor, on_use: Callable[[], None]) -> None:
        """Call `on_use` where a tensor's memory is used from now on."""
        self._stale.setdefault(self._memory(tensor), []).append(on_use)

    def tie(self, one: Tensor, other: Tensor, on_use: Callable[[], None]) -> None:
        """Call `on_use` where either is used after the other has been written: they would be the same memory."""
        a, b = self._memory(one), self._memory(other)
        self._tied.setdefault(a, []).append((b, on_use))
        self._tied.setdefault(b, []).append((a, on_use))


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors in a value of any structure."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
