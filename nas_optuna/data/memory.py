"""How much memory there is, so that what cannot fit is refused before it is tried."""

from __future__ import annotations

from pathlib import Path

from nas_optuna.errors import DataError

USABLE_SHARE = 0.8
"""The share of the free memory that images may take."""


def require_memory(needed: int, what: str, remedy: str) -> None:
    """Refuse what would not fit into memory.

    Args:
        needed: Bytes.
        what: What takes them, for the message.
        remedy: What to do, for the message.

    Raises:
        DataError: They are more than `USABLE_SHARE` of what is free.
    """
    free = free_memory()
    if free is not None and needed > USABLE_SHARE * free:
        raise DataError(f"{what} would take {_gigabytes(needed)}, and {_gigabytes(free)} of memory are free; {remedy}")


def free_memory() -> int | None:
    """Bytes that this process can still take, a container's limit included; None where the system does not say."""
    found = [value for value in (_system(), _container()) if value is not None]
    return min(found) if found else None


def _system() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return None


def _container() -> int | None:
    group = Path("/sys/fs/cgroup")
    try:
        most = (group / "memory.max").read_text(encoding="ascii").strip()
        if most == "max":
            return None
        used = int((group / "memory.current").read_text(encoding="ascii"))
        statistics = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        # Cached files count as used, but the kernel gives them up when memory is asked for.
        return int(most) - used + int(statistics.get("inactive_file", 0))
    except (OSError, ValueError):
        return None


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count < 1e15 else f"{count / 1e9:.1e} GB"
