"""A checkpoint that is damaged, in whatever way, never ends a training; nor do processes that share a folder."""

import io
import logging
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from torch import nn

from nas_optuna.data import BatchLoader, load_data
from nas_optuna.digests import hex_digest
from nas_optuna.errors import StudyError, TrainingError
from nas_optuna.spec import DataSpec, Recipe
from nas_optuna.training import CheckpointFolder, EpochResult, fit
from tests.helpers import as_release_0_2_wrote

CPU = torch.device("cpu")
RECIPE = Recipe(epochs=4, batch_size=50)
DATA = load_data(DataSpec(train_limit=200))
TRAIN = BatchLoader(DATA.train, 50, 8, CPU)
Damage = Callable[[Path], object]


def network(width: int = 8, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 10))


def trained(folder: Path | None, recipe: Recipe = RECIPE, **of: int) -> tuple[nn.Module, list[EpochResult]]:
    made = network(**of)
    checkpoints = None if folder is None else CheckpointFolder(folder)
    return made, list(fit(made, TRAIN, TRAIN, recipe, CPU, seed=0, checkpoints=checkpoints))


def losses(results: list[EpochResult]) -> list[float]:
    return [result.train_loss for result in results]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "c"
    trained(folder)
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of a finished training's folder, to damage."""
    return Path(shutil.copytree(finished, tmp_path / "c"))


@pytest.fixture(scope="module")
def expected() -> tuple[nn.Module, list[EpochResult]]:
    return trained(None)


def require_same(found: tuple[nn.Module, list[EpochResult]], expected: tuple[nn.Module, list[EpochResult]]) -> None:
    assert losses(found[1]) == losses(expected[1])
    assert all(torch.equal(a, b) for a, b in zip(found[0].parameters(), expected[0].parameters(), strict=True))


def content(change: Callable[[bytes], bytes]) -> Damage:
    return lambda epoch: epoch.write_bytes(change(epoch.read_bytes()))


def digested(data: bytes) -> bytes:
    """With the digest of what it is, so that only the content can tell."""
    return hex_digest(data, 32).encode() + data


def packed(**parts: object) -> bytes:
    torch.save(parts, buffer := io.BytesIO())
    return digested(buffer.getvalue())


DAMAGES: dict[str, Damage] = {
    "empty": content(lambda data: b""),
    "truncated": content(lambda data: data[: len(data) // 2]),
    "truncated within its digest": content(lambda data: data[:10]),
    "one bit": content(lambda data: data[:-99] + bytes([data[-99] ^ 1]) + data[-98:]),
    "no digest": content(lambda data: data[32:]),
    "another digest": content(lambda data: b"0" * 32 + data[32:]),
    "nothing behind its digest": content(lambda data: digested(b"")),
    "another archive": content(lambda data: digested(b"PK" + data)),
    "no weights": content(lambda data: packed(state={}, progress="[]")),
    "weights are no dict": content(lambda data: packed(weights=3, state={}, progress="[]")),
    "progress cut off": content(lambda data: packed(weights={}, state={}, progress="[1")),
    "progress nested deeply": content(lambda data: packed(weights={}, state={}, progress="[" * 100_000)),
    "an empty folder in its place": lambda epoch: (epoch.unlink(), epoch.mkdir()),
    "a part changed of a folder as release 0.2 wrote it": lambda epoch: (
        as_release_0_2_wrote(epoch),
        (epoch / "progress.json").write_text("[]"),
    ),
    "a part missing of a folder as release 0.2 wrote it": lambda epoch: (
        as_release_0_2_wrote(epoch),
        (epoch / "state.pt").unlink(),
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_epoch_before_a_damaged_one_is_gone_on_from(
    damage: str,
    finished: Path,
    folder: Path,
    expected: tuple[nn.Module, list[EpochResult]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    DAMAGES[damage](folder / "epoch-4")
    with caplog.at_level(logging.WARNING):
        made, results = trained(folder)
    require_same((made, results), expected)
    (message,) = [record.getMessage() for record in caplog.records]
    assert "goes on from epoch 3" in message
    assert "\n" not in message
    assert results[:3] == trained(finished)[1][:3], "the epochs before were not trained again"
    assert {entry.name for entry in folder.iterdir()} == {"epoch-3", "epoch-4"}
    assert trained(folder)[1] == results, "the damaged one was replaced"


def test_a_training_goes_on_from_what_release_0_2_wrote(
    finished: Path,
    folder: Path,
    expected: tuple[nn.Module, list[EpochResult]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    (folder / "epoch-4").unlink()
    as_release_0_2_wrote(folder / "epoch-3")
    made, results = trained(folder)
    assert results[:3] == trained(finished)[1][:3], "the epochs before were not trained again"
    require_same((made, results), expected)
    assert not caplog.records


def test_where_no_checkpoint_is_sound_the_training_begins_anew(
    folder: Path, expected: tuple[nn.Module, list[EpochResult]], caplog: pytest.LogCaptureFixture
) -> None:
    DAMAGES["empty"](folder / "epoch-3")
    DAMAGES["truncated"](folder / "epoch-4")
    with caplog.at_level(logging.WARNING):
        _, results = trained(folder)
    assert losses(results) == losses(expected[1])
    (message,) = [record.getMessage() for record in caplog.records]
    assert "training begins anew" in message


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()], ids=["device", "host"])
def test_a_checkpoint_that_memory_has_no_room_for_is_not_said_to_be_of_no_use(
    error: Exception, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The training began anew, and removed it with its second epoch."""
    with pytest.raises(TrainingError, match=r"no memory is left .* epoch 4 .*; free some") as raised:
        CheckpointFolder(folder).load(Mock(side_effect=error))
    assert raised.value.cause == "oom"
    assert not caplog.records


def test_checkpoints_of_another_training_are_not_taken(finished: Path, tmp_path: Path) -> None:
    for name, recipe, of in (
        ("network", RECIPE, {"width": 9}),
        ("optimiser", RECIPE.model_copy(update={"optimizer": "sgd"}), {}),
        ("parameter groups", RECIPE.model_copy(update={"decay_norms": False}), {}),
        ("epochs", RECIPE.model_copy(update={"epochs": 2}), {}),
    ):
        shutil.copytree(finished, tmp_path / name)
        _, alone = trained(None, recipe, **of)
        assert losses(trained(tmp_path / name, recipe, **of)[1]) == losses(alone)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_goes_on_with_and_without_momentum(
    tmp_path: Path, momentum: float, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = Recipe(epochs=3, batch_size=50, optimizer="sgd", momentum=momentum, learning_rate=0.05)
    _, alone = trained(None, recipe)
    trained(tmp_path, recipe)
    (tmp_path / "epoch-3").unlink()
    _, results = trained(tmp_path, recipe)
    assert losses(results) == losses(alone)
    assert not caplog.records


def test_a_checkpoint_cannot_run_code(folder: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (pytest.fail, ("a checkpoint was unpickled",))

    for epoch in ("epoch-3", "epoch-4"):
        (folder / epoch).write_bytes(digested(pickle.dumps(Trap())))
    assert CheckpointFolder(folder).load() is None


def test_what_is_not_a_checkpoint_is_left_alone(tmp_path: Path) -> None:
    for name in ("epoch-²", "epoch-x", "notes"):
        (tmp_path / name).mkdir()
    folder = CheckpointFolder(tmp_path)
    assert folder.load() is None
    folder.save(1, {}, {}, None)
    assert {entry.name for entry in tmp_path.iterdir()} == {"epoch-²", "epoch-x", "notes", "epoch-1"}


def test_a_folder_that_cannot_be_written_is_named_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match=r"cannot keep a checkpoint in .* can be written to"):
        CheckpointFolder(tmp_path / "file").save(1, {}, {}, None)
    assert not list(tmp_path.glob("file/*"))


@pytest.mark.process
def test_a_full_disk_is_named_and_leaves_the_epoch_before() -> None:
    """A file system of 64 KiB: nothing is imitated."""
    script = """
import torch
from pathlib import Path
from unittest.mock import Mock
from nas_optuna.digests import hex_digest
from nas_optuna.errors import StudyError, TrainingError
from nas_optuna.training import CheckpointFolder
folder = CheckpointFolder(Path("/mnt/c"))
folder.save(1, {"w": torch.zeros(100)}, {}, 1)
try:
    folder.save(2, {"w": torch.zeros(100_000)}, {}, 2)
except StudyError as error:
    print("free some space" in str(error), folder.load().epoch, [e.name for e in folder.path.iterdir()])
"""
    mount = 'mount -t tmpfs -o size=64k tmpfs /mnt && exec "$0" -c "$1"'
    run = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount, sys.executable, script], capture_output=True, text=True, check=False
    )
    if "unshare" in run.stderr or "mount" in run.stderr:
        pytest.skip("needs the right to mount a file system")
    assert run.stdout.strip() == "True 1 ['epoch-1']", run.stderr


def test_writers_that_share_a_folder_all_succeed(tmp_path: Path) -> None:
    """Each replaces what the others wrote, and removes what they keep."""
    problems: list[BaseException] = []

    def write(first: int) -> None:
        folder = CheckpointFolder(tmp_path / "c")
        try:
            for epoch in range(first, first + 25):
                folder.save(epoch, {"w": torch.full((64,), float(epoch))}, {"n": epoch}, epoch)
                folder.load()
                if epoch % 10 == 0:
                    folder.remove()
        except BaseException as error:  # told by the assertion below
            problems.append(error)

    threads = [threading.Thread(target=write, args=(first,)) for first in (1, 1, 2, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    found = CheckpointFolder(tmp_path / "c").load()
    assert found is not None
    assert found.epoch == found.state["n"] == found.progress == found.weights["w"][0].item()
