"""Images in a file that several processes map."""

import errno
import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from nas_optuna import load_data
from nas_optuna.data.search_data import map_images
from nas_optuna.spec import DataSpec


@pytest.mark.parametrize("select_on", ["validation", "test"])
def test_the_images_are_the_same_and_the_description_is_small(tmp_path: Path, select_on: str) -> None:
    spec = DataSpec.model_validate({"name": "digits", "train_limit": 500, "select_on": select_on})
    before, data = load_data(spec), load_data(spec)
    mapped = map_images(data, tmp_path)
    sent = pickle.dumps(mapped)
    assert len(sent) < before.train.images.nbytes / 2
    found = pickle.loads(sent)()
    for seen in (found, data):
        for part, original in ((seen.train, before.train), (seen.validation, before.validation)):
            assert torch.equal(part.images, original.images)
            assert torch.equal(part.labels, original.labels)
            assert (part.classes, part.mean, part.std) == (original.classes, original.mean, original.std)
            assert (part.sizes, part.notes) == (original.sizes, original.notes)
            assert part.fingerprint == original.fingerprint
    assert "fingerprint" in vars(found), "it is not computed again"
    assert found.fingerprint == before.fingerprint


def test_memory_is_that_of_the_file(tmp_path: Path) -> None:
    data = load_data(DataSpec(name="digits"))
    map_images(data, tmp_path)
    where = data.train.images.data_ptr()
    found = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(tmp_path / "images") in line]
    ranges = [[int(end, 16) for end in line.split()[0].split("-")] for line in found]
    assert any(low <= where < high for low, high in ranges)
    assert data.train.images._base is data.validation.images._base is None, "nothing keeps the first copy"


def test_what_one_writes_nobody_else_sees(tmp_path: Path) -> None:
    mapped = map_images(load_data(DataSpec(name="digits", train_limit=100)), tmp_path)
    mine, theirs = mapped(), mapped()
    mine.train.images[0] = 255
    assert theirs.train.images[0].max() < 255 or not torch.equal(theirs.train.images[0], mine.train.images[0])


@pytest.mark.parametrize("taken", [0, 5_000])
def test_a_full_disk_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: int) -> None:
    class Full(io.FileIO):
        def write(self, some: Any) -> int:
            if self.tell() + memoryview(some).nbytes > taken:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(some) or 0

    monkeypatch.setattr(Path, "open", lambda path, mode: io.BufferedWriter(Full(path, mode)))
    with pytest.raises(OSError, match="No space left"):
        map_images(load_data(DataSpec(name="digits")), tmp_path)
