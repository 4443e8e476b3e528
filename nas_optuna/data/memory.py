"""How much memory there is, so that what cannot fit is refused before it is tried."""

from __future__ import annotations

from pathlib import Path

from nas_optuna.errors import DataError

USABLE_SHARE = 0.8
"""The share of the free memory that images may take."""


def require_memory(needed: int, what: str, remedy: str) -> None:
    """Refuse what takes more bytes than `USABLE_SHARE` of what is free, with a `DataError`."""
    free = free_memory()
    if free is not None and needed > USABLE_SHARE * free:
        raise DataError(f"{what} would take {_gigabytes(needed)}, and {_gigabytes(free)} of memory are free; {remedy}")


def free_memory() -> int | None:
    """Bytes that this process can still take, a container's limit included; None where the system does not say."""
    found = [value for value in (_of_system(), _of_container()) if value is not None]
    return min(found) if found else None


def _of_system() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return None


def _of_container() -> int | None:
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (int((group / f"memory.{name}").read_text(encoding="ascii")) for name in ("max", "current"))
        statistics = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        # Cached files count as used, but the kernel gives them up when memory is asked for.
        return limit - used + int(statistics.get("inactive_file", 0))
    except (OSError, ValueError):  # a limit of "max" is none
        return None


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count < 1e15 else f"{count / 1e9:.1e} GB"
