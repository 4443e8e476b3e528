"""Settings of this process that torch reads when it is loaded."""

from __future__ import annotations

import os


def set_defaults() -> None:
    """Set what makes training on the CPU fast; a value of the user's own wins. Call it before torch is imported.

    The command line and the benchmarks do; importing the library changes nothing in its host's process.
    """
    # Activations of large images are allocated and freed in every step: with huge pages the kernel has far fewer to
    # clear.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    # Threads that wait for each other sleep rather than spin. Spinning costs a factor of ten and more where something
    # else (another worker, a browser) wants the same cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # oneDNN and its bridge in torch keep a compiled kernel for each shape that they have met, 1,024 of them: in a
    # search, where every trial has new shapes, memory grew by a tenth over 200 trials. A deep network needs about a
    # hundred.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")
    os.environ.setdefault("LRU_CACHE_CAPACITY", "256")
