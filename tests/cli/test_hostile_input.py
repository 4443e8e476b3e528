"""Files that are no data set and no list of architectures: exit code 2, one line, nothing written, little memory."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import Command, tiny
from tests.hostile import Hostile, arrays, folders, new_peak, peak, queues

MOST = 500_000
"""Kilobytes above what an ordinary start needs."""
MAKE = {"x.npz": arrays, "x": folders, "x.json": queues}
LISTS = ("--enqueue x.json", "--fixed x.json", "--among x.json", "--set among=x.json")


def words(name: str, number: int) -> tuple[str, ...]:
    """The command that reads such a file, in one of the ways that there are."""
    if name == "x.json":
        return ("run", "--trials", "1", *LISTS[number % len(LISTS)].split(), *tiny())
    ways = (("data", "fetch", f"{'npz' if name.endswith('npz') else 'folder'}:{name}"), ("run", "--data", name))
    return ways[number % len(ways)]


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", MAKE)
def test_ninety_of_a_kind_are_refused_in_one_line(name: str, place: Path, command: Command) -> None:
    kind = MAKE[name]()
    assert len(kind) >= 90
    Path("x.json").write_text('["f16k3s1-f16k3s1"]')
    assert command("run", "--trials", 1, "--enqueue", "x.json", *tiny()).code == 0
    for path in place.iterdir():
        remove(path)
    before, wrong = new_peak(), []
    for number, (what, make) in enumerate(kind):
        make(place / name)
        there = sorted(place.iterdir())
        result = command(*words(name, number))  # which raises what would be a traceback
        lines = result.err.splitlines()
        if (result.code, result.out, len(lines), sorted(place.iterdir())) != (2, "", 1, there):
            wrong.append((what, result.code, result.out[-200:], result.err[-400:]))
        for path in place.iterdir():
            remove(path)
        if peak() - before > MOST:
            wrong.append((what, peak() - before))
            before = new_peak()
    assert not wrong


def started(*arguments: str) -> tuple[int, str, int]:
    """Exit code, what was said, and the peak of memory of a process."""
    with subprocess.Popen(
        [sys.executable, "-m", "nas_optuna", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, said, used.ru_maxrss


LARGE = (
    "4 GB",
    "1 GB",
    "512 MB",
    "100 MB",
    "13000 by",
    "60000 by",
    "/dev/zero",
    "a pipe",
    "nested",
    "0xFF",
)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", MAKE)
def test_the_largest_need_little_memory_in_a_process_of_their_own(name: str, place: Path) -> None:
    code, said, ordinary = started("run", "--trials", "1", *tiny())
    assert code == 0, said
    kind: list[Hostile] = [(what, make) for what, make in MAKE[name]() if any(part in what for part in LARGE)]
    assert len(kind) >= 4
    for number, (what, make) in enumerate(kind):
        make(place / name)
        code, said, used = started(*words(name, number))
        assert (code, len(said.splitlines())) == (2, 1), (what, said[-500:])
        assert used - ordinary < MOST, (what, used, ordinary)
        remove(place / name)
