"""One writer: a file is there whole, or the one before is."""

import os
import stat
from pathlib import Path

import pytest

from nas_optuna.files import alone_in, read_text, write_file


def test_a_disk_that_is_full_leaves_the_old_file_whole(tmp_path: Path) -> None:
    """A limit on the size of files is the disk that a test can fill."""
    resource = pytest.importorskip("resource")
    import signal

    path = tmp_path / "drawing.svg"
    write_file(path, "old")
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        with pytest.raises(OSError, match="too large"):
            write_file(path, "new" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["drawing.svg"]


def test_a_replaced_file_keeps_its_permissions(tmp_path: Path) -> None:
    (tmp_path / "shared").touch()
    (tmp_path / "shared").chmod(0o640)
    write_file(tmp_path / "shared", "new")
    assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) == 0o640


def test_a_link_is_followed_and_a_device_is_no_file_to_replace(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_file(tmp_path / "target", "old")
    write_file(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"
    write_file(Path(os.devnull), "gone")
    assert not Path(os.devnull).is_file()


def test_a_name_as_long_as_names_may_be_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 250 + ".json")
    write_file(path, "{}")
    assert path.read_text() == "{}"


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/random"])
def test_a_device_that_never_ends_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="larger than 64 MiB"):
        read_text(Path(name))


def test_a_folder_that_cannot_be_locked_is_nobody_elses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with alone_in(tmp_path) as alone, alone_in(tmp_path) as second:
        assert (alone, second) == (True, False)

    def refused(*_: object) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "open", refused)  # one may write into it, and not list it
    with alone_in(tmp_path) as alone:
        assert alone
