"""Settings of this process that torch reads when it is loaded."""

from __future__ import annotations

import os

KEPT_KERNELS, KEPT_BY_SUPERNETS = 256, 16384
"""How many compiled kernels oneDNN may keep, and its bridge in torch: one for each shape that they have met.

With their own 1,024 a search, where every trial has new shapes, had a tenth more memory after 200 trials; a deep
network needs about a hundred. Each step of a supernet draws other shapes of a few thousand: with all of them kept, a
step of five layers at 16×16 takes a third less time, and some 80 MB of memory more.
"""


def set_defaults(command: str = "") -> None:
    """Set what makes training on the CPU fast; a value of the user's own wins. Call it before torch is imported.

    The command line and the benchmarks do; importing the library changes nothing in its host's process.
    """
    # Activations of large images are allocated and freed in every step: with huge pages the kernel has far fewer to
    # clear.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    # Threads that wait for each other sleep rather than spin. Spinning costs a factor of ten and more where something
    # else (another worker, a browser) wants the same cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    kept = str(KEPT_BY_SUPERNETS if command == "supernet" else KEPT_KERNELS)
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", kept)
    os.environ.setdefault("LRU_CACHE_CAPACITY", kept)
