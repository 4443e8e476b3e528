"""Which process this is, told apart from every other one anywhere, and whether another one has certainly ended."""

from __future__ import annotations

import os
import socket
import uuid
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_FIRST_NAMESPACE = "4026531836"
"""Linux gives the PID namespace of a machine that is not a container this number."""
_UNKNOWN = "-"
_ENDED = "ended"


@dataclass(frozen=True)
class Worker:
    """A process, told apart from every other one anywhere."""

    host: str  # its name, for people
    machine: str  # stays the same when the host boots anew, if that is known
    boot: str  # differs for each boot of each machine
    namespace: str  # of its number: containers of one machine have different ones
    process: int  # its number
    started: str  # tells it from a later process with its number

    def __str__(self) -> str:
        return f"{self.host}/{self.machine}/{self.boot}/{self.namespace}/{self.process}/{self.started}"

    @classmethod
    def parse(cls, text: object) -> Worker | None:
        """Read what ``str`` gave; None for anything else.

        Examples:
            >>> Worker.parse("host/machine/boot/4026531836/12/345").process
            12
        """
        fields = text.split("/") if isinstance(text, str) else []
        if len(fields) != 6 or not fields[4].isdecimal():
            return None
        host, machine, boot, namespace, process, started = fields
        return cls(host, machine, boot, namespace, int(process), started)

    def is_gone(self) -> bool:
        """Whether it has certainly ended; False where that cannot be known from here."""
        here = _here()
        if self.boot != here.boot:
            return self._is_of_an_earlier_boot(here)
        if self.boot == _UNKNOWN and (self.machine != here.machine or _UNKNOWN in (self.machine, here.machine)):
            return False
        if self.namespace != here.namespace:
            return False
        return not _may_be_there(self.process, self.started)

    def _is_of_an_earlier_boot(self, here: Worker) -> bool:
        """Containers are copied with their machine's identity in them, and then are several at once."""
        return (
            _UNKNOWN not in (self.machine, self.boot, here.boot)
            and self.machine == here.machine
            and self.host == here.host
            and self.namespace == here.namespace == _FIRST_NAMESPACE
        )

    def is_here(self) -> bool:
        """Whether it can be seen from here, dead or alive."""
        here = _here()
        same = self.boot == here.boot != _UNKNOWN or self.machine == here.machine != _UNKNOWN
        return same and self.namespace == here.namespace


def this_worker() -> str:
    """Return this process as text, which is what its trials are marked with."""
    return str(_here())


def _here() -> Worker:
    """Ask anew each time, because a fork is another process."""
    host, machine, boot, namespace = _surroundings()
    return Worker(host, machine, boot, namespace, os.getpid(), _start_time(os.getpid()))


@cache
def _surroundings() -> tuple[str, str, str, str]:
    """Host, machine, boot and PID namespace, which a fork shares."""
    boot = _first_line("/proc/sys/kernel/random/boot_id")
    machine = _first_line("/etc/machine-id", "/var/lib/dbus/machine-id")
    if machine == _UNKNOWN and not (uuid.getnode() >> 40) & 1:  # with that bit set it was made up just now
        machine = f"{uuid.getnode():012x}"
    try:
        namespace = os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        namespace = _UNKNOWN
    return socket.gethostname().replace("/", "-") or _UNKNOWN, machine, boot, namespace


def _first_line(*files: str) -> str:
    for file in files:
        try:
            text = Path(file).read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            continue
        if text and "/" not in text:
            return text
    return _UNKNOWN


def _start_time(process: int) -> str:
    """Clock ticks after boot at which a process began, which tells it from a later one with the same number."""
    # ``"-"`` where ``/proc`` does not say so, because there is none or the process is hidden; ``"ended"`` for one that
    # has ended and that nobody has asked yet how.
    try:
        # The second field is the name in parentheses and may hold spaces; the start time is the 20th after it.
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return _UNKNOWN
    fields = text.rpartition(")")[2].split()
    return _ENDED if fields[0] in "ZX" else fields[19]


def _may_be_there(process: int, started: str) -> bool:
    """Whether a process of this PID namespace is there, as far as this one may see."""
    found = _start_time(process)
    if found != _UNKNOWN:
        return found == started
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        pass
    return True
